"""Settings of an evaluation: what is scored, how notes are cut, how intervals are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from lang1.common.settings import Settings
from lang1.metrics.bootstrap import RESAMPLES
from lang1.metrics.intervals import Method
from lang1.text.truncate import Policy

DEFAULT_NOTE_BUDGET = 512  # the paper's
SUBGROUPS = ("age", "sex", "race", "ethnicity", "area", "payer", "department", "history", "period")
Share = Annotated[float, Field(gt=0, lt=1)]


class EvaluateSettings(Settings):
    """Shared by the scorers and by the results table, so that all judge the same examples."""

    tasks: list[str] | None = Field(None, description="tasks to score; null: all that model and benchmark share")
    splits: list[str] | None = Field(
        None, description="splits to score; null: headline, test, test_older and held_out_site"
    )
    limit: int | None = Field(
        None, ge=1, description="examples a task and split at most, chosen by a hash of the patient; null: all"
    )
    note_budget: int | None = Field(
        None, ge=1, description="tokens of the note; null: what the model was finetuned with, else 512"
    )
    truncation: Policy | None = Field(
        None,
        description="part of a long note that stays: head, tail, head+tail, sections, or sections:NAME,NAME…; "
        "null: as finetuned, else head",
    )
    shots: int = Field(
        0, ge=0, le=64, description="solved examples from train before each note, for models that are not finetuned"
    )
    shots_drawn: Literal["balanced", "natural"] = Field("balanced", description="classes in turn, or as they come")
    shot_budget: int = Field(128, ge=1, description="tokens of a solved example's note")
    order: Literal["given", "averaged"] = Field(
        "given", description="options in the given order, or the mean over it and its reverse"
    )
    swap_examples: int = Field(
        100, ge=0, description="examples a task and split asked again with options reversed, to tell what that changes"
    )
    processes: int = Field(1, ge=1, le=1_024, description="processes that share the examples, each with a model")
    launcher: Literal["local", "ray"] = Field("local", description="where they run: here, or on a Ray cluster")
    tokens_per_batch: int = Field(16_384, ge=64, description="padded tokens that a batch may hold")
    device: str = Field("auto", description="auto, cpu or cuda")
    precision: str = Field("auto", description="auto, fp32 or bf16")
    resamples: int = Field(RESAMPLES, ge=10, description="patient-level bootstrap resamples")
    fast: bool = Field(
        False, validate_default=True, description="allow fewer than 1,000 resamples; the results are marked"
    )
    seed: int = Field(0, ge=0, description="seed of the resamples and of the baselines that draw")
    allow_missing: bool = Field(False, description="imported predictions may lack examples; they are counted")

    interval: Method = Field(
        "student", description="student (covers best, see docs/statistics.md), log-odds, percentile or bca"
    )
    alert_rates: list[Share] = Field(
        [0.02, 0.05, 0.1, 0.2], description="shares of encounters that may be alerts: the operating points"
    )
    alert_thresholds: list[Share] = Field([], description="stated risks from which on one would act, likewise")
    decision_range: tuple[Share, Share] = Field((0.01, 0.5), description="stated risks that net benefit is drawn over")
    subgroups: list[str] = Field(
        ["age", "sex", "race", "ethnicity", "area", "payer", "department", "history", "period"],
        description="what patients are told apart by; empty: no subgroups",
    )
    period: Literal["month", "quarter", "year"] = Field("quarter", description="length of a period among the subgroups")
    encoder: Path | None = Field(
        None, description="folder of a BERT-type encoder for the baseline 'encoder'; null: a tiny one from scratch"
    )
    recalibrate: bool = Field(False, description="score validation too, fit Platt, isotonic and temperature on it")

    @field_validator("subgroups")
    @classmethod
    def _known_subgroups(cls, subgroups: list[str]) -> list[str]:
        unknown = [name for name in subgroups if name not in SUBGROUPS]
        if unknown:
            raise ValueError(f"unknown subgroup '{unknown[0]}'; known are {', '.join(SUBGROUPS)}")
        return subgroups

    @field_validator("decision_range")
    @classmethod
    def _rising(cls, span: tuple[float, float]) -> tuple[float, float]:
        if not span[0] < span[1]:
            raise ValueError(f"from {span[0]} to {span[1]}: give the lower risk first")
        return span

    @field_validator("fast")
    @classmethod
    def _enough_resamples(cls, fast: bool, info: ValidationInfo) -> bool:
        resamples = info.data.get("resamples", RESAMPLES)
        if resamples < RESAMPLES and not fast:
            raise ValueError(f"{resamples} resamples are too few for an interval; use {RESAMPLES}, or fast=true")
        return fast
