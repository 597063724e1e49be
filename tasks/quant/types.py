"""The tensor types that gemmill writes, in the words of the GGUF format."""

from enum import StrEnum

BLOCK_SIZE = 32  # ggml QK4_0 = QK4_1 = QK5_0 = QK5_1 = QK8_0


class QuantType(StrEnum):
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"

    @property
    def is_block_type(self) -> bool:
        """True where 32 weights of a row share a scale."""
        return self.value.startswith("q")
