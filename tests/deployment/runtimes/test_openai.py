import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_openai import FakeOpenAi

from deployment.answers.policy import decoding_of
from deployment.prompts.prompt import Prompt
from deployment.runtimes import openai
from deployment.runtimes.decoding import SEED, Mode
from deployment.runtimes.llama_server import LlamaServer
from deployment.runtimes.prediction import Prediction
from deployment.runtimes.servers import OpenAiRuntime
from registry.errors import ServiceUnavailable, UsageError
from registry.records import LabelSet, Record

SECRET = "s3cr3t"
MODELS, CHAT = "GET /v1/models", "POST /v1/chat/completions"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAi]:
    """A server with one model, which echoes its prompt."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeOpenAi(lambda command: f"echo {command}") as openai:
        yield openai


@pytest.fixture(scope="module")
def llama_server(learnt_gguf: Path) -> Iterator[str]:
    """The address of a llama-server with room for a grammar's longest answer."""
    with LlamaServer(learnt_gguf, prompt=Prompt(), slots=2, context=512) as server:
        yield str(server._client.base_url)


def ask(url: str, *commands: str, **options) -> list[Prediction]:
    with OpenAiRuntime(url, **options) as runtime:
        return runtime.answer(commands)


@pytest.mark.parametrize("mode", Mode)
def test_a_llama_server_answers_over_http_as_its_file_does(
    mode: Mode, learnt_gguf: Path, llama_server: str, plant_records: list[Record], plant_labels: LabelSet
):
    commands = [*(record.command for record in plant_records), 'pump "P-9" \\ Öl 检查\tis <end_of_turn>']
    decoding = decoding_of(mode, plant_labels)
    with LlamaServer(learnt_gguf, prompt=Prompt(), slots=1, context=512, max_new_tokens=400, decoding=decoding) as file:
        expected = file.answer(commands)
    found = ask(llama_server, *commands, decoding=decoding)
    assert [(row.text, row.tokens, row.failure) for row in found] == [
        (row.text, row.tokens, row.failure) for row in expected
    ]


def test_a_command_that_is_too_long_for_a_llama_server_stops_no_other(llama_server: str, plant_records: list[Record]):
    long, good = ask(llama_server, "check pump SG-9 " * 300, plant_records[0].command)
    assert "report_leak" in good.text and not good.failure
    assert long.text == ""
    assert "The command 'check pump SG-9 check pump SG-9 check pu…' is too long, the server says: " in long.failure
    assert "available context size (512 tokens)" in long.failure


def test_an_answer_that_fills_the_context_of_a_llama_server_is_none(llama_server: str):
    class Endless:
        logprobs = 0

        def llama_cpp(self, command: str) -> dict[str, str]:
            return {"grammar": 'root ::= "a" root'}

        def json_schema(self, command: str) -> None:
            return None

        def finished(self, command: str, text: str, logprobs: object = ()) -> str:
            return text

    [found] = ask(llama_server, "check", decoding=Endless())
    assert found.text == "" and found.tokens > 300
    assert found.failure == f"The answer did not end within {found.tokens} tokens, the server's limit."


def test_another_server_is_asked_greedily_and_in_order(fake: FakeOpenAi):
    commands = [f"command {number}" for number in range(9)]
    predictions = ask(fake.address, *commands, parallel=4)
    assert [prediction.text for prediction in predictions] == [f"echo {command}" for command in commands]
    assert all(prediction.tokens == len(prediction.text) for prediction in predictions)
    asked = sorted(fake.bodies, key=lambda body: body["messages"][0]["content"])
    assert asked == [
        {"model": "plant", "messages": [{"role": "user", "content": command}], "temperature": 0} for command in commands
    ]
    ask(fake.address, "hello", temperature=0.7)
    assert (fake.bodies[-1]["temperature"], fake.bodies[-1]["seed"]) == (0.7, SEED)


@pytest.mark.parametrize("mode", [Mode.SCHEMA, Mode.GROUNDED])
def test_another_server_is_given_the_schema_of_the_answer(mode: Mode, fake: FakeOpenAi, plant_labels: LabelSet):
    decoding = decoding_of(mode, plant_labels)
    ask(fake.address, "Oil leak at SG-402.", decoding=decoding)
    [body] = fake.bodies
    schema = decoding.json_schema("Oil leak at SG-402.")
    assert body.keys() == {"model", "messages", "temperature", "response_format"}
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_what_comes_again_in_a_grounded_answer_is_left_out(fake: FakeOpenAi, plant_labels: LabelSet):
    fake.answer = lambda command: '{"intent": "report_leak", "entities": {"asset": "SG-402", "fluid": "SG-402"}}'
    [found] = ask(fake.address, "SG-402 leaks", decoding=decoding_of(Mode.GROUNDED, plant_labels))
    assert found.text == '{"intent": "report_leak", "entities": {"asset": "SG-402"}}'


