"""Matrix products of the engine: weights in their fastest form, activation and residual fused where they can be.

On CPUs the weights are packed by oneDNN in its own blocked layout (up to 1.2 times as fast as ``F.linear`` in
bfloat16 here, and the same bits whatever the number of rows); elsewhere they stay plain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.data_contracts.errors import UsageError
from capfilt.models.med.activation import activation
from capfilt.models.protocols import Precision

# What oneDNN can fuse, and how it calls them.
_FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


# PyTorch gives bfloat16 products of more multiplications than these to oneDNN on a CPU; its own kernel, for
# smaller ones, sums in another order.
_SMALL = 16**3


def product(left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """``scale * left @ right`` of (n, a, b) and (n, b, c), with the same bits however small it is."""
    n, rows, depth = left.shape
    lacking = _SMALL // (rows * depth * right.shape[2]) + 1 - n
    if lacking > 0:
        left, right = (F.pad(each, (0, 0, 0, 0, 0, lacking)) for each in (left, right))
    if scale == 1.0:
        return torch.bmm(left, right)[:n]
    return torch.baddbmm(left.new_zeros(()), left, right, beta=0, alpha=scale)[:n]


class Linear:
    """``act(states @ weight.T + bias)``, or that plus ``residual``, for states (rows, inputs)."""

    # Fewer rows take another kernel, which sums in another order: a caption would depend on its company.
    fewest = 1

    def __init__(self, weight: Tensor, bias: Tensor, act: str | None) -> None:
        self.weight, self.bias, self.act = weight, bias, act

    def __call__(self, states: Tensor, residual: Tensor | None = None) -> Tensor:
        rows = len(states)
        if rows < self.fewest:
            states = F.pad(states, (0, 0, 0, self.fewest - rows))
            residual = None if residual is None else F.pad(residual, (0, 0, 0, self.fewest - rows))
        return self.product(states, residual)[:rows]

    def product(self, states: Tensor, residual: Tensor | None) -> Tensor:
        result = F.linear(states, self.weight, self.bias)
        if self.act is not None:
            result = activation(self.act)(result)
        return result if residual is None else result + residual


class PlainFloat32(Linear):
    fewest = 16  # of MKL's products with a transposed matrix, on processors of Intel; 4 on those of AMD


class Packed(Linear):
    """oneDNN's blocked weights on a CPU."""

    fewest = 2

    def __init__(self, weight: Tensor, bias: Tensor, act: str | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, None), bias, act)
        self.fused = _FUSED.get(act or "", ("none", ""))

    def product(self, states: Tensor, residual: Tensor | None) -> Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise
        if residual is not None and self.act is None:
            summed: Tensor = multiply.binary(states, residual, self.weight, self.bias, "add")
            return summed
        attribute, algorithm = self.fused
        result: Tensor = multiply(states, self.weight, self.bias, attribute, [], algorithm)
        if self.act is not None and attribute == "none":
            result = activation(self.act)(result)
        return result if residual is None else result + residual


class Int8(Linear):
    """Weights in 8 bits, a scale for each output; states in 8 bits, a scale for each row, taken as it comes.

    Sums of integers are exact, so results do not depend on the batch. oneDNN wants unsigned states: they are
    shifted by 128. About twice as fast as bfloat16, less what rounding the states costs.
    """

    together = 256

    def __init__(self, weight: Tensor, bias: Tensor, act: str | None) -> None:
        largest = weight.abs().amax(1).float().clamp_min(1e-12)
        self.scales = largest / 127.0
        rounded = (weight.float() / self.scales[:, None]).round().to(torch.int8)
        super().__init__(torch.ops.onednn.qlinear_prepack(rounded, None), bias.float(), act)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.shift = torch.tensor(128.5)

    def product(self, states: Tensor, residual: Tensor | None) -> Tensor:
        result = states.new_empty(len(states), len(self.zeros))
        for start in range(
            0, len(states), self.together
        ):  # so that all that rounding makes stays in the cache
            rows = slice(start, start + self.together)
            result[rows] = self._rows(states[rows], None if residual is None else residual[rows])
        return result

    def _rows(self, states: Tensor, residual: Tensor | None) -> Tensor:
        scales = states.abs().amax(1, keepdim=True).float().clamp_min_(1e-12).div_(127.0)
        shifted = torch.addcmul(self.shift, states.float(), scales.reciprocal()).to(torch.uint8)
        sums = torch.ops.onednn.qlinear_pointwise(
            *(shifted, 1.0, 128, self.weight, self.scales, self.zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        result: Tensor = sums.mul_(scales).add_(self.bias)
        if self.act is not None:
            result = activation(self.act)(result)
        return result if residual is None else result.add_(residual)


@dataclass(frozen=True)
class Norm:
    """LayerNorm over the last dimension."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, states: Tensor) -> Tensor:
        return F.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Arithmetic:
    """Precision and device, and the modules in that form. Raises :class:`UsageError` for int8 on a GPU."""

    precision: Precision
    device: str

    def __post_init__(self) -> None:
        if self.precision == "int8" and not (self.on_cpu and hasattr(torch.ops.onednn, "qlinear_prepack")):
            raise UsageError(
                what="int8 runs on CPUs only",
                evidence=f"device {self.device}",
                remedy="use precision bf16 there",
            )

    @property
    def on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    @property
    def fewest(self) -> int:
        """Rows of a batched product below which its bits depend on their number: MKL's float32."""
        return 4 if self.on_cpu and self.precision == "fp32" else 1

    def tensor(self, value: Tensor) -> Tensor:
        return value.detach().to(self.device, self.dtype)

    def linear(self, *modules: nn.Linear, act: str | None = None, exact: bool = False) -> Linear:
        """One product for ``modules`` that read the same states; ``exact`` keeps it out of int8."""
        weight = self.tensor(torch.cat([module.weight for module in modules]))
        bias = self.tensor(torch.cat([module.bias for module in modules]))
        return self.kind(exact)(weight, bias, act)

    def kind(self, exact: bool) -> type[Linear]:
        if self.precision == "int8" and not exact:
            return Int8
        if self.on_cpu and _packs(self.dtype):
            return Packed
        return PlainFloat32 if self.on_cpu and self.precision == "fp32" else Linear

    def norm(self, module: nn.LayerNorm) -> Norm:
        return Norm(self.tensor(module.weight), self.tensor(module.bias), module.eps)


def _packs(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch has oneDNN's packed products for ``dtype`` on this CPU."""
    if not torch.backends.mkldnn.is_available() or not hasattr(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
