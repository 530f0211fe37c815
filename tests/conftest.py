"""Tests run side by side (pytest-xdist), each on one thread; so do the processes they start."""

import os

import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
