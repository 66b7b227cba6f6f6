"""Prices, staff time and capacities that a study's costs are reckoned with: assumptions, each with a range.

``recipes/prices.yaml`` ships with the package; a study's ``grid.prices`` changes single figures, or names a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, load_settings, read_yaml
from lang1.study.recipes import recipe_path

FILE = "prices.yaml"
Side = Literal["low", "typical", "high"]


class Span(Settings):
    """A figure that nobody knows exactly: what it may be at least, what is reckoned with, what at most."""

    low: float = Field(ge=0)
    typical: float = Field(ge=0)
    high: float = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low <= self.typical <= self.high:
            raise ValueError(f"expected low ≤ typical ≤ high, found {self.low:g}, {self.typical:g}, {self.high:g}")
        return self


def _one_figure(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"low": value, "typical": value, "high": value}
    return value


def _within(low: float, high: float, what: str) -> AfterValidator:
    def check(span: Span) -> Span:
        if not (span.low > low and span.high <= high):
            raise ValueError(f"expected {what}")
        return span

    return AfterValidator(check)


Range = Annotated[Span, BeforeValidator(_one_figure)]
Positive = Annotated[Range, _within(0, float("inf"), "figures above 0")]
Shares = Annotated[Range, _within(0, 1, "shares above 0 and up to 1")]
Risks = Annotated[Range, _within(0, 1 - 1e-9, "risks between 0 and 1")]
Percents = Annotated[Range, _within(0, 100, "figures above 0 and up to 100")]
Hours = Annotated[Range, _within(-1, 24, "hours of a day, up to 24")]
Runs = Annotated[Range, _within(1 - 1e-9, float("inf"), "at least 1: the run that is kept is one of them")]


class Accelerator(Settings):
    """What models would be trained and served on at the hospital."""

    name: str = Field(description="as a reader sees it")
    peak_flops: float = Field(gt=0, description="dense bf16 floating-point operations a second")
    memory_gb: float = Field(gt=0, description="memory of one, which says how many a large model needs")
    hour: Range = Field(description="price of one for an hour, rented, or owned: purchase, power and room by the hour")


class Measured(Settings):
    """A training rate that was measured: which model, how fast, which share of the peak."""

    parameters: int = Field(gt=0, description="weights of the model, embeddings included")
    flops_per_token: float = Field(gt=0, description="6·N_matmul + 12·L·d·T of a training token")
    tokens_a_second: float = Field(gt=0, description="on one accelerator")
    mfu: float = Field(gt=0, lt=1, description="share of the accelerator's dense bf16 peak")


class Api(Settings):
    """A model asked over a paid interface."""

    million_in: Range = Field(description="price of a million prompt tokens")
    million_out: Range = Field(description="price of a million answer tokens")
    answer_tokens: float = Field(1.0, ge=0, description="answer tokens a question, where none were counted")
    show: bool = Field(True, description="reckon its cost where the study asked no such model: a cost without benefit")


class SetupHours(Settings):
    """Hours of staff until an option runs for the first time: data access, building, validation, approval."""

    baseline: Range = Field(description="rules and gradient boosting on fields")
    api: Range = Field(description="a paid interface, contract and security review included")
    zero_shot: Range = Field(description="a generalist on own machines, not finetuned")
    finetuned: Range = Field(description="a generalist finetuned on own labels")
    specialist: Range = Field(description="a specialist pretrained from scratch")
    continued: Range = Field(description="a generalist whose pretraining went on with own notes")


class Staff(Settings):
    """Staff time."""

    hour: Range = Field(description="cost of an hour of those who keep the models")
    setup_hours: SetupHours
    upkeep_hours: Range = Field(description="hours a model kept and year: monitoring, incidents, documentation")
    retrained_a_year: Range = Field(description="how often a year each trained model is finetuned (or fitted) anew")
    retraining_hours: Range = Field(description="hours a model and retraining: data, validation, approval")
    share_of_further_models: Range = Field(
        description="share of upkeep and retraining hours that each further model of the same making takes"
    )


class Acting(Settings):
    """What is done with the risks."""

    alerts_a_day: Positive | None = Field(
        None, description="alerts of a task a day that its team handles; wins over next"
    )
    alerts_per_100: Percents = Field(description="the same for each 100 encounters, where alerts a day are not given")
    threshold_risk: Risks = Field(
        description="risk from which on acting is worth it: odds at which false alerts weigh against true ones"
    )
    alert_cost: Range | None = Field(None, description="cost of handling one alert; null: no money is reckoned")
    true_alert_worth: dict[str, Range] = Field(
        {}, description="by task, worth of an alert that is right and acted on; absent: no money is reckoned"
    )

    @field_validator("true_alert_worth")
    @classmethod
    def _costed(cls, worth: dict[str, Span], info: ValidationInfo) -> dict[str, Span]:
        if worth and info.data.get("alert_cost") is None:
            raise ValueError("needs alert_cost beside it: an alert is never free")
        return worth


class PaperRun(Settings):
    """The pretraining whose price the Lang1 paper gives."""

    tokens: float = Field(gt=0)
    parameters: int = Field(gt=0)
    accelerators: int = Field(gt=0)
    days: float = Field(gt=0)
    dollars: float = Field(gt=0)


class Prices(Settings):
    """All that costs are reckoned with; see ``recipes/prices.yaml``."""

    currency: str = "USD"
    encounters_a_year: Positive | None = Field(None, description="null: as many as the test split has in a year")
    years_used: Positive = Field(description="years over which one-off costs are spread")
    accelerator: Accelerator
    measured: list[Measured] = Field(min_length=1, description="training rates; between sizes they are interpolated")
    share_kept: Shares = Field(description="share of the measured training rate that a whole run keeps")
    inference_mfu: Shares = Field(description="share of the peak that scoring notes reaches")
    runs_for_one_kept: Runs = Field(description="training runs paid for each one kept: searches and failures")
    idle_hours_a_day: Hours = Field(description="hours a day that accelerators are paid for without computing")
    cpu_hour: Range = Field(description="price of an hour of a machine without accelerators")
    api: Api
    staff: Staff
    acting: Acting
    paper: PaperRun

    def spans(self) -> dict[str, Span]:
        """Every figure that has a range, by its path (``staff.hour``)."""
        return dict(_spans(self, ""))

    def figures(self, side: Side = "typical") -> dict[str, float]:
        """Every figure that has a range, at one side of it."""
        return {path: float(getattr(span, side)) for path, span in self.spans().items()}

    def one_way(self) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
        """Each figure whose range is wider than a point: its path, all figures with it low, all with it high."""
        typical = self.figures()
        for path, span in self.spans().items():
            if span.low < span.high:
                yield path, typical | {path: span.low}, typical | {path: span.high}


def _spans(part: BaseModel, prefix: str) -> Iterator[tuple[str, Span]]:
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Span):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from ((f"{prefix}{name}.{key}", one) for key, one in value.items() if isinstance(one, Span))
        elif isinstance(value, BaseModel):
            yield from _spans(value, f"{prefix}{name}.")


def price_values(given: object, source: str = "prices") -> dict[str, Any]:
    """What ``grid.prices`` names, as a mapping: a file is read, so that a study's key holds its content.

    Raises:
        SettingsError: neither nothing, a mapping nor a path; or a bad file.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    if isinstance(given, str | Path):
        return read_yaml(Path(given))
    raise SettingsError(f"{source}: prices: expected a file or 'name: value' lines, found a {type(given).__name__}.")


def known_prices(given: object) -> dict[str, Any]:
    """:func:`price_values`, checked: what a study's settings hold, so that a wrong figure stops it before it starts."""
    values = price_values(given, "grid.prices")
    read_prices(values, str(given) if isinstance(given, str | Path) else "grid.prices")
    return values


def read_prices(given: object = None, source: str = "prices") -> Prices:
    """The package's prices with what is given in their place; a plain number stands for low, typical and high alike.

    Raises:
        SettingsError: one line that names the field.
    """
    base = read_yaml(recipe_path(FILE))
    own = _merged(base, price_values(given, source))
    shown = str(given) if isinstance(given, str | Path) else source
    try:
        return load_settings(Prices, base=own)
    except SettingsError as error:
        raise SettingsError(f"{shown}: {str(error).removeprefix('settings: ')}") from None


def _merged(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(base)
    for key, value in top.items():
        below = made.get(key)
        made[key] = _merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return made
