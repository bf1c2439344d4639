from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.data_contracts.errors import UsageError
from capfilt.models.engine.linear import Arithmetic, Int8, Linear, Packed, PlainFloat32, product

ROWS = torch.randn(40, 48, generator=torch.Generator().manual_seed(0))
RESIDUAL = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))


def module() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(48, 32)


def reference(act: str | None, residual: Tensor | None) -> Tensor:
    result = module().double()(ROWS.double())
    if act is not None:
        result = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}[act](result)
    return result if residual is None else result + residual.double()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03), ("int8", 0.05)])
@pytest.mark.parametrize("act", [None, "gelu", "relu", "silu"])
@pytest.mark.parametrize("residual", [None, RESIDUAL])
@torch.inference_mode()
def test_a_product_with_what_is_fused_into_it(
    precision: Any, tolerance: float, act: str | None, residual: Tensor | None
) -> None:
    arithmetic = Arithmetic(precision, "cpu")
    linear = arithmetic.linear(module(), act=act)
    found = linear(ROWS.to(arithmetic.dtype), None if residual is None else residual.to(arithmetic.dtype))
    assert found.dtype is arithmetic.dtype
    assert (found.double() - reference(act, residual)).abs().max() < tolerance


@pytest.mark.parametrize("kind", [Packed, PlainFloat32, Int8])
@pytest.mark.parametrize("inputs", [48, 3072])
@torch.inference_mode()
def test_a_row_is_the_same_bits_in_any_company(kind: type[Linear], inputs: int) -> None:
    torch.manual_seed(0)
    weight, rows, beside = torch.randn(64, inputs), torch.randn(33, inputs), torch.randn(33, 64)
    linear = kind(weight, torch.randn(64), None)
    together = linear(rows, beside)
    for count in (1, 2, 3, 5, 16):
        assert torch.equal(linear(rows[:count], beside[:count]), together[:count]), count


@torch.inference_mode()
def test_modules_that_read_the_same_states_are_one_product() -> None:
    one, two = module(), nn.Linear(48, 16)
    both = Arithmetic("fp32", "cpu").linear(one, two)(ROWS)
    assert torch.allclose(both, torch.cat([one(ROWS), two(ROWS)], 1), atol=1e-5)


def test_int8_keeps_out_of_what_must_be_exact_and_off_gpus() -> None:
    arithmetic = Arithmetic("int8", "cpu")
    assert (arithmetic.kind(exact=False), arithmetic.kind(exact=True)) == (Int8, Packed)
    with pytest.raises(UsageError, match="CPUs only"):
        Arithmetic("int8", "cuda")


@torch.inference_mode()
def test_norms_keep_their_eps() -> None:
    norm = nn.LayerNorm(48, eps=0.5)
    assert torch.allclose(Arithmetic("fp32", "cpu").norm(norm)(ROWS), norm(ROWS), atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@torch.inference_mode()
def test_small_products_have_the_same_bits_in_any_company(scale: float) -> None:
    """About one number in 100,000 had others: PyTorch gives bfloat16 products to two kernels, by their size."""
    random = torch.Generator().manual_seed(4)
    left, right = (torch.randn(4000, *shape, generator=random).bfloat16() for shape in ((3, 32), (32, 16)))
    together = product(left, right, scale)
    alone = [product(left[row : row + 1], right[row : row + 1], scale) for row in range(len(left))]
    assert torch.equal(together, torch.cat(alone))
