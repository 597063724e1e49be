"""Damaged and hostile model files, made from sound ones by a seed, and what convert and import do with them.

    python tests/doubles/hostile.py FOLDER GGUF FIRST_SEED COUNT

prints one JSON object: how many cases ended in which way, and every case that did not end as it should. It is a
program of its own so that a crash, a hang and memory that a header claims are seen from outside.
"""

import copy
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf.constants import GGUFValueType

from registry.errors import UsageError
from tasks.gguf.reader import import_gguf
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType

JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
_SECONDS = 20  # that a case may take; the slowest sound one takes 0.1
_MEMORY = 400 << 20  # bytes that a case may add to what the imports took
_LONGEST_MESSAGE = 500  # characters, paths not counted

_NUMBERS = (0, -1, 1, 2, 3, 7, 31, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64, 10**400)
_VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 3, 2**31, 2**63, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 0.5),
    *(None, True, False, "", "x", "\0", "\ud800", "9" * 50, "▁" * 300, "ä" * 100_000, "../../etc/passwd", "<bos>"),
    *([], {}, [[]], [None], {"": {}}, [1, "a"], {"type": "Sequence"}, [2**63, -1]),
)


def mutated_json(chosen: random.Random, text: str) -> bytes:
    """JSON with one fault, or text that is none."""
    kind = chosen.randrange(8)
    if kind < 5:
        content = json.loads(text)
        parent, key = _place(chosen, content)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            return _with_twin(json.dumps(content), key, chosen.choice(_VALUES)).encode("utf-8", "surrogatepass")
        elif kind == 2:
            for _ in range(chosen.choice((3, 2_000))):
                parent[key] = [parent[key]]
        elif kind == 3 and isinstance(parent, list):
            parent.insert(chosen.randrange(len(parent) + 1), copy.deepcopy(chosen.choice(parent)))
        else:
            parent[key] = chosen.choice(_VALUES)
        try:
            return json.dumps(content, ensure_ascii=chosen.random() < 0.5).encode("utf-8", "surrogatepass")
        except RecursionError:
            return b"[" * 100_000
    places = [place for place, letter in enumerate(text[:200_000]) if letter.isdecimal()]
    if kind == 5 and places:
        number = str(chosen.choice((*_NUMBERS[:-1], "1e999", "-0", "01", "NaN", "9" * 5000)))
        place = chosen.choice(places)
        return (text[:place] + number + text[place + 1 :]).encode()
    return mutated_bytes(chosen, text.encode(), len(text))


def _place(chosen: random.Random, content: Any) -> tuple[Any, Any]:
    """A container and one of its keys; each level is as likely to be the place as the ones below it."""
    while True:
        key = chosen.choice(list(content) if isinstance(content, dict) else range(len(content)))
        below = content[key]
        if not isinstance(below, dict | list) or not below or chosen.random() < 0.3:
            return content, key
        content = below


def _with_twin(text: str, key: str, value: Any) -> str:
    name = json.dumps(key) + ":"
    twin = f"{name} {json.dumps(value)}, "
    return text.replace(name, twin + name, 1)


def mutated_bytes(chosen: random.Random, content: bytes, end: int) -> bytes:
    """Flipped bits, another length, a run of other bytes or a copied part, before ``end``."""
    data = bytearray(content)
    kind = chosen.randrange(5)
    place = chosen.randrange(max(1, min(end, len(data))))
    if kind == 0:
        for _ in range(chosen.choice((1, 1, 4, 64))):
            data[chosen.randrange(min(end, len(data)))] ^= 1 << chosen.randrange(8)
    elif kind == 1:
        del data[chosen.choice((0, 1, 4, 8, 23, 24, place, len(data) - 1)) :]
    elif kind == 2:
        data[place : place + 8] = chosen.choice((b"\xff" * 8, bytes(8), b"\xc3(\xed\xa0\x80", chosen.randbytes(8)))
    elif kind == 3:
        data[place:place] = data[place : place + chosen.choice((1, 16, 4096))]
    else:
        data += chosen.choice((b"\0", bytes(4096), b"}"))
    return bytes(data)


