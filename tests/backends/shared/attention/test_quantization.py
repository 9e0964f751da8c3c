"""Quantisation of keys and values: the size of codes and scales, and of the error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memagent.backends.shared.attention.quantization import Precision, dequantize, quantize

STEPS: dict[Precision, float] = {"int8": 127.0, "int4": 7.0}


def round_trip(tensor: Tensor, precision: Precision, dim: int) -> Tensor:
    stored = quantize(tensor, precision, dim)
    return dequantize(stored["codes"], stored.get("scale"), precision)


def random_tensor(tokens: int = 50) -> Tensor:
    return torch.randn(tokens, 3, 2, 16, generator=torch.Generator().manual_seed(1)) * torch.logspace(
        -3, 2, 16
    )


def test_bfloat16_is_kept_bit_for_bit() -> None:
    tensor = random_tensor().bfloat16()
    assert torch.equal(round_trip(tensor, "bf16", 0), tensor)
    assert quantize(tensor, "bf16", 0).keys() == {"codes"}


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_error_is_at_most_half_a_step(precision: Precision, dim: int) -> None:
    tensor = random_tensor()
    step = tensor.abs().amax(dim, keepdim=True) / STEPS[precision]
    error = (round_trip(tensor, precision, dim).float() - tensor).abs()
    # Beside the half step: the scale is rounded to float16, the result to bfloat16.
    assert (error <= step * 0.5 + tensor.abs() * 2**-7 + 6.2e-5 * STEPS[precision]).all()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_codes_are_small_and_the_scales_are_shared(precision: Precision) -> None:
    tensor = random_tensor()
    keys, values = quantize(tensor, precision, 0), quantize(tensor, precision, -1)
    assert keys["codes"].dtype == torch.int8
    assert keys["codes"].shape == (50, 3, 2, 16 if precision == "int8" else 8)
    assert keys["scale"].shape == (1, 3, 2, 16)
    assert values["scale"].shape == (50, 3, 2, 1)
    assert keys["scale"].dtype == torch.float16


def test_every_pair_of_four_bit_codes_is_restored() -> None:
    numbers = torch.arange(-7, 8).float()
    low, high = torch.cartesian_prod(numbers, numbers).T
    tensor = torch.stack([low, high], -1)[:, None, None]
    assert torch.equal(round_trip(tensor, "int4", 0).float(), tensor)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_zeros_one_token_and_large_numbers_are_kept(precision: Precision) -> None:
    zeros = torch.zeros(4, 3, 2, 16)
    assert torch.equal(round_trip(zeros, precision, 0).float(), zeros)
    single = random_tensor(1)
    torch.testing.assert_close(round_trip(single, precision, 0).float(), single, rtol=0.01, atol=1e-3)
    huge = torch.full((2, 1, 1, 16), 3.0e4)
    torch.testing.assert_close(round_trip(huge, precision, -1).float(), huge, rtol=0.01, atol=0)
