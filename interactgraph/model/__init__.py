"""What is analysed: sites, segments, batches."""

from .batches import Batches, Cut, Forward, check_data
from .first_look import FirstLook, look_first
from .layer_names import PRESETS, LayerNames, n_heads
from .masks import (
    ATTENTION_MASK,
    PositionMask,
    attention_mask,
    goes_with,
    layer_mask,
    read_mask,
    tells_padding,
    trimmed,
    without_first,
)
from .probing import Probe, check_finite, check_rows, check_segment, probe
from .programs import load_model
from .runner import Runner, Segment, prepared, wide_enough
from .sites import RESULT, Site, first_tensor, resolve_sites

__all__ = [
    "ATTENTION_MASK",
    "PRESETS",
    "RESULT",
    "Batches",
    "Cut",
    "FirstLook",
    "Forward",
    "LayerNames",
    "PositionMask",
    "Probe",
    "Runner",
    "Segment",
    "Site",
    "attention_mask",
    "check_data",
    "check_finite",
    "check_rows",
    "check_segment",
    "first_tensor",
    "goes_with",
    "layer_mask",
    "load_model",
    "look_first",
    "n_heads",
    "prepared",
    "probe",
    "read_mask",
    "resolve_sites",
    "tells_padding",
    "trimmed",
    "wide_enough",
    "without_first",
]
