"""Profiles; every fault in one is reported at once."""

import tomllib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deployment.answers.rules import GROUNDED_MIN
from deployment.prompts.prompt import Prompt
from deployment.prompts.turns import Turns
from deployment.runtimes.decoding import MINIMUM_CONTEXT, AnswerLimits, Longest
from registry.cores import usable_cores
from registry.errors import UsageError
from registry.names import name_fault
from tasks.bases.spec import ScratchBase, StartingBase, StudentBase, TeacherBase
from tasks.depth.recipe import DepthRecipe
from tasks.gates.thresholds import Thresholds
from tasks.quant.types import QuantType
from tasks.training.recipe import DistillRecipe, TrainingRecipe
from tasks.vocabulary.recipe import VocabularyRecipe

PROFILES_FOLDER = Path(__file__).parent / "profiles"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherSettings(_Settings):
    base: StartingBase
    training: TrainingRecipe


class StudentSettings(_Settings):
    base: StudentBase
    depth: DepthRecipe | None = Field(default=None, description="layers of the base that stay; all without it")
    training: TrainingRecipe
    distill: DistillRecipe

    @model_validator(mode="after")
    def _answers_can_be_kept(self) -> Self:
        if self.distill.cache_top_k and self.training.changes_records:
            raise ValueError("cache_top_k finds no record again that vary_entities or bpe_dropout changes; drop one")
        return self


class ExportSettings(_Settings):
    """Types of the GGUF that ships; norms and other vectors stay F32."""

    weights: QuantType
    embedding: QuantType


class EvaluationSettings(_Settings):
    max_new_tokens: int = Field(ge=16, description="at the least; more where the data has longer answers")
    context: int = Field(
        default=MINIMUM_CONTEXT, ge=MINIMUM_CONTEXT,
        description="tokens of prompt and answer together at the least, also num_ctx on the device",
    )  # fmt: skip
    batch_size: int = Field(ge=1, description="commands at once in transformers")
    slots: int = Field(ge=1, description="commands at once in llama.cpp")
    threads: int = Field(ge=0, description="of llama.cpp; 0 takes every core")

    def limits(self, longest: Longest) -> AnswerLimits:
        """What the shipped file gets, and is measured with."""
        return longest.limits(context=self.context, max_new_tokens=self.max_new_tokens)

    @property
    def llama_threads(self) -> int:
        return self.threads or usable_cores()


class AnswerSettings(_Settings):
    """How answers are held where gemmill asks; plain ``ollama run`` is always free."""

    grounded_min: float = Field(
        default=GROUNDED_MIN, ge=0.0, le=1.0,
        description="share of a type's training values that stand in their command, from which on all must",
    )  # fmt: skip
    false_rejects: float = Field(
        default=0.01, ge=0.0, le=1.0, description="share of the commands in scope that may be rejected for their score"
    )
    ask_below: float = Field(
        default=0.5, ge=0.0, le=1.0, description="confidence of an answer below which a person is to be asked"
    )
    folds: int = Field(
        default=0,
        ge=0,
        description="teachers to train for the calibration, each asked what it was not trained on; 0 asks the shipped "
        "file the validation rows",
    )


class RetrainingSettings(_Settings):
    minimum_rows: int = Field(ge=1, description="new rows since the last training that make retraining due")
    keep_steps_days: int = Field(ge=1, description="days after its last use that a step's result is removed")


