"""A study's grid: what is written out for what is declared, overrides, and names that do not hold together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lang1.common.errors import SettingsError
from lang1.study.recipes import recipe_path
from lang1.study.runner import plan
from lang1.study.seeds import fan_out
from lang1.study.spec import StudySpec, load_study, only
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
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
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


def test_overrides_reach_into_the_grid_and_change_only_what_depends_on_them(tmp_path: Path) -> None:
    design = {"joint": {"notes": 100}, "single": {}}
    one = load(tmp_path, **design)
    other = load(tmp_path, ("grid.joint.notes=200", "grid.finetune.optimizer.lr=0.002"), **design)
    assert other.steps["finetuned-both-nano-joint-200notes-seed1"].settings["optimizer"]["lr"] == 0.002
    kept = {name for name, step in one.steps.items() if other.steps.get(name) == step}
    assert kept == {name for name in one.steps if "finetuned" not in name and name != "study-report"} | {
        f"finetuned-both-nano-{task}-seed{seed}-at-riverside"
        for task in ("readmission", "mortality")
        for seed in (1, 2)
    }  # scored anew since its model is another one, though its settings stand
    # Steps that the grid made can be overridden by name as well, in the end.
    renamed = load(tmp_path, ("pretrained-both-nano.tokens=4096",), **design)
    assert renamed.steps["pretrained-both-nano"].settings["tokens"] == 4096
    with pytest.raises(SettingsError, match=r"unknown setting 'jiont'; did you mean 'joint'\?"):
        load(tmp_path, ("grid.jiont.notes=3",))
    (tmp_path / "s.yaml").write_text("steps: {a: {step: simulate}}")
    with pytest.raises(SettingsError, match="has no grid"):
        load_study(tmp_path / "s.yaml", ["grid.home=x"])


def test_designs_share_what_is_the_same_and_each_has_its_cells(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        joint={"models": {"both": ["nano"]}, "notes": 100, "main_notes": None},
        efficiency={"notes": [50, 100, None]},
        twins={"general": "general", "clinical": "both", "notes": [50, 100]},
        trajectory={"milestones": 2},
        budget={"at": [1, 2], "notes": [50], "seeds": [1]},
    )
    tuned = [name for name, step in spec.steps.items() if step.step == "finetune"]
    assert sorted(tuned) == sorted(
        [f"finetuned-both-nano-joint-{n}seed{s}" for n in ("", "100notes-", "50notes-") for s in (1, 2)]
        + [f"finetuned-general-nano-joint-{n}notes-seed{s}" for n in (50, 100) for s in (1, 2)]
        + ["finetuned-both-nano-step5-joint-50notes-seed1"]
    )
    cells = report_of(spec).cells
    assert all(cell.step in spec.steps for cell in cells)
    found = {d: [(c.model, c.corpus, c.notes, c.seed) for c in cells if c.design == d] for d in ("efficiency", "twins")}
    assert found["efficiency"] == [("nano", "both", n, s) for s in (1, 2) for n in (50, 100, None)]
    assert found["twins"] == [("nano", c, n, s) for c in ("general", "both") for s in (1, 2) for n in (50, 100)]
    assert [(c.role, c.variant) for c in cells if c.design == "twins"][::4] == [
        ("twin", "general"),
        ("specialist", "both"),
    ]
    # 81,920 tokens in steps of 8 × 1,024: ten, with a milestone after five.
    path = [c for c in cells if c.design == "trajectory"]
    assert [(c.tokens, c.tasks) for c in path] == [(40960, ()), (81920, ())]
    assert spec.steps["pretrained-both-nano"].settings["milestone_every"] == 5
    assert "milestone_every" not in spec.steps["pretrained-general-nano"].settings
    assert spec.steps["pretrained-both-nano-step5"].inputs == {"model": "pretrained-both-nano"}
    spent = [(c.tokens, c.notes, c.step) for c in cells if c.design == "budget"]
    assert [s[:2] for s in spent] == [(40960, 50), (81920, 50)]
    assert spent[1][2] == "finetuned-both-nano-joint-50notes-seed1-at-riverside"  # the last milestone is the model
    # Repeats of one thing are one group: equal but for step and seed.
    assert len({c.group for c in cells if c.design == "efficiency"}) == 3


def test_twins_may_be_pretrained_once_a_seed(tmp_path: Path) -> None:
    spec = load(tmp_path, twins={"general": "general", "clinical": "both", "notes": [50], "pretrain_again": True})
    for name in ("general", "both"):
        for seed in (1, 2):
            start = f"pretrained-{name}-nano-seed{seed}"
            assert spec.steps[start].settings["seed"] == seed
            assert spec.steps[f"finetuned-{name}-nano-seed{seed}-joint-50notes-seed{seed}"].inputs["model"] == start


def systems(*names: str) -> dict[str, Any]:
    return {name: {"records": f"hospitals/{name}"} for name in names}


def test_across_two_health_systems(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        systems=systems("riverside", "lakeshore"),
        across={"notes": 100, "seeds": [1], "matched": 40},
        joint={"notes": 100, "seeds": [1]},
    )
    cells = [c for c in report_of(spec).cells if c.design == "systems" and c.tasks]
    assert {(c.trained_on, c.tested_on, c.variant, c.pretrained_on, c.notes) for c in cells} == {
        (("riverside",), "riverside", "home", ("riverside",), 100),
        (("riverside",), "lakeshore", "away", ("riverside",), 100),
        (("lakeshore",), "lakeshore", "home", ("lakeshore",), 100),
        (("lakeshore",), "riverside", "away", ("lakeshore",), 100),
        (("riverside", "lakeshore"), "riverside", "pooled", ("riverside", "lakeshore"), 100),
        (("riverside", "lakeshore"), "lakeshore", "pooled", ("riverside", "lakeshore"), 100),
        (("riverside",), "riverside", "size-matched", ("riverside",), 40),
        (("riverside",), "lakeshore", "size-matched", ("riverside",), 40),
    }
    assert any("leave-one-out: with two health systems" in note for note in report_of(spec).notes)
    pooled = spec.steps["corpus-both-pooled"]
    assert pooled.inputs == {
        "records": ["records-pooled"],
        "benchmark": "benchmark-pooled",
        "tokenizer": "corpus-both/tokenizer/tokenizer.json",
    }
    assert spec.steps["records-pooled"].inputs == {"records": ["hospitals/riverside", "hospitals/lakeshore"]}
    assert spec.steps["pretrained-both-lakeshore-nano"].inputs["benchmark"] == "benchmark-lakeshore"
    # Main tables of the other system hold the model that was made there.
    there = [c for c in report_of(spec).cells if c.design == "grid" and c.tested_on == "lakeshore"]
    assert {c.step for c in there} == {
        "pretrained-both-lakeshore-nano-at-lakeshore",
        "finetuned-both-lakeshore-nano-on-lakeshore-joint-100notes-seed1-at-lakeshore",
    }
    # Finetuned from home's model, none needs a pretraining of its own.
    shared = load(
        tmp_path, systems=systems("riverside", "lakeshore"), across={"pretrain": "home", "variants": ["away"]}
    )
    assert not any("lakeshore" in n for n, s in shared.steps.items() if s.step in ("pretrain", "corpus"))


def test_leaving_one_of_three_out(tmp_path: Path) -> None:
    three = systems("a", "b", "c")
    spec = load(tmp_path, home="a", systems=three, across={"seeds": [1], "variants": ["leave-one-out"]})
    cells = [c for c in report_of(spec).cells if c.variant == "leave-one-out"]
    assert [(c.trained_on, c.tested_on) for c in cells] == [(("b", "c"), "a"), (("a", "c"), "b"), (("a", "b"), "c")]
    assert spec.steps["records-pooled-b-c"].settings == {"names": ["b", "c"]}


def test_bins_that_are_fitted_at_home_hold_at_the_others(tmp_path: Path) -> None:
    bench = {"calendar": "demo", "fit_cut_points": True}
    spec = load(tmp_path, systems=systems("riverside", "lakeshore"), benchmark=bench, across={"variants": ["pooled"]})
    assert spec.steps["benchmark-riverside"].settings == bench
    for name in ("lakeshore", "pooled"):
        step = spec.steps[f"benchmark-{name}"]
        assert step.inputs["cut_points"] == "benchmark-riverside" and step.settings == {"calendar": "demo"}


def test_patients_seen_in_training(tmp_path: Path) -> None:
    spec = load(tmp_path, seen={"seeds": [1]})
    assert spec.steps["benchmark-time-only"].settings["policy"] == "time-only"
    tuned = spec.steps["finetuned-general-nano-on-time-only-joint-seed1"]
    assert tuned.inputs == {"model": "pretrained-general-nano", "benchmark": "benchmark-time-only"}
    # A model that read home's notes read those of patients whom this benchmark holds out: it is made anew against it.
    anew = load(tmp_path, seen={"seeds": [1], "corpus": "both"})
    assert anew.steps["corpus-both-time-only"].inputs["benchmark"] == "benchmark-time-only"
    assert anew.steps["pretrained-both-time-only-nano"].inputs == {
        "corpus": "corpus-both-time-only",
        "benchmark": "benchmark-time-only",
    }


def test_swaps_and_longitudinal_inputs(tmp_path: Path) -> None:
    spec = load(
        tmp_path,
        joint={"models": {"both": ["nano"]}, "seeds": [1]},
        swaps={
            "systems": {"case-mix": {"records": "hospitals/riverside", "truth": "hospitals/truth/riverside"}},
            "seeds": [1],
        },
        longitudinal={
            "inputs": {"note": {}, "chart": {"benchmark": {"tasks": ["mortality"]}, "budgets": [512]}},
            "budgets": [128, 512],
            "seeds": [1],
        },
    )
    cells = report_of(spec).cells
    swapped = [(c.role, c.variant, c.tested_on, c.trained_on) for c in cells if c.design == "swaps"]
    assert swapped == [("oracle", "case mix", "case-mix", ()), ("specialist", "case mix", "case-mix", ("riverside",))]
    read = [(c.variant, c.budget, c.tasks) for c in cells if c.design == "longitudinal" and c.role == "specialist"]
    two = ("readmission", "mortality")
    assert read == [("note", 128, two), ("note", 512, two), ("chart", 512, ("mortality",))]
    assert spec.steps["finetuned-both-nano-on-chart-512tokens-joint-seed1"].settings["note_budget"] == 512


def test_a_generalist_may_be_asked_fewer_examples_and_never_more(tmp_path: Path) -> None:
    given = {"smol": {"source": str(tmp_path), "finetuned": {"lora": {"lora": {}}}, "evaluate": {"limit": 20}}}
    spec = load(tmp_path, generalists=given, seeds=[1], joint={"notes": 100}, efficiency={"notes": [100]})
    limits = {c.step: c.limit for c in report_of(spec).cells}
    assert {limit for step, limit in limits.items() if "smol" in step} == {20}
    assert {limit for step, limit in limits.items() if "smol" not in step} == {None}
    assert {s.settings["limit"] for n, s in spec.steps.items() if "smol" in n and n.endswith("at-riverside")} == {20}
    given["smol"]["evaluate"] = {"limit": 5000}
    spec = load(tmp_path, generalists=given, seeds=[1])
    assert {c.limit for c in report_of(spec).cells} == {None}
    assert {s.settings["limit"] for s in spec.steps.values() if s.step == "evaluate"} == {50}


def test_a_size_may_go_on_from_a_model_that_others_made(tmp_path: Path) -> None:
    gentle = {"optimizer": {"kind": "adamw", "lr": 1e-4}, "epochs": 2}
    models = {
        "nano": {"tokens": 81920},
        "on": {"start": "smol", "tokens": 40960, "finetune": gentle, "seeds": [3]},
    }
    given = {"smol": {"source": str(tmp_path)}}
    parts: dict[str, Any] = {
        "models": models,
        "main": {"corpus": "both", "model": "on"},
        "seeds": [1],
        "joint": {"notes": 100},
        "twins": {"general": "general", "clinical": "both", "notes": [50]},
        "trajectory": {"milestones": 2},
    }
    spec = load(tmp_path, generalists=given, **parts)
    # Its corpora are made with its own tokenizer, those of the others with ours.
    assert spec.steps["corpus-both-for-smol"].inputs["tokenizer"] == "generalist-smol"
    assert spec.steps["corpus-general-for-smol"].inputs["tokenizer"] == "generalist-smol"
    assert "tokenizer" not in spec.steps["corpus-both"].inputs
    step = spec.steps["pretrained-both-for-smol-on"]
    assert step.inputs["start"] == "generalist-smol" and step.inputs["corpus"] == "corpus-both-for-smol"
    assert "start" not in step.settings and step.settings["milestone_every"] == 2
    assert not {"finetune", "seeds"} & set(step.settings)
    assert "start" not in spec.steps["pretrained-both-nano"].inputs
    # It is finetuned in its own way and with its own seeds, the others as the grid says.
    own_way = spec.steps["finetuned-both-for-smol-on-joint-100notes-seed3"].settings
    assert (own_way["optimizer"], own_way["epochs"]) == (gentle["optimizer"], 2)
    others = spec.steps["finetuned-both-nano-joint-100notes-seed1"].settings
    assert others["optimizer"]["kind"] == "muon" and "epochs" not in others
    assert "finetuned-both-for-smol-on-joint-50notes-seed3" in spec.steps
    cells = report_of(spec).cells
    own = [c for c in cells if c.model == "on" and c.design == "grid"]
    assert {(c.role, c.regime, c.corpus) for c in own} == {
        ("specialist", "zero-shot", "both"),
        ("specialist", "zero-shot", "general"),
        ("specialist", "joint", "both"),
        ("specialist", "joint", "general"),
    }
    without = load(tmp_path, generalists={"smol": {}}, **{**parts, "main": {"corpus": "both", "model": "nano"}})
    assert not any("-on" in name or "smol" in name for name in without.steps)
    assert any("on is left out: it goes on from smol" in note for note in report_of(without).notes)
    with pytest.raises(SettingsError, match=r"on goes on from smol, of which no folder is given; set grid"):
        load(tmp_path, generalists={"smol": {}}, **parts)
    served = load(
        tmp_path,
        generalists={"smol": {"source": "server.yaml"}},
        **{**parts, "main": {"corpus": "both", "model": "nano"}},
    )
    assert not any("-on" in name for name in served.steps)
    with pytest.raises(SettingsError, match="'other' is not there"):
        load(tmp_path, generalists=given, models={"on": {"start": "other"}}, main=None)


def test_generalists_are_left_out_with_words_until_a_folder_is_given(tmp_path: Path) -> None:
    given = {"smol": {"label": "SmolLM2", "finetuned": {"all weights": {}, "lora": {"lora": {"r": 4}}}, "shots": [4]}}
    without = load(tmp_path, generalists=given, joint={"notes": 100, "seeds": [1]})
    assert not any("generalist" in name for name in without.steps)
    named = load(tmp_path, (f"grid.generalists.smol.source={tmp_path}",), generalists=given, seeds=[1])
    assert "finetuned-smol-all-weights-joint-seed1" in named.steps  # a folder's name holds no space
    assert any("SmolLM2 is left out: no folder was given" in note for note in report_of(without).notes)
    given = {"smol": {**given["smol"], "finetuned": {"lora": {"lora": {"r": 4}}}}}
    spec = load(
        tmp_path,
        (f"grid.generalists.smol.source={tmp_path}",),
        generalists=given,
        joint={"notes": 100, "seeds": [1]},
        efficiency={"notes": [50], "seeds": [1]},
        seeds=[1],
    )
    assert spec.steps["generalist-smol"].inputs == {"source": str(tmp_path)}
    cells = [c for c in report_of(spec).cells if c.role == "generalist"]
    assert [(c.design, c.regime, c.notes, c.label) for c in cells] == [
        ("grid", "zero-shot", None, "SmolLM2"),
        ("grid", "few-shot", None, "SmolLM2"),
        ("grid", "joint", 100, "SmolLM2, lora"),
        ("efficiency", "joint", 50, "SmolLM2, lora"),
    ]
    assert spec.steps["finetuned-smol-lora-joint-50notes-seed1"].settings["lora"] == {"r": 4}
    server = load(tmp_path, ("grid.generalists.smol.source=server.yaml",), generalists=given)
    assert [s.step for n, s in server.steps.items() if "server" in n] == ["generalist", "generalist"]


def test_one_step_and_what_it_needs(tmp_path: Path) -> None:
    spec = load(tmp_path, joint={}, single={})
    asked = only(spec, ["finetuned-both-nano-joint-seed1"])
    assert list(asked.steps) == [
        "hospitals",
        "benchmark-riverside",
        "corpus-both",
        "pretrained-both-nano",
        "finetuned-both-nano-joint-seed1",
    ]
    with pytest.raises(SettingsError, match="no step 'joint'"):
        only(spec, ["joint"])


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"home": "riverdale"}, "home: 'riverdale' is not there; there are riverside"),
        ({"tokenizer": "clinical"}, "tokenizer: 'clinical' is not there"),
        ({"pretrained": {"both": ["micro"]}}, "'micro' is not there"),
        ({"seeds": [1, 1]}, "holds a seed twice"),
        ({"budget": {"notes": [3]}}, "milestones of `trajectory`"),
        ({"twins": {"general": "web", "clinical": "both"}}, "twins: 'web' is not there"),
        ({"pretrained": {"both": ["nano"]}, "single": {"corpus": "general"}}, "nano is not pretrained on general"),
        ({"evaluate_others": {"limit": 3}}, "all must answer the same examples"),
        ({"models": {}, "joint": {}}, "name corpora and models"),
        ({"across": {}}, "needs two health systems"),
        ({"trajectory": {"milestones": 50}}, "50 milestones in 10 steps"),
        ({"systems": {"river side": {"records": "x"}}}, "should match pattern"),
        ({"corpora": {}, "models": {}, "main": None, "systems": systems("riverside")}, "nothing to judge"),
    ],
)
def test_a_grid_that_does_not_hold_together_is_refused(tmp_path: Path, grid: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(tmp_path, **grid)


def test_pooling_systems_that_fold_their_patients_otherwise_is_refused(tmp_path: Path) -> None:
    two = systems("riverside", "lakeshore")
    two["lakeshore"]["benchmark"] = {"salt": "other"}
    with pytest.raises(SettingsError, match=r"differ in benchmark\.salt"):
        load(tmp_path, systems=two, across={})


def test_the_shipped_study_has_every_design_in_its_test_variant_too() -> None:
    for variants in ([], ["test"]):
        spec = load_study(recipe_path("study-small.yaml"), [], variants)
        designs = {cell.design for cell in report_of(spec).cells}
        assert designs >= {"grid", "single", "trajectory", "budget", "efficiency", "twins", "seen", "systems"}


def test_the_least_study_of_the_docs_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "study.md").read_text(encoding="utf-8")
    (tmp_path / "s.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    kinds = [step.step for step in load_study(tmp_path / "s.yaml").steps.values()]
    assert kinds == [
        "remede",
        *["baseline"] * 3,
        "corpus",
        "pretrain",
        "evaluate",
        "finetune",
        "evaluate",
        "study-report",
    ]
