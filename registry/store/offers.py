"""When two rows are the same, and what becomes of a row that is offered to the audit store."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from registry.errors import UsageError
from registry.records import SPLITS, normalised_answer, normalised_command, record_digest, text_sha256


class Conflict(BaseModel):
    """A command that came with another answer than the stored one."""

    model_config = ConfigDict(frozen=True)

    command: str
    stored: dict[str, Any]
    offered: dict[str, Any]


def _in_one_form(response: Mapping[str, Any]) -> dict[str, Any]:
    """``response`` with its entity types sorted and a list of one value as that value."""
    entities = {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in sorted(response["entities"].items())
    }
    return {"intent": response["intent"], "entities": entities}


@dataclass(frozen=True)
class Offer:
    """A row on its way into the store; the fields are columns of its table."""

    split: str
    command: str
    command_sha256: str
    variant_sha256: str
    digest: str
    response: dict[str, Any]
    details: dict[str, Any]

    @classmethod
    def of(cls, split: str, record: Mapping[str, Any]) -> Self:
        """The row of a record of the contract (as JSON object). Raises UsageError for an unknown split."""
        if split not in SPLITS:
            raise UsageError(f"split {split!r} is not known; it must be one of {', '.join(SPLITS)}.")
        command = record["command"].strip()
        return cls(
            split=split,
            command=command,
            command_sha256=text_sha256(command),
            variant_sha256=text_sha256(normalised_command(command)),
            digest=record_digest(command, record["response"]),
            response=_in_one_form(record["response"]),
            details={name: value for name, value in record.items() if name not in ("command", "response")},
        )


class Stored(NamedTuple):
    """What is compared of a row in the store."""

    split: str
    command_sha256: str
    variant_sha256: str
    response: dict[str, Any]


@dataclass
class SortedOffers:
    """Offered rows by what becomes of them."""

    new: list[Offer] = field(default_factory=list)
    known: int = 0
    joined: int = 0
    conflicts: list[Conflict] = field(default_factory=list)


def sort_out(offers: Iterable[Offer], stored: Iterable[Stored]) -> SortedOffers:
    """Which ``offers`` are new, known or in conflict with a row that is stored or was offered before.

    A new row whose command differs from another's in letter case or spacing only joins that one's split, so
    that no command lies in two splits.
    """
    commands: set[str] = set()
    variants: dict[str, Stored] = {}

    def remember(row: Stored) -> None:
        commands.add(row.command_sha256)
        variants.setdefault(row.variant_sha256, row)

    for row in stored:
        remember(row)
    found = SortedOffers()
    for offer in offers:
        twin = variants.get(offer.variant_sha256)
        if twin and normalised_answer(twin.response) != normalised_answer(offer.response):
            found.conflicts.append(Conflict(command=offer.command, stored=twin.response, offered=offer.response))
        elif offer.command_sha256 in commands:
            found.known += 1
        else:
            split = twin.split if twin else offer.split
            found.joined += split != offer.split
            found.new.append(replace(offer, split=split))
            remember(Stored(split, offer.command_sha256, offer.variant_sha256, offer.response))
    return found
