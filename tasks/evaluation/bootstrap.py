"""Percentile bootstrap of ratios of sums over rows (Efron and Tibshirani 1993, chapter 13)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Interval = tuple[float, float]

_RESAMPLES = 2000
_BLOCK = 100  # resamples at a time, which keeps the weights of 10,000 rows at 8 MB
_SEED = 20250


def resampled_ratios(ratios: Sequence[tuple[Float, Float]]) -> Float:
    """Each ratio on the same 2,000 resamples of the rows: (ratios, resamples), NaN where a denominator is 0.

    The resamples depend on nothing but the number of rows, so two models on the same rows are paired.
    """
    numerators = np.stack([numerator for numerator, _ in ratios], axis=1)  # (rows, ratios)
    denominators = np.stack([denominator for _, denominator in ratios], axis=1)
    rows = len(numerators)
    generator = np.random.default_rng(_SEED)
    blocks = []
    for _ in range(0, _RESAMPLES, _BLOCK):
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=_BLOCK).astype(np.float64)
        with np.errstate(invalid="ignore"):
            blocks.append((weights @ numerators) / (weights @ denominators))
    return np.concatenate(blocks).T


def percentile_interval(samples: Float) -> Interval | None:
    """The middle 95 % of the defined samples, None where there are none."""
    defined = samples[~np.isnan(samples)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
