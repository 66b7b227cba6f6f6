"""Settings of pretraining and finetuning. Lengths are counts of tokens, steps or epochs, never of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from lang1.common.settings import Settings
from lang1.corpus.schedule import MixturePoint
from lang1.model.config import ModelSettings
from lang1.model.decoder import Checkpointing
from lang1.text.truncate import Policy
from lang1.training.launch import LaunchSettings

Balance = Literal["count", "surprise"]


class OptimizerSettings(Settings):
    """AdamW, or Muon for the matrices inside the layers with AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(default=3e-3, gt=0, description="peak learning rate of AdamW")
    muon_lr: float = Field(default=0.02, gt=0, description="peak learning rate of Muon, where it is used")
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="on matrices; not on norms or embeddings")
    clip: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null does not clip")


class ScheduleSettings(Settings):
    """Linear warm-up, then a cosine, a plateau with a fall at its end (wsd), or the peak throughout."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of the steps")
    warmup_steps: int | None = Field(default=None, ge=0, description="steps, instead of a share")
    decay: float = Field(default=0.2, ge=0, le=1, description="wsd: share of the steps in which the rate falls")
    decay_shape: Literal["linear", "sqrt"] = Field(default="sqrt", description="wsd: how it falls; sqrt is 1 - sqrt")
    final: float = Field(default=0.1, ge=0, le=1, description="share of the peak at the end; not of constant")


class SampleSettings(Settings):
    """Text that the model writes on the way, from prompts that the user gives; kept in the run's ``samples.jsonl``.

    A model can repeat what it was trained on: samples are to be handled like the notes themselves.
    """

    prompts: tuple[str, ...] = Field(default=(), description="beginnings of a text, best invented ones")
    tokens: int = Field(default=64, ge=1, description="most tokens of each")
    temperature: float = Field(default=0.0, ge=0, description="0 takes the likeliest token each time")


class EvaluationSettings(Settings):
    """Evaluations on the way, at fixed steps: on the benchmark's validation split, never on its test splits."""

    every: int | None = Field(default=None, ge=1, description="steps; null: none but those of `at`")
    at: tuple[int, ...] = Field(default=(), description="further steps, e.g. [0, 10, 100]; 0 is before training")
    tasks: list[str] | None = Field(default=None, description="null: all of the benchmark's; []: none")
    notes: int = Field(default=500, ge=1, description="validation notes, a fixed random subset of them")
    few_shot: int = Field(default=0, ge=0, le=32, description="answered training examples before each note; 0: none")
    few_shot_notes: int = Field(default=200, ge=1, description="of the validation notes, as many are asked few-shot")
    shot_budget: int = Field(default=128, ge=1, description="tokens of each example's note")
    note_budget: int = Field(default=512, ge=1, description="tokens of the note that is asked about")
    truncation: Policy = Field(
        default="head", description="part of a long note that stays: head, tail, head+tail, sections or sections:NAME,…"
    )
    min_cases: int = Field(default=5, ge=1, description="classes with fewer cases are left out of the AUROC")
    comprehension: dict[str, Path] = Field(
        default={}, description="multiple-choice questions by name: a file of JSON Lines, PubMedQA's or SciQ's"
    )
    questions: int = Field(default=200, ge=1, description="of each of these sets, a fixed random subset")
    samples: SampleSettings = SampleSettings()

    def due(self, step: int, steps: int) -> bool:
        """Whether to evaluate after ``step`` of ``steps``: where asked for, and at the end if anything was."""
        if not self.asked:
            return False
        return step in self.at or step == steps or (self.every is not None and step > 0 and step % self.every == 0)

    @property
    def asked(self) -> bool:
        """Whether there is to be any evaluation."""
        return self.every is not None or bool(self.at)


class WatchSettings(Settings):
    """How a run is watched. Nothing here changes what is trained, and a run may go on with other ones."""

    evaluation: EvaluationSettings = EvaluationSettings()
    tensorboard: Path | None = Field(default=None, description="folder for TensorBoard's files, one in it for each run")
    mlflow: str | None = Field(default=None, description="a server's address, sqlite:///FILE, or a folder")
    wandb: Literal["off", "offline", "online"] = "off"
    wandb_folder: Path = Field(default=Path(), description="where W&B makes its folder wandb/ of local files")