def mutated_safetensors(chosen: random.Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    kind = chosen.randrange(4)
    if kind == 0:
        return mutated_bytes(chosen, content, 8 + length)
    if kind == 1:
        return _number(chosen).to_bytes(8, "little") + content[8:]
    if kind == 2:
        header = json.loads(content[8 : 8 + length])
        one, other = chosen.sample(sorted(header.keys() - {"__metadata__"}), 2)
        field = chosen.choice(("shape", "data_offsets", "dtype"))
        header[one][field] = chosen.choice(
            (
                header[other][field],
                [chosen.choice(_NUMBERS), chosen.choice(_NUMBERS)],
                "I64",
                [0],
                chosen.choice(_VALUES),
            )
        )
        changed = json.dumps(header).encode("utf-8", "surrogatepass")
    else:
        changed = mutated_json(chosen, content[8 : 8 + length].decode())
    return len(changed).to_bytes(8, "little") + changed + content[8 + length :]


def mutated_gguf(chosen: random.Random, content: bytes) -> bytes:
    fields, end = gguf_fields(content)
    if chosen.random() < 0.25:
        return mutated_bytes(chosen, content, chosen.choice((end, len(content))))
    data = bytearray(content)
    for _ in range(chosen.choice((1, 1, 1, 2))):
        offset, form = chosen.choice(fields)
        size = struct.calcsize(form)
        if form in ("<f", "<d"):
            value = chosen.choice((0.0, -1.0, 1e38, 1e-45, float("nan"), float("inf"), float("-inf")))
            data[offset : offset + size] = struct.pack(form, value)
        else:
            number = chosen.choice((_number(chosen), chosen.randrange(16), data[offset] + chosen.choice((-1, 1))))
            data[offset : offset + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def gguf_fields(content: bytes) -> tuple[list[tuple[int, str]], int]:
    """Offset and struct format of every number in the header (three of each array), and where it ends."""
    fields: list[tuple[int, str]] = []
    position = 4

    def number(form: str) -> Any:
        nonlocal position
        fields.append((position, form))
        (value,) = struct.unpack_from(form, content, position)
        position += struct.calcsize(form)
        return value

    def text() -> None:
        nonlocal position
        length = number("<Q")
        position += length

    def value(kind: int) -> None:
        if kind == GGUFValueType.STRING:
            text()
        elif kind == GGUFValueType.ARRAY:
            element, count = number("<I"), number("<Q")
            for index in range(count):
                kept = len(fields)
                value(element)
                if index > 2:
                    del fields[kept:]
        else:
            number("<" + "BbHhIif?__Qqd"[kind])

    number("<I")
    tensors, keys = number("<Q"), number("<Q")
    for _ in range(keys):
        text()
        value(number("<I"))
    for _ in range(tensors):
        text()
        for _ in range(number("<I")):
            number("<Q")
        number("<I")
        number("<Q")
    return fields, position


def _number(chosen: random.Random) -> int:
    return chosen.choice(_NUMBERS) % 2**64


def hostile_folder(seed: int, sound: Path, folder: Path) -> str:
    """Make ``folder`` as ``sound`` is, with one hostile file; its name."""
    chosen = random.Random(seed)
    names = (*JSON_FILES, "config.json", "tokenizer.json", "model.safetensors", "tokenizer.model")
    name = chosen.choice([name for name in names if (sound / name).exists()])
    folder.mkdir()
    for file in sound.iterdir():
        if file.name not in (name, "tokenizer.json" if name == "tokenizer.model" else ""):
            (folder / file.name).symlink_to(file)
    content = (sound / name).read_bytes()
    if chosen.random() < 0.02:
        (folder / name).mkdir()
    elif name == "model.safetensors":
        (folder / name).write_bytes(mutated_safetensors(chosen, content))
    elif name == "tokenizer.model":
        (folder / name).write_bytes(mutated_bytes(chosen, content, len(content)))
    else:
        (folder / name).write_bytes(mutated_json(chosen, content.decode()))
    return name


def run_case(seed: int, sound: Path, gguf: bytes, place: Path) -> tuple[str, str]:
    """What was attacked and how it ended: "passed", "refused", or what went wrong."""
    if seed % 2:
        name, target = hostile_folder(seed, sound, place / "model"), place / "out.gguf"
        weights = (QuantType.Q8_0, QuantType.F16)[seed // 2 % 2]
        return name, ending(lambda: export_gguf(place / "model", target, weights=weights), place, {"model"}, target)
    (place / "in.gguf").write_bytes(mutated_gguf(random.Random(seed), gguf))
    return "gguf", ending(lambda: import_gguf(place / "in.gguf", place / "out"), place, {"in.gguf"}, place / "out")


def ending(action: Callable[[], object], place: Path, inputs: set[str], target: Path) -> str:
    try:
        action()
    except UsageError as error:
        message = str(error).replace(str(place), "")
        left = {path.name for path in place.iterdir()} - inputs
        if left:
            return f"left {left} behind"
        if "\n" in message or len(message) > _LONGEST_MESSAGE or not message.isprintable():
            return f"no clear sentence: {message[:200]!r}, {len(message)} characters"
        return "refused"
    except BaseException:
        return "raised " + traceback.format_exc()[-1500:]
    return "passed" if {path.name for path in place.iterdir()} == {*inputs, target.name} else "wrote other files"


def main() -> None:
    sound, gguf, first, count = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), int(sys.argv[4])
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("it hangs")))
    with tempfile.TemporaryDirectory() as place:
        export_gguf(sound, Path(place) / "first.gguf", weights=QuantType.Q8_0)  # starts the threads, warms the caches
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # the data of this process
    resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, used + _MEMORY))
    endings: Counter[str] = Counter()
    wrong = []
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as place:
            signal.alarm(_SECONDS)
            name, how = run_case(seed, sound, gguf, Path(place))
            signal.alarm(0)
        endings[f"{name} {how}" if how in ("passed", "refused") else f"{name} wrong"] += 1
        if how not in ("passed", "refused"):
            wrong.append({"seed": seed, "file": name, "how": how})
    print(json.dumps({"endings": endings, "wrong": wrong}))


if __name__ == "__main__":
    main()
