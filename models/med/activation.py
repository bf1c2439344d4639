"""The activations that BLIP, ViT and BERT configs name in ``hidden_act``."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.data_contracts.errors import ModelError

_TANH = partial(F.gelu, approximate="tanh")
_KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _TANH,
    "gelu_pytorch_tanh": _TANH,
    "quick_gelu": lambda states: states * torch.sigmoid(1.702 * states),
    "relu": F.relu,
    "silu": F.silu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function of that name. Raises :class:`ModelError` for one that is not known."""
    if name not in _KNOWN:
        raise ModelError(
            what=f"hidden_act {name!r} is an activation that capfilt does not know",
            evidence=f"known: {', '.join(_KNOWN)}",
            remedy="use a checkpoint with one of them",
        )
    return _KNOWN[name]
