"""What a teacher said about each training example, kept on disk so that it runs once for many epochs.

An example is known by the digest of its tokens, so grown data asks the teacher about its new rows only. A folder
belongs to one way of asking one teacher: :func:`cache_name`.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from registry.files import atomic_file
from tasks.distill.divergences import TopK

_SHARD_EXAMPLES = 256  # kept in memory until they are written together
_DIGEST_BYTES = 16


def cache_name(**facts: object) -> str:
    """The name of the folder for ``facts``, which are all that an answer depends on beside the example."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    return f"teacher_answers-{digest.hexdigest()[:24]}"


class TeacherCache:
    """Answers for batches from what is kept, and asks the teacher for the rest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of its last use
        self._known: dict[bytes, TopK] = {}
        self._unsaved: list[bytes] = []
        for shard in sorted(folder.glob("*.safetensors")):
            self._known.update(_read(shard))

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, examples: list[bytes], ask: Callable[[list[int]], list[TopK]]) -> TopK:
        """The teacher's answers for ``examples`` one below the other.

        Args:
            examples: what identifies each example, see :func:`identity`.
            ask: runs the teacher on the examples at the given places.
        """
        if missing := [place for place, example in enumerate(examples) if example not in self._known]:
            for place, found in zip(missing, ask(missing), strict=True):
                self._known[examples[place]] = TopK(*(part.cpu() for part in found))
                self._unsaved.append(examples[place])
            if len(self._unsaved) >= _SHARD_EXAMPLES:
                self.save()
        rows = [self._known[example] for example in examples]
        return TopK(*(torch.cat(columns) for columns in zip(*rows, strict=True)))

    def save(self) -> None:
        """Write what is new as one more shard."""
        if not self._unsaved:
            return
        rows = [self._known[example] for example in self._unsaved]
        tensors = {
            "examples": torch.frombuffer(bytearray(b"".join(self._unsaved)), dtype=torch.uint8),
            "lengths": torch.tensor([len(row.tokens) for row in rows]),
            "tokens": torch.cat([row.tokens for row in rows]).int(),
            "log_probabilities": torch.cat([row.log_probabilities for row in rows]),
            "log_rest": torch.cat([row.log_rest for row in rows]),
        }
        name = hashlib.blake2b(b"".join(self._unsaved), digest_size=_DIGEST_BYTES).hexdigest()
        with atomic_file(self._folder / f"{name}.safetensors") as temporary:
            save_file(tensors, temporary)
        self._unsaved.clear()


def identity(input_ids: Tensor, prompt_length: int) -> bytes:
    """What an example (T,) is known by: its tokens and where its answer starts."""
    digest = hashlib.blake2b(prompt_length.to_bytes(8, "little"), digest_size=_DIGEST_BYTES)
    digest.update(input_ids.cpu().numpy().astype("<i8").tobytes())
    return digest.digest()


def _read(shard: Path) -> dict[bytes, TopK]:
    with safe_open(shard, framework="pt") as file:
        examples = file.get_tensor("examples").numpy().tobytes()
        lengths = file.get_tensor("lengths").tolist()
        columns = [file.get_tensor(name).split(lengths) for name in ("tokens", "log_probabilities", "log_rest")]
    names = [examples[start : start + _DIGEST_BYTES] for start in range(0, len(examples), _DIGEST_BYTES)]
    rows = zip(names, *columns, strict=True)
    return {name: TopK(tokens.long(), likeliest, rest) for name, tokens, likeliest, rest in rows}
