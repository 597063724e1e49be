"""A verdict for people: a terminal table and Markdown."""

from rich.table import Table

from tasks.gates.judge import GROUNDED, Gate, Verdict

_ADVICE = {
    "json_validity": "look for answers that were cut off (raise max_new_tokens), else train for more epochs",
    "intent_accuracy": "see the evaluation's confusion matrix, and add records of the intents that it mixes up",
    "exact_match": "add records like the wrong rows, or set vary_entities so that values are copied, not remembered",
    "entity_f1": "add records with such values, or set vary_entities so that values are copied, not remembered",
    "oos_recall": "add out_of_scope records like those that were answered",
    "oos_precision": "add records like the audit commands that were refused",
    "norm_outliers": "see the forensics page for the layers; a lower learning_rate lets norms grow less",
    "prompt_parity": "the file reads commands in other tokens than training did: report it with its summary.json",
    "gguf_verification": "the file is not the model that was trained: report it with its summary.json",
}


def advice(gate: Gate) -> str | None:
    """One line on what to do about a gate that failed."""
    found = next((line for name, line in _ADVICE.items() if gate.name.removeprefix(GROUNDED).startswith(name)), None)
    if found and gate.name.endswith("_vs_champion"):
        return f"the champion does better on these very rows: {found}"
    return found


def verdict_table(verdict: Verdict) -> Table:
    """The gates as a rich table."""
    table = Table(title=_headline(verdict), title_justify="left", title_style="bold")
    table.add_column("gate", no_wrap=True)
    table.add_column("")
    for column in ("value", "threshold", "baseline"):
        table.add_column(column, justify="right")
    table.add_column("compared with")
    for gate in verdict.gates:
        mark = "[green]pass[/]" if gate.passed else "[bold red]FAIL[/]"
        table.add_row(gate.name, mark, *_cells(gate), style=None if gate.passed else "red")
    return table


def verdict_markdown(verdict: Verdict) -> str:
    """The gates as Markdown, with the reason of each that failed above the table."""
    lines = [f"**{_headline(verdict)}**", ""]
    if verdict.failed:
        lines += [f"- `{gate.name}`: {gate.reason}" for gate in verdict.failed] + [""]
    lines += ["| gate | | value | threshold | baseline | compared with |", "|---|---|---:|---:|---:|---|"]
    for gate in verdict.gates:
        cells = " | ".join(cell.replace("|", "\\|") for cell in _cells(gate))
        lines.append(f"| `{gate.name}` | {'pass' if gate.passed else '**FAIL**'} | {cells} |")
    return "\n".join(lines) + "\n"


def _headline(verdict: Verdict) -> str:
    total = len(verdict.gates)
    return f"all {total} gates passed" if verdict.passed else f"{len(verdict.failed)} of {total} gates failed"


def _cells(gate: Gate) -> tuple[str, str, str, str]:
    return _number(gate.value), _asked(gate), _number(gate.baseline), gate.compared_with


def _asked(gate: Gate) -> str:
    if isinstance(gate.threshold, bool) or gate.threshold is None:
        return _number(gate.threshold)
    return f"{'≤ ×' if gate.name.startswith('norm_outliers') else '≥ '}{gate.threshold:.4g}"


def _number(value: bool | float | None) -> str:
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"
