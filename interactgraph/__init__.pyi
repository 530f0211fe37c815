# The public names, grouped; `__init__.py` reads them from here.

__version__: str

# the parts
from . import circuits as circuits
from . import codes as codes
from . import communities as communities
from . import exporters as exporters
from . import features as features
from . import models as models
from . import report as report
from . import simplex as simplex
from . import validation as validation
from . import zoo as zoo

# attribution graphs of prompts
from .circuits import load_attribution_graph as load_attribution_graph
from .circuits import supernodes as supernodes

# groups of samples
from .codes import spline_codes as spline_codes

# modules
from .communities import Partition as Partition
from .communities import bootstrap as bootstrap
from .communities import find_modules as find_modules
from .communities import follow_modules as follow_modules
from .communities import module_flow as module_flow
from .communities import module_tree as module_tree
from .communities import resolution_profile as resolution_profile
from .communities import sample_support as sample_support

# what can go wrong
from .errors import DataError as DataError
from .errors import FileError as FileError
from .errors import InputError as InputError
from .errors import InteractGraphError as InteractGraphError
from .errors import InteractGraphWarning as InteractGraphWarning
from .errors import MissingFileError as MissingFileError
from .errors import ModelError as ModelError

# the main job and what it gives
from .exporters import export as export
from .fitting import fit_features as fit_features
from .fitting import fit_sparse_autoencoders as fit_sparse_autoencoders
from .fitting import fit_sparse_rotations as fit_sparse_rotations
from .fitting import fit_stream_rotation as fit_stream_rotation
from .graph import InteractionGraph as InteractionGraph
from .graph import compare as compare
from .graph import differences as differences
from .graph import load as load
from .report import write_report as write_report
from .run import interaction_graph as interaction_graph
from .samples import top_samples as top_samples

# does it matter to the model
from .validation import ablate_modules as ablate_modules
from .validation import edges_required as edges_required
from .validation import joint_effects as joint_effects
