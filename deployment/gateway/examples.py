"""Examples of what the gateway answers, for its OpenAPI description."""

import json
from typing import Any

from deployment.gateway.bodies import COMMAND, Json
from deployment.gateway.chat import DONE, EXAMPLE, EXAMPLE_CHUNKS

JSON = "application/json"
EVENTS = "text/event-stream"

_ANSWER: Json = {
    "command": COMMAND,
    "intent": "report_issue",
    "entities": {"asset_id": "P-7"},
    "spans": [{"type": "asset_id", "value": "P-7", "start": 5, "end": 8}],
    "done": True, "decoding": "grounded", "repaired": False, "longest": None, "failure": "", "tokens": 24,
    "seconds": 0.21,
}  # fmt: skip


def compact(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _shown(examples: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """``examples`` by their media types."""
    return {200: {"content": {media_type: {"example": example} for media_type, example in examples.items()}}}


_CHUNKS = "".join(f"data: {compact(chunk)}\n\n" for chunk in EXAMPLE_CHUNKS)
ANSWER = _shown({JSON: _ANSWER})
CHAT = _shown({JSON: EXAMPLE, EVENTS: f"{_CHUNKS}data: {DONE}\n\n"})
STREAM = _shown({EVENTS: f"data: {compact({**_ANSWER, 'done': False})}\n\ndata: {compact(_ANSWER)}\n\n"})