class Profile(_Settings):
    """Everything that a retraining is told. Profiles differ in values, never in code."""

    name: str
    description: str
    model_name: str
    licence: Literal["gemma", "apache-2.0"] = Field(description="of the weights: what travels with every artifact")
    turns: Turns = Field(description="format of the turns, that of the base's family")
    instruction: str = Field(description="put before each command; empty for none")
    compact_answers: bool = Field(description="answers without blanks between the parts of their JSON")
    vocabulary: VocabularyRecipe | None = Field(default=None, description="tokens that the bases keep; all without it")
    pretraining: TrainingRecipe | None = Field(default=None, description="of the bases, on unlabelled texts")
    teacher: TeacherSettings
    student: StudentSettings
    export: ExportSettings
    evaluation: EvaluationSettings
    answers: AnswerSettings = AnswerSettings()
    gates: Thresholds
    retraining: RetrainingSettings

    @field_validator("name", "model_name")
    @classmethod
    def _names_are_taken_everywhere(cls, name: str) -> str:
        if fault := name_fault(name):
            raise ValueError(fault)
        return name

    @field_validator("instruction")
    @classmethod
    def _instruction_fits_a_modelfile(cls, instruction: str) -> str:
        if "\0" in instruction:
            raise ValueError("a Modelfile cannot hold a NUL character; reword it")
        return instruction

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        faults = [*self._faults_of_training(), *self._faults_of_shape()]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults_of_training(self) -> Iterator[str]:
        recipe = self.pretraining
        if recipe and (recipe.qat or recipe.changes_records or recipe.processes > 1):
            yield 'pretraining is plain: set qat = false, vary_entities = "no", bpe_dropout = 0 and processes = 1 there'
        if (self.teacher.training.qat or self.student.training.qat) and not self.export.weights.is_block_type:
            yield f"qat is for block types, export.weights is {self.export.weights}; set qat = false"

    def _faults_of_shape(self) -> Iterator[str]:
        for name, base in (("teacher", self.teacher.base), ("student", self.student.base)):
            if isinstance(base, ScratchBase) and self.turns != Turns.GEMMA:
                yield f'{name}.base is a Gemma 3 from scratch, whose turns are "gemma", not "{self.turns}"'
        depth, base = self.student.depth, self.student.base
        origin = self.teacher.base if isinstance(base, TeacherBase) else base
        if depth and isinstance(origin, ScratchBase) and depth.layers >= origin.layers:
            yield f"student.depth.layers is {depth.layers} of the base's {origin.layers}; keep fewer"
        kept = self.student.distill.cache_top_k
        if kept and isinstance(self.teacher.base, ScratchBase) and kept > self.teacher.base.vocab_size:
            yield f"student.distill.cache_top_k is {kept}, the vocabulary has {self.teacher.base.vocab_size} tokens"

    @property
    def prompt(self) -> Prompt:
        return Prompt(instruction=self.instruction, turns=self.turns, compact=self.compact_answers)

    def require_packages(self) -> None:
        """Raise UsageError where a package is missing that only a later step would come to need."""
        recipes = (self.teacher.training, self.student.training, self.pretraining)
        bits = [*(recipe.load_bits for recipe in recipes if recipe), self.student.distill.teacher_bits]
        eight_bit = any(recipe.optimizer == "adamw_8bit" for recipe in recipes if recipe)
        if (eight_bit or {4, 8} & set(bits)) and not find_spec("bitsandbytes"):
            raise UsageError(
                f"profile {self.name} needs bitsandbytes for 4 or 8 bits; pip install 'gemmill[bitsandbytes]', or set "
                'load_bits and teacher_bits to 16 or 32 and optimizer = "adamw".'
            )
        if self.vocabulary and self.vocabulary.words and not find_spec("wordfreq"):
            raise UsageError(
                f"profile {self.name} needs a word list; pip install 'gemmill[vocabulary]', or set words = 0."
            )

    @property
    def shipped_base(self) -> StartingBase:
        """What the weights of the file that ships derive from."""
        base = self.student.base
        return self.teacher.base if isinstance(base, TeacherBase) else base

    def with_recipes(self, teacher: TrainingRecipe, student: TrainingRecipe, distill: DistillRecipe) -> "Profile":
        """This profile with recipes in which nothing is left to the machine."""
        return self.model_copy(
            update={
                "teacher": self.teacher.model_copy(update={"training": teacher}),
                "student": self.student.model_copy(update={"training": student, "distill": distill}),
            }
        )

    def require_texts(self, texts: Sequence[Path] | None) -> None:
        """Raise UsageError where unlabelled texts are missing, or of no use."""
        if self.pretraining and not texts:
            raise UsageError(f"profile {self.name} pre-trains on unlabelled texts; name them with --texts.")
        if texts and not (self.pretraining or self.vocabulary):
            raise UsageError(f"profile {self.name} has no use for texts; omit --texts.")


def shipped_profiles() -> list[str]:
    return sorted(path.stem for path in PROFILES_FOLDER.glob("*.toml"))


def load_profile(name_or_path: str) -> Profile:
    """A shipped profile by name, or any by its TOML path. Raises UsageError listing every fault."""
    path = Path(name_or_path) if name_or_path.endswith(".toml") else PROFILES_FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        raise UsageError(
            f"there is no profile {name_or_path!r}; take {', '.join(shipped_profiles())} or the path of a .toml file."
        )
    try:
        return Profile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"profile {path} is not TOML: {error}.") from error
    except ValidationError as error:
        faults = [f"{_place(item['loc'])}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()]
        raise UsageError(f"profile {path.name}: {'; '.join(faults)}.") from error


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "profile"
