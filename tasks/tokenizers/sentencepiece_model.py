"""The pieces of a tokenizer.model, read from its protobuf wire format.

Only the fields of sentencepiece_model.proto that a GGUF vocabulary needs; the sentencepiece package does not
tell which pieces are user-defined.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import read_bytes

_PIECES, _TRAINER_SPEC, _NORMALIZER_SPEC = 1, 2, 3  # ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # SentencePiece
_MODEL_TYPE, _BPE = 3, 2  # TrainerSpec
_ADD_DUMMY_PREFIX = 3  # NormalizerSpec, true unless it says otherwise
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    type: int  # SentencePiece.Type, whose numbers are those of gguf.TokenType


def read_pieces(path: Path) -> list[Piece]:
    """All pieces by id. Raises UsageError for another model than BPE without a prefix space."""
    try:
        content = read_bytes(path)
        fields = list(_fields(content))
        trainer = dict(_fields(_last(fields, _TRAINER_SPEC)))
        normalizer = dict(_fields(_last(fields, _NORMALIZER_SPEC)))
        pieces = [_piece(value) for number, value in fields if number == _PIECES and isinstance(value, bytes)]
    except (ValueError, IndexError, struct.error) as error:
        raise UsageError(f"{path} is not a sound SentencePiece model; copy it again.") from error
    if trainer.get(_MODEL_TYPE) != _BPE or normalizer.get(_ADD_DUMMY_PREFIX) != 0:
        raise UsageError(f"{path} is not a BPE model without a prefix space, as Gemma 3's is.")
    return pieces


def _last(fields: list[tuple[int, int | bytes]], wanted: int) -> bytes:
    return next((value for number, value in reversed(fields) if number == wanted and isinstance(value, bytes)), b"")


def _piece(content: bytes) -> Piece:
    fields = dict(_fields(content))
    text, score, type_ = fields.get(_TEXT, b""), fields.get(_SCORE, bytes(4)), fields.get(_TYPE, 1)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or type_ not in list(TokenType):
        raise ValueError("a piece has fields of other types")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], int(type_))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value): a number for a varint, the bytes for everything else."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, position = _varint(content, position)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(content):
            raise ValueError("cut short")
        yield key >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than 64 bits")
