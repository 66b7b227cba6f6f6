"""The contract of ``results.json`` as pydantic models: what a report may be drawn from.

Unknown extra fields are let through, so that a later writer of version 1 may add to the file; wrong types,
missing lists and curves whose axes differ in length are refused with one line that names the place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.common.predictions import REGIMES

VERSION = 1


def _finite(value: Any) -> Any:
    """NaN and infinities mean "not known", as null does."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> Any:
    """A class may be written as an index; it is a name here."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _count(value: Any) -> Any:
    value = _finite(value)
    return int(value) if isinstance(value, float) and value == int(value) else value


def _regime(value: Any) -> Any:
    if value not in REGIMES:
        raise ValueError(f"expected one of {', '.join(REGIMES)}")
    return value


Number = Annotated[StrictFloat | None, BeforeValidator(_finite)]
Count = Annotated[StrictInt | None, BeforeValidator(_count)]
Name = Annotated[str | None, BeforeValidator(_text)]
Regime = Annotated[str, BeforeValidator(_regime)]


class Part(BaseModel):
    """Base of the file's parts: read-only, extra fields let through."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True, protected_namespaces=())


class Data(Part):
    """A source of records. ``period`` is optional: the years that the test examples come from, in words."""

    name: str
    real: bool
    description: str = ""
    licence: str | None = None
    patients: Count = None
    encounters: Count = None
    notes: Count = None
    time_basis: str | None = None
    period: str | None = None


class Task(Part):
    """A task with its question exactly as asked. ``headline_split`` is the split of the main table."""

    task: str
    title: str = ""
    question: str = ""
    options: list[str] = []
    note_type: str | None = None
    definition: str = ""
    headline_split: str | None = None
    caveat: str | None = None


class Row(Part):
    """One number: a metric of a model on a task and split, or a paired difference where ``versus`` is set.

    Rows that ask a question hold ``p``, its value corrected for the ``family`` (how many were asked) and how
    (``correction``: holm or bh). ``reference`` names the stratum that a gap is measured from.
    """

    task: str
    model: str
    regime: Regime
    metric: str
    value: Number = None
    low: Number = None
    high: Number = None
    n: Count = None
    events: Count = None
    split: str | None = None
    stratum: str | None = None
    class_: Name = Field(default=None, alias="class")
    versus: str | None = None
    seed: Count = None
    note: Name = None
    p: Number = None
    p_adjusted: Number = None
    correction: str | None = None
    family: Count = None
    reference: str | None = None


class Operating(Part):
    """What a threshold of one model means; ``at`` is the alert rate or threshold (``kind``) that was asked for."""

    task: str
    model: str
    regime: Regime
    split: str | None = None
    kind: str
    at: float
    threshold: Number = None
    alerts_per_100: Number = None
    alerts_per_day: Number = None
    sensitivity: Number = None
    sensitivity_low: Number = None
    sensitivity_high: Number = None
    specificity: Number = None
    ppv: Number = None
    ppv_low: Number = None
    ppv_high: Number = None


class Recalibrated(Part):
    """A figure on the headline split before and after a map that was fitted on validation."""

    task: str
    model: str
    regime: Regime
    method: str
    metric: str
    before: Number = None
    after: Number = None
    fitted_on: Count = None


class Stratum(Part):
    """A stratum that could not be judged, and why."""

    task: str
    model: str
    stratum: str
    n: Count = None
    events: Count = None
    reason: str = ""


class Family(Part):
    """How many p-values were corrected together; ``below`` of them stay below 0.05."""

    family: str
    correction: str
    size: int
    below: int


