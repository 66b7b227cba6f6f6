"""The contract of ``study.json``: what a study found, analysis by analysis, and all that its report is drawn from.

An analysis is one question with its tables, figures and one sentence; each cell that is a number brings its interval,
and beside it the figure of the Lang1 paper where one is known. Files of this form are written by ``study/analyse.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.reporting.schema import Data, Number, Task

VERSION = 1


class StudyPart(BaseModel):
    """Base of the file's parts: read-only, unknown fields refused, since writer and reader are one package."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Value(StudyPart):
    """A number with what is known about it.

    Attributes:
        value: null where it cannot be told; ``note`` then says why.
        low, high: of the 95 % interval.
        paper: the Lang1 paper's figure for the same thing, in the same unit.
        n: examples.
        events: cases of the positive class; null for tasks of several classes.
        seeds: trainings that the number is a mean over.
        p: that a difference is 0; ``p_adjusted`` after correction over the analysis's family.
        note: one short remark.
    """

    value: Number = None
    low: Number = None
    high: Number = None
    paper: Number = None
    n: int | None = None
    events: int | None = None
    seeds: int | None = None
    p: Number = None
    p_adjusted: Number = None
    note: str | None = None


def _as_value(cell: Any) -> Any:
    return {"value": float(cell)} if isinstance(cell, int | float) and not isinstance(cell, bool) else cell


Cell = Annotated[Value | str | None, BeforeValidator(_as_value)]


class Column(StudyPart):
    """A column of a table.

    Attributes:
        key: name in the rows and in the CSV.
        label: head, short.
        kind: how its cells are shown. auroc: three digits and interval; share: per cent; difference: signed, with
            interval and p; count: whole; money: currency of the table's unit; number: plain; text.
        help: a sentence for the head's tooltip, or empty.
    """

    key: str
    label: str
    kind: Literal["text", "auroc", "share", "difference", "count", "money", "number"] = "text"
    help: str = ""


class Table(StudyPart):
    """A table; ``rows`` map column keys to cells, absent ones are empty."""

    id: str
    title: str
    columns: list[Column]
    rows: list[dict[str, Cell]]
    unit: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _known_columns(self) -> Table:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError(f"table '{self.id}': a column is there twice")
        for row in self.rows:
            for key in row:
                if key not in keys:
                    raise ValueError(f"table '{self.id}': a row has '{key}', which is no column")
        return self


class Point(StudyPart):
    """A point of a figure; ``x`` is a number, or a name on an axis of names."""

    x: float | str
    y: Number
    low: Number = None
    high: Number = None
    label: str = ""


class Series(StudyPart):
    """A line, or one kind of marks. ``role`` gives its colour, the same all over the report."""

    name: str
    role: Literal["specialist", "self", "generalist", "baseline", "oracle", "paper"] = "specialist"
    points: list[Point]


class Axis(StudyPart):
    """An axis: what it shows and how it is scaled; ``names`` in their order where it shows names."""

    label: str
    scale: Literal["linear", "log", "names"] = "linear"
    names: list[str] = []


class Figure(StudyPart):
    """A figure. matrix: ``x`` and each point's ``label`` name column and row, ``y`` is the value shown in the cell."""

    id: str
    kind: Literal["lines", "scatter", "bars", "forest", "matrix"]
    title: str
    x: Axis
    y: Axis
    series: list[Series]
    lines: dict[str, float] = Field(default={}, description="horizontal reference lines by name, such as chance: 0.5")
    note: str = ""


class Analysis(StudyPart):
    """One question that a study answers.

    Attributes:
        id: name in file names and links, e.g. ``transfer``.
        title: heading.
        question: what it answers, one sentence.
        sentence: what it says, one plain sentence made from the numbers.
        verdict: what the sentence rests on: clear, mixed, undecided (intervals hold 0), or none asked.
        caveats: what a reader must know before believing it.
        paper: what the paper found, in our words, and where; empty where it has no such analysis.
    """

    id: str
    title: str
    question: str
    sentence: str
    verdict: Literal["clear", "mixed", "undecided", "none"] = "none"
    caveats: list[str] = []
    paper: str = ""
    tables: list[Table] = []
    figures: list[Figure] = []


class Claim(StudyPart):
    """A claim of the paper, and whether it holds on this data."""

    id: str
    claim: str
    verdict: Literal["holds", "does not hold", "undecided", "not examined"]
    evidence: str
    analysis: str = Field(default="", description="id of the analysis that holds the evidence")
    paper: str = ""


class CaseAnswer(StudyPart):
    """One model's answer to a case: ``probabilities`` in the order of the task's options."""

    model: str
    role: Literal["specialist", "self", "generalist", "baseline", "oracle"]
    probabilities: list[float]


class Case(StudyPart):
    """One example with its note, for the case browser. Of real patients only where the user asks for it."""

    example_id: str
    system: str
    task: str
    note: str
    question: str
    options: list[str]
    label: int
    answers: list[CaseAnswer]
    why: str = Field(default="", description="why it was chosen: e.g. sure and right, sure and wrong, models disagree")
    real: bool = Field(default=False, description="a real patient's: the report then says that it holds patients' text")


class Study(StudyPart):
    """The whole of ``study.json``."""

    lang1_study: int
    title: str
    subtitle: str = ""
    data: list[Data]
    tasks: list[Task]
    claims: list[Claim]
    analyses: list[Analysis]
    cases: list[Case] = []
    failed: list[str] = Field(default=[], description="steps that broke, with their error: what they made is missing")
    warnings: list[str] = []
    settings: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    versions: dict[str, str] = {}
    design: list[dict[str, Any]] = Field(default=[], description="what was trained and scored: one entry a cell")


def read_study(source: Path | dict[str, Any]) -> Study:
    """Read and check a study's file.

    Raises:
        ArtefactError: missing, or not of this form; names the place.
    """
    values = read_json(source) if isinstance(source, Path) else source
    where = str(source) if isinstance(source, Path) else "study"
    if not isinstance(values, dict) or values.get("lang1_study") != VERSION:
        raise ArtefactError(f"{where}: not a study of version {VERSION}; run `lang1 study` again.")
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtefactError(f"{where}: {place}: {first['msg']}; run `lang1 study` again.") from error
