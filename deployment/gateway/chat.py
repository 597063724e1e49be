"""OpenAI's protocol, so that its clients can ask: a command is a chat's last message, an answer its completion."""

import json
import time
import uuid
from collections.abc import Iterator

from deployment.answers.answer import Answer
from deployment.gateway.bodies import Json

DONE = "[DONE]"
_EXAMPLE_TEXT = '{"intent": "report_issue", "entities": {"asset_id": "P-7"}}'
EXAMPLE: Json = {
    "id": "chatcmpl-0f8c", "object": "chat.completion", "created": 1764400000, "model": "gemmill",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": _EXAMPLE_TEXT}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 0, "completion_tokens": 24, "total_tokens": 24},
}  # fmt: skip


def completion(answer: Answer, model: str) -> Json:
    """The whole answer. How many tokens the prompt took is not known, and told as 0."""
    return {
        **_head("chat.completion", model),
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": _text(answer)}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": answer.tokens, "total_tokens": answer.tokens},
    }


def chunks(answer: Answer, model: str) -> Iterator[Json]:
    """The same as a stream, the text in one piece: what an answer ends up as can differ from how it began."""
    yield from _chunks(_head("chat.completion.chunk", model), _text(answer))


def model_list(model: str) -> Json:
    return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "gemmill"}]}


def _head(kind: str, model: str) -> Json:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _text(answer: Answer) -> str:
    """As a device answers."""
    return json.dumps({"intent": answer.intent, "entities": answer.entities}, ensure_ascii=False)


def _chunks(head: Json, text: str) -> Iterator[Json]:
    for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


_EXAMPLE_HEAD: Json = {"id": EXAMPLE["id"], "object": "chat.completion.chunk", "created": EXAMPLE["created"]}
EXAMPLE_CHUNKS = list(_chunks({**_EXAMPLE_HEAD, "model": EXAMPLE["model"]}, _EXAMPLE_TEXT))
