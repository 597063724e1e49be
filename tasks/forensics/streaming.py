"""Exact summary of a tensor that is read chunk by chunk, in memory that does not grow with it.

Quantiles are order statistics of the magnitude (NumPy's ``inverted_cdf``), found by radix selection: the bits
of a non-negative float32 sort like integers, so histograms of the upper 16 bits and then of the lower 16 find
any rank.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_WEIGHT_SIGMAS = 6.0
_GAIN_SIGMAS = 3.5
_MEDIAN_TO_SIGMA = 1.4826  # standard deviation over median deviation of a normal distribution
_UPPER_VALUES = 1 << 15  # the upper 16 bits of a float32 without its sign
_LOWER_VALUES = 1 << 16

Chunks = Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Figures of the finite entries, 0 where there are none; ``nonfinite`` counts the others."""

    nonfinite: int = 0
    max_abs: float = 0.0
    p999_abs: float = 0.0
    median_abs: float = 0.0
    mean_abs: float = 0.0
    std: float = 0.0
    outliers: int = 0


@dataclass
class _Moments:
    """What the first pass gathers; ``upper`` is the histogram of the magnitudes' upper 16 bits."""

    upper: np.ndarray
    nonfinite: int = 0
    max_abs: float = 0.0
    sum: float = 0.0
    sum_abs: float = 0.0
    sum_squares: float = 0.0


def outlying(gains: np.ndarray) -> np.ndarray:
    """Which of a norm's gains are outliers by their magnitude."""
    magnitude = np.abs(gains)
    deviation = np.abs(magnitude - np.median(magnitude))
    return deviation > _GAIN_SIGMAS * _MEDIAN_TO_SIGMA * np.median(deviation)


def summarise(chunks: Chunks) -> Summary:
    """Summarise the float32 entries that each call of ``chunks`` gives anew, in three passes."""
    moments = _moments(chunks())
    count = int(moments.upper.sum())
    if count == 0:
        return Summary(nonfinite=moments.nonfinite)
    ranks = [(count + 1) // 2, (count * 999 + 999) // 1000]
    median, p999 = _order_statistics(chunks(), moments.upper, ranks)
    mean = moments.sum / count
    return Summary(
        nonfinite=moments.nonfinite,
        max_abs=moments.max_abs,
        p999_abs=p999,
        median_abs=median,
        mean_abs=moments.sum_abs / count,
        std=math.sqrt(max(0.0, moments.sum_squares / count - mean * mean)),
        outliers=_count_above(chunks(), _WEIGHT_SIGMAS * _MEDIAN_TO_SIGMA * median),
    )


def _upper_bits(chunk: np.ndarray) -> np.ndarray:
    return chunk.view("<u2")[1::2] & (_UPPER_VALUES - 1)


def _lower_bits(chunk: np.ndarray) -> np.ndarray:
    return chunk.view("<u2")[::2]


def _finite(chunk: np.ndarray) -> np.ndarray:
    finite = np.isfinite(chunk)
    return chunk if finite.all() else chunk[finite]


def _moments(chunks: Iterator[np.ndarray]) -> _Moments:
    moments = _Moments(upper=np.zeros(_UPPER_VALUES, dtype=np.int64))
    for chunk in chunks:
        finite = _finite(chunk)
        moments.nonfinite += chunk.size - finite.size
        magnitude = np.abs(finite)
        moments.upper += np.bincount(_upper_bits(finite), minlength=_UPPER_VALUES)
        moments.max_abs = max(moments.max_abs, float(magnitude.max(initial=0.0)))
        moments.sum += float(finite.sum(dtype=np.float64))
        moments.sum_abs += float(magnitude.sum(dtype=np.float64))
        moments.sum_squares += float(np.einsum("i,i->", finite, finite, dtype=np.float64))
    return moments


def _order_statistics(chunks: Iterator[np.ndarray], upper: np.ndarray, ranks: list[int]) -> list[float]:
    """The magnitudes at these ranks, counted from 1, given the histogram of the upper bits."""
    before = np.concatenate([[0], np.cumsum(upper)])
    buckets = [int(np.searchsorted(before, rank)) - 1 for rank in ranks]
    lower = {bucket: np.zeros(_LOWER_VALUES, dtype=np.int64) for bucket in buckets}
    for chunk in chunks:
        uppers, lowers = _upper_bits(chunk), _lower_bits(chunk)
        for bucket, histogram in lower.items():
            histogram += np.bincount(lowers[uppers == bucket], minlength=_LOWER_VALUES)
    found = []
    for rank, bucket in zip(ranks, buckets, strict=True):
        low = int(np.searchsorted(np.cumsum(lower[bucket]), rank - before[bucket]))
        found.append(float(np.array(bucket << 16 | low, dtype=np.uint32).view(np.float32)))
    return found


def _count_above(chunks: Iterator[np.ndarray], limit: float) -> int:
    return sum(int((np.abs(_finite(chunk)) > limit).sum()) for chunk in chunks)
