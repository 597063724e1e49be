"""A tiny Gemma 3 folder with a real SentencePiece tokenizer, made without torch."""

from pathlib import Path

import pytest
import sentencepiece
from gguf_samples import CONFIG, SENTENCES, tiny_weights, write_json
from safetensors.numpy import save_file

from deployment.prompts.prompt import Prompt, chat_template
from deployment.prompts.turns import Turns
from tasks.tokenizers.reading import load_vocabulary
from tasks.tokenizers.tokenizer_json import tokenizer_json


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=CONFIG["vocab_size"] - 4,  # the embedding is longer
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=[*Turns.GEMMA.form.control, "▁▁", "▁▁▁", "\n"],
        num_threads=1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="session")
def tiny_gemma(sentencepiece_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with tokenizer.json only; copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny_gemma")
    save_file(tiny_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"do_sample": True, "top_k": 64, "top_p": 0.95})
    (folder / "tokenizer.model").write_bytes(sentencepiece_model.read_bytes())
    vocabulary = load_vocabulary(folder, CONFIG)
    (folder / "tokenizer.model").unlink()
    write_json(folder / "tokenizer.json", tokenizer_json(vocabulary))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "clean_up_tokenization_spaces": False,
            "chat_template": chat_template(Prompt()),
        },
    )
    return folder
