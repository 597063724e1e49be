"""How far a weight may be from its source, by the type that it was rounded to."""

import numpy as np
from gguf.constants import GGMLQuantizationType


def error_bound(values: np.ndarray, type_: GGMLQuantizationType) -> np.ndarray:
    """The largest error that rounding ``values`` (rows, row length) to ``type_`` may make, same shape.

    Half a step, or a whole one at the end of a lopsided grid, and the rounding of the block's fp16 numbers.
    """
    if type_ is GGMLQuantizationType.F32:
        return np.zeros_like(values)
    if type_ is GGMLQuantizationType.F16:
        return np.abs(values) * 2.0**-11 + 2.0**-25
    if type_ is GGMLQuantizationType.BF16:
        return np.abs(values) * 2.0**-8 + 2.0**-134
    blocks = values.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    spread = blocks.max(axis=1, keepdims=True) - blocks.min(axis=1, keepdims=True)
    steps, codes = {  # the error in the values before d is rounded; the largest code that multiplies d
        GGMLQuantizationType.Q8_0: (largest / 127 / 2, 127),
        GGMLQuantizationType.Q4_0: (largest / 8, 8),
        GGMLQuantizationType.Q5_0: (largest / 16, 16),
        GGMLQuantizationType.Q4_1: (spread / 15 / 2, 16),
        GGMLQuantizationType.Q5_1: (spread / 31 / 2, 32),
    }[type_]
    fp16 = (largest + spread) * 2.0**-11 + codes * 2.0**-25
    return np.broadcast_to(steps * 1.001 + fp16, blocks.shape).reshape(values.shape)
