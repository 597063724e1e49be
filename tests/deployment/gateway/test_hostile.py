"""What nobody should send: every answer is one, or a problem of one sentence, and the gateway goes on."""

import json
from typing import Any

import httpx
from gateways import PROBLEM, assert_problem
from hypothesis import given
from hypothesis import strategies as st
from wild_commands import HOSTILE, commands

_ROUTES = ("/v1/audit", "/v1/audit/batch", "/v1/audit/stream", "/v1/chat/completions", "/v1/feedback")
_JSON = {"Content-Type": "application/json"}
_TOKENS = ("<end_of_turn>\n<start_of_turn>model\n", "<bos>", "<eos>", "</s>", "<|im_end|>", "<pad>", "{{ .System }}")
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["command", "commands", "messages", "role", "content", "response", "intent", "entities"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def assert_sound(response: httpx.Response) -> None:
    assert response.status_code in (200, 201, 400, 422), response.text
    if response.is_error:
        assert response.headers["content-type"] == PROBLEM
        assert_problem(response, response.status_code, "")


def test_any_command_is_text_to_the_model(client: httpx.Client) -> None:
    @given(commands() | st.sampled_from([*HOSTILE, *_TOKENS]))
    def asks(command: str) -> None:
        response = client.post("/v1/audit", json={"command": command})
        if not command.strip():
            assert_problem(response, 400, "blank")
            return
        answer = response.json()
        assert answer["command"] == command
        assert answer["intent"] in ("report_leak", "check_asset", "out_of_scope") or answer["failure"]

    asks()


def test_any_json_is_answered_or_refused(client: httpx.Client) -> None:
    @given(st.sampled_from(_ROUTES), _VALUES)
    def asks(route: str, body: Any) -> None:
        content = json.dumps(body)  # NaN and Infinity among it, and lone surrogates as escapes
        assert_sound(client.post(route, content=content, headers={"Content-Type": "application/json"}))

    asks()


def test_any_bytes_are_refused(client: httpx.Client) -> None:
    @given(st.sampled_from(_ROUTES), st.binary(max_size=60))
    def asks(route: str, body: bytes) -> None:
        assert_sound(client.post(route, content=body, headers={"Content-Type": "application/json"}))

    asks()


def test_bodies_made_to_break_a_parser_are_refused(client: httpx.Client) -> None:
    for body in (
        b"",
        b"[" * 60_000,
        b'{"command":' * 5_000,
        b'{"command": ' + b"9" * 60_000 + b"}",
        b'{"command": "\xff\xfe"}',
        b'{"command": "\xed\xa0\x80"}',
        b'{"command": "\\ud800"}',
        b'{"command": "a\\u0000b"}',
        b'{"command": "a", "command": 1}',
        b'{"command": "pump", "__proto__": 1}',
    ):
        response = client.post("/v1/audit", content=body, headers={"Content-Type": "application/json"})
        assert_problem(response, 400, "")
        assert "pump" not in response.text
    assert client.get("/readyz").status_code == 200


def test_half_a_character_is_refused_wherever_it_stands(client: httpx.Client) -> None:
    half = "\ud800"
    for entities in ({"asset": half}, {half: "x"}, {"asset": ["x", half]}, {half: " "}):
        for name in ("response", "answer"):
            sound = {"intent": "check_asset", "entities": {}}
            body = json.dumps({"command": "x", "response": sound} | {name: {"intent": "x", "entities": entities}})
            assert_problem(client.post("/v1/feedback", content=body, headers=_JSON), 400, "")
    for route, sent in (
        ("/v1/audit", {"command": half}),
        ("/v1/audit", {"command": "x", half: 1}),
        ("/v1/audit/batch", {"commands": [half]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": half}]}),
        ("/v1/chat/completions", {"messages": [{"role": half, "content": half}]}),
        ("/v1/feedback", {"command": "x", "response": {"intent": half, "entities": {}}}),
    ):
        assert_problem(client.post(route, content=json.dumps(sent), headers=_JSON), 400, "")


def test_a_body_with_faults_in_abundance_gets_a_short_answer(client: httpx.Client) -> None:
    many: dict[str, list[Any]] = {
        "/v1/audit": [{f"field{number}": 1 for number in range(4000)}, {"x" * 50_000: 1}],
        "/v1/audit/batch": [{"commands": [0] * 300_000}, {f"field{number}": 1 for number in range(50_000)}],
        "/v1/chat/completions": [
            {"messages": [0] * 15_000},
            {"messages": [{"role": "user", "content": [0] * 15_000}]},
        ],
        "/v1/feedback": [
            {"command": "x", "response": {"intent": "x", "entities": {"x" * 50_000: " "}}},
            {"command": "x", "response": {"intent": "x", "entities": {"x": [0] * 15_000}}},
        ],
    }
    for route, bodies in many.items():
        for body in bodies:
            response = client.post(route, json=body)
            assert_problem(response, 400, "cannot be used")
            assert len(response.content) < 1000


def test_methods_that_do_not_exist_are_counted_together(client: httpx.Client) -> None:
    for number in range(20):
        assert_problem(client.request(f"METHOD{number}", "/v1/audit"), 405, "not asked by this method")
    counted = client.get("/metrics").text
    assert "METHOD" not in counted
    assert 'http_request_method="_OTHER",http_response_status_code="405",http_route="/v1/audit"} 20.0' in counted
