"""The designs that a study's grid can ask for, each a question of the paper or one that it left open."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from lang1.common.settings import Settings

# Becomes part of folder names and of overrides.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9+_-]*$")]
Notes = Annotated[int, Field(ge=1)] | None
Across = Literal["away", "pooled", "leave-one-out", "size-matched"]


class Design(Settings):
    """What designs share."""

    seeds: list[int] | None = Field(default=None, min_length=1, description="of finetuning; null: the grid's")
    finetune: dict[str, Any] = Field(default={}, description="over the grid's `finetune`")
    evaluate: dict[str, Any] = Field(default={}, description="over the grid's `evaluate_others`")


class OneModel(Design):
    """A design about one pretrained model."""

    corpus: str | None = Field(default=None, description="null: that of the main model")
    model: str | None = Field(default=None, description="null: that of the main model")


class Joint(Design):
    """Finetuned on all tasks of home's benchmark."""

    models: dict[str, list[str]] | None = Field(
        default=None, description="sizes by mixture; null: everything that is pretrained"
    )
    notes: Notes = Field(default=None, description="notes that each is finetuned on; null: all")
    main_notes: Notes | Literal["same"] = Field(
        default="same", description="the main model also on so many (null: all); 'same': no other run of it"
    )


class Single(OneModel):
    """Finetuned on one task alone and scored on all: the rows of the transfer matrix."""

    tasks: list[str] | None = Field(
        default=None, description="null: those that the benchmark's settings name, else the five"
    )
    notes: Notes = Field(default=None, description="notes that each is finetuned on; null: all")


class Trajectory(OneModel):
    """Milestones of one pretraining."""

    milestones: int = Field(default=5, ge=2, description="how many, at even distances; the last is the finished model")


class Budget(OneModel):
    """Milestones of the trajectory × finetuning notes: where a fixed budget is spent best."""

    at: list[int] | None = Field(default=None, description="which milestones, from 1; null: all")
    notes: list[Notes] = Field(min_length=1, description="finetuning notes; null among them: all")


class Efficiency(Design):
    """Finetuned on nested sets of notes."""

    notes: list[Notes] = Field(min_length=1, description="sizes; null among them: all")
    models: dict[str, list[str]] | None = Field(default=None, description="sizes by mixture; null: the main model")
    generalists: list[str] | None = Field(default=None, description="null: every one that is finetuned; []: none")


class Twins(Design):
    """Two mixtures, the same size, tokens and tokenizer, finetuned on the same nested sets."""

    general: str = Field(description="the mixture of general text alone")
    clinical: str = Field(description="the mixture with clinical text")
    models: list[str] | None = Field(default=None, description="sizes; null: the main model's")
    notes: list[Notes] = Field(default=[None], min_length=1, description="sizes; null among them: all")
    pretrain_again: bool = Field(
        default=False, description="a pretraining of its own for each seed, so that the interval holds its luck too"
    )


class Seen(OneModel):
    """A benchmark split by time alone, whose temporal test holds patients of the training set.

    A mixture without patients is finetuned there as it is; of another one a corpus is made anew against this benchmark
    and pretrained on, since the main corpus holds patients whom it holds out.
    """

    benchmark: dict[str, Any] = Field(default={}, description="over the home's benchmark; the policy is time-only")
    notes: Notes = Field(default=None, description="notes that it is finetuned on; null: all")


class Systems(OneModel):
    """Trained at one health system, tested at each."""

    notes: Notes = Field(default=None, description="notes at each health system, and of the pool; null: all")
    pretrain: Literal["own", "home"] = Field(
        default="own", description="each pretrained on notes of its own, or all finetuned from home's model"
    )
    variants: list[Across] = Field(
        default=["away", "pooled", "leave-one-out", "size-matched"],
        description="away: each tested at the others; pooled: trained on all; leave-one-out: on all but the tested one "
        "(from three systems on); size-matched: home's model on as many notes as the smallest system has (`matched`)",
    )
    matched: Notes = Field(default=None, description="notes of the size-matched control; null: no such control")


class Swapped(Settings):
    """A copy of home in which one component is another one."""

    records: str
    truth: str | None = None


class Swaps(Design):
    """Home's main model, tested on copies of home."""

    systems: dict[Name, Swapped] = Field(min_length=1, description="by what was swapped: style, coding, case-mix, …")


class Input(Settings):
    """What is read: the benchmark whose cards compose it."""

    benchmark: dict[str, Any] = Field(default={}, description="over the home's: cards and tasks")
    budgets: list[int] | None = Field(default=None, description="tokens of the input; null: those of the design")
    truth: str | None = Field(default=None, description="true risks given this input; null: those of the design")


class Longitudinal(OneModel):
    """The same questions asked of one note and of several, by token budget."""

    records: str | None = Field(
        default=None, description="other records of home's patients under their ids, with daily notes; null: home's"
    )
    truth: str | None = Field(default=None, description="true risks of these records; null: home's, of home's records")
    inputs: dict[Name, Input] = Field(min_length=1, description="by name: note, chart, …")
    budgets: list[int] = Field(default=[512], min_length=1, description="tokens of the input")
    notes: Notes = Field(default=None, description="inputs that each is finetuned on; null: all")
    baselines: list[str] = []