class RunSettings(Settings):
    """What every training run shares."""

    seed: int = 3407
    allow_overlap: bool = Field(
        default=False, description="train although held-out patients or later text are inside; reports then say so"
    )
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; null uses all that the process may run on"
    )
    compile: bool = Field(default=False, description="torch.compile the layers; falls back to eager where it fails")
    checkpointing: Checkpointing = Field(
        default="none",
        description="layers whose activations are computed again instead of kept: none, alternate (every second) or "
        "layer (all); less memory for up to a third more computing",
    )
    tokens_per_pass: int = Field(default=16_384, ge=64, description="most tokens of one forward pass; bounds memory")
    checkpoint_every: int = Field(default=100, ge=1, description="steps")
    keep_checkpoints: bool = Field(default=False, description="keep the last checkpoint inside the finished folder")
    keep_last: int = Field(default=2, ge=1, description="checkpoints of an unfinished run that stay")
    milestone_every: int | None = Field(
        default=None, ge=1, description="steps; the checkpoint there is kept for good and can be exported"
    )
    log_every: int = Field(default=10, ge=1, description="steps")
    spike_sigma: float = Field(
        default=10.0, gt=0, description="a step whose gradient norm lies further above its running mean is skipped"
    )
    loss_sigma: float | None = Field(
        default=None,
        gt=0,
        description="a step whose loss lies further above its mean is skipped; null: not judged",
    )
    rollback_after: int | None = Field(
        default=5, ge=1, description="bad steps (not finite, or loss spikes) after which to go back; null: never"
    )
    rollback_window: int = Field(default=30, ge=1, description="steps among which those count as repeated")
    max_rollbacks: int = Field(default=3, ge=0, description="before the run ends with an error")
    shard: Literal["auto", "none", "grad", "full"] = Field(
        default="auto",
        description="what several processes share out: nothing, gradients and optimizer state, or weights too; "
        "auto: grad up to 2 billion weights, full beyond",
    )
    replicas: int | None = Field(
        default=None, ge=1, description="groups of processes that each hold the model; null: one a machine"
    )
    gc_every: int = Field(default=200, ge=1, description="steps between garbage collections")
    order_log: bool = Field(default=False, description="record what each process reads, in order/")
    # Not among what a resumed run must share, nor in the manifest: the log's "start" records hold it.
    watch: WatchSettings = Field(default=WatchSettings(), exclude=True)
    launch: LaunchSettings = Field(default=LaunchSettings(), exclude=True)


class PretrainSettings(RunSettings):
    """Next-token pretraining on a corpus folder."""

    model: ModelSettings | str = "lang1-nano"
    tokens: int = Field(default=1_500_000, ge=1, description="training tokens, rounded up to whole steps")
    sequence_length: int = Field(default=1_024, ge=16)
    sequences_per_step: int = Field(default=8, ge=1, description="rows of one optimizer step (the global batch)")
    weights: dict[str, float] | None = Field(
        default=None, description="mixture of sources; null takes the corpus's own"
    )
    mixture: tuple[MixturePoint, ...] = Field(
        default=(), description="weights that change over the training, linear between the points; instead of weights"
    )
    epochs_cap: dict[str, float] = Field(
        default={}, description="most epochs of a source; its share then goes to the others"
    )
    loss_sigma: float | None = Field(
        default=6.0,
        gt=0,
        description="a step whose loss lies further above its mean is skipped; null: not judged",
    )
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    validate_every: int = Field(default=100, ge=1, description="steps; the last step is always validated")
    validation_tokens: int = Field(default=16_384, ge=0, description="held-out tokens a source; 0 does not validate")


class SearchSettings(Settings):
    """A short search of the learning rate, log-uniform; 0 trials keeps the one that is set."""

    trials: int = Field(default=0, ge=0)
    steps: int = Field(default=40, ge=1, description="of each trial, under the whole run's schedule up to there")
    low: float = Field(default=3e-4, gt=0)
    high: float = Field(default=1e-2, gt=0)
    sampler: Literal["random", "tpe"] = Field(
        default="random", description="random draws, or Optuna's TPE, which needs the extra 'search'"
    )
    optuna: bool | None = Field(
        default=None,
        description="keep the trials in Optuna's journal too, the draws being the same; null: where it is installed",
    )
    prune_at: int | None = Field(
        default=None, ge=1, description="end a trial after so many steps if it is worse there than half of those before"
    )

    @model_validator(mode="after")
    def _ordered(self) -> SearchSettings:
        if self.high < self.low:
            raise ValueError(f"high ({self.high}) must not be below low ({self.low})")
        if self.prune_at is not None and self.prune_at >= self.steps:
            raise ValueError(f"prune_at ({self.prune_at}) must come before a trial's last step ({self.steps})")
        return self


class LoraSettings(Settings):
    """Low-rank adapters beside frozen weights (Hu et al. 2021); defaults are those of arXiv 2511.13703, section 7."""

    r: int = Field(default=8, ge=1, description="rank")
    alpha: float = Field(default=16.0, gt=0, description="the product is scaled by alpha / r")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="on the adapters' input, in training only")
    targets: tuple[str, ...] = Field(
        default=("q_proj", "v_proj"), min_length=1, description="names of the linear maps that get one, in every layer"
    )
    frozen: Literal["auto", "fp32"] = Field(
        default="auto", description="format of the frozen weights while training; auto: that of the products"
    )


