"""The recipes: every file parses, the paper's facts are in them, and the stages run small by overriding sizes only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from training_world import SHAPE, World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
import lang1.training.pretrain as pretraining
from lang1.common.artefact import open_folder, read_json
from lang1.common.errors import SettingsError
from lang1.common.settings import load_settings
from lang1.corpus.settings import CorpusSettings
from lang1.model.config import ModelSettings, preset
from lang1.model.llama import Llama
from lang1.model.store import save_model
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate
from lang1.study.recipes import recipe_path, study_file
from lang1.study.runner import plan, run_study
from lang1.study.seeds import fan_out
from lang1.study.spec import load_study
from lang1.study.steps import STEP_KINDS
from lang1.text.questions import render_question
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.finetune import finetune
from lang1.training.pretrain import pretrain
from lang1.training.settings import FinetuneSettings, PretrainSettings

PAPER = recipe_path("paper")
HOST = ["threads=1", "device=cpu", "precision=fp32"]


def studies() -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    for file in sorted(PAPER.parent.rglob("*.yaml")):
        values = yaml.safe_load(file.read_text())
        if "steps" in values and isinstance(values["steps"], dict):
            name = file.relative_to(PAPER.parent).as_posix()
            found += [(name, None), *((name, variant) for variant in values.get("variants", {}))]
    return found


@pytest.mark.parametrize(("name", "variant"), studies())
def test_every_study_and_variant_can_be_planned(name: str, variant: str | None) -> None:
    spec = load_study(recipe_path(name), [], [variant] if variant else [])
    assert len(plan(fan_out(spec, name), STEP_KINDS, name)) == len(spec.steps)


def test_stage_files_say_what_the_study_says() -> None:
    steps = {p.name: p.settings for p in plan(load_study(PAPER / "study.yaml"), STEP_KINDS)}
    for size in ("100m", "1b", "7b"):
        assert load_settings(PretrainSettings, PAPER / f"pretrain-{size}.yaml") == steps[f"{size}-mixed"]
    written_out = load_settings(FinetuneSettings, PAPER / "finetune.yaml")
    assert written_out == steps["joint-1b"] == FinetuneSettings.model_validate({"base": "paper"})
    lora = load_settings(FinetuneSettings, PAPER / "finetune-lora.yaml")
    assert lora == FinetuneSettings.model_validate({"base": "paper", "lora": {}})
    assert load_settings(CorpusSettings, PAPER / "corpus.yaml") == steps["mixed"]


@pytest.mark.parametrize(
    ("size", "rows", "length", "peak"), [("100m", 4096, 1024, 4e-4), ("1b", 1024, 2048, 4e-4), ("7b", 1024, 4096, 3e-4)]
)
def test_pretraining_is_the_papers(size: str, rows: int, length: int, peak: float) -> None:
    s = load_settings(PretrainSettings, PAPER / f"pretrain-{size}.yaml")
    assert (s.sequences_per_step, s.sequence_length, s.seed) == (rows, length, 3407)
    assert (s.optimizer.betas, s.optimizer.eps, s.optimizer.weight_decay, s.optimizer.clip) == (
        (0.9, 0.95),
        1e-8,
        0.1,
        1,
    )
    assert s.optimizer.lr == peak and s.optimizer.lr * s.schedule.final == pytest.approx(4e-5)
    assert s.schedule.warmup_steps == 2000
    assert isinstance(s.model, str) and preset(s.model).context == length
    if size == "1b":
        assert s.tokens == 150_000 * rows * length


def test_inputs_of_a_study_are_replaced_by_name(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("inputs: {data: ./a}\nsteps: {x: {step: corpus, from: {records: [data/one], benchmark: data}}}\n")
    assert load_study(file).steps["x"].inputs == {"records": ["./a/one"], "benchmark": "./a"}
    assert load_study(file, ["inputs.data=/b c"]).steps["x"].inputs["records"] == ["/b c/one"]
    with pytest.raises(SettingsError, match="has no input 'date'; it has data"):
        load_study(file, ["inputs.date=/b"])
    file.write_text("inputs: {x: ./a}\nsteps: {x: {step: corpus}}\n")
    with pytest.raises(SettingsError, match="'x' is an input and a step"):
        load_study(file)
    assert study_file(Path("recipes/demo.yaml")).is_file() and study_file(file) == file
    with pytest.raises(SettingsError, match=r"has no recipe 'none\.yaml'"):
        study_file(Path("recipes/none.yaml"))


def test_the_papers_stages_run_small_by_overriding_sizes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)
    monkeypatch.setattr(pretraining, "Benchmark", World)
    sizes = [f"model={SHAPE.model_dump_json()}", "tokens=2048", "sequence_length=64", "sequences_per_step=4"]
    small = load_settings(PretrainSettings, PAPER / "pretrain-1b.yaml", [*sizes, "schedule.warmup_steps=2", *HOST])
    assert small.optimizer == load_settings(PretrainSettings, PAPER / "pretrain-1b.yaml").optimizer
    benchmark = write_benchmark(tmp_path / "benchmark")
    model = pretrain(write_corpus(tmp_path / "corpus"), tmp_path / "model", small, benchmark)
    assert open_folder(model, "model").manifest.counts["steps"] == 8
    counts = ["steps_per_task=3", "questions_per_step=8", "note_budget=32", "lr_search.trials=2", "lr_search.steps=2"]
    joint = finetune(
        model, benchmark, tmp_path / "joint", load_settings(FinetuneSettings, PAPER / "finetune.yaml", [*counts, *HOST])
    )
    manifest = open_folder(joint, "model").manifest
    assert manifest.counts["steps"] == 6 and manifest.extra["tasks"] == ["mortality", "length_of_stay"]
    assert 1e-6 <= manifest.extra["lr"] <= 1e-3
    single = [*counts, *HOST, "tasks=[mortality]"]
    alone = finetune(
        model, benchmark, tmp_path / "alone", load_settings(FinetuneSettings, PAPER / "finetune-lora.yaml", single)
    )
    assert open_folder(alone, "model").manifest.counts["steps"] == 3
    assert (alone / "adapter" / "adapter_config.json").is_file()


def open_model(folder: Path) -> Path:
    """A tiny model as somebody else would publish it: a Hugging Face folder with its own tokenizer."""
    texts = ["Patient was admitted with chest pain, 140 mg of something. The answer is A or B." * 3]
    options = ["No", "Yes", "Maybe", "Later", "Never"]
    tokenizer = train_tokenizer(
        texts * 4, 400, required=[render_question("generic", options), "\nAnswer: A B C D E F G H I J"]
    )
    shape = SHAPE.model_copy(update={"vocab_size": tokenizer.vocab_size, "context": 512, "tied": True})
    model = Llama(ModelSettings.model_validate(shape.model_dump()))
    model.initialise(0)
    save_model(folder, model, tokenizer)
    return folder


def test_an_open_model_is_continued_finetuned_and_reported(tmp_path: Path) -> None:
    simulate(tmp_path / "hospital", SimulatorSettings(patients=250, preset="high-acuity", seed=3, workers=1))
    asked: list[str] = [
        f"inputs.model={open_model(tmp_path / 'open')}",
        f"inputs.records={tmp_path / 'hospital' / 'riverside'}",
        *(f"continued.{x}" for x in ("tokens=2048", "sequence_length=128", "sequences_per_step=4", *HOST)),
        *(
            f"{step}.{x}"
            for step in ("finetuned", "finetuned-base")
            for x in ("steps=3", "notes_per_step=4", "note_budget=64", "validation_notes=20", "lr_search.trials=1")
        ),
        *(f"{step}.{x}" for step in ("finetuned", "finetuned-base") for x in ("lr_search.steps=1", *HOST)),
        *(f"score-{x}.limit=20" for x in ("base", "continued", "finetuned-base", "finetuned")),
        *("tfidf.limit=20", "report.limit=20", "report.resamples=10", "report.fast=true", "corpus.workers=1"),
    ]
    spec = load_study(recipe_path("continued-pretraining.yaml"), asked, ["lora"])
    done: dict[str, Any] = run_study(spec, STEP_KINDS, tmp_path / "out", "continued")
    base, continued, finetuned = (done[name].manifest for name in ("base", "continued", "finetuned"))
    assert continued.inputs["start"].fingerprint == base.fingerprint
    assert finetuned.inputs["model"].fingerprint == continued.fingerprint
    assert continued.extra["tokens_seen"] == 2048 and finetuned.extra["lora"]["r"] == 8
    rows = read_json(tmp_path / "out" / "report" / "results.json")["rows"]
    assert {(r["model"], r["regime"]) for r in rows} >= {
        ("open model", "zero-shot"),
        ("continued on notes", "joint"),
        ("open model", "joint"),
    }


def test_a_grid_goes_on_from_an_open_model_and_asks_it_less(tmp_path: Path) -> None:
    simulate(tmp_path / "hospital", SimulatorSettings(patients=250, preset="high-acuity", seed=3, workers=1))
    short = {"steps": 3, "notes_per_step": 4, "note_budget": 64, "validation_notes": 20, "device": "cpu", "threads": 1}
    grid = {
        "home": "riverside",
        "systems": {"riverside": {"records": str(tmp_path / "hospital" / "riverside")}},
        "benchmark": {"calendar": "demo", "tasks": ["readmission", "mortality"]},
        "corpus": {"vocab_size": 512, "workers": 1, "tokenizer_sample_bytes": 100_000},
        "corpora": {"notes": {"settings": {"weights": {"notes": 1.0}, "general": {}}}},
        "pretrain": {"tokens": 1024, "sequence_length": 128, "sequences_per_step": 4, "device": "cpu", "threads": 1},
        "models": {
            "nano": {"model": SHAPE.model_dump(mode="json") | {"vocab_size": 0, "context": 512}},
            "on": {"start": "open", "tokens": 2048, "finetune": {"lora": {}}},
        },
        "main": {"corpus": "notes", "model": "on"},
        "finetune": short,
        "evaluate": {"limit": 40, "resamples": 20, "fast": True, "splits": ["test_newest"]},
        "baselines": ["metadata"],
        "generalists": {
            "open": {
                "source": str(open_model(tmp_path / "open")),
                "finetuned": {"all weights": {}},
                "evaluate": {"limit": 5},
            }
        },
        "joint": {"notes": 30},
        "single": {"notes": 15},
    }
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"title": "On", "grid": grid}), encoding="utf-8")
    done: dict[str, Any] = run_study(load_study(file), STEP_KINDS, tmp_path / "out", "on", keep_going=True)
    on = done["pretrained-notes-for-open-on"].manifest
    assert on.inputs["start"].fingerprint == done["generalist-open"].manifest.fingerprint
    assert done["finetuned-notes-for-open-on-joint-30notes-seed1"].manifest.extra["lora"]["r"] == 8
    asked = done["generalist-open-at-riverside"].manifest.counts["examples"]
    assert asked <= 10 < done["pretrained-notes-nano-at-riverside"].manifest.counts["examples"]
    study = read_json(tmp_path / "out" / "study-report" / "study.json")
    assert not study["failed"]
    analyses = {one["id"]: one for one in study["analyses"]}
    assert any("was asked at most 5 examples" in caveat for caveat in analyses["finetuned"]["caveats"])
    assert any("labels of each task on average, the single ones 15" in c for c in analyses["transfer"]["caveats"])
    options = {row["option"]: row["kind"] for row in analyses["cost"]["tables"][0]["rows"]}
    assert (options["on, notes"], options["nano, notes"]) == ("continued pretraining", "specialist from scratch")
