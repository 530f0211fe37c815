"""What is analysed: sites, segments, batches."""

from .batches import Batches, Cut, Forward, check_data
from .first_look import FirstLook, look_first
from .probing import Probe, check_finite, check_segment, probe
from .runner import Runner, Segment, prepared
from .sites import Site, first_tensor, resolve_sites

__all__ = [
    "Batches",
    "Cut",
    "FirstLook",
    "Forward",
    "Probe",
    "Runner",
    "Segment",
    "Site",
    "check_data",
    "check_finite",
    "check_segment",
    "first_tensor",
    "look_first",
    "prepared",
    "probe",
    "resolve_sites",
]
