"""Evaluations on the way: the same answers as elsewhere, chosen once, from the splits that are for it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_toy import make_benchmark, make_records
from training_world import SHAPE, write_corpus

from lang1.common.errors import InputError, SettingsError
from lang1.metrics.auroc import task_auroc
from lang1.model.answering import score_encoded, score_groups
from lang1.model.config import preset
from lang1.model.generate import generate
from lang1.model.llama import Llama
from lang1.remede.benchmark import Benchmark
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.comprehension import read_choices
from lang1.training.inrun import AFTER_ANSWER, SAMPLES, InRun, in_run_evaluation
from lang1.training.loop import METRICS
from lang1.training.pretrain import pretrain
from lang1.training.settings import EvaluationSettings, PretrainSettings, SampleSettings, WatchSettings
from lang1.training.watch import Stopped

CHOICES = [
    {"question": "Which organ fails in uraemia?", "options": ["liver", "kidney", "spleen"], "answer": "kidney"},
    {"question": "Is the pulse fast?", "options": {"A": "yes", "B": "no"}, "answer": "A", "context": "Pulse 140."},
    {"question": "Name the drug.", "options": ["aspirin", "insulin"], "answer": 1, "context": "On insulin."},
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("toy")
    return make_benchmark(make_records(place / "records", patients=160), place / "benchmark")


@pytest.fixture(scope="module")
def tokenizer(bench: Benchmark) -> Tokenizer:
    texts = [g.text for g in bench.note_groups("train")]
    questions = list(bench.questions().values())
    return train_tokenizer([*texts, *questions], 500, required=[*questions, " A B C D E F G"])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Llama:
    network = Llama(preset("lang1-micro", vocab_size=tokenizer.vocab_size, layers=2), torch.float32)
    network.initialise(3)
    with torch.no_grad():  # larger weights, so that answers differ between notes
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def inrun(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark | None, **settings: Any
) -> tuple[InRun, dict[str, float]]:
    made = in_run_evaluation(EvaluationSettings(every=1, **settings), bench, seed=7)
    assert made is not None
    run = made(model, tokenizer, tmp_path)
    assert isinstance(run, InRun)
    return run, run(5, lambda: False)


def test_zero_shot_asks_what_an_evaluation_asks(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark
) -> None:
    _, found = inrun(tmp_path, model, tokenizer, bench, min_cases=1)
    groups = bench.note_groups("val")
    options = {task: len(card.options) for task, card in bench.cards.items()}
    table = score_groups(model, tokenizer, groups, bench.questions(), options, 512)
    for task in bench.tasks:
        labels, probabilities = table.of_task(task)
        assert found[f"auroc/{task}"] == pytest.approx(task_auroc(labels, probabilities, min_cases=1))
        mass = [table.option_mass(i) for i, t in enumerate(table.tasks) if t == task]
        assert found[f"option_mass/{task}"] == pytest.approx(np.mean(mass), rel=1e-4)


def test_a_subset_of_notes_is_the_same_each_time_and_comes_from_validation(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark
) -> None:
    one, first = inrun(tmp_path, model, tokenizer, bench, notes=9, tasks=["mortality"])
    two, again = inrun(tmp_path, model, tokenizer, bench, notes=9, tasks=["mortality"])
    assert first == again
    assert one.zero is not None and two.zero is not None and one.zero.example_ids == two.zero.example_ids
    assert len(one.zero.example_ids) == 9
    assert set(one.zero.example_ids) <= set(bench.examples(["mortality"], ["val"])["example_id"].to_pylist())


def test_few_shot_answers_follow_examples_of_the_training_split(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark
) -> None:
    """Against each prompt as one document of its own, its shots found again by their text."""
    asked = {"few_shot": 3, "few_shot_notes": 99, "shot_budget": 20, "tasks": ["mortality", "length_of_stay"]}
    run, found = inrun(tmp_path, model, tokenizer, bench, min_cases=1, **asked)
    few = run.few
    assert few is not None and few.items == len(few.item_task) > 16
    table = score_encoded(model, tokenizer, few, run.options)
    gap = tokenizer.encode(AFTER_ANSWER)
    train = bench.note_groups("train")
    for task in asked["tasks"]:  # type: ignore[attr-defined]
        question = tokenizer.encode(bench.questions()[task])
        letters = tokenizer.letter_ids(len(bench.cards[task].options))
        shown: set[tuple[int, ...]] = set()
        for group in train:
            note = tokenizer.encode(group.text)[:20]
            shown |= {(*note, *question, letters[i.label], *gap) for i in group.items if i.task == task}
        items = [i for i, t in enumerate(few.item_task) if few.tasks[t] == task]
        prefixes = set()
        for item in items[:4]:
            row = few.note_tokens[few.note_ends[item] : few.note_ends[item + 1]].tolist()
            shots: list[tuple[int, ...]] = []
            while len(shots) < 3:
                shot = next(s for s in shown if tuple(row[: len(s)]) == s)
                shots.append(shot)
                row = row[len(shot) :]
            prefixes.add(tuple(shots))
            group = next(
                g for g in bench.note_groups("val") if few.example_ids[item] in {i.example_id for i in g.items}
            )
            assert row == tokenizer.encode(group.text)
            whole = torch.tensor([[*(t for s in shots for t in s), *row, *question]])
            expected = torch.log_softmax(model.logits_of(whole)[0, -1], dim=-1)[letters]
            np.testing.assert_allclose(table.log_probabilities[item], expected.detach().numpy(), atol=2e-4)
        assert len(prefixes) == 1  # all notes follow the same examples …
        labels = [shot[len(shot) - len(gap) - 1] for shot in prefixes.pop()]
        assert len(set(labels)) == min(3, len(letters))  # … which show as many answers as they can
        assert f"few_shot_auroc/{task}" in found


def test_comprehension_is_the_share_of_likeliest_options_that_are_right(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer
) -> None:
    file = tmp_path / "organs.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in CHOICES))
    _, found = inrun(tmp_path, model, tokenizer, None, comprehension={"organs": file})
    right = 0
    for one in read_choices(file):
        prompt = [*tokenizer.encode(one.context), *tokenizer.encode(one.rendered())]
        scores = model.logits_of(torch.tensor([prompt]))[0, -1][tokenizer.letter_ids(len(one.options))]
        right += int(scores.argmax()) == one.answer
    assert found == {"accuracy/organs": pytest.approx(right / 3)}


def test_choices_are_read_from_lines_pubmedqa_and_sciq(tmp_path: Path) -> None:
    lines = tmp_path / "mine.jsonl"
    lines.write_text("\n".join(json.dumps(one) for one in CHOICES))
    found = read_choices(lines)
    assert [one.answer for one in found] == [1, 0, 1] and found[1].options == ("yes", "no")
    assert found[1].rendered() == "\n\nQuestion: Is the pulse fast?\nA. yes\nB. no\nAnswer:"
    some = read_choices(lines, 2, seed=1)
    assert len(some) == 2 and some == read_choices(lines, 2, seed=1)
    pubmed = tmp_path / "pqal.json.gz"
    entry = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "maybe", "YEAR": "2011"}
    pubmed.write_bytes(gzip.compress(json.dumps({"1": entry}).encode()))
    one = read_choices(pubmed)[0]
    assert (one.options, one.answer, one.context) == (("yes", "no", "maybe"), 2, "One.\nTwo.")
    sciq = tmp_path / "sciq.json"
    entry = {
        "question": "What?",
        "correct_answer": "b",
        "support": "",
        **{f"distractor{i}": x for i, x in ((1, "d"), (2, "a"), (3, "c"))},
    }
    sciq.write_text(json.dumps([entry]))
    assert read_choices(sciq)[0].options == ("a", "b", "c", "d") and read_choices(sciq)[0].answer == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "x?", "options": ["a", "b"], "answer": "c"}', "line 1: 'answer' 'c' is none"),
        ('{"question": "x?", "options": ["a", "b"], "answer": 2}', "is none of its 2 options"),
        ('{"question": "x?", "options": ["a"], "answer": "a"}', "2 to 26 texts"),
        ('{"question": "", "options": ["a", "b"], "answer": "a"}', "'question' is missing"),
        ('{"question": "x?", "options": {"A": "a", "C": "b"}, "answer": "a"}', "by letter are expected as A, B"),
        ('{"question"', "line 1: not JSON"),
        ("", "no questions in it"),
    ],
)
def test_lines_that_are_no_question_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line)
    with pytest.raises(InputError, match=message):
        read_choices(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_choices(tmp_path / "none.jsonl")


def test_generation_takes_the_likeliest_token_each_time(model: Llama, tokenizer: Tokenizer) -> None:
    prompts = [tokenizer.encode(text) for text in ("discharge_summary: stable", "pain", "seen today")]
    state = torch.get_rng_state()
    written = generate(model, prompts, tokenizer.eot_id, 12)
    for prompt, tokens in zip(prompts, written, strict=True):
        text = list(prompt)
        for token in tokens:
            assert token == int(model.logits_of(torch.tensor([text]))[0, -1].argmax())
            text.append(token)
        assert len(tokens) == 12 or int(model.logits_of(torch.tensor([text]))[0, -1].argmax()) == tokenizer.eot_id
    drawn = generate(model, prompts, tokenizer.eot_id, 12, 1.5, seed=1)
    assert drawn == generate(model, prompts, tokenizer.eot_id, 12, 1.5, seed=1) != written
    assert torch.equal(state, torch.get_rng_state())
    first = written[0][0]
    assert generate(model, prompts[:1], first, 12) == [[]]  # as if it were the end
    assert (
        generate(model, prompts, -1, 12, vocab=3) and max(max(t) for t in generate(model, prompts, -1, 5, vocab=3)) < 3
    )


def test_samples_are_kept_in_the_run_and_written_once_a_step(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer
) -> None:
    samples = SampleSettings(prompts=("stable today", "pain"), tokens=5)
    run, found = inrun(tmp_path, model, tokenizer, None, samples=samples)
    assert found == {}
    run(6, lambda: False)
    run(5, lambda: False)  # taken up again from before
    lines = [json.loads(line) for line in (tmp_path / SAMPLES).open()]
    assert [(one["step"], one["prompt"]) for one in lines] == [(5, "stable today"), (5, "pain")]
    assert all(one["text"] for one in lines)


def test_an_evaluation_stops_between_batches(
    tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark
) -> None:
    run, _ = inrun(tmp_path, model, tokenizer, bench, notes=3)
    with pytest.raises(Stopped):
        run(6, lambda: True)
    samples, _ = inrun(tmp_path, model, tokenizer, None, samples=SampleSettings(prompts=("pain",)))
    with pytest.raises(Stopped):
        samples(6, lambda: True)


def test_what_cannot_be_asked_is_named(tmp_path: Path, model: Llama, tokenizer: Tokenizer, bench: Benchmark) -> None:
    assert in_run_evaluation(EvaluationSettings(), bench, 0) is None
    with pytest.raises(SettingsError, match="'denial' is unknown; known are readmission"):
        in_run_evaluation(EvaluationSettings(every=1, tasks=["denial"]), bench, 0)
    with pytest.raises(SettingsError, match="leave no room for a note"):
        inrun(tmp_path, model, tokenizer, bench, few_shot=32, shot_budget=128)
    with pytest.raises(SettingsError, match="has 0 tokens"):
        inrun(tmp_path, model, tokenizer, None, samples=SampleSettings(prompts=("",)))


def test_a_training_run_asks_and_logs(tmp_path: Path) -> None:
    file = tmp_path / "organs.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in CHOICES))
    samples = SampleSettings(prompts=("stable fever",), tokens=4)
    evaluation = EvaluationSettings(every=2, comprehension={"organs": file}, samples=samples)
    settings = PretrainSettings(
        model=SHAPE,
        tokens=4 * 128,
        sequence_length=64,
        sequences_per_step=2,
        device="cpu",
        precision="fp32",
        threads=1,
        watch=WatchSettings(evaluation=evaluation),
    )
    out = pretrain(write_corpus(tmp_path / "corpus"), tmp_path / "m", settings)
    records = [json.loads(line) for line in (out / METRICS).open()]
    asked = [r for r in records if r["kind"] == "eval"]
    assert [r["step"] for r in asked] == [2, 4] and all(0 <= r["accuracy/organs"] <= 1 for r in asked)
    val = next(r for r in records if r["kind"] == "val")
    assert val["perplexity/notes"] == pytest.approx(np.exp(val["loss/notes"]))
    assert len((out / SAMPLES).read_text().splitlines()) == 2
