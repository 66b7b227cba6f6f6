"""Settings and thresholds of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, read_yaml, validate_settings

HERE = Path(__file__).parent


class Threshold(Settings):
    """One number beyond which a guard fails (or warns), why it is that number, and other values by task rule."""

    value: float
    reason: str
    tasks: dict[str, Threshold] = {}

    def of(self, rule: str | None) -> Threshold:
        """The threshold in force for a task's rule."""
        return self.tasks.get(rule or "", self)


class AuditSettings(Settings):
    """How a benchmark is audited.

    Attributes:
        seed: decides which rows are sampled.
        most_rows: rows a task whose text and registration data are looked at, half of them from train.
        most_characters: characters of text by type of input; fewer rows are taken where notes are long.
        most_notes: notes that are compared with each other for copies, of three times ``most_characters`` at most.
        rebuilt: examples a task that are rebuilt without their future.
        resamples: of patients, behind the intervals of AUROCs.
        confidence: of the intervals that decide, before correction for the number of things looked at.
        least_cases: classes with fewer cases in train or held-out rows are not judged.
        show_text: put the words around a hit into the report. Off by default: notes of patients do not belong there.
        thresholds: other values than those of ``thresholds.yaml``, by name.
        allowed_phrases: by task, phrases or sentences that were looked at and found to be honest signs; neither they
            nor parts of them fail the screen.
        detectors: a YAML file of detectors beside the shipped ones (``detectors.yaml`` shows the form).
    """

    seed: int = Field(default=0, ge=0)
    most_rows: int = Field(default=16_000, ge=100)
    most_characters: int = Field(default=20_000_000, ge=100_000)
    most_notes: int = Field(default=200_000, ge=100)
    rebuilt: int = Field(default=40, ge=1)
    resamples: int = Field(default=200, ge=50)
    confidence: float = Field(default=0.99, gt=0.5, lt=1)
    least_cases: int = Field(default=10, ge=5)
    show_text: bool = False
    thresholds: dict[str, float] = {}
    allowed_phrases: dict[str, tuple[str, ...]] = {}
    detectors: Path | None = None

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.thresholds:
            if name not in shipped_thresholds():
                raise ValueError(f"thresholds: unknown '{name}'; known are {', '.join(shipped_thresholds())}")
        return self

    def threshold(self, name: str, rule: str | None = None) -> Threshold:
        """A threshold by name, as the settings or ``thresholds.yaml`` have it, for a task's rule."""
        if name in self.thresholds:
            return Threshold(value=self.thresholds[name], reason="Set by the user.")
        return shipped_thresholds()[name].of(rule)


@cache
def shipped_thresholds() -> Mapping[str, Threshold]:
    """``thresholds.yaml``, by name."""
    file = HERE / "thresholds.yaml"
    return {name: validate_settings(Threshold, value, file.name) for name, value in read_yaml(file).items()}


class Pitfall(Settings):
    """One way in which a benchmark becomes invalid: which guards look for it, and what keeps watch elsewhere."""

    title: str
    guards: tuple[str, ...]
    elsewhere: str = ""


@cache
def pitfalls() -> Mapping[int, Pitfall]:
    """``pitfalls.yaml``, by number."""
    file = HERE / "pitfalls.yaml"
    found = {int(number): validate_settings(Pitfall, value, file.name) for number, value in read_yaml(file).items()}
    if sorted(found) != list(range(1, 24)):
        raise SettingsError(f"{file}: expected the pitfalls 1 to 23, each once.")
    return found


class Guard(Settings):
    """How a guard is called in a report, and the question that it asks."""

    title: str
    asks: str


@cache
def guards() -> Mapping[str, Guard]:
    """``guards.yaml``, by name, in the order of the report."""
    file = HERE / "guards.yaml"
    return {name: validate_settings(Guard, value, file.name) for name, value in read_yaml(file).items()}