# The finetuning of arXiv 2511.13703 as its section 7 states it, as defaults under `base: paper`. What it leaves open
# (batch of 64, loss on the letter alone, validation every 100 steps) is this project's choice.
PAPER: dict[str, Any] = {
    "sampling": "questions",
    "questions_per_step": 64,
    "steps_per_task": 5_120,
    "note_budget": 512,
    "truncation": "head",
    "loss": "letters",
    "optimizer": {
        "kind": "adamw",
        "lr": 3e-5,
        "betas": (0.9, 0.999),
        "eps": 1e-5,
        "weight_decay": 0.02,
        "clip": None,
    },
    "schedule": {"warmup": 0.0, "final": 0.0},
    "validate_every": 100,
    "validation_notes": None,
    "validation_average": "micro",
    "patience": 3,
    "lr_search": {"trials": 5, "steps": 100, "low": 1e-6, "high": 1e-3, "sampler": "random"},
}


class FinetuneSettings(RunSettings):
    """Finetuning on the questions of a benchmark, one task or several jointly."""

    base: Literal["project", "paper"] = Field(
        default="project", description="which defaults hold where nothing is set: this project's, or the paper's"
    )
    tasks: list[str] | None = Field(default=None, description="null: all of the benchmark's, jointly, weighted evenly")
    epochs: float = Field(default=1.0, gt=0, description="passes over the training notes, or over their questions")
    steps: int | None = Field(default=None, ge=1, description="instead of epochs")
    steps_per_task: int | None = Field(
        default=None, ge=1, description="instead of epochs: so many steps times the number of tasks"
    )
    sampling: Literal["notes", "questions"] = Field(
        default="notes",
        description="what a step draws: notes with all of their questions, tasks balanced by weights; or questions, "
        "each task its share of them",
    )
    notes_per_step: int = Field(
        default=32, ge=1, description="notes of one optimizer step, each with all of its questions"
    )
    questions_per_step: int = Field(default=64, ge=1, description="the same where questions are drawn")
    temperature: float | None = Field(
        default=None, ge=1, description="T: a task counts as its questions^(1/T); 1 by size; null T = infinity, evenly"
    )
    max_notes: int | None = Field(default=None, ge=1, description="train on a random subset of the notes")
    note_budget: int = Field(default=512, ge=1, description="tokens of a note; the question is never cut")
    truncation: Policy = Field(
        default="head", description="part of a long note that stays: head, tail, head+tail, sections or sections:NAME,…"
    )
    loss: Literal["vocabulary", "letters"] = Field(
        default="vocabulary",
        description="cross-entropy of the letter over the whole vocabulary, or among the options alone",
    )
    balance: Balance = Field(
        default="count", description="tasks weigh alike by their questions, or by the loss of knowing only class shares"
    )
    note_loss: float = Field(default=0.0, ge=0, description="weight of an auxiliary next-token loss on the note")
    oversample: float = Field(
        default=1.0, ge=1, description="how often a note with a rare outcome is visited, in training only"
    )
    rare_below: float = Field(default=0.1, gt=0, lt=1, description="an outcome is rare below this share")
    optimizer: OptimizerSettings = OptimizerSettings(lr=1e-3, weight_decay=0.02)
    schedule: ScheduleSettings = ScheduleSettings(warmup=0.05, final=0.0)
    lora: LoraSettings | None = Field(default=None, description="train low-rank adapters instead of all weights")
    validate_every: int = Field(default=100, ge=1, description="steps; the last step is always validated")
    validation_notes: int | None = Field(
        default=1_000, ge=1, description="a random subset of the validation notes; null: all"
    )
    validation_average: Literal["macro", "micro"] = Field(
        default="macro", description="how a task of several classes is judged: mean over its classes, or all pooled"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many validations without a better AUROC"
    )
    task_patience: int | None = Field(
        default=None,
        ge=1,
        description="a task leaves the loss after so many validations without a better AUROC of its own",
    )
    task_best: bool = Field(
        default=False, description="also keep the weights of each task's own best validation, as OUT/best/TASK"
    )
    min_cases: int = Field(default=5, ge=1, description="classes with fewer validation cases are left out of the AUROC")
    lr_search: SearchSettings = SearchSettings()
    # Where encoded notes lie changes nothing about a run.
    encoded: Path | None = Field(
        default=None,
        exclude=True,
        description="folder that keeps encoded notes for other runs, such as seeds; it holds patients' text as tokens",
    )
    seeds: list[int] | None = Field(
        default=None, min_length=1, description="one run a seed, side by side in OUT, and a summary"
    )

    @model_validator(mode="before")
    @classmethod
    def _on_the_base(cls, values: Any) -> Any:
        """Put the paper's settings under what was set, where they are asked for."""
        if not isinstance(values, dict) or values.get("base") != "paper":
            return values
        merged: dict[str, Any] = {**PAPER, **values}
        for name in ("optimizer", "schedule", "lr_search"):
            if isinstance(merged[name], dict):
                merged[name] = {**PAPER[name], **merged[name]}
        if values.get("steps") is not None or "epochs" in values:  # another length was asked for
            merged["steps_per_task"] = values.get("steps_per_task")
        return merged

    @model_validator(mode="after")
    def _one_length(self) -> FinetuneSettings:
        if self.steps is not None and self.steps_per_task is not None:
            raise ValueError("steps and steps_per_task: set one of them")
        if self.sampling == "questions" and self.oversample > 1:
            raise ValueError("oversample: it visits notes more often, so it needs sampling=notes")
        return self
