"""What the commands print: tables and the closing words of a retrain."""

import logging
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from flows.cli.options import MODEL_NAME
from registry.artifacts import Artifact
from registry.urls import masked

if TYPE_CHECKING:
    from flows.deploy import DeployReport
    from flows.summary import Answer, RetrainSummary
    from registry.models import RegisteredVersion
    from tasks.evaluation.metrics import Metrics
    from tasks.gguf.writer import ExportPlan
    from tasks.vocabulary.pruning import PruneReport

_PLAIN_WIDTH = 130  # of output that goes to a file or another program
_SHOWN_TOKENS = 5

# an IPv6 address such as fe80::a:1 holds :a:, the name of an emoji
console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, emoji=False)
errors = Console(stderr=True, emoji=False)
_OURS = ("flows", "tasks", "registry", "deployment", "data_checks")


class _WithoutPasswords(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def set_up_logging(*, verbose: bool) -> None:
    """gemmill's own log lines to standard error; libraries speak up from warnings on."""
    handler = RichHandler(console=errors, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    handler.setFormatter(_WithoutPasswords("%(message)s"))
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)
        logger.handlers, logger.propagate = [handler], False
    if not verbose:
        warnings.simplefilter("ignore")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels at import


def print_error(error: Exception | str) -> None:
    errors.print(f"[bold red]error:[/] {escape(masked(str(error)))}", soft_wrap=True)


def metric_table(metrics: Mapping[str, "Metrics"], title: str) -> Group:
    """The figures of models side by side, below a title that may be wider than they are."""
    from tasks.evaluation.report import metrics_table

    return Group(f"[italic]{escape(title)}[/]", metrics_table(metrics))


def artifact_table(artifacts: list[Artifact]) -> Table:
    table = Table(title="Artifacts")
    for column in ("kind", "MB", "sha256", "path"):
        table.add_column(column, justify="right" if column == "MB" else "left", overflow="fold")
    for artifact in artifacts:
        megabytes, path = f"{artifact.bytes / 1e6:.1f}", escape(str(artifact.path))
        table.add_row(escape(artifact.kind), megabytes, artifact.sha256[:12], path)
    return table


def plan_table(plan: "ExportPlan") -> Group:
    """Every tensor's type, bits per weight and bytes, layers together, and the size of the file."""
    from tasks.gguf.plan import groups

    table = Table(show_footer=True)
    for column, footer in (
        ("tensor", "all"), ("number", f"{len(plan.tensors)}"), ("shape", ""), ("type", ""),
        ("bits/weight", f"{plan.bits_per_weight:.2f}"), ("bytes", f"{plan.tensor_bytes:,}"),
    ):  # fmt: skip
        table.add_column(column, footer, justify="left" if column in ("tensor", "type") else "right")
    for group in groups(plan.tensors):
        first = group.tensors[0]
        shape = " × ".join(map(str, first.shape))
        bits = f"{first.bits_per_weight:.2f}"
        table.add_row(group.name, str(len(group.tensors)), shape, first.type, bits, f"{group.nbytes:,}")
    rest = plan.file_bytes - plan.tensor_bytes
    return Group(
        table,
        f"{plan.weights:,} weights. The file will have {plan.file_bytes:,} bytes, {plan.file_bytes / 1e6:.1f} MB: "
        f"{plan.tensor_bytes:,} of tensors and {rest:,} of vocabulary, metadata and padding.",
    )


def vocabulary_table(report: "PruneReport") -> Group:
    """How many tokens stay for what, and what proves that nothing else changed."""
    proof = report.proof
    size, size_before = (f"{size / 1e6:.1f} MB" for size in (report.embedding_bytes, report.embedding_bytes_before))
    table = Table()
    table.add_column("kept for")
    table.add_column("tokens", justify="right")
    for reason, count in report.kept.items():
        table.add_row(reason, f"{count:,}")
    lines = [
        f"{report.coverage:.2%} of the corpus in its own tokens: {proof.unchanged:,} of {proof.texts:,} texts as "
        f"before, {proof.respelled:,} in other tokens",
        f"largest difference of a logit in {proof.prompts} prompts: {proof.logit_difference:.2g}",
    ]
    if report.missing:
        first = ", ".join(map(repr, list(report.missing)[:_SHOWN_TOKENS]))
        lines.append(f"{len(report.missing):,} tokens of the corpus came back, the commonest {first}")
    return Group(
        f"[italic]{report.tokens:,} of {report.tokens_before:,} tokens, embedding {size} of {size_before}[/]",
        table,
        *map(escape, lines),
    )


def version_table(model_name: str, versions: Sequence["RegisteredVersion"]) -> Table:
    """The versions of a model, newest first."""
    from tasks.reports.page import percent

    table = Table(title=escape(model_name))
    for column in ("version", "aliases", "gates", "exact match", "entity F1", "profile", "snapshot"):
        table.add_column(column, justify="right" if column in ("version", "exact match", "entity F1") else "left")
    for version in versions:
        exact, f1 = (version.metrics.get(name) for name in ("exact_match", "entity_f1"))
        table.add_row(
            str(version.version),
            escape(", ".join(version.aliases)),
            "[green]passed[/]" if version.passed else f"[red]{escape(version.tags.get('gates', 'no verdict'))}[/]",
            percent(exact),
            percent(f1),
            escape(version.tags.get("profile", "–")),
            escape(version.tags.get("snapshot_sha256", "–")[:12]),
        )
    return table


def device_table(report: "DeployReport") -> Table:
    table = Table(title=escape(f"{report.model_name} version {report.model_version} ({report.alias})"))
    for column in ("device", "SHA-256 there", "golden answers", "tokens/s", "result"):
        table.add_column(column, overflow="fold")
    for done in report.devices:
        speed = f"{done.tokens_per_second:.0f}" if done.tokens_per_second else "–"
        golden = f"{done.golden_passed} of {done.golden_total}"
        table.add_row(escape(done.device), done.gguf_sha256[:12], golden, speed, "[green]deployed[/]")
    for failure in report.failures:
        table.add_row(escape(failure.device), "–", "–", "–", f"[red]{escape(failure.reason)}[/]")
    return table


def print_retrain(summary: "RetrainSummary", home: Path | None) -> None:
    """Metrics, gates, artifacts, golden answers of the file, and what to type next, ``home`` as it was given."""
    from tasks.doubt.report import doubt_table
    from tasks.gates.judge import Verdict
    from tasks.gates.report import verdict_table

    snapshot = summary.snapshot
    rows = sum(snapshot["rows"].values())
    console.print(artifact_table(summary.artifacts))
    console.print(verdict_table(Verdict(passed=summary.passed, gates=tuple(summary.gates))))
    console.print(metric_table(summary.metrics, f"{snapshot['dataset']}, snapshot {snapshot['id']}, {rows:,} records"))
    if summary.doubt:
        console.print(doubt_table({"grounded answers": summary.doubt}))
    _print_answers(summary.answers)
    reused = f", reused: {', '.join(summary.reused)}" if summary.reused else ""
    console.print(f"\nSteps took {sum(summary.seconds.values()):.0f} s{reused}. Reports:")
    for name, page in summary.reports.items():
        console.print(f"  {name:<12}{page}", highlight=False, markup=False, soft_wrap=True)
    name = f"{summary.model_name} version {summary.model_version}"
    if not summary.passed:
        _print_block(summary)
        console.print(f"{name} is registered with its verdict and goes no further.")
        return
    console.print(f"{name} is registered as {', '.join(summary.aliases) or 'a version without alias'}. Next:")
    for line in next_steps(summary.model_name, summary.model_version, home):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def next_steps(model_name: str, version: int, home: Path | None) -> list[str]:
    """What to type after a candidate has passed: lines for a shell, ``home`` as it was given."""
    options = [] if model_name == MODEL_NAME else ["--model-name", model_name]
    options += ["--home", str(home)] if home else []
    ask = ["gemmill", "ask", f"models:/{model_name}/{version}", *(["--home", str(home)] if home else [])]
    commands = {
        shlex.join(ask): "ask it here",
        shlex.join(["gemmill", "promote", str(version), *options]): "make it the champion (or set its alias in MLflow)",
        shlex.join(["gemmill", "deploy", *options]): "put the champion on the devices",
        shlex.join(["ollama", "run", model_name]): "ask it there",
    }
    width = max(map(len, commands))
    return [f"{command:<{width}}  # {why}" for command, why in commands.items()]


def _print_answers(answers: "Sequence[Answer]") -> None:
    for answer in answers:
        colour = "green" if answer.ok else "red"
        console.print(f"[bold]>[/] {escape(answer.command)}\n  [{colour}]{escape(answer.answer)}[/]", soft_wrap=True)
        if not answer.ok:
            console.print(f"  not as expected, which is {escape(answer.expected)}", soft_wrap=True)


def _print_block(summary: "RetrainSummary") -> None:
    """The gates that failed with what to do about each, and answers that are furthest off."""
    from tasks.gates.report import advice

    for gate in summary.gates:
        if not gate.passed:
            hint = advice(gate)
            console.print(f"\n[bold red]{gate.name}[/]: {escape(gate.reason)}.", soft_wrap=True)
            console.print(f"  To do: {escape(hint)}." if hint else "", soft_wrap=True)
    if summary.worst:
        console.print("\nThe answers that are furthest off:")
        _print_answers(summary.worst)
