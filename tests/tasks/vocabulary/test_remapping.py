"""Every file that names a token names it by its new id, and none names one that is gone."""

import pytest

from registry.errors import UsageError
from tasks.vocabulary.remapping import remapped_config, remapped_settings, remapped_tokenizer

_NEW_IDS = {0: 0, 1: 1, 2: 2, 106: 3, 500: 4, 501: 5, 502: 6}
_KEPT = {"<pad>", "<eos>", "<bos>", "<end_of_turn>", "a", "b", "ab"}
_TOKENIZER = {
    "added_tokens": [
        {"id": 106, "content": "<end_of_turn>", "special": True},
        {"id": 2, "content": "<bos>", "special": True},
        {"id": 262144, "content": "<image_soft_token>", "special": True},
    ],
    "post_processor": {
        "type": "Sequence",
        "processors": [
            {"type": "TemplateProcessing", "special_tokens": {"<bos>": {"ids": [2], "tokens": ["<bos>"]},
                                                              "<turn>": {"ids": [106], "tokens": ["x"]}}}
        ],
    },
    "model": {
        "type": "BPE",
        "vocab": {"ab": 502, "a": 500, "b": 501, "abc": 503, "c": 504, "<bos>": 2},
        "merges": [["a", "b"], ["ab", "c"], "b c"],
    },
}  # fmt: skip


def test_vocabulary_merges_added_tokens_and_template_follow_the_kept_ids() -> None:
    found = remapped_tokenizer(_TOKENIZER, _NEW_IDS)
    assert found["model"] == {"type": "BPE", "vocab": {"<bos>": 2, "a": 4, "b": 5, "ab": 6}, "merges": [["a", "b"]]}
    assert [(token["id"], token["content"]) for token in found["added_tokens"]] == [(2, "<bos>"), (3, "<end_of_turn>")]
    [template] = found["post_processor"]["processors"]
    assert [token["ids"] for token in template["special_tokens"].values()] == [[2], [3]]
    assert _TOKENIZER["model"]["vocab"]["ab"] == 502


def test_a_tokenizer_without_a_post_processor_stays_so() -> None:
    assert remapped_tokenizer({**_TOKENIZER, "post_processor": None}, _NEW_IDS)["post_processor"] is None


def test_settings_lose_the_tokens_that_transformers_would_add_again() -> None:
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": {"content": "<eos>", "lstrip": False},
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "boi_token": "<start_of_image>",
        "sep_token": None,
        "added_tokens_decoder": {"2": {"content": "<bos>"}, "4": {"content": "<mask>"}},
        "additional_special_tokens": ["<end_of_turn>", {"content": "<start_of_image>"}],
        "extra_special_tokens": {"eot": "<end_of_turn>", "image_token": "<image_soft_token>"},
        "add_bos_token": True,
        "model_max_length": 8,
    }
    assert remapped_settings(settings, _NEW_IDS, _KEPT) == {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": {"content": "<eos>", "lstrip": False},
        "unk_token": "<unk>",
        "sep_token": None,
        "added_tokens_decoder": {"2": {"content": "<bos>"}},
        "additional_special_tokens": ["<end_of_turn>"],
        "extra_special_tokens": {"eot": "<end_of_turn>"},
        "add_bos_token": True,
        "model_max_length": 8,
    }


def test_config_names_kept_tokens_only() -> None:
    config = {
        "hidden_size": 640, "bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0, "image_token_id": 262144,
        "boi_token_index": 255999, "sep_token_id": None, "suppress_tokens": None,
    }  # fmt: skip
    assert remapped_config(config, _NEW_IDS) == {
        "hidden_size": 640, "bos_token_id": 2, "eos_token_id": [1, 3], "pad_token_id": 0, "sep_token_id": None,
        "suppress_tokens": None,
    }  # fmt: skip


def test_ids_that_would_be_wrong_without_a_word_are_refused() -> None:
    with pytest.raises(UsageError, match="suppress_tokens names tokens by ids"):
        remapped_config({"suppress_tokens": [262144]}, _NEW_IDS)
