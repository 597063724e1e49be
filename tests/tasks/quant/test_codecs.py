"""Every codec against gguf-py: the values after its round trip, bit for bit."""

import gguf
import numpy as np
import pytest
import torch
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from registry.errors import UsageError
from tasks.quant.codecs import fake_quantize, simulate_quantize
from tasks.quant.types import QuantType

ALL_TYPES = list(QuantType)
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
BLOCK_TYPES = [quant for quant in QuantType if quant.is_block_type]


def through_the_file(values: np.ndarray, quant: QuantType) -> np.ndarray:
    """What gguf-py reads back from the bytes that it writes."""
    kind = gguf.GGMLQuantizationType[quant.name]
    with np.errstate(all="ignore"):
        return quants.dequantize(quants.quantize(values, kind), kind).astype(np.float32)


def assert_same(values: np.ndarray, quant: QuantType) -> None:
    for device in DEVICES:
        found = simulate_quantize(torch.from_numpy(values).to(device), quant)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.cpu().numpy(), through_the_file(values, quant))


def adversarial_rows() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    noise = generator.standard_normal((1, 64)).astype(np.float32)
    positive_first, negative_first = noise.clip(-1, 1), noise.clip(-1, 1)
    positive_first[0, [3, 9, 40, 50]] = [2, -2, 2, -2]
    negative_first[0, [3, 9, 40, 50]] = [-2, 2, -2, 2]
    outlier, huge, one_sided = noise * 0.01, noise.copy(), np.abs(noise)
    outlier[0, 17] = 1656.0
    huge[0, 17] = 1e30
    return {
        "zeros": np.zeros((2, 32), np.float32),
        "negative zeros": np.full((2, 32), -0.0, np.float32),
        "tie, positive first": positive_first,
        "tie, negative first": negative_first,
        "one outlier": outlier,
        "beyond float16": huge,
        "all positive": one_sided,
        "all negative": -one_sided,
        "constant": np.full((2, 32), 0.3, np.float32),
        "constant but one": np.where(np.arange(64) == 5, 0.4, 0.3).astype(np.float32)[None],
        "denormal": noise * np.float32(1e-40),
        "scale below float16": noise * np.float32(1e-9),
        "scale at float16's edge": noise * np.float32(6e-8 * 8),
        "halves": (np.arange(64, dtype=np.float32)[None] - 32) / 2,
        "a long row": generator.standard_normal((3, 2048)).astype(np.float32),
        "three dimensions": generator.standard_normal((2, 3, 64)).astype(np.float32),
    }


@pytest.mark.parametrize("quant", ALL_TYPES)
def test_random_weights_become_what_the_file_holds(quant: QuantType) -> None:
    generator = np.random.default_rng(1)
    for scale in (1e-3, 0.02, 1.0, 300.0):
        assert_same((generator.standard_normal((256, 640)) * scale).astype(np.float32), quant)


@pytest.mark.parametrize("case", adversarial_rows())
@pytest.mark.parametrize("quant", ALL_TYPES)
def test_adversarial_rows_become_what_the_file_holds(quant: QuantType, case: str) -> None:
    assert_same(adversarial_rows()[case], quant)


@pytest.mark.parametrize("quant", ALL_TYPES)
@settings(max_examples=60)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=1, max_side=3).map(lambda shape: (*shape, 64)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-42]),
    )
)
def test_any_finite_weights_become_what_the_file_holds(quant: QuantType, values: np.ndarray) -> None:
    assert_same(values, quant)


@pytest.mark.parametrize("quant", ALL_TYPES)
def test_bfloat16_weights_become_what_the_file_makes_of_their_values(quant: QuantType) -> None:
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = simulate_quantize(weight, quant)
    np.testing.assert_array_equal(found.numpy(), through_the_file(weight.float().numpy(), quant))
    assert fake_quantize(weight, quant).dtype == torch.bfloat16


@pytest.mark.parametrize("quant", ALL_TYPES)
def test_weights_on_the_grid_stay_where_they_are(quant: QuantType) -> None:
    weight = torch.randn(512, 96, generator=torch.Generator().manual_seed(4)) * 0.05
    once = simulate_quantize(weight, quant)
    assert torch.equal(simulate_quantize(once, quant), once)
    assert torch.isfinite(once).all()


@pytest.mark.parametrize("quant", ALL_TYPES)
def test_the_gradient_passes_straight_through(quant: QuantType) -> None:
    weight = torch.randn(8, 64, requires_grad=True)
    upstream = torch.randn(8, 64)
    result = fake_quantize(weight, quant)
    result.backward(upstream)
    assert weight.grad is not None and torch.equal(weight.grad, upstream)
    assert torch.equal(result, simulate_quantize(weight, quant))


@pytest.mark.parametrize("quant", BLOCK_TYPES)
def test_a_row_that_blocks_do_not_divide_is_refused_with_its_length(quant: QuantType) -> None:
    with pytest.raises(UsageError, match=rf"row of 100 weights is not a multiple of the {quant} block of 32"):
        simulate_quantize(torch.zeros(4, 100), quant)


def test_float_types_take_rows_of_any_length() -> None:
    weight = torch.randn(3, 7)
    assert torch.equal(simulate_quantize(weight, QuantType.F32), weight)
    assert torch.equal(simulate_quantize(weight, QuantType.BF16), weight.bfloat16().float())


def test_the_weights_themselves_are_not_touched() -> None:
    weight = torch.randn(8, 64)
    before = weight.clone()
    for quant in QuantType:
        simulate_quantize(weight, quant)
    assert torch.equal(weight, before)
