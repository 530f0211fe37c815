"""What is analysed: sites, segments, batches."""

from .batches import Batches, Cut, Forward, check_data
from .first_look import FirstLook, look_first
from .masks import (
    ATTENTION_MASK,
    PositionMask,
    attention_mask,
    goes_with,
    layer_mask,
    read_mask,
)
from .probing import Probe, check_finite, check_rows, check_segment, probe
from .runner import Runner, Segment, prepared
from .sites import RESULT, Site, first_tensor, resolve_sites

__all__ = [
    "ATTENTION_MASK",
    "RESULT",
    "Batches",
    "Cut",
    "FirstLook",
    "Forward",
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
    "look_first",
    "prepared",
    "probe",
    "read_mask",
    "resolve_sites",
]
