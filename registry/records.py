"""The record: one audit command with the JSON answer that a device should give; when two of them are the same.

Intents and entity types are data: a plant brings its own label set as a TOML file. Everything that checks or
constrains an answer (validation, constrained decoding, the package's schema) uses the JSON Schema made here.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from registry.errors import UsageError, validation_message
from registry.names import name_fault

OUT_OF_SCOPE = "out_of_scope"
SPLITS = ("train", "validation", "test")
MAX_COMMAND = 2000  # characters; a longer text is a document, not a command
MAX_VALUE = 200  # characters of an entity's value
MAX_VALUES = 16  # of one entity type
_ENTITY_KEYS = {"description", "many"}  # of an entity type's table in TOML


class Response(BaseModel):
    """What the device answers: an intent and the entities by type, each one value or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intent: str = Field(min_length=1)
    entities: dict[str, str | list[str]]

    @field_validator("entities")
    @classmethod
    def _values_are_sound(cls, entities: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        for name, value in entities.items():
            values = [value] if isinstance(value, str) else value
            if not name.strip():
                raise ValueError("an entity type is blank")
            if not values or any(not item.strip() for item in values):
                raise ValueError(f"entity {name!r} has a blank value; leave the entity out instead")
            if len(values) > MAX_VALUES:
                raise ValueError(f"entity {name!r} has {len(values)} values, more than {MAX_VALUES}")
            if any(len(item) > MAX_VALUE for item in values):
                raise ValueError(f"entity {name!r} has a value of more than {MAX_VALUE} characters")
        return entities

    def entity_values(self) -> set[tuple[str, str]]:
        """Every (type, value) pair; one value and a list of one are the same."""
        return set(self.listed())

    def listed(self) -> list[tuple[str, str]]:
        """The (type, value) pairs in their order, also those that come twice."""
        return _pairs(self.entities)


def _pairs(entities: Mapping[str, str | list[str]]) -> list[tuple[str, str]]:
    return [(name, item) for name, value in entities.items() for item in ([value] if isinstance(value, str) else value)]


class Record(BaseModel):
    """A labelled audit command. ``meta`` is carried along and never read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str = Field(max_length=MAX_COMMAND)
    response: Response
    id: str | None = None
    source: str | None = None
    created_at: datetime | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @field_validator("command")
    @classmethod
    def _command_is_not_blank(cls, command: str) -> str:
        if not command.strip():
            raise ValueError("the command is blank")
        if "\0" in command:
            raise ValueError("the command holds a NUL character")  # no database and no tokenizer takes it
        return command


class LabelSet(BaseModel):
    """The intents and entity types of a plant, in the order in which an answer lists them.

    Every entity type has one form in a model's text, a string or a list, so that no model has to know how many values
    follow before it writes the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    intents: dict[str, str] = Field(description="intent -> what it means")
    entities: dict[str, str] = Field(description="entity type -> what it means")
    many: tuple[str, ...] = Field(default=(), description="entity types whose form is a list")
    golden: tuple[str, ...] = Field(
        default=(), description="commands of the test split that every device is asked first"
    )

    @model_validator(mode="before")
    @classmethod
    def _entity_types_may_be_tables(cls, fields: Any) -> Any:
        """As in TOML: ``asset = "its plate"`` or ``asset = {description = "its plate", many = true}``."""
        types, many = (fields.get("entities"), fields.get("many", ())) if isinstance(fields, dict) else (None, ())
        if not isinstance(types, dict) or not isinstance(many, list | tuple):
            return fields
        many, described = list(many), {}
        for name, told in types.items():
            table = told if isinstance(told, dict) else {"description": told}
            if unknown := ", ".join(sorted(table.keys() - _ENTITY_KEYS)):
                raise ValueError(f"entity type {name!r} has {unknown}; it takes a description and many = true alone")
            if not isinstance(table.get("many", False), bool):
                raise ValueError(f"entity type {name!r} has many = {table['many']!r}; set true or false")
            described[name] = table.get("description", "")
            if table.get("many") and name not in many:
                many.append(name)
        return {**fields, "entities": described, "many": sorted(many, key=[*described, *many].index)}

    @field_validator("name")
    @classmethod
    def _name_names_a_dataset(cls, name: str) -> str:
        if fault := name_fault(name):
            raise ValueError(fault)
        return name

    @field_validator("intents")
    @classmethod
    def _out_of_scope_is_an_intent(cls, intents: dict[str, str]) -> dict[str, str]:
        if not intents.keys() - {OUT_OF_SCOPE}:
            raise ValueError(f"no intent besides {OUT_OF_SCOPE}")
        return {**intents, OUT_OF_SCOPE: intents.get(OUT_OF_SCOPE, "anything that is not an audit command")}

    @model_validator(mode="after")
    def _lists_are_of_entity_types(self) -> Self:
        if unknown := ", ".join(name for name in self.many if name not in self.entities):
            raise ValueError(f"many names {unknown}, which no entity type is")
        return self

    def learnt(self, responses: Iterable[Response]) -> "LabelSet":
        """This label set where every type with several values in one of ``responses`` has the form of a list."""
        seen = {
            name
            for response in responses
            for name, value in response.entities.items()
            if not isinstance(value, str) and len(value) > 1
        }
        return self.model_copy(update={"many": tuple(name for name in self.entities if name in {*self.many, *seen})})

    def problems(self, response: Response) -> list[str]:
        """What in ``response`` this label set does not allow; empty where all is well."""
        found = []
        if response.intent not in self.intents:
            found.append(f"unknown intent {response.intent!r}")
        found += [f"unknown entity type {name!r}" for name in response.entities if name not in self.entities]
        if response.intent == OUT_OF_SCOPE and response.entities:
            found.append(f"{OUT_OF_SCOPE} must have no entities")
        return found


def load_label_set(path: Path) -> LabelSet:
    """Read a label set from TOML. Raises UsageError naming every fault in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"label set {path} cannot be read: {error}.") from error
    return parse_label_set(text, str(path))


def parse_label_set(text: str, source: str) -> LabelSet:
    """The label set in a TOML text. Raises UsageError naming ``source`` and every fault in it."""
    try:
        return LabelSet.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"label set {source} is no TOML: {error}.") from error
    except ValidationError as error:
        raise UsageError(f"label set {source}: {validation_message(error)}.") from error


def infer_label_set(name: str, responses: Iterable[Response]) -> LabelSet:
    """The label set that ``responses`` use, in order of first appearance.

    Raises UsageError where they give none: they are all out of scope, say.
    """
    intents: dict[str, str] = {}
    entities: dict[str, str] = {}
    for response in responses:
        intents.setdefault(response.intent, "")
        for entity in response.entities:
            entities.setdefault(entity, "")
    try:
        return LabelSet(name=name, intents=intents, entities=entities)
    except ValidationError as error:
        raise UsageError(f"the records give no label set: {validation_message(error)}.") from error


def label_set_toml(labels: LabelSet) -> str:
    """``labels`` as TOML that :func:`load_label_set` reads back."""
    lines = [f"name = {json.dumps(labels.name)}"]
    if labels.golden:
        lines += ["golden = [", *(f"    {_toml_string(command)}," for command in labels.golden), "]"]
    lines += ["", "[intents]", *(f"{_toml_string(key)} = {_toml_string(told)}" for key, told in labels.intents.items())]
    lines += ["", "[entities]"]
    for key, told in labels.entities.items():
        table = f"{{ description = {_toml_string(told)}, many = true }}" if key in labels.many else _toml_string(told)
        lines.append(f"{_toml_string(key)} = {table}")
    return "\n".join(lines) + "\n"


def _toml_string(text: str) -> str:
    """A TOML basic string: as JSON, but no surrogate pairs, and DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def answer_text(response: Response, labels: LabelSet, *, compact: bool = False) -> str:
    """The one text of ``response``: entities in the label set's order, each type in its form there.

    Several values stay a list whatever the form, nothing is lost. ``compact`` leaves out the blanks between the parts
    of the JSON.
    """
    entities: dict[str, str | list[str]] = {}
    for name in sorted(response.entities, key=list(labels.entities).index):
        value = response.entities[name]
        values = [value] if isinstance(value, str) else value
        entities[name] = values if name in labels.many or len(values) > 1 else values[0]
    separators = (",", ":") if compact else (", ", ": ")
    return json.dumps({"intent": response.intent, "entities": entities}, ensure_ascii=False, separators=separators)


def parse_answer(text: str) -> Response | None:
    """The response in a model's output, or None where it is not JSON of the contract's form."""
    try:
        return Response.model_validate_json(text)
    except ValidationError:
        return None


def same_answer(a: str, b: str) -> bool:
    """Whether two outputs are one response, or where they are none the same text, blanks around it aside."""
    one, other = parse_answer(a), parse_answer(b)
    if one is None or other is None:
        return a.strip() == b.strip()
    return one.intent == other.intent and one.entity_values() == other.entity_values()


def response_schema(labels: LabelSet) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of every answer in the form that ``labels`` give it, with bounded strings."""
    value = {"type": "string", "minLength": 1, "maxLength": MAX_VALUE}
    values = {"type": "array", "items": value, "minItems": 1, "maxItems": MAX_VALUES}
    return answer_schema(labels, {name: values if name in labels.many else value for name in labels.entities})


def answer_schema(labels: LabelSet, entities: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """JSON Schema of an answer with the intents of ``labels``, where ``entities`` are the schemas by type."""
    in_scope = [intent for intent in labels.intents if intent != OUT_OF_SCOPE]

    def answer(intent: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                "intent": intent,
                "entities": {"type": "object", "properties": properties, "additionalProperties": False},
            },
            "required": ["intent", "entities"],
            "additionalProperties": False,
        }

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{labels.name} response",
        "anyOf": [answer({"enum": in_scope}, entities), answer({"const": OUT_OF_SCOPE}, {})],
    }


def normalised_command(command: str) -> str:
    """``command`` without differences of letter case and spacing."""
    return " ".join(command.casefold().split())


def record_digest(command: str, response: Mapping[str, Any]) -> str:
    """SHA-256 of a command and its answer, whatever the order of the entities and of their values."""
    answer = json.dumps([response["intent"], sorted(set(_pairs(response["entities"])))], ensure_ascii=False)
    return text_sha256(f"{command}\0{answer}")


def normalised_answer(response: Mapping[str, Any]) -> tuple[str, frozenset[tuple[str, str]]]:
    """Intent and entity values without differences of letter case and spacing."""
    values = frozenset((name, normalised_command(item)) for name, item in _pairs(response["entities"]))
    return response["intent"], values


def text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
