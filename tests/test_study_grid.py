"""A study's grid: what is written out for what is declared, overrides, and names that do not hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lang1.study.runner import plan
from lang1.study.seeds import fan_out
from lang1.study.spec import StudySpec, load_study
from lang1.study.steps import STEP_KINDS, StudyReportStep

SMALL: dict[str, Any] = {
    "title": "Small",
    "steps": {"hospitals": {"step": "simulate", "settings": {"systems": 2}}},
    "grid": {
        "home": "riverside",
        "systems": {"riverside": {"records": "hospitals/riverside", "truth": "hospitals/truth/riverside"}},
        "benchmark": {"calendar": "demo", "tasks": ["readmission", "mortality"]},
        "corpora": {"both": {}, "general": {"systems": [], "settings": {"weights": {"general": 1}}}},
        "models": {"nano": {"tokens": 81920}},
        "main": {"corpus": "both", "model": "nano"},
        "evaluate": {"limit": 50},
        "evaluate_others": {"splits": ["test_newest"]},
        "finetune": {"optimizer": {"kind": "muon", "lr": 1e-3, "muon_lr": 0.01}},
        "seeds": [1, 2],
    },
}


def load(tmp_path: Path, overrides: tuple[str, ...] = (), **grid: Any) -> StudySpec:
    values = {**SMALL, "grid": {**SMALL["grid"], **grid}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    return load_study(tmp_path / "s.yaml", overrides)


def report_of(spec: StudySpec) -> StudyReportStep:
    settings = next(p for p in plan(fan_out(spec), STEP_KINDS) if p.name == "study-report").settings
    assert isinstance(settings, StudyReportStep)
    return settings


def test_a_joint_model_needs_what_it_is_made_of_and_no_more(tmp_path: Path) -> None:
    spec = load(tmp_path, joint={"models": {"both": ["nano"]}, "notes": 100}, seeds=[3])
    assert {name: (step.step, step.inputs) for name, step in spec.steps.items()} == {
        "hospitals": ("simulate", {}),
        "benchmark-riverside": ("remede", {"records": "hospitals/riverside"}),
        "oracle-at-riverside": (
            "predictions",
            {"file": "hospitals/truth/riverside", "benchmark": "benchmark-riverside"},
        ),
        "corpus-both": ("corpus", {"records": ["hospitals/riverside"], "benchmark": "benchmark-riverside"}),
        "pretrained-both-nano": ("pretrain", {"corpus": "corpus-both", "benchmark": "benchmark-riverside"}),
        "pretrained-both-nano-at-riverside": (
            "evaluate",
            {"model": "pretrained-both-nano", "benchmark": "benchmark-riverside"},
        ),
        "corpus-general": (
            "corpus",
            {
                "records": [],
                "benchmark": "benchmark-riverside",
                "tokenizer": "corpus-both/tokenizer/tokenizer.json",
            },
        ),
        "pretrained-general-nano": ("pretrain", {"corpus": "corpus-general", "benchmark": "benchmark-riverside"}),
        "pretrained-general-nano-at-riverside": (
            "evaluate",
            {"model": "pretrained-general-nano", "benchmark": "benchmark-riverside"},
        ),
        "finetuned-both-nano-joint-100notes-seed3": (
            "finetune",
            {"model": "pretrained-both-nano", "benchmark": "benchmark-riverside"},
        ),
        "finetuned-both-nano-joint-100notes-seed3-at-riverside": (
            "evaluate",
            {"model": "finetuned-both-nano-joint-100notes-seed3", "benchmark": "benchmark-riverside"},
        ),
        "study-report": ("study-report", spec.steps["study-report"].inputs),
    }
    tuned = spec.steps["finetuned-both-nano-joint-100notes-seed3"].settings
    assert (tuned["seed"], tuned["max_notes"], tuned["optimizer"]["kind"]) == (3, 100, "muon")
    # The main model is scored on all splits, the others on fewer.
    assert "splits" not in spec.steps["pretrained-both-nano-at-riverside"].settings
    assert spec.steps["pretrained-general-nano-at-riverside"].settings["splits"] == ["test_newest"]
