"""New token ids in every file that names one: tokenizer, its settings, config and generation config."""

from collections.abc import Collection, Mapping
from typing import Any

from registry.errors import UsageError
from tasks.vocabulary.base import merge_pairs

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_LISTS_OF_TOKENS = ("additional_special_tokens", "extra_special_tokens")
_IDS_IN_OTHER_FORMS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias")

NewIds = Mapping[int, int]  # old -> new; what is not in it is dropped


def remapped_tokenizer(tokenizer: Mapping[str, Any], new_ids: NewIds) -> dict[str, Any]:
    """tokenizer.json with the kept tokens and the merges among them, in their order."""
    model = tokenizer["model"]
    kept = sorted((new_ids[id_], piece) for piece, id_ in model["vocab"].items() if id_ in new_ids)
    vocab = {piece: id_ for id_, piece in kept}
    merges = [
        [left, right]
        for left, right in merge_pairs(tokenizer)
        if left in vocab and right in vocab and left + right in vocab
    ]
    added = [{**token, "id": new_ids[token["id"]]} for token in tokenizer["added_tokens"] if token["id"] in new_ids]
    return {
        **tokenizer,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "post_processor": _remapped_processor(tokenizer.get("post_processor"), new_ids),
        "model": {**model, "vocab": vocab, "merges": merges},
    }


def _remapped_processor(processor: Any, new_ids: NewIds) -> Any:
    if not isinstance(processor, Mapping):
        return processor
    changed = dict(processor)
    if "special_tokens" in processor:
        changed["special_tokens"] = {
            name: {**token, "ids": [new_ids[id_] for id_ in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    if "processors" in processor:
        changed["processors"] = [_remapped_processor(part, new_ids) for part in processor["processors"]]
    return changed


def remapped_settings(settings: Mapping[str, Any], new_ids: NewIds, kept: Collection[str]) -> dict[str, Any]:
    """tokenizer_config.json or special_tokens_map.json without the tokens that are gone.

    transformers would add each special token that it finds here and not in the vocabulary, beyond the embedding.

    Args:
        kept: the tokens that stay, by their text.
    """
    changed = {}
    for key, value in settings.items():
        if key == "added_tokens_decoder":
            value = {str(new_ids[int(id_)]): token for id_, token in value.items() if int(id_) in new_ids}
        elif key in _LISTS_OF_TOKENS:
            value = _kept_tokens(value, kept)
        elif key.endswith("_token") and key not in _NAMED_TOKENS and _is_gone(value, kept):
            continue
        changed[key] = value
    return changed


def _kept_tokens(tokens: Any, kept: Collection[str]) -> Any:
    """``tokens`` without those that are gone; a list, or names with a token each."""
    if isinstance(tokens, Mapping):
        return {name: token for name, token in tokens.items() if _text(token) in kept}
    return [token for token in tokens or [] if _text(token) in kept]


def _is_gone(token: Any, kept: Collection[str]) -> bool:
    return isinstance(_text(token), str) and _text(token) not in kept


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def remapped_config(config: Mapping[str, Any], new_ids: NewIds) -> dict[str, Any]:
    """config.json or generation_config.json with new ids; a key that names a token that is gone goes too.

    Raises UsageError where ids stand in a form that is not remapped.
    """
    changed = {}
    for key, value in config.items():
        if key in _IDS_IN_OTHER_FORMS and value:
            raise UsageError(f"the key {key} names tokens by ids that would be wrong after pruning; remove it first.")
        if key.endswith(("_token_id", "_token_index")) and value is not None:
            ids = [new_ids[id_] for id_ in (value if isinstance(value, list) else [value]) if id_ in new_ids]
            if not ids:
                continue
            value = ids if isinstance(value, list) else ids[0]
        changed[key] = value
    return changed
