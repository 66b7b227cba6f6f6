"""Which sections and phrases of a note moved a model's answer: occlusion, gradient × input, and whether to believe it.

The score is the log-odds of the explained option among the options. **Occlusion** takes a part out of what the model
read and answers again: the score before minus the score without it. **Gradient × input** is the derivative of the
score by each token's embedding times that embedding, summed over a phrase (Simonyan et al. 2013): one backward pass,
cheap and rough. **Faithfulness** (comprehensiveness and sufficiency of DeYoung et al., ACL 2020): the phrases that a
method names are taken out, or kept alone, and so are as many random ones; where the named ones move the score no more
than random ones do, the explanation says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from pydantic import Field
from scipy import stats

from lang1.common.artefact import new_folder, open_folder, versions, write_json
from lang1.common.errors import InputError
from lang1.common.sections import sections
from lang1.common.settings import Settings
from lang1.evaluation.examples import Group, Item
from lang1.metrics.auroc import Floats
from lang1.model.answering import on_device, score_groups
from lang1.model.precision import pick_device
from lang1.model.store import LoadedModel, load_model
from lang1.remede.benchmark import Benchmark
from lang1.text.clean import clean_note
from lang1.text.shared_note import assemble, encode_groups
from lang1.text.truncate import cut_text

KIND = "explanation"
FILE = "explanation.json"
# Sentences, and lines where there are none: what stands between full stops, semicolons and line ends.
_PHRASE = re.compile(r"[^\n.;]+(?:[.;](?=\d)[^\n.;]*)*[.;]?[ \t]*\n*")
_DEFAULT_BUDGET = 512


class ExplainSettings(Settings):
    """What is explained, and how hard it is checked."""

    option: int | None = Field(
        None, ge=0, description="option to explain, from 0; null: Yes of a yes/no task, else the likeliest"
    )
    note_budget: int | None = Field(None, ge=1, description="tokens of the note; null: as finetuned, else 512")
    top: float = Field(0.2, gt=0, lt=1, description="share of the phrases that the check takes out")
    random: int = Field(50, ge=20, description="random choices of as many phrases that they are compared with")
    seed: int = Field(0, ge=0, description="seed of the random choices")
    device: str = Field("auto", description="auto, cpu or cuda")


@dataclass(frozen=True)
class Span:
    """A part of the note: characters ``start`` to ``end`` of what the model read."""

    name: str
    start: int
    end: int


def explain(
    model: Path, benchmark: Path, example_id: str, out: Path, settings: ExplainSettings, finish: Any = None
) -> dict[str, Any]:
    """Explain a model's answer to one example and write ``explanation.json``.

    The folder holds the note's text: it is as confidential as the records.

    Args:
        model: model folder.
        benchmark: benchmark folder.
        example_id: ``TASK:ENCOUNTER``, as predictions name it.
        out: folder to write.
        settings: what is explained.
        finish: called with the path of ``explanation.json`` before the folder counts as complete (draws the page).

    Raises:
        ArtefactError: a folder is missing or damaged.
        InputError: an unknown example or option, an input of several notes, or a note without words.
    """
    folder, bench = open_folder(model, "model"), Benchmark.open(benchmark)
    examples = bench.examples()
    found = examples.filter(pc.equal(examples["example_id"], example_id))
    if not found.num_rows:
        raise InputError(f"{bench.folder.path}: no example '{example_id}'; ids are TASK:ENCOUNTER, as in predictions.")
    task, note = found["task"][0].as_py(), found["note_id"][0].as_py()
    if bench.charts([note]):
        raise InputError(f"{example_id} reads several notes; one note at a time can be explained.")
    card = bench.cards[task]
    loaded = load_model(model, pick_device(settings.device), torch.float32)
    budget = settings.note_budget or folder.manifest.extra.get("note_budget") or _DEFAULT_BUDGET
    policy = folder.manifest.extra.get("truncation") or "head"
    whole = clean_note(bench.texts([note])[note])
    offsets = loaded.tokenizer.inner.encode(whole, add_special_tokens=False).offsets
    read, cut = cut_text(whole, offsets, budget, policy)
    text = clean_note(read)
    ask = _Asker(loaded, task, card.question(), len(card.options))
    table = ask.probabilities([text])[0]
    option = settings.option if settings.option is not None else 1 if card.kind == "binary" else int(table.argmax())
    if option >= len(card.options):
        raise InputError(f"option {option}: {task} has {len(card.options)}, counted from 0.")
    phrases = phrases_of(text)
    if not phrases:
        raise InputError(f"{example_id}: its note has no words to explain.")
    base = float(_log_odds(table, option))
    parts = [Span(s.heading or s.name, s.start, s.end) for s in sections(text)]
    by_section = base - ask.scores([_without(text, [part]) for part in parts], option)
    by_phrase = base - ask.scores([_without(text, [part]) for part in phrases], option)
    gradient = ask.gradient(text, phrases, option)
    methods = {"occlusion": by_phrase} | ({"gradient × input": gradient} if gradient is not None else {})
    result = {
        "lang1_explanation": 1,
        "example_id": example_id,
        "task": task,
        "title": card.title,
        "option": card.options[option],
        "probability": float(table[option]),
        "log_odds": base,
        "label": card.options[int(found["label"][0].as_py())],
        "split": found["split"][0].as_py(),
        "model": loaded.model.name,
        "text": text,
        "tokens_cut": int(cut),
        "sections": [_told(part, {"occlusion": value}) for part, value in zip(parts, by_section, strict=True)],
        "phrases": [
            _told(part, {name: values[k] for name, values in methods.items()}) for k, part in enumerate(phrases)
        ],
        "faithfulness": [
            _faithful(name, values, text, phrases, ask, option, base, settings) for name, values in methods.items()
        ],
        "agreement": _agreement(by_phrase, gradient),
        "sections_sum": float(by_section.sum()),
        "whole_note": base - float(ask.scores([""], option)[0]),
        "settings": settings.model_dump(mode="json"),
        "versions": versions(),
    }
    with new_folder(out, KIND, inputs={"model": folder, "benchmark": bench.folder}, settings=settings) as draft:
        write_json(draft.path / FILE, result)
        if finish is not None:
            finish(draft.path / FILE)
        draft.counts = {"sections": len(parts), "phrases": len(phrases), "passes": ask.passes}
    return result


def phrases_of(text: str) -> list[Span]:
    """Sentences and lines that hold a letter or a figure, in order; a figure's decimals do not end one."""
    found = (Span(m.group().strip(), m.start(), m.end()) for m in _PHRASE.finditer(text))
    return [span for span in found if re.search(r"\w", span.name)]


