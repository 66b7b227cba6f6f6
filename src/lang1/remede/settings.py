"""Settings of a benchmark: which tasks, which calendar, how patients are split."""

from __future__ import annotations

import itertools
from datetime import date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, read_yaml, validate_settings
from lang1.remede.names import CARDS, check_known
from lang1.remede.names import TASKS as TASKS

SPLITS = ("train", "val", "test", "test_older", "test_newest")
CALENDARS = CARDS / "calendars.yaml"
Policy = Literal["patients-apart", "time-only"]


class Block(Settings):
    """A period of encounter ends; both days belong to it."""

    start: date
    end: date

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"ends on {self.end}, before it starts on {self.start}")
        return self

    @property
    def begins(self) -> datetime:
        """The first moment of the block."""
        return datetime.combine(self.start, time())

    @property
    def closes(self) -> datetime:
        """The first moment after the block."""
        return datetime.combine(self.end + timedelta(days=1), time())


class Fractions(Settings):
    """Shares of train, val and test; they sum to 1."""

    train: float = Field(gt=0, le=1)
    val: float = Field(ge=0, lt=1)
    test: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError(f"train + val + test is {self.train + self.val + self.test:g}, expected 1")
        return self

    def fold(self, unit: float) -> str:
        """The fold of a number in [0, 1)."""
        return "train" if unit < self.train else "val" if unit < self.train + self.val else "test"


PATIENT_FRACTIONS = Fractions(train=0.72, val=0.08, test=0.20)


class Blocks(Settings):
    """The blocks of a task, in the order of time: one shared by train, val and test, then the temporal tests."""

    train: Block
    test_older: Block | None = None
    test_newest: Block | None = None
    fractions: Fractions | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        named = list(self.named().items())
        for (earlier, first), (later, then) in itertools.pairwise(named):
            if then.start <= first.end:
                raise ValueError(f"{later} starts on {then.start}, before {earlier} ends on {first.end}")
        return self

    def named(self) -> dict[str, Block]:
        """The blocks that there are, by name, in the order of time."""
        blocks = {"train": self.train, "test_older": self.test_older, "test_newest": self.test_newest}
        return {name: block for name, block in blocks.items() if block is not None}


class Calendar(Blocks):
    """The blocks of all tasks, with overrides by task."""

    tasks: dict[str, Blocks] = {}

    def of(self, task: str) -> Blocks:
        """The blocks of a task."""
        return self.tasks.get(task, self)


# Tagged, so that an error in one's own blocks names the field and not that it is no preset.
PresetOrBlocks = Annotated[
    Annotated[str, Tag("preset")] | Annotated[Calendar, Tag("blocks")],
    Discriminator(lambda value: "preset" if isinstance(value, str) else "blocks"),
]


class BuildSettings(Settings):
    """How a benchmark is built from records.

    Attributes:
        tasks: which tasks, of the shipped cards and those in ``card_dir``; null for all of the five (``TASKS``) that
            the records support.
        calendar: a preset (``paper``, ``demo``), blocks of one's own, or null for no time blocks. Only records with
            ``time_basis: calendar`` can be cut by time; for others there are no blocks.
        policy: ``patients-apart`` keeps each patient in one fold; ``time-only`` splits the train period by encounter
            and lets a temporal test hold patients of the training set (the reference paper's way).
        salt: changes the assignment of patients.
        fractions: of patients (or, time-only, of encounters) in train, val and test; null for 0.72/0.08/0.20
            (time-only: those of the calendar, else the same).
        max_examples: at most about so many stays in a split: patients in the order of a hash, the last one whole.
        fit_cut_points: bins of multiclass tasks from quantiles of this site's train split.
        cut_points_from: a benchmark of another site whose bins are used.
        card_dir: a folder of ``TASK.yaml`` files that edit the shipped cards or, under names of their own, add tasks.
        cards: the same edits in place, by task; they win over ``card_dir``.
    """

    tasks: tuple[str, ...] | None = None
    calendar: PresetOrBlocks | None = "paper"
    policy: Policy = "patients-apart"
    salt: str = "remede-1"
    fractions: Fractions | None = None
    max_examples: dict[str, int] = {}
    fit_cut_points: bool = False
    cut_points_from: Path | None = None
    card_dir: Path | None = None
    cards: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        calendars = self.calendar.tasks if isinstance(self.calendar, Calendar) else {}
        for task in (*(self.tasks or ()), *self.cards, *calendars):
            check_known(task, self.card_dir)
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("tasks: name each task once, and at least one; null stands for all")
        for split, most in self.max_examples.items():
            if split not in SPLITS or most < 1:
                raise ValueError(f"max_examples '{split}: {most}': expected one of {', '.join(SPLITS)} and 1 or more")
        if self.fit_cut_points and self.cut_points_from is not None:
            raise ValueError("fit_cut_points and cut_points_from exclude each other")
        if isinstance(self.calendar, str) and self.calendar not in presets():
            raise ValueError(f"unknown calendar '{self.calendar}'; presets are {', '.join(presets())}")
        return self

    def blocks(self) -> Calendar | None:
        """The calendar as blocks, or none."""
        return presets()[self.calendar] if isinstance(self.calendar, str) else self.calendar

    def fractions_of(self, task: str | None) -> Fractions:
        """The fractions in force: the settings' own, else (time-only) the calendar's, else the default."""
        if self.fractions is not None:
            return self.fractions
        calendar = self.blocks()
        if self.policy == "time-only" and calendar is not None:
            blocks = calendar.of(task) if task else calendar
            return blocks.fractions or calendar.fractions or PATIENT_FRACTIONS
        return PATIENT_FRACTIONS


@cache
def presets() -> dict[str, Calendar]:
    """The calendars that come with the package, by name."""
    return {name: validate_settings(Calendar, value, CALENDARS.name) for name, value in read_yaml(CALENDARS).items()}


def check_path(path: Path | None, what: str) -> None:
    """Refuse a path that is not there.

    Raises:
        SettingsError: it does not exist.
    """
    if path is not None and not path.exists():
        raise SettingsError(f"{what}: {path} does not exist.")
