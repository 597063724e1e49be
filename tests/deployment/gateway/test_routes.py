"""Every route on a real model, as a client sees it."""

import json
import re
import stat
import sys
from pathlib import Path

import httpx
import pytest
from gateways import assert_problem, gateway, source_of
from jsonschema import Draft202012Validator

from deployment.answers.answer import Answer
from deployment.answers.assistant import Assistant
from registry.records import Record, same_answer


def events(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [event.removeprefix("data: ") for event in response.text.split("\n\n") if event]


def test_an_answer_is_the_assistant_s(client: httpx.Client, model: Path, plant_records: list[Record]) -> None:
    with Assistant(model, threads=1) as assistant:
        for record in plant_records:
            response = client.post("/v1/audit", json={"command": record.command})
            answer = Answer.model_validate_json(response.content)
            expected = assistant.answer(record.command)
            assert answer.model_copy(update={"seconds": expected.seconds}) == expected


def test_a_batch_is_answered_in_its_order(client: httpx.Client, plant_records: list[Record]) -> None:
    commands = [record.command for record in plant_records] * 3
    answers = client.post("/v1/audit/batch", json={"commands": commands}).json()
    assert [answer["command"] for answer in answers] == commands
    assert [answer["intent"] for answer in answers] == [record.response.intent for record in plant_records] * 3


def test_a_stream_grows_to_the_same_answer(client: httpx.Client, plant_records: list[Record]) -> None:
    record = plant_records[0]
    *partial, last = map(json.loads, events(client.post("/v1/audit/stream", json={"command": record.command})))
    whole = client.post("/v1/audit", json={"command": record.command}).json()
    assert last | {"seconds": 0} == whole | {"seconds": 0}
    assert partial
    assert not any(answer["done"] for answer in partial)
    assert partial[-1]["spans"] == whole["spans"][: len(partial[-1]["spans"])]


def test_openai_s_protocol_gives_the_same_answer(client: httpx.Client, plant_records: list[Record]) -> None:
    record = plant_records[0]
    [listed] = client.get("/v1/models").json()["data"]
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "What is the weather tomorrow?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": [{"type": "text", "text": record.command}]},
    ]
    asked = {"model": listed["id"], "messages": messages, "temperature": 1.5, "tools": []}
    whole = client.post("/v1/chat/completions", json=asked).json()
    text = whole["choices"][0]["message"]["content"]
    assert same_answer(text, record.response.model_dump_json())
    assert (whole["object"], whole["choices"][0]["finish_reason"]) == ("chat.completion", "stop")
    assert whole["usage"]["completion_tokens"] > 0
    *chunks, done = events(client.post("/v1/chat/completions", json=asked | {"stream": True}))
    deltas = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert "".join(choice["delta"].get("content", "") for choice in deltas) == text
    assert deltas[-1]["finish_reason"] == "stop"


def test_a_command_without_an_answer_says_why(client: httpx.Client) -> None:
    command = "漏油" * 900
    answer = client.post("/v1/audit", json={"command": command}).json()
    assert answer["intent"] is None
    assert "too long" in answer["failure"]
    messages = [{"role": "user", "content": command}]
    assert_problem(client.post("/v1/chat/completions", json={"messages": messages}), 422, "too long")


def test_a_small_answer_does_not_wait_for_the_client_s_acknowledgement(client: httpx.Client) -> None:
    assert min(client.get("/healthz").elapsed.total_seconds() for _ in range(20)) < 0.02  # it would wait 0.04