class _Asker:
    """Asks one question of many versions of one note."""

    def __init__(self, loaded: LoadedModel, task: str, question: str, n_options: int) -> None:
        self.loaded, self.task, self.n_options = loaded, task, n_options
        self.question = {task: question}
        self.passes = 0

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """``[texts, options]``."""
        groups = [Group(str(k), text, (Item(str(k), self.task),)) for k, text in enumerate(texts)]
        longest = max(1, *(len(self.loaded.tokenizer.encode(text)) for text in texts))
        table = score_groups(
            self.loaded.model, self.loaded.tokenizer, groups, self.question, {self.task: self.n_options}, longest
        )
        self.passes += len(texts)
        place = {name: row for row, name in enumerate(table.example_ids)}
        return np.stack([table.probabilities(place[str(k)]) for k in range(len(texts))])

    def scores(self, texts: Sequence[str], option: int) -> Floats:
        """Log-odds of an option, ``[texts]``."""
        return np.asarray(_log_odds(self.probabilities(texts), option))

    def gradient(self, text: str, phrases: Sequence[Span], option: int) -> Floats | None:
        """Gradient × input summed over each phrase; None for a model whose input embedding is not to be found."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        named = model.named_parameters(remove_duplicate=False)
        names = [name for name, _ in named if name.endswith("embed_tokens.weight")]
        if len(names) != 1:
            return None
        spans = tokenizer.inner.encode(text, add_special_tokens=False).offsets
        group = Group("0", text, (Item("0", self.task),))
        batch = assemble(encode_groups([group], tokenizer, self.question, len(spans) or 1), np.array([0]))
        tokens, layout, read = on_device(batch, model)
        # Each token gets a row of its own, so that the gradient is by place and not by word.
        rows = model.get_parameter(names[0])[tokens].detach().clone().requires_grad_()
        places = torch.arange(len(tokens), device=tokens.device)
        weights = {names[0]: rows}
        hidden = torch.func.functional_call(model, weights, (places, layout, read), tie_weights=False)
        letters = torch.as_tensor(tokenizer.letter_ids(self.n_options), device=tokens.device)
        scores = model.logits(hidden)[0, letters]
        others = torch.cat([scores[:option], scores[option + 1 :]])
        (slope,) = torch.autograd.grad(scores[option] - torch.logsumexp(others, dim=0), rows)
        each = (slope * rows).sum(dim=1).detach().double().cpu().numpy()[: len(spans)]
        self.passes += 1
        middle = np.array([(a + b) / 2 for a, b in spans])
        return np.array([each[(middle >= span.start) & (middle < span.end)].sum() for span in phrases])


def _faithful(
    name: str,
    values: Floats,
    text: str,
    phrases: Sequence[Span],
    ask: _Asker,
    option: int,
    base: float,
    settings: ExplainSettings,
) -> dict[str, Any]:
    """Takes the strongest phrases out and keeps them alone, beside random ones.

    The strongest are those that hold the score where it is: the highest where it is above even odds, else the lowest.
    """
    sign = 1.0 if base >= 0 else -1.0
    k = max(1, round(settings.top * len(phrases)))
    named = np.argsort(-sign * values, kind="stable")[:k]
    rng = np.random.default_rng(settings.seed)
    chosen = [named, *(rng.choice(len(phrases), k, replace=False) for _ in range(settings.random))]
    without = ask.scores([_without(text, [phrases[i] for i in pick]) for pick in chosen], option)
    parts = [text[span.start : span.end] for span in phrases]
    alone = ask.scores(["".join(parts[i] for i in sorted(pick)) for pick in chosen], option)
    drops, kept = sign * (base - without), sign * (base - alone)
    return {
        "method": name,
        "phrases": k,
        "of": len(phrases),
        "comprehensiveness": float(drops[0]),
        "comprehensiveness_random": float(drops[1:].mean()),
        "random_at_least_as_much": float((drops[1:] >= drops[0]).mean()),
        "sufficiency": float(kept[0]),
        "sufficiency_random": float(kept[1:].mean()),
        "faithful": bool((drops[1:] >= drops[0]).mean() <= 0.05),
    }


def _agreement(occlusion: Floats, gradient: Floats | None) -> float | None:
    """Spearman's rank correlation of the two methods over phrases."""
    if gradient is None or len(occlusion) < 3 or np.ptp(occlusion) == 0 or np.ptp(gradient) == 0:
        return None
    return float(stats.spearmanr(occlusion, gradient).statistic)


def _log_odds(probabilities: Floats, option: int) -> Floats:
    said = np.clip(probabilities[..., option], 1e-9, 1 - 1e-9)
    return np.asarray(np.log(said / (1 - said)))


def _without(text: str, spans: Sequence[Span]) -> str:
    kept, at = [], 0
    for span in sorted(spans, key=lambda s: s.start):
        kept.append(text[at : span.start])
        at = max(at, span.end)
    return "".join([*kept, text[at:]])


def _told(span: Span, effects: dict[str, Any]) -> dict[str, Any]:
    return {"name": span.name, "start": span.start, "end": span.end} | {k: float(v) for k, v in effects.items()}
