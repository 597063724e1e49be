"""How much of a teacher's answer is lost by keeping only its likeliest tokens, and what they take on disk.

    python -m tests.benchmarks.cache_error TEACHER STUDENT [--data FILE.jsonl] [--rows 40] [--temperature 2]

TEACHER and STUDENT are Hugging Face folders of one vocabulary. At every response position of FILE the forward KL and
its gradient towards the student's logits are compared with those of the whole distribution.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from data_checks.contract import read_jsonl
from data_checks.sample import SAMPLE_DIR
from deployment.prompts.prompt import Prompt
from registry.records import infer_label_set
from tasks.checkpoints.loading import load_tokenizer
from tasks.distill.divergences import TopK, divergence_and_gradient, sparse_divergence_and_gradient
from tasks.training.examples import IGNORE_INDEX, build_examples, collate
from tasks.training.models import load_model

_KEPT = (1, 4, 16, 64, 256)
_POSITIONS = 16  # at a time: their logits in float32 take 17 MB at 262,144 tokens


def main(options: argparse.Namespace) -> None:
    records = read_jsonl(options.data)[0][: options.rows]
    labels = infer_label_set("benchmark", [record.response for record in records])
    examples = build_examples(records, load_tokenizer(options.teacher), Prompt(), labels, max_tokens=512)
    teacher, student = (load_model(folder, bits=32).eval() for folder in (options.teacher, options.student))
    positions, whole = 0, 0.0
    lost = dict.fromkeys(_KEPT, 0.0)
    distance, size = dict.fromkeys(_KEPT, 0.0), 0.0
    with torch.inference_mode():
        for example in examples:
            batch = collate([example], 0)
            ids, counted = batch.input_ids, batch.labels[0] != IGNORE_INDEX
            found = [model(ids).logits[0, counted] / options.temperature for model in (teacher, student)]
            for theirs, ours in zip(*(logits.split(_POSITIONS) for logits in found), strict=True):
                student_log = ours.log_softmax(-1)
                total, slope = divergence_and_gradient(student_log, theirs.log_softmax(-1), 0.0)
                positions, whole, size = positions + len(ours), whole + float(total), size + float(slope.norm() ** 2)
                for k in _KEPT:
                    part, other = sparse_divergence_and_gradient(student_log, TopK.of(theirs, k, 1.0), 0.0)
                    lost[k] += float(total - part)
                    distance[k] += float((slope - other).norm() ** 2)
    table = Table(
        title=f"{len(examples)} records, {positions} positions, KL {whole / positions:.4f} nats a position",
        title_justify="left",
    )
    for column in ("tokens kept", "KL lost", "gradient off by", "bytes a position"):
        table.add_column(column, justify="right")
    for k in _KEPT:
        kept = TopK.of(torch.zeros(1, k + 1), k, 1.0)
        table.add_row(
            str(k), f"{100 * lost[k] / whole:.3f} %", f"{100 * (distance[k] / size) ** 0.5:.2f} %",
            str(sum(part.nbytes for part in kept)),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("--data", type=Path, default=SAMPLE_DIR / "test.jsonl")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=2.0)
    main(parser.parse_args())
