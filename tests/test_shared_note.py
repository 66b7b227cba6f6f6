"""Questions that share a note's pass answer as if each were asked alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from lang1.common.errors import InputError
from lang1.model.answering import ScoreTable, score_groups
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.text.questions import render_question
from lang1.text.shared_note import assemble, by_length, cut_to_budget, encode_groups, epoch_order
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

OPTIONS = {"mortality": 2, "length_of_stay": 4, "comorbidity": 5}
QUESTIONS = {t: render_question(t, [f"option {i}" for i in range(n)]) for t, n in OPTIONS.items()}


@dataclass
class One:
    example_id: str
    task: str
    label: int


@dataclass
class Group:
    note_id: str
    text: str
    items: list[One] = field(default_factory=list)


def make_groups(count: int, seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    words = np.array(["pain", "fever", "cough", "stable", "clear", "troponin", "3.2", "edema", "renal", "140", "mg"])
    groups = []
    for number in range(count):
        text = " ".join(rng.choice(words, int(rng.integers(0 if number else 1, 60))))
        asked = [t for t in OPTIONS if rng.random() < 0.7] or ["mortality"]
        items = [One(f"{t}:{number}", t, int(rng.integers(0, OPTIONS[t]))) for t in asked]
        groups.append(Group(f"n{number}", text, items))
    return groups


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [g.text for g in make_groups(200, seed=9)] + list(QUESTIONS.values()) * 5
    return train_tokenizer(texts, 500, required=[*QUESTIONS.values(), "\nAnswer: A B C D E"])


def model_of(tokenizer: Tokenizer, dtype: torch.dtype = torch.float32) -> Llama:
    shape = ModelSettings(
        vocab_size=tokenizer.vocab_size,
        hidden_size=64,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        context=256,
        init_std=0.1,
    )
    model = Llama(shape, dtype)
    model.initialise(0)
    return model


def one_at_a_time(model: Llama, tokenizer: Tokenizer, groups: list[Group], budget: int) -> dict[str, np.ndarray]:
    """Each question asked alone, as note tokens then question tokens in one plain document."""
    found = {}
    for group in groups:
        note = tokenizer.encode(group.text)[:budget]
        for item in group.items:
            tokens = np.array([note + tokenizer.encode(QUESTIONS[item.task])])
            with torch.no_grad():
                logits = model.logits_of(tokens)[0, -1]
            letters = tokenizer.letter_ids(OPTIONS[item.task])
            found[item.example_id] = torch.log_softmax(logits, 0)[letters].double().numpy()
    return found


def scores_of(table: ScoreTable) -> dict[str, np.ndarray]:
    return dict(zip(table.example_ids, table.log_probabilities, strict=True))


@pytest.mark.parametrize("backend", ["auto", "branches", "bmm", "sdpa", "loop", "dense"])
def test_sharing_a_note_equals_asking_one_at_a_time(tokenizer: Tokenizer, backend: str) -> None:
    groups, model = make_groups(15), model_of(tokenizer)
    expected = one_at_a_time(model, tokenizer, groups, budget=40)
    model.backend = backend  # type: ignore[assignment]
    shared = score_groups(model, tokenizer, groups, QUESTIONS, OPTIONS, note_budget=40, tokens_per_batch=600)
    assert shared.example_ids == [i.example_id for g in groups for i in g.items]
    for name, scores in scores_of(shared).items():
        np.testing.assert_allclose(scores, expected[name], atol=1e-5, rtol=0)


def test_bf16_answers_stay_within_the_stated_bound(tokenizer: Tokenizer) -> None:
    """bf16 keeps 8 bits: log-probabilities of a shared pass differ from one at a time by at most 0.05."""
    groups, model = make_groups(15), model_of(tokenizer, torch.bfloat16)
    expected = one_at_a_time(model, tokenizer, groups, budget=40)
    shared = scores_of(score_groups(model, tokenizer, groups, QUESTIONS, OPTIONS, 40, tokens_per_batch=600))
    worst = max(float(np.abs(shared[name] - expected[name]).max()) for name in expected)
    assert worst < 0.05
    exact = one_at_a_time(model_of(tokenizer), tokenizer, groups, budget=40)
    assert max(float(np.abs(shared[name] - exact[name]).max()) for name in exact) < 0.1


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_an_answer_does_not_depend_on_its_batch(tokenizer: Tokenizer, dtype: torch.dtype, bound: float) -> None:
    groups, model = make_groups(20), model_of(tokenizer, dtype)
    whole = scores_of(score_groups(model, tokenizer, groups, QUESTIONS, OPTIONS, 40, tokens_per_batch=100_000))
    small = scores_of(score_groups(model, tokenizer, groups, QUESTIONS, OPTIONS, 40, tokens_per_batch=1))
    for name in whole:
        np.testing.assert_allclose(small[name], whole[name], atol=bound, rtol=0)


def test_a_question_neither_sees_nor_moves_another(tokenizer: Tokenizer) -> None:
    model = model_of(tokenizer)
    alone = Group("n", "fever cough stable", [One("a", "mortality", 1)])
    both = Group("n", "fever cough stable", [One("b", "comorbidity", 2), One("a", "mortality", 1)])
    first = scores_of(score_groups(model, tokenizer, [alone], QUESTIONS, OPTIONS, 40))["a"]
    second = scores_of(score_groups(model, tokenizer, [both], QUESTIONS, OPTIONS, 40))["a"]
    np.testing.assert_allclose(first, second, atol=1e-5, rtol=0)


def test_no_label_is_among_the_inputs(tokenizer: Tokenizer) -> None:
    groups = make_groups(12)
    relabelled = [
        Group(g.note_id, g.text, [One(i.example_id, i.task, (i.label + 1) % OPTIONS[i.task]) for i in g.items])
        for g in groups
    ]
    before, after = (encode_groups(g, tokenizer, QUESTIONS, 40) for g in (groups, relabelled))
    every = np.arange(len(groups))
    first, second = assemble(before, every), assemble(after, every)
    np.testing.assert_array_equal(first.tokens, second.tokens)
    assert (before.item_label != after.item_label).all()
    # The place that is read is the last token of "Answer:", and nothing follows it in its branch.
    colon = tokenizer.encode("\nAnswer:")[-1]
    assert (first.tokens[first.answer] == colon).all()
    following = np.append(first.branch[1:], -1)[first.answer]
    assert (following != first.branch[first.answer]).all()


def test_the_note_budget_cuts_the_note_and_never_the_question(tokenizer: Tokenizer) -> None:
    groups = make_groups(12)
    encoded = encode_groups(groups, tokenizer, QUESTIONS, 5)
    full = [len(tokenizer.encode(g.text)) for g in groups]
    np.testing.assert_array_equal(encoded.truncated, [max(0, n - 5) for n in full])
    asked = [sum(len(tokenizer.encode(QUESTIONS[i.task])) for i in g.items) for g in groups]
    np.testing.assert_array_equal(encoded.lengths, [min(5, n) + q for n, q in zip(full, asked, strict=True)])
    table = score_groups(model_of(tokenizer), tokenizer, groups, QUESTIONS, OPTIONS, 5)
    assert table.truncated[0] == max(0, full[0] - 5)


def test_probabilities_are_the_softmax_over_the_letters(tokenizer: Tokenizer) -> None:
    table = score_groups(model_of(tokenizer), tokenizer, make_groups(4), QUESTIONS, OPTIONS, 40)
    for row in range(len(table)):
        shares = table.probabilities(row)
        assert abs(shares.sum() - 1) < 1e-12
        assert len(shares) == OPTIONS[table.tasks[row]]
        np.testing.assert_allclose(shares * table.option_mass(row), np.exp(table.log_probabilities[row]), rtol=1e-9)
    assert score_groups(model_of(tokenizer), tokenizer, [], QUESTIONS, OPTIONS, 40).example_ids == []


def test_batches_keep_to_their_budget_and_every_group_comes_once() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, 100).astype(np.int64)
    for batches in (by_length(lengths, 120), cut_to_budget(lengths, np.arange(100), 120)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(100))
        assert all(lengths[b].sum() <= 120 for b in batches)
    assert [len(b) for b in cut_to_budget(np.array([500, 1]), np.array([0, 1]), 120)] == [1, 1]


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    first = epoch_order(100, seed=1, epoch=0)
    np.testing.assert_array_equal(first, epoch_order(100, seed=1, epoch=0))
    assert sorted(first.tolist()) == list(range(100))
    assert (first != epoch_order(100, seed=1, epoch=1)).any() and (first != epoch_order(100, seed=2, epoch=0)).any()
    repeats = np.where(np.arange(100) < 10, 2.5, 1.0)
    visits = sum(np.bincount(epoch_order(100, 1, e, repeats), minlength=100) for e in range(200)) / 200
    assert (visits[10:] == 1).all()
    assert abs(visits[:10].mean() - 2.5) < 0.1


def test_a_task_without_a_question_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="task 'readmission' has no question"):
        encode_groups([Group("n", "x", [One("a", "readmission", 0)])], tokenizer, QUESTIONS, 5)
