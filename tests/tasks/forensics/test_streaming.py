"""The streamed summary against NumPy on the whole array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.forensics.streaming import outlying, summarise

FLOATS = hnp.arrays(
    np.float32,
    st.integers(1, 400),
    elements=st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf])),
)


def in_chunks(values: np.ndarray, size: int):
    return lambda: (np.ascontiguousarray(values[i : i + size]) for i in range(0, len(values), size))


@given(values=FLOATS, size=st.integers(1, 100))
def test_quantiles_and_maximum_are_exact_whatever_the_values_and_the_chunks(values, size):
    summary = summarise(in_chunks(values, size))
    finite = np.sort(np.abs(values[np.isfinite(values)]))
    assert summary.nonfinite == len(values) - len(finite)
    if len(finite):
        assert summary.max_abs == finite[-1]
        assert summary.median_abs == finite[-(-len(finite) // 2) - 1]
        assert summary.p999_abs == finite[-(-len(finite) * 999 // 1000) - 1]
    else:
        assert summary.max_abs == summary.p999_abs == summary.mean_abs == summary.std == 0


def test_figures_equal_numpys_on_a_large_array():
    values = np.random.default_rng(0).normal(0.01, 0.04, 1_000_003).astype(np.float32)
    values[::50_000] = 3.0
    summary = summarise(in_chunks(values, 65_536))
    wide = np.abs(values.astype(np.float64))
    assert summary.p999_abs == np.quantile(np.abs(values), 0.999, method="inverted_cdf")
    assert summary.mean_abs == pytest.approx(wide.mean(), rel=1e-12)
    assert summary.std == pytest.approx(values.astype(np.float64).std(), rel=1e-9)
    assert summary.outliers == (wide > 6 * 1.4826 * np.median(wide)).sum() == 21


def test_outliers_do_not_hide_each_other():
    values = np.random.default_rng(0).normal(0, 0.04, 10_000).astype(np.float32)
    values[:500] = 40.0
    assert summarise(in_chunks(values, 1000)).outliers == 500
    assert not (np.abs(values) > 6 * values.std()).any()


def test_a_gain_far_from_the_others_is_outlying_and_a_uniform_norm_has_none():
    gains = np.random.default_rng(0).uniform(250, 320, 640)
    gains[163] = -1657.0
    assert np.flatnonzero(outlying(gains)).tolist() == [163]
    assert not outlying(np.full(640, 1657.0)).any()