def test_it_says_that_it_runs_and_that_the_model_answers(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_what_happened_is_counted(model: Path, tmp_path: Path, plant_records: list[Record]) -> None:
    with gateway(source_of(model), tmp_path) as client:
        for record in plant_records:
            client.post("/v1/audit", json={"command": record.command})
        client.post("/v1/audit", json={"command": ""})
        client.post("/v1/audit", json={"command": "漏油" * 900})
        client.get("/no/such/route")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = response.text
    for sample in (
        'http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",'
        'http_route="/v1/audit"} 5.0',
        'http_request_method="POST",http_response_status_code="400",http_route="/v1/audit"} 1.0',
        'http_route="unknown"} 1.0',
        'gemmill_answers_total{intent="check_asset"} 2.0',
        "gemmill_out_of_scope_total 1.0",
        "gemmill_repairs_total 0.0",
        "gemmill_failures_total 1.0",
        'gemmill_refused_total{reason="body"} 1.0',
        "http_server_active_requests 1.0",
        'gen_ai_server_request_duration_seconds_count{gen_ai_operation_name="chat",gen_ai_request_model="plant"} 5.0',
        'gen_ai_token_type="output"} 4.0',
        "gemmill_model_openings 1.0",
    ):
        assert sample in text, f"{sample} in\n{text}"


def test_how_sure_answers_are_is_told_and_counted(doubting: Path, tmp_path: Path, plant_records: list[Record]) -> None:
    with gateway(source_of(doubting), tmp_path) as client:
        sure = client.post("/v1/audit", json={"command": plant_records[0].command}).json()
        strange = client.post("/v1/audit", json={"command": "x1 zz prüfe SG oil 99 tomorrow pumps leak"}).json()
        text = client.get("/metrics").text
    assert sure["confidence"] > 0.5 > strange["confidence"]
    assert [sure["ask_person"], strange["ask_person"]] == [False, True]
    assert all(span["confidence"] > 0.5 for span in sure["spans"])
    assert "gemmill_low_confidence_total 1.0" in text
    assert "gemmill_confidence_count 2.0" in text


def test_the_description_names_every_route_with_an_example(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/audit", "/v1/audit/batch", "/v1/audit/stream", "/v1/chat/completions", "/v1/models", "/v1/feedback",
        "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for route in described["paths"].values():
        for method in route.values():
            assert {"4XX", "5XX"} <= method["responses"].keys()
            assert "422" not in method["responses"]
    for name, schema in described["components"]["schemas"].items():
        if name in ("Audit", "Batch", "Chat", "Correction"):
            assert schema["examples"], name
    example = described["components"]["schemas"]["Audit"]["examples"][0]
    assert client.post("/v1/audit", json=example).status_code == 200


def test_the_description_refuses_what_the_routes_refuse(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    commands = Draft202012Validator(schemas["Audit"])
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    unusual = [character for character in characters if character.isspace() or not character.isprintable()]
    for text in ["", "x" * 2001, "a\0b", "a\n", " \n", *unusual[:2000]]:
        sound = bool(text.strip()) and "\0" not in text and len(text) <= 2000
        assert commands.is_valid({"command": text}) == sound, ascii(text)
    pattern = re.compile(schemas["Audit"]["properties"]["command"]["pattern"])
    for character in characters:
        assert bool(pattern.search(character)) == (bool(character.strip()) and character != "\0"), ascii(character)
    corrections = Draft202012Validator(schemas["Correction"])
    for value, sound in (
        ("P-1", True), (["P-1", "P-2"], True), ("\u00a0", False), ([], False), (["P-1", " "], False),
        ("x" * 200, True), ("x" * 201, False), (["x"] * 16, True), (["x"] * 17, False),
    ):  # fmt: skip
        sent = {"command": "x", "response": {"intent": "check_asset", "entities": {"asset": value}}}
        assert corrections.is_valid(sent) == sound, value
        assert client.post("/v1/feedback", json=sent).is_success == sound, value


def test_the_form_of_a_chat_is_the_described_one(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]
    sent = {"messages": [{"role": "user", "content": "Oil leak at SG-402."}]}
    for stream in (None, False, True):
        response = client.post("/v1/chat/completions", json=sent | {"stream": stream})
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] in described["content"]
    for stream in (0, 1, "true", "no"):
        assert_problem(client.post("/v1/chat/completions", json=sent | {"stream": stream}), 400, "stream")


def test_corrections_are_kept_for_the_owner_alone(client: httpx.Client, home: Path) -> None:
    said = {"intent": "report_leak", "entities": {"asset": "P-1"}}
    right = {"intent": "check_asset", "entities": {"asset": ["P-1", "Ü-2"]}}
    for answer in (said, None):
        sent = {"command": "check P-1 and Ü-2", "response": right, "answer": answer}
        assert client.post("/v1/feedback", json=sent).status_code == 201
    file = home / "feedback.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][-2:]
    assert [line["answer"] for line in lines] == [said, None]
    assert all(line["response"] == right and re.match(r"\d{4}-\d\d-\d\dT", line["at"]) for line in lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    blank = {"command": "x", "response": {"intent": "check_asset", "entities": {"asset": " "}}}
    assert_problem(client.post("/v1/feedback", json=blank), 400, "blank value")
    assert_problem(client.post("/v1/feedback", json={"command": " ", "response": right}), 400, "blank")
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("method", "route", "status", "said"),
    [
        ("GET", "/nowhere", 404, "nothing at this address"),
        ("POST", "/v1/audit/", 404, "nothing at this address"),
        ("GET", "/docs", 404, "nothing at this address"),
        ("GET", "/v1/audit", 405, "not asked by this method"),
        ("PUT", "/", 405, "not asked by this method"),
    ],
)
def test_a_wrong_address_or_method_is_told(
    client: httpx.Client, method: str, route: str, status: int, said: str
) -> None:
    response = client.request(method, route)
    assert_problem(response, status, said)
    assert status != 405 or response.headers["allow"]
