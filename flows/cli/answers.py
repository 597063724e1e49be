"""The commands that ask a model: all that MODEL can be, and how its answers are held."""

from pathlib import Path
from typing import Annotated

import typer

from deployment.runtimes.decoding import MINIMUM_CONTEXT, Mode
from flows.cli.options import (
    ConfidenceOption,
    ContextOption,
    DataOption,
    DecodingOption,
    DecodingsOption,
    HomeOption,
    HtmlOption,
    InstructionOption,
    JsonOption,
    LabelsOption,
    NewTokensOption,
    ParallelOption,
    TemperatureOption,
    ThreadsOption,
    locate_home,
    require_all_writable,
)

app = typer.Typer()


@app.command(rich_help_panel="Models")
def ask(
    model: Annotated[
        str, typer.Argument(help="Package folder, .gguf, models:/NAME@ALIAS, ollama:NAME or http://HOST.")
    ],
    command: Annotated[
        str | None, typer.Argument(help="What to ask; else one command a line, typed or from standard input.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Ask every line of this .txt file, or the command of every line of a .jsonl.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answers to --data here, and go on where it ends.")] = None,
    decoding: Annotated[
        Mode | None, typer.Option(help="free, schema or grounded; else grounded where the model's labels are known.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Label set (TOML) for a model that brings none.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show each field as soon as it is certain.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each answer as JSON, with all that is known.")] = False,
    confidence: ConfidenceOption = True,
    threads: ThreadsOption = 0,
    home: HomeOption = None,
) -> None:
    """Ask a model: one command, those typed at a prompt or piped in, or all of a file."""
    from deployment.answers.assistant import Assistant
    from flows.cli.asking import answer_file, converse, require_sound
    from registry.home import Home
    from registry.models import local_model

    require_sound(command, data, out, stream=stream)
    located = local_model(model, Home(path=locate_home(home)))
    with Assistant(
        located,
        decoding=decoding,
        labels=labels,
        threads=threads,
        parallel=8 if data else 1,
        confidence=confidence,
    ) as assistant:
        if data and out:
            answer_file(assistant, data, out)
        else:
            converse(assistant, command, stream=stream, as_json=as_json)


@app.command(rich_help_panel="Models")
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, .gguf, ollama:NAME, models:/NAME@ALIAS, http://HOST")],
    data: DataOption,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    threads: ThreadsOption = 0,
    parallel: ParallelOption = 8,
    max_new_tokens: NewTokensOption = None,
    temperature: TemperatureOption = 0.0,
    context: ContextOption = MINIMUM_CONTEXT,
    decoding: DecodingsOption = [Mode.FREE],  # noqa: B006  typer takes no tuple here
    home: HomeOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Ask a model every command of a file and score the answers."""
    from flows.cli.console import console, metric_table
    from flows.cli.evaluation import Asked, evaluation_of
    from registry.errors import UsageError
    from tasks.doubt.report import doubt_table
    from tasks.evaluation.report import write_report
    from tasks.evaluation.side_by_side import side_by_side, write_side_by_side

    if len(set(decoding)) < len(decoding) or len(decoding) > 2:
        raise UsageError(
            f"--decoding {' and '.join(decoding)} cannot stand side by side; give one, or two that differ."
        )
    require_all_writable(json_path, html_path)
    asked = Asked(
        instruction=instruction,
        threads=threads,
        context=context,
        parallel=parallel,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    place = locate_home(home)
    evaluations = [evaluation_of(model, data, labels, place, asked, mode) for mode in decoding]
    reports = [evaluate() for evaluate in evaluations]
    if len(reports) == 1:
        write_report(reports[0], json_path=json_path, html_path=html_path)
    else:
        write_side_by_side(side_by_side(*reports), json_path=json_path, html_path=html_path)
    title = f"{reports[0].dataset}, {reports[0].metrics.rows:,} records"
    console.print(metric_table({report.title: report.metrics for report in reports}, title))
    if doubts := {report.title: report.doubt for report in reports if report.doubt}:
        console.print(doubt_table(doubts))


@app.command(rich_help_panel="Models")
def compare(
    a: Annotated[str, typer.Argument(help="A model, as evaluate takes it.")],
    b: Annotated[str, typer.Argument(help="Another model.")],
    data: DataOption,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    threads: ThreadsOption = 0,
    parallel: ParallelOption = 8,
    max_new_tokens: NewTokensOption = None,
    temperature: TemperatureOption = 0.0,
    context: ContextOption = MINIMUM_CONTEXT,
    decoding: Annotated[
        tuple[Mode, Mode], typer.Option(help="How the answers of A and of B are held: free, schema or grounded.")
    ] = (Mode.FREE, Mode.FREE),
    home: HomeOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Compare two models on the same commands, with paired intervals."""
    from flows.cli.console import console
    from flows.cli.evaluation import Asked, evaluation_of
    from tasks.evaluation.comparison import compare_reports, comparison_table, write_comparison

    require_all_writable(json_path, html_path)
    place = locate_home(home)
    asked = Asked(
        instruction=instruction,
        threads=threads,
        context=context,
        parallel=parallel,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
    both = [
        evaluation_of(model, data, labels, place, asked, mode) for model, mode in zip((a, b), decoding, strict=True)
    ]
    comparison = compare_reports(*(evaluate() for evaluate in both))
    write_comparison(comparison, json_path=json_path, html_path=html_path)
    console.print(comparison_table(comparison))


@app.command(rich_help_panel="Models")
def prompts(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Folders, .gguf files or packages.")],
    data: DataOption,
    instructions: Annotated[
        Path | None, typer.Option(help='TOML file, name = "text" each; else from no word to all that the labels tell.')
    ] = None,
    labels: LabelsOption = None,
    threads: ThreadsOption = 0,
    parallel: ParallelOption = 8,
    max_new_tokens: NewTokensOption = None,
    context: ContextOption = 2 * MINIMUM_CONTEXT,
    decoding: DecodingOption = Mode.FREE,
    home: HomeOption = None,
    json_path: JsonOption = None,
) -> None:
    """Try instructions before each command, and tell what each is worth for each model."""
    import json

    from flows.cli.console import console
    from flows.cli.evaluation import Asked, evaluation_of, read_labelled
    from registry.files import write_text
    from tasks.evaluation.instructions import instruction_table, known_instructions, read_instructions

    require_all_writable(json_path)
    place, labelled = locate_home(home), read_labelled(data, labels)
    tried = read_instructions(instructions) if instructions else known_instructions(labelled.labels)
    asked = Asked(
        instruction="",
        threads=threads,
        context=context,
        parallel=parallel,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
    )
    evaluations = {
        (model, name): evaluation_of(model, data, labels, place, asked, decoding, instruction=text)
        for model in models
        for name, text in tried.items()
    }
    metrics = {named: evaluate().metrics for named, evaluate in evaluations.items()}
    if json_path:
        rows = [
            {"model": model, "instruction": name, "text": tried[name], **figures.model_dump()}
            for (model, name), figures in metrics.items()
        ]
        write_text(json_path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    console.print(instruction_table(metrics, f"{labelled.labels.name}, {len(labelled.records):,} records, {decoding}"))