def test_a_typed_control_token_is_not_sent(fake: FakeOpenAi):
    ask(fake.address, "stop<end_of_turn>\n<|im_end|>")
    assert fake.bodies[0]["messages"][0]["content"] == "stop< end_of_turn>\n< |im_end|>"


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("length", "The answer did not end within 10 tokens, the server's limit."),
        ("content_filter", "The server ended the answer itself: its finish_reason is 'content_filter'."),
        (None, "The server ended the answer itself: its finish_reason is None."),
    ],
)
def test_an_answer_that_the_model_did_not_end_is_none(reason: str | None, failure: str, fake: FakeOpenAi):
    fake.finish_reason = reason
    [found] = ask(fake.address, "hello")
    assert (found.text, found.failure) == ("", failure)


def streamed(url: str, command: str, **options) -> list[str | Prediction]:
    with OpenAiRuntime(url, **options) as runtime:
        return list(runtime.stream(command))


def without_times(item: object) -> Prediction:
    assert isinstance(item, Prediction)
    return replace(item, seconds=0.0, latency=None)


@pytest.mark.parametrize("mode", Mode)
def test_a_llama_server_streams_what_it_answers(
    mode: Mode, llama_server: str, plant_records: list[Record], plant_labels: LabelSet
):
    decoding = decoding_of(mode, plant_labels)
    for record in plant_records:
        *parts, last = streamed(llama_server, record.command, decoding=decoding)
        [whole] = ask(llama_server, record.command, decoding=decoding)
        assert len(parts) > 5
        assert decoding.finished(record.command, "".join(map(str, parts))) == whole.text
        assert without_times(last) == without_times(whole)


def test_a_command_that_is_too_long_for_a_llama_server_has_no_stream(llama_server: str):
    [found] = streamed(llama_server, "check pump SG-9 " * 300)
    assert without_times(found) == without_times(ask(llama_server, "check pump SG-9 " * 300)[0])
    assert "is too long, the server says: " in without_times(found).failure


def test_an_answer_is_streamed_as_it_comes(fake: FakeOpenAi):
    shown = threading.Event()
    fake.pause = lambda: shown.wait(30)
    fake.answer = lambda command: "one\x85two\u2028three"
    with OpenAiRuntime(fake.address) as runtime:
        stream = runtime.stream("hello")
        first = next(stream)
        assert (first, shown.is_set()) == ("one\x85two", False)
        shown.set()
        *parts, last = stream
    assert parts == ["\u2028three"]
    assert without_times(last) == Prediction(text="one\x85two\u2028three", tokens=13, seconds=0.0)
    assert (fake.bodies[0]["stream"], fake.bodies[0]["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize(
    "changed", [{}, {"streams": False}, {"tells_usage": False}, {"finish_reason": "length"}, {"finish_reason": None}]
)
@pytest.mark.parametrize("command", ["hello", "long" * 300])
def test_a_stream_ends_with_what_the_answer_is(changed: dict[str, object], command: str, fake: FakeOpenAi):
    vars(fake).update(changed)
    assert without_times(streamed(fake.address, command)[-1]) == without_times(ask(fake.address, command)[0])


def test_a_stream_that_breaks_says_why(fake: FakeOpenAi):
    fake.midway = "out of memory"
    with OpenAiRuntime(fake.address) as runtime:
        stream = runtime.stream("hello there")
        assert next(stream) == "echo he"
        with pytest.raises(ServiceUnavailable, match=rf"^{fake.address} broke off its answer, it says: out of memory;"):
            next(stream)


def test_a_server_that_counts_no_tokens_is_scored(fake: FakeOpenAi):
    fake.tells_usage = False
    [found] = ask(fake.address, "hello")
    assert (found.text, found.tokens) == ("echo hello", 0)


def test_a_command_that_is_too_long_for_another_server_stops_no_other(fake: FakeOpenAi):
    long, good = ask(fake.address, "long" * 300, "good")
    assert (good.text, good.failure) == ("echo good", "")
    assert long.failure == (
        f"The command '{'long' * 10}…' is too long, the server says: This model's maximum context length is 1000 "
        "tokens, you requested 1200; shorten it or raise the server's context."
    )


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("", "/v1"),
        ("/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/llm", "/llm/v1"),
        ("/api/v4", "/api/v4"),
        ("/v1beta/openai/", "/v1beta/openai"),
    ],
)
def test_a_path_without_a_version_is_followed_by_v1(written: str, base: str, fake: FakeOpenAi):
    fake.base = base
    assert ask(f"{fake.address}{written}?plant=7", "hello")[0].text == "echo hello"
    root = base.partition("/v")[0]
    assert fake.requests == [
        f"GET {base}/models?plant=7",
        f"GET {root}/props?plant=7",
        f"POST {base}/chat/completions?plant=7",
    ]


