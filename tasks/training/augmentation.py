"""Other values in the same sentences, so that a model learns to copy an entity and not to remember it.

Each entity value may give way to another of its type from the training records, and the digits of the whole record are
renamed by one permutation, in the command and in the answer alike. Intents and sentences stay as they are. Where a
value can make the intent, as "repair" a repair, values have to come from records of the same intent.
"""

import random
from collections.abc import Mapping, Sequence

from registry.records import OUT_OF_SCOPE, Record, Response

_SWAP_PROBABILITY = 0.7
_DIGITS = "0123456789"

Pools = Mapping[tuple[str, str], Sequence[str]]  # (intent, entity type) -> values


def value_pools(records: Sequence[Record], *, across_intents: bool) -> Pools:
    """The entity values of ``records`` by intent and type, as often as they occur there or, if ``across_intents``, in
    records of any intent."""
    pools: dict[tuple[str, str], list[str]] = {}
    by_type: dict[str, list[str]] = {}
    for record in records:
        for name, value in sorted(record.response.entity_values()):
            pools.setdefault((record.response.intent, name), []).append(value)
            by_type.setdefault(name, []).append(value)
    return {(intent, name): by_type[name] if across_intents else own for (intent, name), own in pools.items()}


def varied(records: Sequence[Record], pools: Pools, *, seed: int, epoch: int) -> list[Record]:
    """``records`` with other values; the same (seed, epoch) gives the same ones."""
    generator = random.Random(f"{seed}-{epoch}")
    return [_vary(record, pools, generator) for record in records]


def _vary(record: Record, pools: Pools, generator: random.Random) -> Record:
    if record.response.intent == OUT_OF_SCOPE:
        return record
    command, renamed = record.command, {}
    for name, value in sorted(record.response.entity_values()):
        other = generator.choice(pools[record.response.intent, name])
        if generator.random() < _SWAP_PROBABILITY and _stands_alone(value, command, record) and other not in command:
            command = command.replace(value, other)
            renamed[name, value] = other
    digits = str.maketrans(_DIGITS, "".join(generator.sample(_DIGITS, 10)))
    if not _digits_are_copied(record):
        digits = {}

    def new(name: str, value: str) -> str:
        return renamed.get((name, value), value).translate(digits)

    entities = {
        name: new(name, value) if isinstance(value, str) else [new(name, item) for item in value]
        for name, value in record.response.entities.items()
    }
    response = Response(intent=record.response.intent, entities=entities)
    return record.model_copy(update={"command": command.translate(digits), "response": response})


def _digits_are_copied(record: Record) -> bool:
    """Whether digits of the answer come from the command as they are, not from "two" or "1 May"."""
    values = [value for _, value in record.response.entity_values()]
    return all(value in record.command for value in values if any(digit in value for digit in _DIGITS))


def _stands_alone(value: str, command: str, record: Record) -> bool:
    """Whether ``value`` can be exchanged without touching another entity or another word."""
    start = command.find(value)
    end = start + len(value)
    without = command.replace(value, "\0")
    return (
        start >= 0
        and command.count(value) == 1
        and not command[end : end + 1].isalnum()
        and not (start and command[start - 1].isalnum())
        and sum(value in other or other in value for _, other in record.response.entity_values()) == 1
        and all(other in without for _, other in record.response.entity_values() if other in command and other != value)
    )
