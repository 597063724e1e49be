"""Recipes: what a training run is told, frozen, and part of the key under which its result is kept."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Precision = Literal["fp32", "bf16"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraRecipe(_Frozen):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) of every linear layer."""

    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)


class TrainingRecipe(_Frozen):
    """Everything that decides the weights which a run ends with, except data and base."""

    method: Literal["full", "lora"]
    lora: LoraRecipe | None = None
    load_bits: Literal[4, 8, 16, 32] = Field(description="precision of the loaded weights; 4 and 8 by bitsandbytes")
    train_embedding: bool
    qat: bool = Field(description="train on the grid of the exported types")
    qat_start_step: int = Field(ge=0, default=0, description="optimizer steps before the trained weights are quantised")
    precision: Precision | Literal["auto"] = Field(
        description="of the arithmetic, Muon's too; bf16 is autocast over the weights, auto what is fast on the device"
    )
    epochs: int = Field(ge=1)
    max_steps: int | None = Field(ge=1, default=None, description="end after so many optimizer steps at the latest")
    patience: int | None = Field(
        ge=1,
        default=None,
        description="end after so many epochs without a lower validation loss; keep the best weights",
    )
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = Field(
        default="adamw",
        description="adamw_8bit keeps its moments in 8 bits, by bitsandbytes; muon learns copying sooner",
    )
    learning_rate: float = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    batch_size: int = Field(ge=1, description="records in one forward pass")
    accumulation: int = Field(ge=1, description="forward passes in one optimizer step")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass instead of keeping them"
    )
    max_tokens: int = Field(ge=32, description="longest record in tokens; a longer one is an error")
    vary_entities: Literal["no", "same_intent", "any_intent"] = Field(
        description="put other entity values, of records of the same or any intent, into each epoch's sentences"
    )
    bpe_dropout: float = Field(
        ge=0,
        lt=1,
        default=0.0,
        description="share of a record's words that each epoch spells in smaller tokens than they have",
    )
    checkpoint_steps: int = Field(ge=1)
    seed: int
    threads: int = Field(ge=0, description="of torch in each process; 0 takes every core")
    processes: int = Field(ge=1, default=1, description="that share the micro-batches of a step, one on each GPU")
    shard: bool = Field(default=False, description="spread weights, gradients and moments over the processes (FSDP)")

    @property
    def in_bf16(self) -> bool:
        """Whether the arithmetic is bfloat16. Raises ValueError while that is still to be measured."""
        if self.precision == "auto":
            raise ValueError('precision is still "auto"; see tasks.training.precision')
        return self.precision == "bf16"

    @property
    def changes_records(self) -> bool:
        """Whether each epoch trains on other forms of the records."""
        return self.vary_entities != "no" or self.bpe_dropout > 0

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if (self.method == "lora") != (self.lora is not None):
            raise ValueError('method = "lora" and a [lora] table go together')
        if self.load_bits in (4, 8) and self.method == "full":
            raise ValueError(f'weights of {self.load_bits} bits cannot be fine-tuned in full; take method = "lora"')
        if self.lora is not None and self.train_embedding:
            raise ValueError("an adapter leaves the embedding as it is; set train_embedding = false")
        if self.accumulation % self.processes:
            raise ValueError(
                f"{self.processes} processes share the {self.accumulation} forward passes of a step; make accumulation "
                "a multiple of processes"
            )
        if self.processes > 1 and self.lora is not None and self.lora.dropout:
            raise ValueError("several processes would each drop other values; set dropout = 0.0")
        if self.shard and (self.processes == 1 or self.optimizer != "adamw" or self.load_bits in (4, 8)):
            raise ValueError(
                'shard spreads a run over its processes: set processes above 1, optimizer = "adamw" and load_bits '
                "to 16 or 32"
            )
        if self.load_bits == 16 and self.precision != "bf16":
            raise ValueError('weights of 16 bits compute in bfloat16; set precision = "bf16", or load_bits = 32')
        if self.patience and self.qat_start_step:
            raise ValueError("the loss rises when quantisation sets in, which patience takes for the end; drop one")
        if self.qat:
            self._require_exact_grid()
        elif self.qat_start_step:
            raise ValueError("qat_start_step is for qat = true")
        return self

    def _require_exact_grid(self) -> None:
        """What is trained must be what ships: see :mod:`tasks.quant.qat`."""
        if self.lora is None and self.load_bits != 32:
            raise ValueError(
                f"qat of all weights needs load_bits = 32, it is {self.load_bits}; bf16 is not on the grid"
            )
        if self.load_bits in (4, 8):
            raise ValueError(f"qat needs weights of 16 or 32 bits, load_bits is {self.load_bits}")
        if self.lora is not None and self.lora.dropout:
            raise ValueError("qat sees the merged weight, where an adapter has no dropout; set dropout = 0.0")


class DistillRecipe(_Frozen):
    """Mix of the student's loss, see :mod:`tasks.distill.kd`."""

    temperature: float = Field(gt=0)
    alpha_kd: float = Field(ge=0)
    alpha_ce: float = Field(ge=0)
    beta: float = Field(
        ge=0, le=1, default=0.0, description="0 forward KL, 1 reverse KL, between them generalised Jensen-Shannon"
    )
    teacher_bits: Literal["auto", 4, 8, 16, 32] = Field(
        description="of the teacher's weights; auto takes 16 where the student learns in bf16, else 32"
    )
    cache_top_k: int | None = Field(
        ge=1, default=None, description="keep so many of the teacher's tokens per position on disk; null asks it anew"
    )

    @model_validator(mode="after")
    def _loss_is_not_nothing(self) -> Self:
        if self.alpha_kd == self.alpha_ce == 0:
            raise ValueError("alpha_kd and alpha_ce are both 0, so nothing would be learnt; raise one")
        return self

    @property
    def bits(self) -> int:
        """Of the teacher's weights. Raises ValueError while they are still to be chosen by :meth:`beside`."""
        if self.teacher_bits == "auto":
            raise ValueError('teacher_bits is still "auto"')
        return self.teacher_bits

    def beside(self, student: TrainingRecipe) -> Self:
        """This recipe with ``teacher_bits`` that fit the student's arithmetic, which is decided already."""
        if self.teacher_bits != "auto":
            return self
        return self.model_copy(update={"teacher_bits": 16 if student.in_bf16 else 32})
