"""The ``gemmill`` command: every subcommand is one flow or one pure call.

Exit codes: 0 done, 2 bad usage or configuration, 3 a gate blocked the candidate, 4 data refused, 5 a service is out of
reach.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from registry.artifacts import require_writable
from registry.errors import GemmillError

if TYPE_CHECKING:
    from flows.conversion import Measuring

app = typer.Typer(
    help="Turns manufacturing audit data into a small Gemma 3 model that answers audit commands with strict JSON.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

HomeOption = Annotated[Path | None, typer.Option(help="Where state lives; else GEMMILL_HOME, else .gemmill.")]
SummaryOption = Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the report as JSON to this file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the report as a page to this file.")]
LabelsOption = Annotated[Path | None, typer.Option(help="Label set (TOML); else labels.toml beside the data.")]
DataOption = Annotated[Path, typer.Option("--data", help="Labelled records: .jsonl, or a folder with test.jsonl.")]
InstructionOption = Annotated[str, typer.Option(help="Text before each command; a package brings its own.")]
ProfileOption = Annotated[str, typer.Option(help="Profile that says how many new rows make retraining due.")]
ThreadsOption = Annotated[int, typer.Option(min=0, help="Threads of llama.cpp; 0 takes every core.")]


@app.callback()
def _prepare(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the libraries say.")] = False,
) -> None:
    from flows.console import set_up_logging

    set_up_logging(verbose=verbose)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")


def _locate_home(home: Path | None) -> Path:
    """The home; Prefect's own state goes there too, so that a run leaves nothing elsewhere."""
    path = (home or Path(os.environ.get("GEMMILL_HOME", ".gemmill"))).absolute()
    if not {"PREFECT_API_URL", "PREFECT_HOME"} & os.environ.keys():
        require_writable(path / "prefect" / "prefect.db")  # makes the folder, which Prefect's server does not
        os.environ["PREFECT_HOME"] = str(path / "prefect")
    return path


def _require_writable(*paths: Path | None) -> None:
    for path in paths:
        if path:
            require_writable(path)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Audit files (.jsonl) or folders of them.")],
    dataset: Annotated[str | None, typer.Option(help="Dataset to add to; else the label set's name.")] = None,
    labels: LabelsOption = None,
    profile: ProfileOption = "tiny",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Put audit records into the audit store; refuse files with bad lines as a whole."""
    place = _locate_home(home)
    from flows import ingest as flow
    from flows.console import console
    from registry.artifacts import write_text

    report = flow.ingest(paths, dataset=dataset, labels=labels, home=place, profile=profile)
    if summary:
        write_text(summary, report.model_dump_json(indent=2) + "\n")
    console.print(flow.ingest_table(report))


@app.command()
def due(
    dataset: Annotated[str | None, typer.Option(help="Dataset; else the only one of the audit store.")] = None,
    profile: ProfileOption = "tiny",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Say whether enough new rows have landed since the last training."""
    place = _locate_home(home)
    from flows.console import console
    from flows.ingest import due as is_due
    from registry.artifacts import write_text

    found = is_due(dataset, place, profile)
    if summary:
        write_text(summary, found.model_dump_json(indent=2) + "\n")
    verdict = "Retraining is due" if found.due else "Retraining is not due"
    since = f"since snapshot {found.since_snapshot}" if found.since_snapshot else "and none was trained on yet"
    console.print(f"{verdict}: {found.new_rows:,} new rows {since}; {found.minimum_rows:,} make it due.")


