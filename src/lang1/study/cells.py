"""What a predictions folder of a study stands for: how its model was made, and on whom it was judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lang1.common.settings import Settings

Role = Literal["specialist", "twin", "generalist", "baseline", "oracle"]


class Cell(Settings):
    """One predictions folder of a study. Cells that differ in step, seed and labels drawn alone repeat one thing.

    What tells cells apart is what analyses ask about; each reads the fields that it needs and nothing from names.
    """

    step: str = Field(description="name of the step that wrote the predictions")
    label: str = Field(description="name that a reader sees, without the seed")
    role: Role
    regime: Literal["zero-shot", "few-shot", "finetuned", "joint", "baseline", "oracle"]
    benchmark: str = Field(description="name of the step of the benchmark that it answers")
    tested_on: str = Field(description="health system of that benchmark")
    trained_on: tuple[str, ...] = Field(default=(), description="health systems whose labels it learned from")
    pretrained_on: tuple[str, ...] = Field(default=(), description="health systems whose notes it was pretrained on")
    model: str = Field(default="", description="model size by its name in the grid, or generalist or baseline by name")
    parameters: int | None = None
    corpus: str = Field(default="", description="pretraining mixture by its name in the grid; empty: none of ours")
    tokens: int | None = Field(default=None, description="pretraining tokens behind it; null: the whole pretraining")
    tasks: tuple[str, ...] = Field(default=(), description="tasks that it was finetuned on; empty: not finetuned")
    notes: int | None = Field(default=None, description="notes that it was finetuned on; null: all")
    labels: int | None = Field(default=None, description="of each of these tasks, on average; found in its model")
    seed: int | None = None
    design: str = Field(
        default="grid",
        description="the part of the study that it belongs to: grid (main tables), single (one task alone), "
        "trajectory, budget (checkpoint × finetuning notes), efficiency, twins, seen, systems, swaps, longitudinal",
    )
    variant: str = Field(default="", description="within its part: what was swapped, which input, which policy")
    budget: int | None = Field(default=None, description="longitudinal: tokens of the input")
    limit: int | None = Field(
        default=None, description="examples a task and split that it was asked, the first of all; null: all"
    )

    @property
    def group(self) -> Cell:
        """The cell without what tells repeats apart."""
        return self.model_copy(update={"step": "", "seed": None, "labels": None})
