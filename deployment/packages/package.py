"""The package: one folder with all that an edge device and its owner need of a model.

NAME-QUANTIZATION.gguf  Modelfile             the model and how Ollama runs it
response.schema.json    labels.toml           the answers that can come back, and what they mean
answers.json                                  what holds an answer to its command, learnt from the training rows
golden.jsonl                                  prompts with the answers of this very file
README.md  LICENSE  NOTICE                    model card and terms
SHA256SUMS                                    digests of all of the above
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployment.answers.rules import FILE_NAME as RULES
from deployment.answers.rules import AnswerRules, default_rules, read_rules
from deployment.packages.licence import Licence
from deployment.packages.modelfile import FILE_NAME, Modelfile, parse_modelfile, read_modelfile
from deployment.prompts.parity import COMMANDS, rendered_otherwise
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import GREEDY, AnswerLimits
from registry.artifacts import Artifact, verify_checksums, write_checksums
from registry.errors import GateBlocked, UsageError
from registry.files import atomic_directory, file_sha256
from registry.records import LabelSet, label_set_toml, load_label_set, response_schema

GOLDEN = "golden.jsonl"
SHIPPED = "gguf"  # the stage whose metrics are those of the packaged file


class Golden(BaseModel):
    """A prompt with the answer that the packaged file gave when it was packaged."""

    model_config = ConfigDict(frozen=True)

    command: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the model card tells beside the package's own content.

    ``metrics`` are by stage, the shipped file's under "gguf"; ``gates`` have name, passed, value, threshold;
    ``origin`` names digests and revisions.
    """

    base: str
    profile: str
    dataset: str
    rows: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, float | None]]
    gates: Sequence[Mapping[str, Any]] = ()
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package whose files were verified."""

    path: Path
    gguf: Path
    gguf_sha256: str
    modelfile: Modelfile
    labels: LabelSet
    rules: AnswerRules
    golden: tuple[Golden, ...]

    @property
    def prompt(self) -> Prompt:
        """The prompt that the model was trained and evaluated with. Raises UsageError for turns of another making."""
        return self.modelfile.prompt


def build_package(
    out: Path,
    *,
    name: str,
    gguf: Path,
    labels: LabelSet,
    rules: AnswerRules,
    prompt: Prompt,
    golden: Sequence[tuple[str, str]],
    card: Card,
    licence: Licence,
    limits: AnswerLimits | None = None,
) -> Artifact:
    """Write the package of ``gguf`` to ``out``, whole or not at all; the same inputs give the same bytes.

    ``golden`` are (command, answer) pairs as the file itself answered them. Raises GateBlocked where Ollama would put
    a prompt to the model in another way than training did, or not answer greedily.
    """
    if not gguf.is_file():
        raise UsageError(f"{gguf} does not exist; export the model to GGUF before it is packaged.")
    if not golden:
        raise UsageError(f"A package of {gguf.name} needs golden prompts; devices are tried with them.")
    modelfile = Modelfile.of(gguf.name, prompt, limits or AnswerLimits(), licence.text)
    answers = [Golden(command=command, answer=answer) for command, answer in golden]
    as_read = parse_modelfile(modelfile.render())
    commands = [*COMMANDS, *(item.command for item in answers)]
    if chat := rendered_otherwise(as_read, prompt, commands):
        raise GateBlocked(
            f"The Modelfile of {gguf.name} renders {chat[-1].content!r} after {len(chat) - 1} messages otherwise than "
            "training did."
        )
    if as_read.parameters | GREEDY != as_read.parameters:
        raise GateBlocked(f"The Modelfile of {gguf.name} does not answer greedily: {as_read.parameters}.")
    texts = {
        FILE_NAME: modelfile.render(),
        "response.schema.json": json.dumps(response_schema(labels), indent=2, ensure_ascii=False) + "\n",
        "labels.toml": label_set_toml(labels),
        RULES: rules.model_dump_json(indent=2) + "\n",
        GOLDEN: "".join(item.model_dump_json() + "\n" for item in answers),
        "LICENSE": licence.text,
        "NOTICE": licence.notice,
        "README.md": _model_card(name, gguf, labels, prompt, answers, card, licence),
    }
    with atomic_directory(out) as folder:
        _link_or_copy(gguf, folder / gguf.name)
        for file_name, text in texts.items():
            (folder / file_name).write_text(text, encoding="utf-8")
        for attachment in licence.attachments:
            shutil.copyfile(attachment, folder / attachment.name)
        write_checksums(folder)
    return Artifact.of("package", out)


def verify_package(folder: Path) -> Package:
    """Read a package. Raises UsageError naming the first file that is missing, changed or not a package's."""
    digests = verify_checksums(folder)
    modelfile = read_modelfile(folder / FILE_NAME)
    if modelfile.gguf not in digests:
        raise UsageError(f"{folder} does not hold {modelfile.gguf}, which its Modelfile names; build it again.")
    try:
        lines = (folder / GOLDEN).read_bytes().splitlines()
        golden = tuple(Golden.model_validate_json(line) for line in lines)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / GOLDEN} cannot be read: {error}; build the package again.") from error
    if not golden:
        raise UsageError(f"{folder / GOLDEN} holds no prompt to try a device with; build the package again.")
    labels = load_label_set(folder / "labels.toml")
    return Package(
        path=folder,
        gguf=folder / modelfile.gguf,
        gguf_sha256=digests[modelfile.gguf],
        modelfile=modelfile,
        labels=labels,
        rules=read_rules(folder / RULES, labels) if RULES in digests else default_rules(labels),
        golden=golden,
    )


def _model_card(
    name: str,
    gguf: Path,
    labels: LabelSet,
    prompt: Prompt,
    golden: Sequence[Golden],
    card: Card,
    licence: Licence,
) -> str:
    from jinja2 import Environment, StrictUndefined

    # Markdown, not HTML. Lists and no tables: the MLflow UI shows the cells of a table without any gap.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.filters["number"] = _number
    source = files("deployment.packages").joinpath("templates", "model_card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=name,
        gguf=gguf.name,
        gguf_sha256=file_sha256(gguf),
        size=f"{gguf.stat().st_size / 1e6:,.1f} MB",
        labels=labels,
        instruction=prompt.instruction.strip(),
        golden=golden,
        card=card,
        stages=sorted(card.metrics.items(), key=lambda stage: stage[0] != SHIPPED),
        licence=licence,
    )


def _number(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
