"""Several seeds of a step: what is written out, what follows, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_world import SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import open_folder
from lang1.common.errors import InputError, SettingsError
from lang1.evaluation.settings import EvaluateSettings
from lang1.study.recipes import demo_study
from lang1.study.runner import plan, run_study
from lang1.study.seeds import fan_out, finetuning_study, summarise
from lang1.study.spec import StudySpec
from lang1.study.steps import STEP_KINDS
from lang1.training.pretrain import pretrain
from lang1.training.settings import PretrainSettings


def test_the_demo_with_three_seeds_fans_out_what_follows_and_gathers_it() -> None:
    spec, _ = demo_study("simulated", smoke=True, full=False, overrides=["finetuned.seeds=[1, 2, 3]"])
    steps = fan_out(spec).steps
    copies = [f"finetuned-seed{i}" for i in (1, 2, 3)]
    assert [s for s in steps if s.startswith("finetuned")] == [*copies, "finetuned-seeds"]
    assert [steps[f"finetuned-seed{i}"].settings["seed"] for i in (1, 2, 3)] == [1, 2, 3]
    assert steps["joint-seed2"].inputs["model"] == "finetuned-seed2"
    assert steps["joint-seed2"].settings["suffix"] == ", seed 2"
    assert steps["joint-seeds"].inputs["predictions"] == ["joint-seed1", "joint-seed2", "joint-seed3"]
    assert steps["report"].inputs["models"] == ["pretrained", *copies]
    report = steps["report"].inputs["predictions"]
    assert isinstance(report, list) and report[:4] == ["zero-shot", "joint-seed1", "joint-seed2", "joint-seed3"]
    assert "finetuned" not in steps and steps["pretrained"] == spec.steps["pretrained"]
    names = [p.name for p in plan(fan_out(spec), STEP_KINDS)]
    assert names.index("joint-seed3") < names.index("joint-seeds")


def test_seeds_of_pretraining_go_on_through_finetuning() -> None:
    spec, _ = demo_study("simulated", smoke=True, full=False, overrides=["pretrained.seeds=[5, 6]"])
    steps = fan_out(spec).steps
    assert steps["finetuned-seed6"].inputs["model"] == "pretrained-seed6"
    assert steps["finetuned-seed6"].settings["seed"] == 6  # it has a seed of its own to follow
    assert steps["zero-shot-seed5"].inputs["model"] == "pretrained-seed5"


def test_a_study_without_seeds_stays_as_it_is() -> None:
    spec, _ = demo_study("simulated", smoke=False, full=False, overrides=[])
    assert fan_out(spec) == spec


@pytest.mark.parametrize(
    ("seeds", "message"),
    [(3, "expected a list of integers"), ([], "expected a list"), ([1, 1], "holds one twice"), (["a"], "integers")],
)
def test_seeds_that_are_none_are_named(seeds: Any, message: str) -> None:
    spec = StudySpec.model_validate({"steps": {"m": {"step": "finetune", "settings": {"seeds": seeds}}}})
    with pytest.raises(SettingsError, match=f"step 'm'.*{message}"):
        fan_out(spec)


def test_inputs_of_different_seeds_are_refused() -> None:
    steps = {
        "a": {"step": "pretrain", "settings": {"seeds": [1, 2]}},
        "b": {"step": "finetune", "from": {"model": "a"}, "settings": {"seeds": [1, 3]}},
    }
    with pytest.raises(SettingsError, match="step 'b': it and its inputs have different seeds"):
        fan_out(StudySpec.model_validate({"steps": steps}))


def test_finetuning_with_several_seeds_leaves_a_folder_each_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)
    common = {"threads": 1, "device": "cpu", "precision": "fp32"}
    settings = PretrainSettings(model=SHAPE, tokens=512, sequence_length=64, sequences_per_step=4, **common)
    model = pretrain(write_corpus(tmp_path / "corpus"), tmp_path / "model", settings)
    benchmark = write_benchmark(tmp_path / "benchmark")
    asked = {"seeds": [4, 9], "steps": 3, "notes_per_step": 4, "note_budget": 32, "min_cases": 1, **common}
    monkeypatch.chdir(tmp_path)  # a model in the folder "model" is not the step of that name
    done = run_study(finetuning_study(Path("model"), benchmark, asked), STEP_KINDS, tmp_path / "out")
    assert sorted(done) == ["model-seed4", "model-seed9", "model-seeds"]
    scores: dict[str, dict[str, float]] = {}
    for seed in (4, 9):
        manifest = open_folder(tmp_path / "out" / f"model-seed{seed}", "model").manifest
        assert manifest.settings["seed"] == seed
        for task, standing in manifest.extra["validation_by_task"].items():
            scores.setdefault(task, {})[str(seed)] = standing["best"]
    rows = json.loads((tmp_path / "out" / "model-seeds" / "summary.json").read_text())["rows"]
    assert {row["task"]: row["by_seed"] for row in rows} == scores
    for row in rows:
        values = np.array(list(row["by_seed"].values()))
        assert (row["low"], row["high"]) == (values.min(), values.max())
        assert row["mean"] == pytest.approx(values.mean()) and row["sd"] == pytest.approx(values.std(ddof=1))
    assert model.samefile(tmp_path / "model")
    with pytest.raises(InputError, match="needs models or predictions"):
        summarise(tmp_path / "none", [], [], None, EvaluateSettings())
