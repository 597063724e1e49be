"""Bytes of every type against gguf-py's own quantisers, on values where a shortcut would show."""

import numpy as np
import pytest
from gguf import quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tasks.gguf.encode import encode
from tasks.quant.types import QuantType

_BLOCK_TYPES = [type_ for type_ in QuantType if type_.is_block_type]
_ROWS = (512, 64)


def _reference(values: np.ndarray, type_: QuantType) -> bytes:
    with np.errstate(all="ignore"):
        if type_ is QuantType.F32:
            return values.tobytes()
        if type_ is QuantType.F16:  # numpy's cast is what upstream's converter writes
            return values.astype(np.float16).tobytes()
        return getattr(quants, type_.name).quantize_rows(values).tobytes()


def _samples() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    normal = random.standard_normal(_ROWS).astype(np.float32)
    ties = (random.integers(-254, 255, _ROWS) / 2).astype(np.float32)
    ties[:, ::32] = 127  # a scale of 1, so that every odd half lies between two codes
    return {
        "normal": normal,
        "scales from 1e-17 to 1e4": normal * np.exp(random.uniform(-40, 8, (_ROWS[0], 1))).astype(np.float32),
        "bf16": (normal.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        "on a grid, with largest weights of both signs": random.integers(-8, 9, _ROWS).astype(np.float32),
        "halves": ties,
        "subnormal": normal * np.float32(1e-39),
        "below the range of f16": normal * np.float32(1e-8),
        "zero": np.zeros(_ROWS, np.float32),
        "minus zero": -np.zeros(_ROWS, np.float32),
        "one value": np.full(_ROWS, np.float32(-3.3)),
    }


@pytest.mark.parametrize("type_", list(QuantType))
@pytest.mark.parametrize("sample", _samples())
def test_the_bytes_are_those_of_gguf_py(sample: str, type_: QuantType) -> None:
    values = _samples()[sample]
    assert encode(values, type_).tobytes() == _reference(values, type_)


@pytest.mark.parametrize("type_", list(QuantType))
@given(bits=arrays(np.uint32, (2, 32), elements=st.integers(0, 2**32 - 1)))
def test_any_finite_float_gives_the_bytes_of_gguf_py(type_: QuantType, bits: np.ndarray) -> None:
    values = np.clip(np.nan_to_num(bits.view(np.float32)), -60_000, 60_000)
    if type_ in (QuantType.Q4_1, QuantType.Q5_1):
        values += 0.0  # which of 0.0 and -0.0 is the lowest of a block is up to the processor's vector units
    assert encode(values, type_).tobytes() == _reference(values, type_)


@pytest.mark.parametrize(("type_", "beyond"), [(QuantType.F16, 65_520), (QuantType.BF16, 3.4e38)])
def test_a_value_that_would_become_infinite_is_an_overflow(type_: QuantType, beyond: float) -> None:
    values = np.zeros((1, 32), np.float32)
    values[0, 3] = -beyond
    with pytest.raises(OverflowError):
        encode(values, type_)
    encode(values * np.float32(0.99), type_)


@pytest.mark.parametrize("type_", _BLOCK_TYPES)
def test_a_scale_that_would_become_infinite_is_an_overflow(type_: QuantType) -> None:
    values = np.full((1, 32), np.float32(1e8))
    values[0, 0] = 0
    with pytest.raises(OverflowError):
        encode(values, type_)
