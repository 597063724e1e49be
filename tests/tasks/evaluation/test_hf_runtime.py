import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployment.prompts.prompt import Prompt, encode_prompt
from deployment.runtimes.prediction import Prediction
from registry.errors import UsageError
from registry.records import LabelSet, Record, answer_text
from tasks.evaluation.hf_runtime import HuggingFaceRuntime, load_model


def ask(model_dir: Path, commands: list[str], *, batch_size: int = 4, max_new_tokens: int = 96) -> list[Prediction]:
    runtime = HuggingFaceRuntime(model_dir, prompt=Prompt(), max_new_tokens=max_new_tokens, batch_size=batch_size)
    with runtime:
        return runtime.answer(commands)


def test_answers_are_what_the_model_learnt_in_the_order_of_the_commands(
    learnt_model_dir: Path, plant_records: list[Record], plant_labels: LabelSet
):
    predictions = ask(learnt_model_dir, [record.command for record in plant_records])
    assert [prediction.text for prediction in predictions] == [
        answer_text(record.response, plant_labels) for record in plant_records
    ]


def test_answers_are_the_same_alone_and_batched(learnt_model_dir: Path, plant_records: list[Record]):
    commands = [record.command for record in plant_records] + ["never seen " * length for length in (1, 5, 9)]
    alone = ask(learnt_model_dir, commands, batch_size=1)
    batched = ask(learnt_model_dir, commands, batch_size=len(commands))
    assert [(row.text, row.tokens) for row in alone] == [(row.text, row.tokens) for row in batched]


def test_a_folders_own_penalties_do_not_count(learnt_model_dir: Path, plant_records: list[Record], tmp_path: Path):
    folder = shutil.copytree(learnt_model_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 5.0, "no_repeat_ngram_size": 1}))
    commands = [record.command for record in plant_records]
    assert [row.text for row in ask(folder, commands)] == [row.text for row in ask(learnt_model_dir, commands)]


def test_an_answer_ends_with_its_turn_and_counts_that_token(learnt_model_dir: Path, plant_records: list[Record]):
    _, tokenizer = load_model(learnt_model_dir)
    [prediction] = ask(learnt_model_dir, [plant_records[0].command])
    assert prediction.tokens == len(tokenizer.encode(prediction.text, add_special_tokens=False)) + 1


def test_an_answer_has_at_most_max_new_tokens(learnt_model_dir: Path, plant_records: list[Record]):
    [prediction] = ask(learnt_model_dir, [plant_records[0].command], max_new_tokens=5)
    assert prediction.tokens == 5
    assert not prediction.text.endswith("}")


def test_a_command_that_does_not_fit_has_no_answer_and_stops_no_other(
    learnt_model_dir: Path, plant_records: list[Record]
):
    tokenizer = load_model(learnt_model_dir)[1]
    commands = [f"{plant_records[1].command}, at once", *(record.command for record in plant_records)]
    context = len(encode_prompt(tokenizer, Prompt(), commands[0])) - 1 + 96
    with HuggingFaceRuntime(learnt_model_dir, prompt=Prompt(), max_new_tokens=96, context=context) as runtime:
        long, *others = runtime.answer(commands)
    assert [row.text for row in others] == [row.text for row in ask(learnt_model_dir, commands[1:])]
    assert (long.text, long.tokens, others[0].failure) == ("", 0, "")
    assert long.failure.startswith(f"The command {commands[0]!r} is 1 token too long: its prompt takes {context - 95}")


def test_a_model_is_asked_nothing_longer_than_it_was_made_for(learnt_model_dir: Path):
    with HuggingFaceRuntime(learnt_model_dir, prompt=Prompt(), max_new_tokens=96, context=100_000) as runtime:
        [found] = runtime.answer(["check pump SG-402 " * 1000])
    assert "of a context of 2,048; shorten it" in found.failure


def test_nothing_to_ask_gives_nothing(learnt_model_dir: Path):
    assert ask(learnt_model_dir, []) == []


def test_an_adapter_folder_answers_with_its_base(learnt_model_dir: Path, plant_records: list[Record], tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_model(learnt_model_dir)
    adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora" in name:
                weight.mul_(30)
    adapter.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    commands = [record.command for record in plant_records]
    answers = [prediction.text for prediction in ask(tmp_path, commands)]
    # The adapter was scaled until it hurts; with its weights at zero the base speaks.
    assert answers != [prediction.text for prediction in ask(learnt_model_dir, commands)]
    weights = tmp_path / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: torch.zeros_like(value) for name, value in load_file(weights).items()}, weights)
    assert ask(tmp_path, commands)[0].text == ask(learnt_model_dir, commands)[0].text


def test_a_folder_without_safetensors_is_refused_in_one_sentence(learnt_model_dir: Path, tmp_path: Path):
    folder = shutil.copytree(learnt_model_dir, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model\.safetensors cannot be read"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(UsageError, match=r"model\.safetensors is not a sound safetensors file"):
        load_model(folder)


def test_a_pickled_adapter_is_refused(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "holds NaN"), (3e38, "computes NaN")])
def test_a_model_that_does_not_compute_is_not_scored(learnt_model_dir: Path, tmp_path: Path, value: float, said: str):
    folder = shutil.copytree(learnt_model_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.down_proj.weight"))
    weights[name] = torch.full_like(weights[name], value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=said), HuggingFaceRuntime(folder, prompt=Prompt()):
        pass


def test_answers_at_a_temperature_are_drawn_and_the_same_each_time(learnt_model_dir: Path, plant_records: list[Record]):
    commands = [record.command for record in plant_records]
    runs = []
    for temperature in (2.0, 2.0, 0.0):
        with HuggingFaceRuntime(
            learnt_model_dir, prompt=Prompt(), max_new_tokens=24, temperature=temperature
        ) as runtime:
            runs.append([prediction.text for prediction in runtime.answer(commands)])
    assert runs[0] == runs[1] != runs[2]