class Curve(Part):
    """A ROC curve (x: false, y: true positive rate), a calibration curve (x: predicted, y: observed, n: rows) or a
    decision curve (x: threshold, y: net benefit)."""

    task: str
    model: str
    regime: Regime
    split: str | None = None
    kind: Literal["roc", "calibration", "net_benefit"]
    class_: Name = Field(default=None, alias="class")
    x: list[Number]
    y: list[Number]
    n: list[Count] | None = None

    @model_validator(mode="after")
    def _same_length(self) -> Curve:
        if len(self.x) != len(self.y) or (self.n and len(self.n) != len(self.x)):
            raise ValueError("x, y and n must be equally long")
        return self


class Attrition(Part):
    """What remains of a task's rows after a rule."""

    task: str
    order: int
    rule: str
    rows: Count = None
    patients: Count = None
    outcomes: Count = None


class Share(Part):
    """How often a class occurs in a split; ``share`` lies in [0, 1]."""

    task: str
    split: str
    class_: Name = Field(default=None, alias="class")
    label: Name = None
    n: Count = None
    share: Number = None


class Learning(Part):
    """A metric over tokens or steps of one training run."""

    run: str
    stage: str = ""
    metric: str
    unit: str = "tokens"
    x: list[Number]
    y: list[Number]

    @model_validator(mode="after")
    def _same_length(self) -> Learning:
        if len(self.x) != len(self.y):
            raise ValueError("x and y must be equally long")
        return self


class Cost(Part):
    """What a step took: parameters, tokens read, wall-clock seconds, device."""

    step: str
    model: str | None = None
    parameters: Count = None
    tokens: Count = None
    seconds: Number = None
    device: str | None = None


class Warn(Part):
    """A remark of the evaluation; ``warn`` ones are shown in a banner."""

    level: Literal["info", "warn"] = "info"
    text: str


class Results(Part):
    """The whole of ``results.json``. ``splits`` is optional: a description of each split in words."""

    lang1_results: Literal[1]
    title: str
    subtitle: str = ""
    data: list[Data] = []
    tasks: list[Task] = []
    rows: list[Row]
    curves: list[Curve] = []
    operating: list[Operating] = []
    recalibration: list[Recalibrated] = []
    strata_left_out: list[Stratum] = []
    families: list[Family] = []
    attrition: list[Attrition] = []
    shares: list[Share] = []
    learning: list[Learning] = []
    cost: list[Cost] = []
    settings: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    versions: dict[str, str] = {}
    warnings: list[Warn] = []
    splits: dict[str, str] = {}


def read_results(results: dict[str, Any] | Path) -> dict[str, Any]:
    """The JSON object of a results file, or the object itself.

    Raises:
        ArtefactError: the file is missing, not JSON, or holds something else than an object.
    """
    value = read_json(Path(results)) if isinstance(results, str | Path) else results
    if not isinstance(value, dict):
        raise ArtefactError(f"{_source(results)}: expected a results object, found a {type(value).__name__}.")
    return value


def validate_results(results: dict[str, Any] | Path) -> Results:
    """Check a ``results.json`` (or its content) against the contract of docs/architecture.md.

    Raises:
        ArtefactError: one line that names the file and the first wrong place.
    """
    source, value = _source(results), read_results(results)
    found = value.get("lang1_results")
    if found is None:
        raise ArtefactError(
            f"{source}: no 'lang1_results' in it, so not a results file; give one made by lang1 evaluate."
        )
    if found != VERSION:
        raise ArtefactError(f"{source}: results version {found!r}, this lang1 reads {VERSION}; evaluate again.")
    try:
        return Results.model_validate(value)
    except ValidationError as error:
        raise ArtefactError(f"{source}: {_explain(error)}; the file is damaged, evaluate again.") from error


def _source(results: dict[str, Any] | Path) -> str:
    return str(results) if isinstance(results, str | Path) else "results.json"


def _explain(error: ValidationError) -> str:
    first, more = error.errors()[0], len(error.errors()) - 1
    where = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "missing" else f", got {str(first.get('input'))[:60]!r}"
    return f"{where}: {first['msg']}{given}" + (f" (and {more} more)" if more else "")
