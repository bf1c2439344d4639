"""What PyTorch can compute on here."""

from typing import NamedTuple


class Devices(NamedTuple):
    """PyTorch's version, the CUDA (or ROCm) it was built for, empty for a CPU build, and the names of its GPUs."""

    torch: str
    built_for: str
    gpus: tuple[str, ...]


def devices() -> Devices:
    """Raises RuntimeError when a driver is there and does not work with this build."""
    import torch

    names = (torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return Devices(torch.__version__, torch.version.cuda or torch.version.hip or "", tuple(names))
