"""A run over all examples in blocks: stopped and gone on, shared between processes, it gives the same rows."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_toy import make_benchmark, make_records

from lang1.common.artefact import new_folder, partial_path
from lang1.common.errors import InputError, Lang1Error, SettingsError
from lang1.common.settings import load_settings
from lang1.evaluation import shards
from lang1.evaluation.asking import draw_shots, question_of, variants
from lang1.evaluation.examples import asked
from lang1.evaluation.predict_benchmark import evaluate_model
from lang1.evaluation.predictions import FILE, open_predictions
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.store import save_model
from lang1.remede.benchmark import Benchmark
from lang1.text.tokenizer_training import train_tokenizer

SETTINGS = EvaluateSettings(
    device="cpu", precision="fp32", limit=30, note_budget=16, swap_examples=8, tokens_per_batch=512
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("shards")
    return make_benchmark(make_records(place / "records", patients=160), place / "benchmark")


@pytest.fixture(scope="module")
def model(bench: Benchmark) -> Path:
    return make_model(bench, bench.folder.path.parent / "model")


def make_model(bench: Benchmark, out: Path, broken: bool = False) -> Path:
    """A model folder of random weights."""
    notes = bench.texts(bench.examples(splits=["train"])["note_id"].to_pylist())
    questions = bench.questions()
    texts = [*notes.values(), *questions.values()]
    tokenizer = train_tokenizer(texts, 600, required=[*questions.values(), " A B C D"])
    with new_folder(out, "model", inputs={"benchmark": bench.folder}, settings={"seed": 7}) as draft:
        network = Llama(preset("lang1-micro", vocab_size=tokenizer.vocab_size, layers=2), torch.float32)
        network.initialise(3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(4)
            if broken:
                network.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))  # type: ignore[operator, union-attr]
        save_model(draft.path, network, tokenizer)
        (draft.path / "metrics.jsonl").write_text("")
        np.save(draft.path / "patient_hashes.npy", np.zeros(0, dtype=np.int64))
        draft.extra = {"stage": "pretrained", "name": "lang1-micro", "parameters": 1000, "cost": {}}
    return out


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "NOTES", 7)


def rows(folder: Path) -> list[dict[str, object]]:
    table = open_predictions(folder).table
    return table.to_pylist()  # type: ignore[no-any-return]


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    bench: Benchmark, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_model(model, bench.folder.path, tmp_path / "whole", SETTINGS, regime="zero-shot")
    answer, calls = shards._answer, [0]

    def dies(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return answer(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "_answer", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(model, bench.folder.path, tmp_path / "out", SETTINGS, regime="zero-shot")
    journal = partial_path(tmp_path / "out") / "answers-0-of-1.jsonl"
    with journal.open("ab") as stream:
        stream.write(b'{"key": "given:3", "rows": [["torn')
    monkeypatch.setattr(shards, "_answer", answer)
    evaluate_model(model, bench.folder.path, tmp_path / "out", SETTINGS, regime="zero-shot")
    assert (tmp_path / "out" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", FILE]
    whole, again = (open_predictions(tmp_path / name).folder.manifest.extra for name in ("whole", "out"))
    assert whole["cost"]["tokens"] == again["cost"]["tokens"] and whole["answering"] == again["answering"]


def test_processes_share_the_examples_and_give_the_same_rows(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    evaluate_model(model, bench.folder.path, tmp_path / "one", SETTINGS, regime="zero-shot")
    two = SETTINGS.model_copy(update={"processes": 2})
    evaluate_model(model, bench.folder.path, tmp_path / "two", two, regime="zero-shot")
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one["example_id"] == other["example_id"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_ranks_of_torchrun_share_the_examples(
    bench: Benchmark, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_model(model, bench.folder.path, tmp_path / "one", SETTINGS, regime="zero-shot")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):  # rank 0 waits for what rank 1 did
        monkeypatch.setenv("RANK", rank)
        evaluate_model(model, bench.folder.path, tmp_path / "ranks", SETTINGS, regime="zero-shot")
        assert (tmp_path / "ranks").exists() == (rank == "0")
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "ranks"), strict=True):
        assert one["example_id"] == other["example_id"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_a_process_that_fails_is_named_and_nothing_is_written(
    bench: Benchmark, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    two = SETTINGS.model_copy(update={"processes": 2})
    with pytest.raises(Lang1Error, match=r"process 1 of 2 stopped .*run the same command again"):
        evaluate_model(model, bench.folder.path, tmp_path / "two", two, regime="zero-shot")
    assert not (tmp_path / "two").exists()


def test_tasks_of_ray_share_the_examples(
    bench: Benchmark, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    evaluate_model(model, bench.folder.path, tmp_path / "one", SETTINGS, regime="zero-shot")
    on_ray = SETTINGS.model_copy(update={"processes": 2, "launcher": "ray"})
    evaluate_model(model, bench.folder.path, tmp_path / "ray", on_ray, regime="zero-shot")
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "ray"), strict=True):
        assert one["example_id"] == other["example_id"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_ray_is_named_where_it_is_missing(
    bench: Benchmark, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    on_ray = SETTINGS.model_copy(update={"launcher": "ray"})
    with pytest.raises(SettingsError, match=r"pip install 'lang1\[ray\]'"):
        evaluate_model(model, bench.folder.path, tmp_path / "ray", on_ray, regime="zero-shot")


def test_scores_that_are_no_numbers_are_refused(bench: Benchmark, tmp_path: Path) -> None:
    broken = make_model(bench, tmp_path / "broken", broken=True)
    with pytest.raises(InputError, match="no number as score of example"):
        evaluate_model(broken, bench.folder.path, tmp_path / "out", SETTINGS, regime="zero-shot")


def test_options_are_asked_in_both_orders(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    card = bench.cards["length_of_stay"]
    turned = question_of(card, swapped=True)
    assert turned.options == tuple(reversed(card.options))
    assert list(turned.by_class(np.arange(4))) == [3, 2, 1, 0]
    assert f"A. {card.options[3]}" in turned.text
    evaluate_model(model, bench.folder.path, tmp_path / "given", SETTINGS, regime="zero-shot")
    about = open_predictions(tmp_path / "given").folder.manifest.extra["answering"]["mortality"]
    assert about["swap"]["examples"] == 8
    assert 0 < about["swap"]["mean_absolute_difference"] < 1 and 0 <= about["swap"]["answers_changed"] <= 1
    averaged = SETTINGS.model_copy(update={"order": "averaged"})
    evaluate_model(model, bench.folder.path, tmp_path / "averaged", averaged, regime="zero-shot")
    extra = open_predictions(tmp_path / "averaged").folder.manifest.extra
    assert extra["answering"]["mortality"]["swap"]["examples"] == 30 and extra["order"] == "averaged"
    # Asked of the turned-round question alone, the mean of both is what is written.
    first = {row["example_id"]: row["probabilities"] for row in rows(tmp_path / "given")}
    for row in rows(tmp_path / "averaged"):
        other = 2 * np.array(row["probabilities"]) - np.array(first[row["example_id"]])
        assert other.sum() == pytest.approx(1) and (other > -1e-9).all()
    none = SETTINGS.model_copy(update={"swap_examples": 0})
    evaluate_model(model, bench.folder.path, tmp_path / "none", none, regime="zero-shot")
    assert open_predictions(tmp_path / "none").folder.manifest.extra["answering"]["mortality"]["swap"] is None


def test_shots_come_from_train_and_are_fixed_by_the_seed(bench: Benchmark) -> None:
    chosen = asked(bench, SETTINGS)
    train = bench.examples(["mortality"], ["train"])
    for kind in ("balanced", "natural"):
        settings = SETTINGS.model_copy(update={"shots_drawn": kind, "seed": 5})
        drawn = draw_shots(chosen, "mortality", 6, settings)
        assert drawn["example_id"] == draw_shots(chosen, "mortality", 6, settings)["example_id"]
        assert set(drawn["example_id"].to_pylist()) <= set(train["example_id"].to_pylist())
        assert len(set(drawn["patient_id"].to_pylist())) == 6
        if kind == "balanced":
            assert sorted(drawn["label"].to_pylist()) == [0, 0, 0, 1, 1, 1]
        other = draw_shots(chosen, "mortality", 6, settings.model_copy(update={"seed": 6}))
        assert other["example_id"] != drawn["example_id"]
        fewer = set(draw_shots(chosen, "mortality", 4, settings)["example_id"].to_pylist())
        assert fewer <= set(drawn["example_id"].to_pylist())


def test_few_shot_answers_are_those_of_the_whole_prompt(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"shots": 2, "shot_budget": 10, "swap_examples": 0, "limit": 4})
    evaluate_model(model, bench.folder.path, tmp_path / "few", settings, regime="zero-shot")
    found = open_predictions(tmp_path / "few")
    assert found.regime == "few-shot"
    scorer = shards.open_scorer("own", model, settings, 16, "head")
    way = variants(asked(bench, settings), settings, 2, scorer.cut)[0]
    answers = {row["example_id"]: row["probabilities"] for row in rows(tmp_path / "few")}
    tokenizer = scorer.tokenizer  # type: ignore[attr-defined]
    for group in way.asked.groups():
        for item in group.items:
            question = way.questions[item.task]
            tokens = (
                tokenizer.encode(question.lead) + tokenizer.encode(group.text)[:16] + tokenizer.encode(question.text)
            )
            with torch.no_grad():
                logits = scorer.model.logits_of(np.array([tokens]))[0, -1]  # type: ignore[attr-defined]
            shares = torch.softmax(logits[tokenizer.letter_ids(len(question.options))].double(), 0).numpy()
            assert answers[item.example_id] == pytest.approx(shares, abs=1e-5)
    with pytest.raises(InputError, match="positions do not hold"):
        many = settings.model_copy(update={"shots": 40, "shot_budget": 200})
        evaluate_model(model, bench.folder.path, tmp_path / "many", many, regime="zero-shot")
    evaluate_model(model, bench.folder.path, tmp_path / "tuned", settings, regime="joint")
    assert open_predictions(tmp_path / "tuned").folder.manifest.extra["shots"] == 0  # what is finetuned gets none


def test_the_prompt_is_named_by_its_hash(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    evaluate_model(model, bench.folder.path, tmp_path / "out", SETTINGS, regime="zero-shot")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert set(manifest["extra"]["prompts"]) == set(bench.tasks)
    assert load_settings(EvaluateSettings, overrides=["truncation=sections:results,plan_of_care"[:27]]).truncation
    with pytest.raises(SettingsError, match="no section is called 'plan_of_care'"):
        load_settings(EvaluateSettings, overrides=["truncation=sections:results,plan_of_care"])
