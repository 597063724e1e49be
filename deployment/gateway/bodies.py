"""What clients send, checked, with an example of each."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator

from deployment.gateway.limits import MAX_BATCH
from registry.records import MAX_COMMAND

COMMAND = "Pump P-7 leaks at the shaft seal."  # of the examples
# JSON Schema's words for what the checks below refuse; what is a blank is Python's to say, not a regex's \s
_BLANKS = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_BLANK = {"minLength": 1, "pattern": rf"[^{_BLANKS}]"}
_SOUND = {"minLength": 1, "pattern": rf"^[^\u0000]*[^\u0000{_BLANKS}][^\u0000]*$"}
_MOST_FIELDS = 20


def _sound(command: str) -> str:
    if not command.strip():
        raise ValueError("the command is blank")
    if "\0" in command:
        raise ValueError("the command holds a NUL character")
    return command


Command = Annotated[
    str,
    Field(max_length=MAX_COMMAND, description="what a technician types", examples=[COMMAND], json_schema_extra=_SOUND),
    AfterValidator(_sound),
]


class Body(BaseModel):
    """A body whose every field is known."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _fields_are_few(cls, fields: Any) -> Any:
        """A megabyte of unknown ones takes a second to be refused one by one."""
        if isinstance(fields, dict) and len(fields) > _MOST_FIELDS:
            raise ValueError(f"{len(fields):,} fields, of which most are not known")
        return fields


class Audit(Body):
    """One command."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"command": COMMAND}]})

    command: Command


class Batch(Body):
    """Several commands, whose answers come together."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"commands": [COMMAND, "What is the weather tomorrow?"]}]}
    )

    commands: list[Command] = Field(min_length=1, max_length=MAX_BATCH)


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat, whose other fields are not read."""

    role: str
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Chat(BaseModel):
    """A chat as OpenAI's clients send it. The last message of the user is the command; of the rest, nothing is read:
    how an answer is made is the gateway's to say."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "gemmill", "messages": [{"role": "user", "content": COMMAND}]}]}
    )

    model: str = ""
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    stream: StrictBool | None = False

    @property
    def command(self) -> str | None:
        """The last message of the user; None where there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), None)


def checked_command(text: str) -> str:
    """A command that came in another place than ``command``. Raises pydantic's ValidationError."""
    return Audit.model_validate({"command": text}).command


Json = dict[str, Any]