@app.command()
def retrain(
    profile: Annotated[str, typer.Option(help="A shipped profile's name, or the path of a TOML file.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(help="Audit files to ingest first; else the shipped synthetic sample.")
    ] = None,
    labels: LabelsOption = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset to train on; without --data as it stands in the store.")
    ] = None,
    texts: Annotated[
        list[Path] | None, typer.Option(help="Unlabelled texts, if the profile reads them; may be repeated.")
    ] = None,
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Run the main job: train, export, measure, judge and register a candidate."""
    place = _locate_home(home)
    from flows import retrain as flow
    from flows.console import print_retrain
    from flows.summary import CandidateBlocked

    try:
        result = flow.retrain(
            profile=profile, data=data, labels=labels, dataset=dataset, texts=texts, home=place, summary=summary
        )
    except CandidateBlocked as blocked:
        print_retrain(blocked.summary, home)
        raise
    print_retrain(result, home)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="HF folder or hub id, adapter folder, or .gguf file.")],
    baseline: Annotated[str | None, typer.Option(help="Model to compare with, such as the base.")] = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Show every norm and weight, and which norm gains outgrew the baseline's."""
    from flows.console import console
    from registry.artifacts import write_text
    from tasks.bases.resolve import model_path
    from tasks.forensics import tables
    from tasks.forensics.comparison import compare_outliers
    from tasks.forensics.report import write_report
    from tasks.forensics.statistics import tensor_statistics

    statistics = tensor_statistics(model_path(model))
    baselines = {"baseline": tensor_statistics(model_path(baseline))} if baseline else {}
    if json_path:
        write_text(json_path, statistics.to_json())
    if html_path:
        write_report(html_path, statistics, baselines)
    console.print(tables.norm_table(statistics))
    console.print(tables.weight_table(statistics))
    for other in baselines.values():
        console.print(tables.comparison_table(statistics, baselines))
        console.print(compare_outliers(statistics, other).finding() + ".")


@app.command(name="repair-norms")
def repair_norms(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder of a Gemma 3 text model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    json_path: JsonOption = None,
) -> None:
    """Rescale the norm outliers so that float16 holds every activation; the function stays the same."""
    from flows.console import console
    from registry.artifacts import write_text
    from tasks.forensics import repair

    report = repair.repair_norms(model, out)
    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    console.print(
        f"{out}: residual stream scaled by {report.scale:.6g}; no activation exceeds "
        f"{report.after.residual_stream:.4g} where it could reach {report.before.residual_stream:.4g}"
    )


@app.command()
def convert(
    hf_dir: Annotated[Path, typer.Argument(help="Hugging Face folder of a model, or of a LoRA adapter.")],
    out: Annotated[Path, typer.Argument(help="GGUF file to write.")],
    type_: Annotated[
        str, typer.Option("--type", help="Type of the matrices: f32, f16, bf16, q8_0, q5_1 … q4_0, or auto.")
    ],
    embedding: Annotated[str | None, typer.Option(help="Type of the embedding; else as llama-quantize does.")] = None,
    base: Annotated[Path | None, typer.Option(help="Folder of an adapter's base; else the one that it names.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show types and sizes, write nothing.")] = False,
    data: Annotated[Path | None, typer.Option(help="auto: labelled records that the files are asked.")] = None,
    budget: Annotated[str | None, typer.Option(help="auto: the largest size allowed, such as 70MB.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="auto: profile whose gates decide; else a drop of a point.")
    ] = None,
    labels: LabelsOption = None,
    threads: ThreadsOption = 0,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Convert a Hugging Face folder, or a PEFT LoRA adapter, to GGUF; with --type auto the smallest that passes."""
    from flows.console import console, plan_table
    from registry.artifacts import write_text
    from registry.errors import UsageError
    from tasks.gguf_export.adapter import adapter_type, export_adapter, is_adapter, plan_adapter
    from tasks.gguf_export.labels import quant_type
    from tasks.gguf_export.writer import export_gguf, plan_export

    if type_.lower() == "auto":
        from flows.conversion import Measuring

        if embedding or base:
            raise UsageError("--type auto is for whole models, and chooses the embedding's type too; omit the others.")
        measuring = Measuring(data=data, labels=labels, profile=profile, budget=budget, threads=threads)
        _convert_auto(hf_dir, out, measuring, plan=plan, json_path=json_path, html_path=html_path)
        return
    if any((data, budget, profile, labels, threads, html_path)):
        raise UsageError("--data, --budget, --profile, --labels, --threads and --html are for --type auto; omit them.")
    options: dict[str, Any]
    if is_adapter(hf_dir):
        if embedding:
            raise UsageError("--embedding is for whole models; omit it.")
        planned, exported = plan_adapter, export_adapter
        options = {"weights": adapter_type(type_), "base": base}
    else:
        if base:
            raise UsageError("--base is for adapters; omit it.")
        planned, exported = plan_export, export_gguf
        embedding_type = quant_type(embedding, hf_dir) if embedding else None
        options = {"weights": quant_type(type_, hf_dir), "embedding": embedding_type}
    if plan:
        found = planned(hf_dir, **options)
        if json_path:
            write_text(json_path, found.to_json())
        console.print(plan_table(found))
        return
    report = exported(hf_dir, out, **options)
    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    types = ", ".join(f"{count} {name}" for name, count in report.types.items())
    console.print(f"{report.path}: {report.bytes / 1e6:.1f} MB, tensors: {types}, SHA-256 {report.sha256}")


def _convert_auto(
    hf_dir: Path, out: Path, measuring: "Measuring", *, plan: bool, json_path: Path | None, html_path: Path | None
) -> None:
    from flows.console import console
    from tasks.type_search.report import search_table, write_search

    _require_writable(json_path, html_path)
    found = measuring.plan(hf_dir) if plan else measuring.convert(hf_dir, out)
    write_search(found, json_path=json_path, html_path=html_path)
    console.print(search_table(found))
    if not plan:
        found.require()


@app.command(name="prune-vocab")
def prune_vocab(
    model: Annotated[str, typer.Argument(help="Hugging Face folder or hub id, before its training or after.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    corpus: Annotated[
        list[Path], typer.Option(help="Records and texts (.jsonl, .txt) or folders of them; may be repeated.")
    ],
    words: Annotated[int, typer.Option(min=0, help="Commonest English words whose tokens stay too.")] = 10_000,
    minimum_count: Annotated[
        int, typer.Option(min=1, help="How often the texts must use a token that stays for them.")
    ] = 1,
    base: Annotated[
        str | None, typer.Option(help="MODEL is pruned: take further tokens from this base that it was pruned from.")
    ] = None,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    json_path: JsonOption = None,
) -> None:
    """Drop the tokens that a corpus does not use; with --base, take back those that it does."""
    _require_writable(json_path)
    from deployment.prompt import Prompt
    from flows.console import console, vocabulary_table
    from registry.artifacts import write_text
    from registry.errors import UsageError
    from tasks.bases.resolve import model_path
    from tasks.vocabulary.corpus import read_corpus
    from tasks.vocabulary.growth import grow_vocabulary
    from tasks.vocabulary.pruning import prune_vocabulary
    from tasks.vocabulary.recipe import VocabularyRecipe

    if out.exists():
        raise UsageError(f"{out} exists; name another folder or delete it.")
    counted, recipe = read_corpus(corpus, labels), VocabularyRecipe(words=words, minimum_count=minimum_count)
    prompt = Prompt(instruction=instruction)
    if base:
        report = grow_vocabulary(model_path(model), model_path(base), out, counted, recipe, prompt=prompt)
    else:
        report = prune_vocabulary(model_path(model), out, counted, recipe, prompt=prompt)
    if json_path:
        write_text(json_path, report.model_dump_json(indent=2) + "\n")
    console.print(vocabulary_table(report))


@app.command(name="import")
def import_(
    gguf: Annotated[Path, typer.Argument(help="GGUF file of a model.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not hold anything.")],
) -> None:
    """Turn a GGUF file into a Hugging Face folder."""
    from flows.console import console
    from tasks.gguf_export.reader import import_gguf

    import_gguf(gguf, out)
    console.print(f"{out}: config, tokenizer and float32 weights of {gguf.name}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder, .gguf, ollama:NAME, models:/NAME@ALIAS, http://HOST")],
    data: DataOption,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    threads: ThreadsOption = 0,
    home: HomeOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Ask a model every command of a file, greedily and unconstrained, and score the answers."""
    from flows.console import console, metric_table
    from flows.evaluation import evaluation_of
    from tasks.evaluation.report import write_report

    _require_writable(json_path, html_path)
    report = evaluation_of(model, data, labels, instruction, threads, _locate_home(home))()
    write_report(report, json_path=json_path, html_path=html_path)
    console.print(metric_table({model: report.metrics}, f"{report.dataset}, {report.metrics.rows:,} records"))


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A model, as evaluate takes it.")],
    b: Annotated[str, typer.Argument(help="Another model.")],
    data: DataOption,
    labels: LabelsOption = None,
    instruction: InstructionOption = "",
    threads: ThreadsOption = 0,
    home: HomeOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
) -> None:
    """Compare two models on the same commands, with paired intervals."""
    from flows.console import console
    from flows.evaluation import evaluation_of
    from tasks.evaluation.comparison import compare_reports, comparison_table, write_comparison

    _require_writable(json_path, html_path)
    place = _locate_home(home)
    both = [evaluation_of(model, data, labels, instruction, threads, place) for model in (a, b)]
    comparison = compare_reports(*(evaluate() for evaluate in both))
    write_comparison(comparison, json_path=json_path, html_path=html_path)
    console.print(comparison_table(comparison))


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="Version of the registered model.")],
    model_name: Annotated[str, typer.Option(help="Registered model.")] = "gemma3-manufacturing",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Make a version the champion; refuse one whose gates failed."""
    from registry import models

    models.connect(_locate_home(home))
    _report_version(models.promote(model_name, version), summary)


@app.command()
def rollback(
    model_name: Annotated[str, typer.Option(help="Registered model.")] = "gemma3-manufacturing",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Bring the previous champion back, in one step."""
    from registry import models

    models.connect(_locate_home(home))
    _report_version(models.rollback(model_name), summary)


