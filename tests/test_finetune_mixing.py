"""Mixing tasks: shares, weights, draws, tasks that leave the loss, and the questions that a pass then asks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_shared_note import OPTIONS, QUESTIONS, Group, One, make_groups, model_of
from training_world import World, write_benchmark, write_corpus

import lang1.training.finetune as finetuning
from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.common.settings import load_settings
from lang1.evaluation.predict_benchmark import note_limits
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.store import load_model
from lang1.text.shared_note import EncodedGroups, assemble, encode_groups, tokens_asking
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.answers import Answers, some_notes
from lang1.training.finetune import finetune
from lang1.training.mixing import QuestionOrder, TaskProgress, task_shares, task_weights
from lang1.training.pretrain import pretrain
from lang1.training.settings import PAPER, FinetuneSettings, LoraSettings, PretrainSettings

TASKS = list(OPTIONS)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [g.text for g in make_groups(200, seed=9)] + list(QUESTIONS.values()) * 5
    return train_tokenizer(texts, 500, required=[*QUESTIONS.values(), "\nAnswer: A B C D E"])


@pytest.fixture(scope="module")
def uneven(tokenizer: Tokenizer) -> EncodedGroups:
    """64 notes asked of mortality, 16 of length of stay as well, 4 of comorbidity too."""
    groups = make_groups(64, seed=3)
    for number, group in enumerate(groups):
        asked = TASKS[: 1 + (number < 16) + (number < 4)]
        group.items[:] = [One(f"{t}:{number}", t, number % OPTIONS[t]) for t in asked]
    return encode_groups(groups, tokenizer, QUESTIONS, 40)


@pytest.mark.parametrize(("temperature", "expected"), [(None, [1, 1, 1]), (1.0, [64, 16, 4]), (2.0, [8, 4, 2])])
def test_a_tasks_share_is_its_size_to_one_over_t(
    uneven: EncodedGroups, temperature: float | None, expected: list[float]
) -> None:
    shares = task_shares(uneven, temperature)
    np.testing.assert_allclose(shares, np.array(expected) / sum(expected))
    weights = task_weights(uneven, temperature=temperature)
    totals = np.bincount(uneven.item_task, weights[uneven.item_task])
    np.testing.assert_allclose(totals / totals.sum(), shares)
    np.testing.assert_allclose(weights[uneven.item_task].mean(), 1)
    np.testing.assert_allclose(task_weights(uneven, temperature=temperature, drawn=True), 1)


def test_weighting_notes_and_drawing_questions_expect_the_same_loss(uneven: EncodedGroups) -> None:
    """Brute force over a long run: per task, weight times frequency is the same in both."""
    for balance in ("count", "surprise"):
        weighted = task_weights(uneven, balance, 3.0)  # type: ignore[arg-type]
        by_notes = np.bincount(uneven.item_task, weighted[uneven.item_task])
        order = QuestionOrder(uneven, task_shares(uneven, 3.0), 50, seed=5)
        items = np.concatenate([order.items(step) for step in range(400)])
        drawn = task_weights(uneven, balance, 3.0, drawn=True)  # type: ignore[arg-type]
        by_draws = np.bincount(uneven.item_task[items], drawn[uneven.item_task[items]])
        np.testing.assert_allclose(by_notes / by_notes.sum(), by_draws / by_draws.sum(), atol=2e-3)


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.sampled_from([None, 1.0, 1.7]), st.integers(0, 1000))
def test_each_batch_holds_each_tasks_share_and_each_epoch_each_question_once(
    per_step: int, temperature: float | None, seed: int
) -> None:
    encoded = _bare([30, 12, 0, 7])
    shares = task_shares(encoded, temperature)
    order = QuestionOrder(encoded, shares, per_step, seed)
    steps = [order.items(step) for step in range(20)]
    for items in steps:
        counts = np.bincount(encoded.item_task[items], minlength=4)
        assert np.abs(counts - shares * per_step).max() < 4
    every = np.concatenate(steps)
    for task, size in enumerate([30, 12, 0, 7]):
        mine = every[encoded.item_task[every] == task]
        for start in range(0, len(mine) - size + 1, max(size, 1)):
            assert len(set(mine[start : start + size].tolist())) == size
    # Asked for anew, out of order and of another object: the same.
    other = QuestionOrder(encoded, shares, per_step, seed)
    for step in (13, 2, 19):
        np.testing.assert_array_equal(other.items(step), steps[step])


def _bare(counts: list[int]) -> EncodedGroups:
    task = np.repeat(np.arange(len(counts)), counts)
    ones = np.arange(len(task) + 1, dtype=np.int64)
    questions = tuple(np.zeros(3, dtype=np.int32) for _ in counts)
    names = tuple(f"t{i}" for i in range(len(counts)))
    zeros = np.zeros(len(task), dtype=np.int64)
    return EncodedGroups(names, questions, zeros.astype(np.int32), ones, zeros, ones, task, zeros, [""] * len(task))


def test_a_task_leaves_after_its_patience_and_is_judged_on() -> None:
    progress = TaskProgress(["a", "b"], patience=2)
    assert progress.judge(10, {"a": 0.6, "b": 0.5}) == ["a", "b"]
    assert progress.judge(20, {"a": 0.6, "b": 0.7}) == ["b"]  # as good is not better
    assert progress.stopped == []
    assert progress.judge(30, {"a": 0.5, "b": 0.6}) == [] and progress.stopped == ["a"]
    assert progress.judge(40, {"a": 0.9, "b": 0.8}) == ["a", "b"]  # the others can still help it; it stays out
    assert progress.stopped == ["a"]
    again = TaskProgress(["a", "b"], patience=2)
    again.load(progress.state())
    assert again.state() == progress.state()
    assert progress.summary() == {
        "a": {"best": 0.9, "step": 40, "stopped": 30},
        "b": {"best": 0.8, "step": 40, "stopped": None},
    }
    for _ in range(5):
        assert TaskProgress(["a"], patience=None).judge(1, {}) == []


def test_a_pass_that_asks_some_questions_is_the_pass_of_groups_that_have_only_those(tokenizer: Tokenizer) -> None:
    groups = make_groups(30, seed=4)
    encoded = encode_groups(groups, tokenizer, QUESTIONS, 25)
    asked = np.random.default_rng(0).random(encoded.items) < 0.4
    ids = set(np.array(encoded.example_ids)[asked])
    pruned = [Group(g.note_id, g.text, [i for i in g.items if i.example_id in ids]) for g in groups]
    alone = encode_groups(pruned, tokenizer, QUESTIONS, 25)
    which = np.array([7, 3, 3, 29, 0, 11])
    one, other = assemble(encoded, which, asked), assemble(alone, which)
    for field in ("tokens", "positions", "branch", "lengths", "answer", "note_read", "note_next"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert [encoded.example_ids[i] for i in one.item] == [alone.example_ids[i] for i in other.item]
    expected = [alone.lengths[g] if pruned[g].items else 0 for g in which]
    np.testing.assert_array_equal(tokens_asking(encoded, which, asked), expected)


def test_a_step_that_draws_questions_has_the_gradient_of_asking_each_alone(tokenizer: Tokenizer) -> None:
    """Oracle: one plain document a question, cross-entropy over its letters, the plain mean over the batch."""
    groups = make_groups(12, seed=6)
    encoded = encode_groups(groups, tokenizer, QUESTIONS, 30)
    settings = FinetuneSettings(
        sampling="questions", questions_per_step=24, loss="letters", temperature=2.0, tokens_per_pass=300, threads=1
    )
    model = model_of(tokenizer)
    work = Answers(model, tokenizer, encoded, encoded, OPTIONS, settings)
    items = work._order.items(3)  # type: ignore[union-attr]
    assert len(items) == 24
    distinct = sorted(set(items.tolist()))
    for loss, _ in work.losses(3):
        loss.backward()  # type: ignore[no-untyped-call]
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    total = torch.zeros(())
    by_id = {i.example_id: (g, i) for g in groups for i in g.items}
    for item in distinct:
        group, one = by_id[encoded.example_ids[item]]
        tokens = tokenizer.encode(group.text)[:30] + tokenizer.encode(QUESTIONS[one.task])
        logits = model.logits_of(np.array([tokens]))[0, -1][tokenizer.letter_ids(OPTIONS[one.task])]
        total = total + torch.nn.functional.cross_entropy(logits[None], torch.tensor([one.label]))
    (total / len(distinct)).backward()  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, atol=1e-6, rtol=1e-4)


# --- whole runs ------------------------------------------------------------------------------------------------------

RUN = FinetuneSettings(
    steps=12,
    notes_per_step=8,
    note_budget=32,
    validate_every=2,
    checkpoint_every=3,
    min_cases=1,
    threads=1,
    device="cpu",
    precision="fp32",
)


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "Benchmark", World)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training_world import SHAPE

    folder = tmp_path_factory.mktemp("m")
    settings = PretrainSettings(
        model=SHAPE, tokens=1024, sequence_length=64, sequences_per_step=4, threads=1, device="cpu", precision="fp32"
    )
    return pretrain(write_corpus(folder / "corpus"), folder / "pretrained", settings)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmark(tmp_path_factory.mktemp("b") / "benchmark")


def scripted(monkeypatch: pytest.MonkeyPatch, of_task: dict[str, list[float]]) -> None:
    """Validations with given scores, by their number (step / 2 - 1), so that a resumed run meets the same."""
    seen: dict[int, int] = {}

    def measure(self: Answers) -> tuple[dict[str, float], dict[str, float]]:
        number = self.scripted_step // 2 - 1  # type: ignore[attr-defined]
        scores = {task: values[number] for task, values in of_task.items()}
        seen[number] = seen.get(number, 0) + 1
        return {"score": float(np.mean(list(scores.values()))), "loss": 1.0}, scores

    validate = Answers.validate

    def at_step(self: Answers, step: int) -> dict[str, float]:
        self.scripted_step = step  # type: ignore[attr-defined]
        return validate(self, step)

    monkeypatch.setattr(Answers, "measure", measure)
    monkeypatch.setattr(Answers, "validate", at_step)


def test_a_task_that_left_is_not_asked_and_the_run_ends_when_all_have(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"mortality": [0.7, 0.6, 0.6, 0.6, 0.6, 0.6], "length_of_stay": [0.6, 0.7, 0.6, 0.5, 0.5, 0.5]}
    scripted(monkeypatch, scores)
    asked: dict[int, set[str]] = {}
    batches = Answers.batches

    def noted(self: Answers, step: int) -> Any:
        found = batches(self, step)
        asked[step] = {self.train.tasks[self.train.item_task[i]] for b in found for i in b.item}
        return found

    monkeypatch.setattr(Answers, "batches", noted)
    out = finetune(pretrained, benchmark, tmp_path / "m", RUN.model_copy(update={"task_patience": 2}))
    # Mortality: best at 2, worse at 4 and 6. Length of stay: best at 4, worse at 6 and 8; then nothing is left.
    assert {step: len(tasks) for step, tasks in asked.items()} == {0: 2, 1: 2, 2: 2, 3: 2, 4: 2, 5: 2, 6: 1, 7: 1}
    assert asked[7] == {"length_of_stay"}
    manifest = open_folder(out, "model").manifest
    assert manifest.counts["steps"] == 8
    assert manifest.extra["validation_by_task"] == {
        "mortality": {"best": 0.7, "step": 2, "stopped": 6},
        "length_of_stay": {"best": 0.7, "step": 4, "stopped": 8},
    }


def test_each_tasks_best_weights_are_kept_and_a_stopped_run_keeps_the_same(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file
    from test_training_runs import Stopper, assert_same_run

    scores = {"mortality": [0.7, 0.6, 0.6, 0.8, 0.6, 0.6], "length_of_stay": [0.6, 0.7, 0.9, 0.5, 0.5, 0.5]}
    scripted(monkeypatch, scores)
    settings = RUN.model_copy(update={"task_patience": 4, "task_best": True, "sampling": "questions"})
    whole = finetune(pretrained, benchmark, tmp_path / "whole", settings)
    Stopper(monkeypatch, "finetune", [4, 8], kill=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            finetune(pretrained, benchmark, tmp_path / "m", settings)
    again = finetune(pretrained, benchmark, tmp_path / "m", settings)
    assert_same_run(again, whole)
    for task, step in (("mortality", 8), ("length_of_stay", 6)):
        part = open_folder(again / "best" / task, "model")
        assert part.manifest.extra["tasks"] == [task]
        assert part.manifest.extra["validation_by_task"][task]["step"] == step
        # The weights are those of a run that ends there.
        shorter = settings.model_copy(update={"validate_every": step, "patience": 1, "task_best": False})
        monkeypatch.setattr(Answers, "validate", lambda self, at, end=step: {"score": -float(at > end), "loss": 1.0})
        alone = finetune(pretrained, benchmark, tmp_path / f"to-{step}", shorter)
        for name, tensor in load_file(alone / "model.safetensors").items():
            assert torch.equal(tensor, load_file(part.path / "model.safetensors")[name])
        assert load_model(part.path, "cpu").tokenizer.vocab_size > 0


def test_the_papers_settings_are_defaults_that_anything_set_overrides() -> None:
    paper = load_settings(FinetuneSettings, None, ["base=paper"])
    assert paper.optimizer.betas == (0.9, 0.999) and paper.optimizer.eps == 1e-5
    assert paper.optimizer.weight_decay == 0.02 and paper.optimizer.clip is None
    assert (paper.schedule.warmup, paper.schedule.final) == (0.0, 0.0)
    assert (paper.steps_per_task, paper.questions_per_step, paper.note_budget) == (5120, 64, 512)
    assert paper.patience is not None and paper.patience * paper.validate_every == 300
    assert (paper.lr_search.trials, paper.lr_search.steps) == (5, 100)
    assert (paper.lr_search.low, paper.lr_search.high) == (1e-6, 1e-3)
    assert paper.truncation == "head" and paper.loss == "letters"
    changed = load_settings(
        FinetuneSettings, None, ["base=paper", "optimizer.lr=1e-5", "lr_search.trials=2", "steps=7", "note_budget=64"]
    )
    assert changed.optimizer.lr == 1e-5 and changed.optimizer.eps == 1e-5 and changed.optimizer.clip is None
    assert (changed.lr_search.trials, changed.lr_search.high) == (2, 1e-3)
    assert (changed.steps, changed.steps_per_task, changed.note_budget) == (7, None, 64)
    assert FinetuneSettings.model_validate(paper.model_dump(mode="json")) == paper
    assert FinetuneSettings().optimizer.eps == 1e-8 and set(PAPER) <= set(FinetuneSettings.model_fields)
    assert LoraSettings() == LoraSettings(r=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj"))


def test_steps_of_the_paper_go_by_the_number_of_tasks(uneven: EncodedGroups, tokenizer: Tokenizer) -> None:
    model = model_of(tokenizer)
    settings = load_settings(FinetuneSettings, None, ["base=paper"])
    assert Answers(model, tokenizer, uneven, uneven, OPTIONS, settings).steps == 3 * 5120
    two = settings.model_copy(update={"steps_per_task": None, "epochs": 2.0})
    assert Answers(model, tokenizer, uneven, uneven, OPTIONS, two).steps == round(2 * 84 / 64)


def test_settings_that_contradict_each_other_are_named() -> None:
    for values, message in (
        ({"steps": 1, "steps_per_task": 1}, "set one of them"),
        ({"sampling": "questions", "oversample": 2.0}, "needs sampling=notes"),
        ({"lr_search": {"steps": 4, "prune_at": 4}}, "must come before"),
    ):
        with pytest.raises(ValueError, match=message):
            FinetuneSettings.model_validate(values)
    with pytest.raises(SettingsError, match="one run trains one seed"):
        finetune(Path("x"), Path("y"), Path("z"), FinetuneSettings(seeds=[1, 2]))
    assert math.isfinite(FinetuneSettings().optimizer.lr)


def test_notes_are_encoded_once_for_a_run_and_where_asked_for_others(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_training_runs import Stopper, assert_same_run

    encoded: list[int] = []
    encode = finetuning.encode_groups
    monkeypatch.setattr(finetuning, "encode_groups", lambda *a: (encoded.append(1), encode(*a))[1])
    whole = finetune(pretrained, benchmark, tmp_path / "whole", RUN)
    assert len(encoded) == 2 and not (whole / "encoded").exists()  # train and val
    Stopper(monkeypatch, "finetune", [4], kill=True)
    with pytest.raises(RuntimeError):
        finetune(pretrained, benchmark, tmp_path / "m", RUN)
    assert_same_run(finetune(pretrained, benchmark, tmp_path / "m", RUN), whole)
    assert len(encoded) == 4
    kept = RUN.model_copy(update={"encoded": tmp_path / "kept"})
    for number, (changes, made) in enumerate([({}, 6), ({"seed": 1, "steps": 3}, 7), ({"note_budget": 30}, 9)]):
        finetune(pretrained, benchmark, tmp_path / f"run{number}", kept.model_copy(update=changes))
        assert len(encoded) == made  # another seed draws other validation notes; another budget changes both
    damaged = next((tmp_path / "kept").glob("*/item_task.npy"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(ArtefactError, match="is damaged"):
        for budget in (32, 30):
            finetune(
                pretrained, benchmark, tmp_path / f"again{budget}", kept.model_copy(update={"note_budget": budget})
            )


def test_a_note_can_be_cut_by_its_sections_and_the_model_is_asked_so_afterwards(
    tmp_path: Path, pretrained: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: set[str] = set()
    encode = finetuning.encode_groups
    monkeypatch.setattr(finetuning, "encode_groups", lambda *a: (policies.add(a[4]), encode(*a))[1])
    policy = "sections:assessment_and_plan,results"
    settings = RUN.model_copy(update={"truncation": policy, "steps": 1})
    made = finetune(pretrained, benchmark, tmp_path / "m", settings)
    assert policies == {policy}
    assert note_limits(open_folder(made, "model"), EvaluateSettings()) == (settings.note_budget, policy)
    with pytest.raises(SettingsError, match="middle"):
        load_settings(FinetuneSettings, overrides=["truncation=middle"])


@given(seed=st.integers(0, 5), sizes=st.lists(st.integers(1, 70), min_size=2, max_size=5))
@hypothesis_settings(deadline=None, max_examples=30)
def test_smaller_sets_of_notes_of_one_seed_lie_within_the_larger_ones(seed: int, sizes: list[int]) -> None:
    groups = make_groups(64, seed=3)
    drawn = [{g.note_id for g in some_notes(iter(groups), size, seed)} for size in sorted(sizes)]
    assert [len(d) for d in drawn] == [min(size, 64) for size in sorted(sizes)]
    assert all(one <= other for one, other in itertools.pairwise(drawn))
    # Whichever tasks are asked and in whichever order the notes come: a note's place follows from its id and the seed.
    turned = {g.note_id for g in some_notes(reversed(groups), sorted(sizes)[0], seed)}
    assert turned == drawn[0]


def test_seeds_draw_different_notes() -> None:
    groups = make_groups(64, seed=3)
    one, other = ({g.note_id for g in some_notes(groups, 16, seed)} for seed in (1, 2))
    assert one != other and some_notes(groups, None, 1) is groups
