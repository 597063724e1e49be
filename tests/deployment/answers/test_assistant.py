"""The assistant on a real file: one command, many, as it comes, and from an event loop."""

import asyncio
import json
from pathlib import Path

import pytest
from fake_ollama import FakeOllama, Model

import gemmill
from deployment.runtimes.decoding import Mode
from deployment.runtimes.llama_server import LlamaServer
from registry.errors import UsageError
from registry.records import LabelSet, Record, label_set_toml


def test_an_answer_says_where_its_values_stand(model: Path, plant_records: list[Record]):
    record = next(record for record in plant_records if record.response.entities)
    with gemmill.AuditAssistant(model, threads=1) as assistant:
        answer = assistant.answer(record.command)
    assert (answer.intent, answer.decoding) == (record.response.intent, Mode.GROUNDED)
    assert answer.response is not None
    assert answer.response.entity_values() == record.response.entity_values()
    asset = next(span for span in answer.spans if span.type == "asset")
    assert record.command[asset.start : asset.end] == asset.value
    assert gemmill.Answer.model_validate_json(answer.model_dump_json()) == answer


def test_control_tokens_that_a_command_names_are_no_values(model: Path):
    with gemmill.AuditAssistant(model, threads=1) as assistant:
        tokens = ("<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>")
        for command in (*tokens, " ".join(tokens), *(f"Oil leak at {token}." for token in tokens)):
            *partial, answer = assistant.stream(command)
            assert answer == assistant.answer(command).model_copy(update={"seconds": answer.seconds})
            assert not answer.failure, command
            for so_far in (*partial, answer):
                assert all(span.value.strip() for span in so_far.spans)
                assert all(span.start is not None for span in so_far.spans if span.type == "asset"), answer


def test_a_stream_grows_field_by_field_to_the_same_answer(model: Path, plant_records: list[Record]):
    record = max(plant_records, key=lambda record: len(record.response.listed()))
    with gemmill.AuditAssistant(model, threads=1) as assistant:
        *partial, last = assistant.stream(record.command)
        whole = assistant.answer(record.command)
    assert last.model_copy(update={"seconds": whole.seconds}) == whole
    assert not any(answer.done for answer in partial)
    sizes = [(answer.intent is not None) + len(answer.spans) for answer in partial]
    assert sizes == sorted(set(sizes))
    for answer in partial:
        assert answer.spans == whole.spans[: len(answer.spans)]


def test_an_event_loop_gets_the_same_answers(model: Path, plant_records: list[Record]):
    commands = [record.command for record in plant_records[:3]]

    async def ask() -> tuple[list[gemmill.Answer], gemmill.Answer, gemmill.Answer]:
        async with gemmill.AuditAssistant(model, threads=1) as assistant:
            *_, streamed = [answer async for answer in assistant.stream_async(commands[0])]
            return await assistant.answer_many_async(commands), await assistant.answer_async(commands[0]), streamed

    many, one, streamed = asyncio.run(ask())
    with gemmill.AuditAssistant(model, threads=1) as assistant:
        expected = [answer.response for answer in assistant.answer_many(commands)]
    assert [answer.response for answer in many] == expected
    assert one.response == streamed.response == expected[0]


@pytest.mark.parametrize(
    ("said", "entities"),
    [
        ('{"intent": "report_issue", "entities": {"asset_id": "SG-402"', {"asset_id": "SG-402"}),
        ('Sure!\n{"intent": "report_issue", "entities": {},}', {}),
    ],
)
def test_a_free_answer_that_is_no_json_is_repaired_and_says_so(said: str, entities: dict[str, str]):
    with (
        FakeOllama(lambda prompt, options: said, models={"m:latest": Model()}) as ollama,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OLLAMA_HOST", ollama.address)
        with gemmill.AuditAssistant("ollama:m") as assistant:
            answer = assistant.answer("SG-402 leaks")
    assert (answer.intent, answer.entities, answer.repaired) == ("report_issue", entities, True)


def test_what_cannot_be_repaired_is_no_answer_and_says_what_came(monkeypatch: pytest.MonkeyPatch):
    with FakeOllama(lambda prompt, options: "I am a model", models={"m:latest": Model()}) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.address)
        with gemmill.AuditAssistant("ollama:m") as assistant:
            answer = assistant.answer("SG-402 leaks")
    assert answer.intent is None
    assert answer.response is None
    assert "I am a model" in answer.failure


def test_ollama_is_given_a_schema_of_the_commands_spans(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labels: LabelSet
):
    path = tmp_path / "labels.toml"
    path.write_text(label_set_toml(labels))
    said = json.dumps({"intent": "report_issue", "entities": {}})
    with FakeOllama(lambda prompt, options: said, models={"m:latest": Model()}) as ollama:
        monkeypatch.setenv("OLLAMA_HOST", ollama.address)
        with gemmill.AuditAssistant("ollama:m", labels=path) as assistant:
            assert assistant.answer("SG-402 leaks").longest is None
            assert assistant.answer(" ".join(f"SG-{number} leaks" for number in range(60))).longest == 2
        asked = ollama.bodies[0]
    assert asked["format"]["$defs"]["exact"]["enum"][0] == "SG"
    assert asked["options"]["num_predict"] == -1


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="no package"):
        gemmill.AuditAssistant(tmp_path)


def test_a_llama_server_takes_a_grammar_so_that_no_value_is_cut_short(model: Path):
    long = " ".join(f"SG-{number} leaks" for number in range(60))
    with (
        LlamaServer(model, prompt=None, context=2048) as server,
        gemmill.AuditAssistant(str(server._client.base_url), labels=model.parent / "labels.toml") as assistant,
    ):
        assert assistant.answer(long).longest is None
