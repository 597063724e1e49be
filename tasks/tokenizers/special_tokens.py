"""Special and added tokens: which they are, what type GGUF gives them, and which of them llama.cpp would not follow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf.constants import TokenType

from registry.errors import UsageError
from tasks.checkpoints.files import shown

# Control tokens that files do not always mark as special; the list is upstream's, with Gemma's turns.
_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<unused.*>|<\|.*\|>|<(start|end)_of_turn>", re.DOTALL)
_NO_SUCH_FLAGS = ("single_word", "lstrip", "rstrip")


def looks_special(token: str) -> bool:
    return _LOOKS_SPECIAL.fullmatch(token) is not None


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """Looks for a special token in tokenizer_config.json, then in config.json."""

    settings: Mapping[str, Any]  # tokenizer_config.json
    config: Mapping[str, Any]
    tokens: Sequence[str]

    def find(self, name: str) -> int | None:
        """The id of ``bos``, ``eos``, ``unk`` or ``pad``; None where the tokenizer has none."""
        text, configured = self._text(name), self._configured(name)
        if isinstance(text, str) and text in self.tokens:
            return self.tokens.index(text)
        return configured if type(configured) is int and 0 <= configured < self.config["vocab_size"] else None

    def require(self, name: str) -> int:
        """The same. Raises UsageError where there is none."""
        if (id_ := self.find(name)) is None:
            raise UsageError(
                f"the tokenizer has no {name} token: it holds neither {shown(self._text(name))} nor {name}_token_id = "
                f"{shown(self._configured(name))}."
            )
        return id_

    def _text(self, name: str) -> Any:
        token = self.settings.get(f"{name}_token", f"<{name}>")
        return token.get("content") if isinstance(token, Mapping) else token

    def _configured(self, name: str) -> Any:
        configured = self.config.get(f"{name}_token_id")
        return configured[0] if isinstance(configured, list) and configured else configured


def added_tokens(path: Path, added: list[Any]) -> dict[int, tuple[str, bool]]:
    """Text and whether it is a control token, by id, of ``added_tokens`` in tokenizer.json."""
    found: dict[int, tuple[str, bool]] = {}
    for item in added:
        match item:
            case {"id": int(id_), "content": str(text)} if type(id_) is int and id_ >= 0:
                if flag := next((flag for flag in _NO_SUCH_FLAGS if item.get(flag)), None):
                    raise UsageError(f"{path} sets {flag} for the added token {shown(text)}, which llama.cpp ignores.")
                if id_ in found:
                    raise UsageError(f"{path} has two added tokens of the id {id_}.")
                found[id_] = text, bool(item.get("special")) or looks_special(text)
            case _:
                raise UsageError(f"{path} has the added token {shown(item)}, without an id or a text.")
    return found


def overlay(path: Path, added: Mapping[int, tuple[str, bool]], tokens: list[str], types: list[int]) -> list[int]:
    """Set the added tokens that the embedding has room for, and return their ids; refuse to lose one that a text can
    become."""
    for id_, (token, special) in added.items():
        if id_ >= len(tokens) and not special:
            raise UsageError(
                f"{path} has the added token {shown(token)} (id {id_}) beyond the {len(tokens)} rows of the embedding; "
                "enlarge the embedding or remove the token."
            )
        if id_ < len(tokens):
            tokens[id_] = token
            types[id_] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)
    return [id_ for id_ in added if id_ < len(tokens)]


def unused(size: int) -> tuple[list[str], list[int]]:
    """Texts and types of a vocabulary of nothing but unused tokens, which stand wherever no other does."""
    return [f"[PAD{id_}]" for id_ in range(size)], [int(TokenType.UNUSED)] * size


def check_overlaps(path: Path, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Refuse user-defined tokens of which one ends as a longer one begins.

    Hugging Face takes the leftmost of them, llama.cpp the longest. Runs of one letter come out the same.
    """
    user_defined = int(TokenType.USER_DEFINED)
    added = [token for token, type_ in zip(tokens, types, strict=True) if type_ == user_defined]
    begins: dict[str, str] = {}
    for token in sorted(added, key=len):  # the longest that begins so is kept
        begins |= {token[:cut]: token for cut in range(1, len(token))}
    for token in added:
        for cut in range(1, len(token)):
            other = begins.get(token[cut:], "")
            if len(other) > len(token) and len({*token, *other}) > 1:
                raise UsageError(
                    f"{path} has the added tokens {shown(token)} and {shown(other)}, which overlap; Hugging Face and "
                    "llama.cpp would choose differently."
                )


def adds_bos(path: Path, content: Mapping[str, Any], bos: str | None) -> bool:
    """Whether the tokenizer.json at ``path`` puts one BOS before a text. Raises UsageError where it adds anything else,
    which a file could not say."""
    processor = content.get("post_processor")
    if isinstance(processor, Mapping) and processor.get("type") == "Sequence":
        processor = processor.get("processors")
    added = False
    for step in processor if isinstance(processor, list) else [processor]:
        match step:
            case None | {"type": "ByteLevel"}:
                continue
            case {"type": "TemplateProcessing", "single": [{"Sequence": _}]}:
                continue
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": first}}, {"Sequence": _}]} if (
                first == bos and not added
            ):
                added = True
            case _:
                raise UsageError(
                    f"{path} has the post-processor {shown(step)}; only one that adds nothing but the BOS, "
                    f"{shown(bos)}, can be converted."
                )
    return added
