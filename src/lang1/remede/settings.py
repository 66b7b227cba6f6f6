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

SPLITS = ("train", "val", "test", "test_older", "test_newest", "held_out_site")
# The fold and the split of patients of sites that are held out.
HELD_OUT_SITE = "held_out_site"
CALENDARS = CARDS / "calendars.yaml"
Policy = Literal["patients-apart", "time-only", "random"]


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
        """The blocks of a task; a variant (``insurance_denial_final``) has those of the task its name begins with."""
        named = [name for name in self.tasks if task == name or task.startswith(f"{name}_")]
        return self.tasks[max(named, key=len)] if named else self


class NewestBlock(Settings):
    """A calendar that follows from the records: their newest part is ``test_newest``, what lies before it is train.

    The newest part reaches up to the last moment through which the records are complete; between the two lies the
    longest horizon of the tasks.

    Attributes:
        last_months: how many months it holds; null for ``last_share``.
        last_share: its share of the records' time span, from the first of a month.
        least_months: under ``last_share``, the fewest months that each task can be labelled in.
    """

    last_months: int | None = Field(default=None, ge=1)
    last_share: float = Field(default=0.2, gt=0, lt=1)
    least_months: int = Field(default=3, ge=1)


def _kind_of_calendar(value: Any) -> str:
    if isinstance(value, str):
        return "preset"
    newest = isinstance(value, NewestBlock) or (isinstance(value, dict) and not value.keys().isdisjoint(_NEWEST))
    return "newest" if newest else "blocks"


_NEWEST = frozenset(NewestBlock.model_fields)

# Tagged, so that an error in one's own blocks names the field and not that it is no preset.
PresetOrBlocks = Annotated[
    Annotated[str, Tag("preset")] | Annotated[NewestBlock, Tag("newest")] | Annotated[Calendar, Tag("blocks")],
    Discriminator(_kind_of_calendar),
]


class BuildSettings(Settings):
    """How a benchmark is built from records.

    Attributes:
        tasks: which tasks, of the shipped cards and those in ``card_dir``; null for all of the five (``TASKS``) that
            the records support.
        calendar: a preset (``paper``, ``demo``, ``auto``), blocks of one's own, ``last_months`` of the records, or null
            for no time blocks. Only records with true dates or true years can be cut by time; for others there are
            no blocks.
        policy: ``patients-apart`` keeps each patient in one fold; ``time-only`` splits the train period by encounter
            and lets a temporal test hold patients of the training set (the reference paper's way); ``random`` splits
            patients by hash and takes no account of time.
        salt: changes the assignment of patients, and of sites by ``held_out_site_fraction``.
        held_out_sites: facilities that no model may learn from; their encounters form the split ``held_out_site``.
        held_out_site_fraction: the same for a share of the facilities, by a salted hash of their names.
        fractions: of patients (or, time-only, of encounters) in train, val and test; null for 0.72/0.08/0.20
            (time-only: those of the calendar, else the same).
        max_examples: at most about so many stays in a split: patients in the order of a hash, the last one whole.
        fit_cut_points: bins of multiclass tasks from quantiles of this site's train split.
        cut_points_from: a benchmark of another site whose bins are used.
        mark_unsupported: tasks (or ``all``) to build although the records do not support them; the reason then stands
            in the manifest and on every report of the task.
        card_dir: a folder of ``TASK.yaml`` files that edit the shipped cards or, under names of their own, add tasks.
        cards: the same edits in place, by task; they win over ``card_dir``.
    """

    tasks: tuple[str, ...] | None = None
    calendar: PresetOrBlocks | None = "paper"
    policy: Policy = "patients-apart"
    salt: str = "remede-1"
    held_out_sites: tuple[str, ...] = ()
    held_out_site_fraction: float | None = Field(default=None, gt=0, lt=1)
    fractions: Fractions | None = None
    max_examples: dict[str, int] = {}
    fit_cut_points: bool = False
    cut_points_from: Path | None = None
    mark_unsupported: tuple[str, ...] | Literal["all"] = ()
    card_dir: Path | None = None
    cards: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        calendars = self.calendar.tasks if isinstance(self.calendar, Calendar) else {}
        marked = () if self.mark_unsupported == "all" else self.mark_unsupported
        for task in (*(self.tasks or ()), *self.cards, *calendars, *marked):
            check_known(task, self.card_dir)
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError("tasks: name each task once, and at least one; null stands for all")
        if self.held_out_sites and self.held_out_site_fraction is not None:
            raise ValueError("held_out_sites and held_out_site_fraction exclude each other")
        for split, most in self.max_examples.items():
            if split not in SPLITS or most < 1:
                raise ValueError(f"max_examples '{split}: {most}': expected one of {', '.join(SPLITS)} and 1 or more")
        if self.fit_cut_points and self.cut_points_from is not None:
            raise ValueError("fit_cut_points and cut_points_from exclude each other")
        if isinstance(self.calendar, str) and self.calendar not in presets():
            raise ValueError(f"unknown calendar '{self.calendar}'; presets are {', '.join(presets())}")
        return self

    def blocks(self) -> Calendar | NewestBlock | None:
        """The calendar: as blocks, as a rule to find them in the records, or none."""
        if self.policy == "random":
            return None
        return presets()[self.calendar] if isinstance(self.calendar, str) else self.calendar

    def fractions_of(self, task: str | None) -> Fractions:
        """The fractions in force: the settings' own, else (time-only) the calendar's, else the default."""
        if self.fractions is not None:
            return self.fractions
        calendar = self.blocks()
        if self.policy == "time-only" and isinstance(calendar, Calendar):
            blocks = calendar.of(task) if task else calendar
            return blocks.fractions or calendar.fractions or PATIENT_FRACTIONS
        return PATIENT_FRACTIONS


@cache
def presets() -> dict[str, Calendar | NewestBlock]:
    """The calendars that come with the package, by name."""
    kinds: dict[str, type[Calendar] | type[NewestBlock]] = {"blocks": Calendar, "newest": NewestBlock}
    return {
        name: validate_settings(kinds[_kind_of_calendar(value)], value, CALENDARS.name)
        for name, value in read_yaml(CALENDARS).items()
    }


def check_path(path: Path | None, what: str) -> None:
    """Refuse a path that is not there.

    Raises:
        SettingsError: it does not exist.
    """
    if path is not None and not path.exists():
        raise SettingsError(f"{what}: {path} does not exist.")
