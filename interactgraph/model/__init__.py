"""What is analysed: sites, segments, batches."""

from .batches import Forward, batches_of, check_data, samples_in, take_samples
from .probing import check_finite, check_segment, probe
from .runner import Runner, Segment, prepared
from .sites import Site, first_tensor, is_convolutional, resolve_sites

__all__ = [
    "Forward",
    "Runner",
    "Segment",
    "Site",
    "batches_of",
    "check_data",
    "check_finite",
    "check_segment",
    "first_tensor",
    "is_convolutional",
    "prepared",
    "probe",
    "resolve_sites",
    "samples_in",
    "take_samples",
]
