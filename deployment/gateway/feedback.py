"""Corrected answers, kept as lines of a file that its owner alone can read."""

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, WithJsonSchema

from deployment.gateway.bodies import COMMAND, NOT_BLANK, Body, Command
from registry.records import MAX_VALUE, MAX_VALUES, Response

_VALUE = {"type": "string", "maxLength": MAX_VALUE, **NOT_BLANK}
_VALUES = {"type": "array", "items": _VALUE, "minItems": 1, "maxItems": MAX_VALUES}
# what Response checks by code, in JSON Schema's words
_ENTITIES = {"type": "object", "propertyNames": NOT_BLANK, "additionalProperties": {"anyOf": [_VALUE, _VALUES]}}
_RESPONSE = {
    "type": "object",
    "properties": {"intent": {"type": "string", "minLength": 1}, "entities": _ENTITIES},
    "required": ["intent", "entities"],
    "additionalProperties": False,
}


def _writable(response: Response) -> Response:
    try:
        json.dumps(response.entities, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a name or value holds half a character, a lone surrogate") from None
    return response


_Said = Annotated[Response, AfterValidator(_writable), WithJsonSchema(_RESPONSE)]
_WRITING = threading.Lock()


class Correction(Body):
    """What a person says the answer to a command should be, and what the model had said."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [{"command": COMMAND, "response": {"intent": "report_issue", "entities": {"asset_id": "P-7"}}}]
        },
    )

    command: Command
    response: _Said
    answer: _Said | None = None

    def append_to(self, path: Path) -> None:
        """Add the correction, with the time, as a line of JSON that is there whole or not at all.

        Raises OSError where it cannot be written.
        """
        said = self.model_dump(mode="json") | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
        line = (json.dumps(said, ensure_ascii=False) + "\n").encode()
        with _WRITING:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                before = os.fstat(descriptor).st_size
                if os.write(descriptor, line) != len(line):  # the disk is full
                    os.ftruncate(descriptor, before)
                    raise OSError(f"{path} has no room for {len(line)} bytes")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
