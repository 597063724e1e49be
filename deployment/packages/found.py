"""What MODEL means in every command, where it is no Hugging Face folder: a package, a file, or a server."""

from dataclasses import dataclass, replace
from pathlib import Path

from deployment.answers.policy import decoding_of
from deployment.answers.rules import FILE_NAME as RULES
from deployment.answers.rules import AnswerRules, default_rules, read_rules
from deployment.packages.modelfile import FILE_NAME, read_modelfile
from deployment.packages.package import Package, verify_package
from deployment.prompts.prompt import Prompt
from deployment.runtimes.decoding import AnswerLimits, Decoding, Mode
from registry.artifacts import CHECKSUMS
from registry.records import LabelSet, load_label_set

_LABELS = "labels.toml"
_SERVERS = ("http://", "https://", "ollama:")


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model with what is known of it beside its weights; None where nothing tells."""

    spec: str  # the .gguf file or the folder, else as it was given
    prompt: Prompt | None = None
    limits: AnswerLimits | None = None
    labels: LabelSet | None = None
    rules: AnswerRules | None = None

    def decoding(self, mode: Mode, *, logprobs: int | None = None) -> Decoding:
        """How the answers of this model are held. Raises UsageError where the mode needs labels and none are known."""
        return decoding_of(mode, self.labels, self.rules, logprobs=logprobs)


def find_model(model: str, *, labels: Path | None) -> FoundModel:
    """What ``model`` names: a package's folder, a file with or without its Modelfile, ``labels.toml`` and
    ``answers.json`` beside it, or anything else as it is.

    ``labels`` go over those that are found, with the ``answers.json`` beside them; other labels than the package's
    leave its rules out. Raises UsageError where a package or one of these files cannot be used.
    """
    found = _find(model)
    if labels is None:
        return found
    given, rules = load_label_set(labels), labels.with_name(RULES)
    if rules.is_file():
        return replace(found, labels=given, rules=read_rules(rules, given))
    same = found.labels is not None and (given.entities, given.many) == (found.labels.entities, found.labels.many)
    return replace(found, labels=given, rules=found.rules if same else default_rules(given))


def _find(model: str) -> FoundModel:
    if model.startswith(_SERVERS):  # whose models may be called .gguf, too
        return FoundModel(spec=model)
    path = Path(model)
    if path.suffix == ".gguf":
        return _beside(path)
    if (path / CHECKSUMS).is_file() and (path / FILE_NAME).is_file():
        return _packaged(verify_package(path))
    return FoundModel(spec=model)


def _packaged(package: Package) -> FoundModel:
    return FoundModel(
        spec=str(package.gguf),
        prompt=package.prompt,
        limits=package.modelfile.limits,
        labels=package.labels,
        rules=package.rules,
    )


def _beside(gguf: Path) -> FoundModel:
    folder = gguf.parent
    modelfile = read_modelfile(folder / FILE_NAME) if (folder / FILE_NAME).is_file() else None
    if modelfile and modelfile.gguf != gguf.name:
        modelfile = None
    if modelfile and (folder / CHECKSUMS).is_file():
        return _packaged(verify_package(folder))
    labels = load_label_set(folder / _LABELS) if (folder / _LABELS).is_file() else None
    return FoundModel(
        spec=str(gguf),
        prompt=modelfile.prompt if modelfile else None,
        limits=modelfile.limits if modelfile else None,
        labels=labels,
        rules=read_rules(folder / RULES, labels) if labels and (folder / RULES).is_file() else None,
    )
