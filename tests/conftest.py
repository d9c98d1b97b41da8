"""One thread: the tests' tensors are too small to share. And, if asked for, the rounding of another processor."""

import torch

import rounding

torch.set_num_threads(1)
rounding.install_from_environment()
