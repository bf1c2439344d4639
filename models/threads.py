"""How many threads a model may use in this process."""

import torch


def use_threads(count: int) -> None:
    """Set PyTorch's intra-op threads: several models share a machine, so its own guess would be wrong."""
    torch.set_num_threads(count)
