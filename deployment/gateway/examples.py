"""Examples of what the gateway answers, for its OpenAPI description."""

import json
from typing import Any

from deployment.gateway.bodies import COMMAND, Json
from deployment.gateway.chat import EXAMPLE

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


def _shown(media_type: str, example: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {"example": example}}}}


ANSWER = _shown("application/json", _ANSWER)
CHAT = _shown("application/json", EXAMPLE)
STREAM = _shown("text/event-stream", f"data: {compact({**_ANSWER, 'done': False})}\n\ndata: {compact(_ANSWER)}\n\n")
