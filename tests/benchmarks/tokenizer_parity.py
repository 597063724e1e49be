"""Whether llama.cpp makes the token ids of Hugging Face: every text of files, and as many made-up ones.

    python -m tests.benchmarks.tokenizer_parity MODEL [TEXTS ...] [--generated 20000]

MODEL is a Hugging Face folder; TEXTS are .jsonl files (their field "text" or "command") or .txt files, a text a line.
The folder is exported to a small GGUF and tokenised by llama.cpp's own server. One kind of text is counted apart, since
the two are known to differ there: several spaces in a row, one of which is written as the letter ▁ (U+2581). Hugging
Face takes that for a space and joins it to its neighbours; SentencePiece and llama.cpp do not.
"""

import argparse
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from deployment.prompts.prompt import Prompt
from deployment.runtimes.llama_server import LlamaServer
from tasks.checkpoints.loading import load_tokenizer
from tasks.gguf.writer import export_gguf
from tasks.quant.types import QuantType

_KNOWN = re.compile(r"[ ▁]▁|▁[ ▁]")
_GROUPS = ("U+2581 beside a space", "all others")
_SHOWN = 10  # different texts that are printed
_BLOCKS = (  # where made-up texts take their characters from
    *((0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0x80, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF)),
    *((0x900, 0xDFF), (0xE00, 0xFFF), (0x1100, 0x11FF), (0x1E00, 0x206F), (0x20A0, 0x27BF), (0x2E80, 0x33FF)),
    *((0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFE00, 0xFFFD), (0x1F000, 0x1FAFF), (0x20000, 0x200FF)),
    *((0xE0000, 0xE007F), (0x10FF00, 0x10FFFF)),
)
_PARTS = (
    *(
        " ",
        "  ",
        "   ",
        " " * 7,
        " " * 31,
        "\n",
        "\n\n",
        "\n" * 40,
        "\t",
        "\t" * 33,
        "\r\n",
        "\u00a0",
        "\u200d",
        "\ufeff",
        "\0",
    ),
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<unk>", "<pad>", "<unused7>", "<0x0A>", "[multimodal]"),
    *("<h1>", "</table>", "<start_of_image>", "<mask>", "0", "00", "1234567890", "3.5 bar", "SG-402", "P-101", "1e-9"),
    *(
        "pump",
        " pump",
        "Pump",
        "PUMP",
        "leak",
        "seal",
        "Öldichtung",
        "检查泵",
        "насос",
        "مضخة",
        "बंद",
        "👩‍🏭",
        "🇩🇪",
        "e\u0301",
    ),
    *('{"intent": "', '", "entities": {', "}}", "\\n", "\u2581", "▁pump", "'", "''", "…", "—", "µm", "°C", "±"),
)


def read_texts(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        return lines
    records = [json.loads(line) for line in lines]
    return [record["text"] if "text" in record else record["command"] for record in records]


def made_up_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Characters of every script, whitespace, control tokens as text, JSON, and mixtures of them."""
    chosen = random.Random(seed)
    for _ in range(count):
        if chosen.random() < 0.02:
            yield chosen.choice(("", "a")) + " " * chosen.randint(1, 300) + chosen.choice(("", "b", "\n"))
            continue
        low, high = chosen.choice(_BLOCKS)
        parts = []
        for _ in range(chosen.choice((1, 3, 10, 40))):
            kind = chosen.random()
            if kind < 0.4:
                parts.append(chosen.choice(_PARTS))
            else:
                begin, end = (low, high) if kind < 0.8 else chosen.choice(_BLOCKS)
                parts.append(chr(chosen.randint(begin, end)))
        yield "".join(parts)


def group(text: str) -> str:
    return _GROUPS[0] if _KNOWN.search(text) else _GROUPS[1]


def compare(model: Path, texts: Sequence[str], console: Console) -> int:
    """Print the comparison; the number of texts that differ for no known reason."""
    tokenizer = load_tokenizer(model)
    started = time.perf_counter()
    expected = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    hf_seconds = time.perf_counter() - started
    with TemporaryDirectory() as folder:
        gguf = Path(folder) / "small.gguf"
        export_gguf(model, gguf, weights=QuantType.Q4_0, embedding=QuantType.Q4_0)
        with LlamaServer(gguf, prompt=Prompt(), slots=1, context=256) as server:
            started = time.perf_counter()
            found = server.tokenize_all(texts, tokenizer.bos_token_id)
            seconds = time.perf_counter() - started
    console.print(f"{model}: Hugging Face took {hf_seconds:.1f} s, llama.cpp {seconds:.1f} s", soft_wrap=True)
    table = Table()
    for column in ("texts", "number", "equal", "different", "%"):
        table.add_column(column, justify="left" if column == "texts" else "right")
    different = [text for text, ids, others in zip(texts, expected, found, strict=True) if ids != others]
    for name in _GROUPS:
        number = sum(group(text) == name for text in texts)
        other = sum(group(text) == name for text in different)
        share = f"{100 * (number - other) / number:.3f}" if number else "–"
        table.add_row(name, f"{number:,}", f"{number - other:,}", f"{other:,}", share)
    console.print(table)
    unknown = [text for text in different if group(text) == _GROUPS[1]]
    for text in unknown[:_SHOWN]:
        console.print(repr(text), markup=False)
    return len(unknown)


def main(options: argparse.Namespace) -> int:
    texts = [text for path in options.texts for text in read_texts(path)]
    return compare(options.model, [*texts, *made_up_texts(options.generated)], Console(width=120))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--generated", type=int, default=20_000)
    raise SystemExit(min(main(parser.parse_args()), 1))
