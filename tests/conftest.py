"""Shared by all tests: one thread, so that results are repeatable and machines stay usable."""

import torch

torch.set_num_threads(1)
