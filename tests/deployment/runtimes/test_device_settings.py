import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import UsageError
from registry.records import Record
from tests.benchmarks.bench_device import Candidate, ask, is_complete_object, measure, table
from tests.benchmarks.device_variants import VARIANTS

LONG = Prompt(instruction="Answer with JSON: an intent and the entities of the command. " * 3)


def candidates(gguf: Path, *variants: str) -> list[Candidate]:
    return [Candidate(gguf=gguf, variant=variant, threads=1) for variant in variants]


def test_no_setting_changes_an_answer(learnt_gguf: Path, plant_records: list[Record]):
    commands = [record.command for record in plant_records] * 2
    with LlamaServer(learnt_gguf, prompt=Prompt(), slots=1) as server:
        expected = [prediction.text for prediction in server.answer(commands)]
    found = candidates(learnt_gguf, *VARIANTS)
    measure(found, Prompt(), commands, rounds=1)
    assert {candidate.variant: [answer.text for answer in candidate.answers] for candidate in found} == dict.fromkeys(
        VARIANTS, expected
    )


def test_a_prompt_cache_saves_the_instruction_and_changes_no_answer(learnt_gguf: Path, plant_records: list[Record]):
    commands = [record.command for record in plant_records] * 2
    plain, cached = found = candidates(learnt_gguf, "plain", "prompt-cache-swa-full")
    measure(found, LONG, commands, rounds=1)
    assert [answer.text for answer in cached.answers] == [answer.text for answer in plain.answers]
    with LlamaServer(learnt_gguf, prompt=LONG, slots=1) as server:
        prefix = len(server.tokenize(LONG.prefix, add_bos=True, parse_special=True))
    assert prefix > 60
    assert all(answer.timings["cache_n"] == 0 for answer in plain.answers)
    assert all(answer.timings["cache_n"] >= prefix for answer in cached.answers[1:])


def test_n_grams_of_earlier_answers_are_drafted_and_accepted(learnt_gguf: Path, plant_records: list[Record]):
    [candidate] = candidates(learnt_gguf, "ngram-mod")
    measure([candidate], Prompt(), [record.command for record in plant_records] * 3, rounds=1)
    drafted = sum(answer.timings.get("draft_n", 0) for answer in candidate.answers)
    accepted = sum(answer.timings.get("draft_n_accepted", 0) for answer in candidate.answers)
    assert 0 < accepted <= drafted
    assert candidate.describe().endswith(f"{accepted} of {drafted} drafts")


def test_times_of_an_answer_are_in_order_and_its_json_ends_a_token_early(
    learnt_gguf: Path, plant_records: list[Record]
):
    with LlamaServer(learnt_gguf, prompt=Prompt(), slots=1) as server:
        answer = ask(server, plant_records[0].command, VARIANTS["plain"])
    assert is_complete_object(answer.text)
    assert 0 < answer.first < answer.closed < answer.whole
    assert answer.timings["prompt_ms"] + answer.timings["predicted_ms"] < 1000 * answer.whole


def test_the_table_holds_ratios_to_the_first_file_on_as_many_threads(learnt_gguf: Path, plant_records: list[Record]):
    found = candidates(learnt_gguf, "plain", "no-mmap")
    measure(found, Prompt(), [record.command for record in plant_records], rounds=2)
    assert [len(candidate.load) for candidate in found] == [2, 2]
    assert [len(candidate.answers) for candidate in found] == [2 * len(plant_records)] * 2
    found[1].peak_mib = 2 * found[0].peak_mib
    console = Console(width=120, record=True)
    console.print(table(found, "title"))
    rows = console.export_text()
    assert rows.count("×1.00") >= 9
    assert "×2.00" in rows
    assert "100 %" in rows


def test_a_parameter_that_llama_cpp_does_not_have_is_named(learnt_gguf: Path):
    with (
        pytest.raises(UsageError, match="flash_atention"),
        LlamaServer(learnt_gguf, prompt=Prompt(), parameters={"flash_atention": 1}),
    ):
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(), JSON, max_size=3), st.sampled_from([None, 1]), st.sampled_from(["", " \n"]), st.text()
)
def test_an_object_is_complete_from_its_last_brace_on(value: dict, indent: int | None, before: str, after: str):
    text = before + json.dumps(value, indent=indent, ensure_ascii=False)
    assert is_complete_object(text + after)
    assert not any(is_complete_object(text[:length]) for length in range(len(text)))


@given(st.text())
def test_a_text_that_is_no_object_is_never_complete(text: str):
    assert not is_complete_object(json.dumps([text]))
    assert not is_complete_object(json.dumps(text))