def test_one_of_several_models_is_named_after_a_hash(fake: FakeOpenAi):
    fake.models = ["plant", "org/other model"]
    with pytest.raises(UsageError, match=rf"has 2 models; write {fake.address}#NAME with one of: plant, org/other"):
        ask(fake.address, "hello")
    with pytest.raises(UsageError, match=r"has no model 'third'; write .* one of: plant, org/other"):
        ask(f"{fake.address}/v1#third", "hello")
    ask(f"{fake.address}/v1#org/other model", "hello")
    assert [body["model"] for body in fake.bodies] == ["org/other model"]
    fake.models = [f"model-{number}" for number in range(300)]
    with pytest.raises(UsageError, match=r"model-9 and 290 more\.$"):
        ask(fake.address, "hello")
    fake.models = []
    with pytest.raises(UsageError, match="lists no model; load one there"):
        ask(fake.address, "hello")


def test_a_llama_server_is_not_asked_by_a_name_that_it_lacks(llama_server: str):
    with pytest.raises(UsageError, match=r"has no model 'other'; .*learnt-f32\.gguf"):
        ask(f"{llama_server}#other", "hello")


def test_a_password_goes_along_and_is_not_shown(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    address = f"http://bob:{SECRET}%40@{fake.host}"
    ask(address, "hello")
    sent = base64.b64encode(f"bob:{SECRET}@".encode()).decode()
    assert {headers["Authorization"] for headers in fake.headers} == {f"Basic {sent}"}
    fake.faults[CHAT] = (500, "")
    with pytest.raises(ServiceUnavailable) as caught:
        ask(address, "hello")
    assert str(caught.value).startswith(
        f"http://bob:***@{fake.host} answered 500 to POST /v1/chat/completions: nothing"
    )


def test_a_key_goes_along_and_is_not_shown(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    ask(fake.address, "hello")
    assert {headers["Authorization"] for headers in fake.headers} == {f"Bearer {SECRET}"}
    fake.faults[CHAT] = (401, json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}."}}))
    with pytest.raises(UsageError, match=r"provided: \*\*\*; set OPENAI_API_KEY to a key of that server"):
        ask(fake.address, "hello")


def test_a_key_that_no_header_can_carry_is_refused(fake: FakeOpenAi, monkeypatch: pytest.MonkeyPatch):
    for key in (f"{SECRET}\nx", f"{SECRET}ö"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UsageError, match="OPENAI_API_KEY holds a character") as caught:
            ask(fake.address, "hello")
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "status", "body", "kind", "said"),
    [
        (MODELS, 401, "", UsageError, "set OPENAI_API_KEY to a key of that server"),
        (CHAT, 403, '{"error": "no"}', UsageError, r"403 .*: no; set OPENAI_API_KEY"),
        (MODELS, 404, '{"detail": "x"}', UsageError, "is it the address of an OpenAI-compatible server"),
        (MODELS, 301, "<p>Moved", UsageError, "301 to GET /v1/models: Moved; is it the address"),
        (MODELS, 200, "<html><p>Welcome</html>", ServiceUnavailable, "it says: Welcome; is another service there"),
        (MODELS, 200, "[]", ServiceUnavailable, "does not answer as an OpenAI-compatible server does"),
        (
            "GET /props",
            503,
            '{"error": {"message": "Loading model"}}',
            ServiceUnavailable,
            "Loading model; see its log",
        ),
        (CHAT, 400, '{"error": {"message": "no schema"}}', UsageError, "400 to POST .*: no schema; see its log"),
        (CHAT, 429, "", ServiceUnavailable, "then try again"),
        (CHAT, 502, "<h1>502 Bad\n Gateway</h1>", ServiceUnavailable, ": 502 Bad Gateway; see its log"),
        (CHAT, 200, '{"choices": []}', ServiceUnavailable, r'it says: {"choices": \[\]};'),
        (CHAT, 200, '{"error": {"message": "gone"}}', ServiceUnavailable, "it says: gone; is another service there"),
    ],
)
def test_a_server_that_fails_is_named_in_one_sentence(
    asked: str, status: int, body: str, kind: type[Exception], said: str, fake: FakeOpenAi
):
    fake.faults[asked] = (status, body)
    for way in (ask, streamed):
        with pytest.raises(kind, match=said) as caught:
            way(fake.address, "hello")
        assert str(caught.value).startswith(fake.address)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", ["{}", '{"error": "Unexpected endpoint. Returning 200 anyway"}', "<html>", "[]"])
def test_a_server_with_another_page_of_properties_is_no_llama_server(body: str, fake: FakeOpenAi):
    fake.faults["GET /props"] = (200, body)
    ask(fake.address, "hello")
    assert "top_k" not in fake.bodies[0]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "127.0.0.1:99999", "a..b"])
def test_a_server_that_is_absent_is_out_of_reach(host: str):
    with pytest.raises(
        ServiceUnavailable, match=rf"^No server answers at http://{re.escape(host)}; start llama-server"
    ):
        ask(f"http://{host}", "hello")


def test_a_server_that_takes_too_long_is_out_of_reach(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openai, "_SECONDS", 1.0)
    silent = pytest.raises(ServiceUnavailable, match="did not answer within 1 s; see its log, then try again")
    with socket.create_server(("127.0.0.1", 0)) as server, silent:
        ask(f"http://127.0.0.1:{server.getsockname()[1]}", "hello")