@app.command()
def deploy(
    alias: Annotated[str, typer.Option(help="Alias or number of the version.")] = "champion",
    device: Annotated[list[str] | None, typer.Option(help="Ollama to deploy to; else OLLAMA_HOST.")] = None,
    model_name: Annotated[str, typer.Option(help="Registered model.")] = "gemma3-manufacturing",
    home: HomeOption = None,
    summary: SummaryOption = None,
) -> None:
    """Put a version on devices that run Ollama, and ask each its golden prompts."""
    place = _locate_home(home)
    from flows import deploy as flow
    from flows.console import console, device_table
    from registry.artifacts import write_text

    def tell(report: flow.DeployReport) -> None:
        if summary:
            write_text(summary, report.model_dump_json(indent=2) + "\n")
        console.print(device_table(report))

    try:
        tell(flow.deploy(model_name, alias, device, place))
    except flow.DevicesFailed as failed:
        tell(failed.report)
        raise


def _report_version(version: Any, summary: Path | None) -> None:
    from flows.console import console
    from registry.artifacts import write_text

    if summary:
        write_text(summary, version.model_dump_json(indent=2) + "\n")
    console.print(f"{version.name} version {version.version} is {', '.join(version.aliases)}.")


def main() -> None:
    """Run the command; an expected error is one sentence and its exit code."""
    try:
        app()
    except GemmillError as error:
        from data_checks.quarantine import LinesRefused, problem_table
        from flows.console import errors, print_error

        if isinstance(error, LinesRefused):
            errors.print(problem_table(error.problems))
        print_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
