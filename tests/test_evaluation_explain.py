"""Explanations: effects are what a model's own answers say, gradients are derivatives, and the check can fail."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_toy import make_benchmark, make_records

from lang1.common.artefact import new_folder, open_folder, read_json
from lang1.common.errors import ArtefactError, InputError
from lang1.evaluation import explain as room
from lang1.evaluation.explain import ExplainSettings, Span, explain, phrases_of
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.store import load_model, save_model
from lang1.remede.benchmark import Benchmark
from lang1.reporting.explain_report import render_explanation
from lang1.text.tokenizer_training import train_tokenizer

SETTINGS = ExplainSettings(random=20)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("toy")
    return make_benchmark(make_records(place / "records", 24), place / "benchmark")


@pytest.fixture(scope="module")
def model(bench: Benchmark) -> Path:
    """Random weights, large enough that answers differ between notes."""
    out = bench.folder.path.parent / "model"
    notes = bench.texts(bench.examples()["note_id"].to_pylist())
    questions = bench.questions()
    tokenizer = train_tokenizer([*notes.values(), *questions.values()], 700, required=[*questions.values(), " A B C D"])
    with new_folder(out, "model") as draft:
        network = Llama(preset("lang1-micro", vocab_size=tokenizer.vocab_size), torch.float32)
        network.initialise(3)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(3)
        save_model(draft.path, network, tokenizer)
        draft.extra = {"stage": "finetuned", "name": "micro", "note_budget": 512, "truncation": "head"}
    return out


def first(bench: Benchmark, task: str) -> str:
    return str(bench.examples([task], ["test"])["example_id"][0].as_py())


def asker(model: Path, bench: Benchmark, task: str) -> room._Asker:
    card = bench.cards[task]
    return room._Asker(load_model(model, "cpu", torch.float32), task, card.question(), len(card.options))


def test_effects_are_what_the_model_says_without_the_part(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    example = first(bench, "mortality")
    found = explain(model, bench.folder.path, example, tmp_path / "e", SETTINGS)
    ask = asker(model, bench, "mortality")
    left = [found["text"][: p["start"]] + found["text"][p["end"] :] for p in (*found["sections"], *found["phrases"])]
    base, nothing, *others = ask.scores([found["text"], "", *left], 1)
    assert found["log_odds"] == pytest.approx(base, abs=1e-4)
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-base)), abs=1e-5)
    assert found["option"] == bench.cards["mortality"].options[1] and found["task"] == "mortality"
    effects = [part["occlusion"] for part in (*found["sections"], *found["phrases"])]
    assert effects == pytest.approx([base - other for other in others], abs=1e-4)
    assert "".join(found["text"][s["start"] : s["end"]] for s in found["sections"]) == found["text"]
    assert len({round(p["occlusion"], 6) for p in found["phrases"]}) > 1
    assert found["whole_note"] == pytest.approx(base - nothing, abs=1e-4)
    assert open_folder(tmp_path / "e", "explanation").manifest.counts["phrases"] == len(found["phrases"])
    assert read_json(tmp_path / "e" / "explanation.json")["phrases"] == found["phrases"]


def test_gradients_are_the_derivative_of_the_score(bench: Benchmark, model: Path) -> None:
    """A token's attribution times a small step is how much the score moves when its embedding grows by that step."""
    ask = asker(model, bench, "length_of_stay")
    text = "Seen today with cachexia. Eats; walks."
    network = ask.loaded.model
    tokens = ask.loaded.tokenizer.encode(text)
    once = [t for t in tokens if tokens.count(t) == 1]
    question = ask.loaded.tokenizer.encode(ask.question["length_of_stay"])
    token = next(t for t in once if t not in question)
    offsets = ask.loaded.tokenizer.inner.encode(text, add_special_tokens=False).offsets
    start, end = offsets[tokens.index(token)]
    step = 1e-3
    said = ask.gradient(text, [Span("one", start, end)], 2)
    assert said is not None
    before = ask.scores([text], 2)[0]
    # Untied, so that only what is read grows, and not the row that answers.
    weight = network.get_parameter("model.embed_tokens.weight")
    if network.head_weight is weight:
        network.lm_head.weight = torch.nn.Parameter(weight.detach().clone())
    with torch.no_grad():
        weight[token] *= 1 + step
    after = ask.scores([text], 2)[0]
    assert (after - before) / step == pytest.approx(said[0], rel=0.05, abs=0.01)


class Additive:
    """A model whose score is the sum of its words' weights."""

    weight = dict(zip("abcdefghij", (3.0, 2.0, 0.5, 0.1, -0.1, -0.2, 0.3, 0.0, -2.0, 0.2), strict=True))

    def scores(self, texts: list[str], option: int) -> np.ndarray:
        return np.array([sum(self.weight[word] for word in text.split()) for text in texts])


def test_the_check_tells_what_names_nothing() -> None:
    text = "a b c d e f g h i j"
    words = [Span(m.group(), m.start(), m.end()) for m in re.finditer(r"\S+\s*", text)]
    true = np.array([Additive.weight[word] for word in text.split()])
    settings = ExplainSettings(random=200, top=0.2)
    base = float(true.sum())
    good = room._faithful("good", true, text, words, Additive(), 1, base, settings)  # type: ignore[arg-type]
    wrong = room._faithful("wrong", -true, text, words, Additive(), 1, base, settings)  # type: ignore[arg-type]
    assert good["comprehensiveness"] == pytest.approx(5.0) and good["sufficiency"] == pytest.approx(base - 5.0)
    assert good["faithful"] and good["comprehensiveness"] > good["comprehensiveness_random"]
    assert not wrong["faithful"] and wrong["comprehensiveness"] < wrong["comprehensiveness_random"]
    # Below even odds it is the lowest that hold the score down.
    low = room._faithful("low", -true, text, words, Negative(), 1, -base, settings)  # type: ignore[arg-type]
    assert low["comprehensiveness"] == pytest.approx(5.0) and low["faithful"]


class Negative(Additive):
    """The same, the other way round."""

    def scores(self, texts: list[str], option: int) -> np.ndarray:
        return -super().scores(texts, option)


def test_phrases_cover_the_words_and_spare_decimals() -> None:
    text = "Plan: rest. BP 1.9 today; eats\n\n---\nWalks"
    found = phrases_of(text)
    assert [span.name for span in found] == ["Plan: rest.", "BP 1.9 today;", "eats", "Walks"]
    assert all(text[s.start : s.end].strip() == s.name for s in found)


def test_the_page_marks_the_note_and_refusals_are_one_line(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    example = first(bench, "length_of_stay")
    out = tmp_path / "e"
    found = explain(model, bench.folder.path, example, out, ExplainSettings(random=20, option=3, note_budget=8))
    assert found["tokens_cut"] > 0 and found["option"] == bench.cards["length_of_stay"].options[3]
    page = render_explanation(out / "explanation.json", tmp_path / "p.html").read_text()
    assert "rgba(" in page and "as confidential as the records" in page and "Is it faithful?" in page
    with pytest.raises(InputError, match="no example 'moon'"):
        explain(model, bench.folder.path, "moon", tmp_path / "f", SETTINGS)
    with pytest.raises(InputError, match="option 7"):
        explain(model, bench.folder.path, example, tmp_path / "f", ExplainSettings(option=7))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ArtefactError, match="explain again"):
        render_explanation(tmp_path / "x.json", tmp_path / "q.html")
