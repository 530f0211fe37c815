"""Every way to compute A, one file for each; the planner takes the cheapest that can serve."""

from .ablation import Ablation
from .affine import Affine
from .baseline_gradient import AT_BASELINE
from .captum import Captum
from .closed_passes import ClosedColumns, ClosedRows, SampledClosedColumns
from .columns import Columns
from .drawn_positions import DrawnPositions
from .expected_gradients import ExpectedColumns, ExpectedRows
from .expected_shapley import ExpectedShapley
from .factored_maps import FactoredMaps
from .method import DoesNotApply, Method, PairContext
from .one_at_a_time import ColumnsOneByOne, RowsOneByOne
from .path_positions import PathPositions
from .rademacher_rows import RademacherRows
from .rows import Rows
from .sampled_columns import SampledColumns
from .shapley import Shapley
from .two_maps import TwoMaps

__all__ = ["METHODS", "DoesNotApply", "Method", "PairContext"]

METHODS: tuple[type[Method], ...] = (
    Affine,
    TwoMaps,
    FactoredMaps,
    DrawnPositions,
    PathPositions,
    ClosedColumns,
    ClosedRows,
    SampledClosedColumns,
    SampledColumns,
    RademacherRows,
    Columns,
    Rows,
    ColumnsOneByOne,
    RowsOneByOne,
    ExpectedColumns,
    ExpectedRows,
    *AT_BASELINE,
    Ablation,
    Shapley,
    ExpectedShapley,
    Captum,
)
