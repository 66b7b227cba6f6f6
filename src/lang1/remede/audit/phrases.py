"""Single phrases that tell the outcome: every run of one to three words, tried alone on train and held-out notes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lang1.metrics.auroc import Floats
from lang1.remede.audit.effects import Ints, corrected, difference_low, exact_low, hit_auroc
from lang1.remede.audit.finding import Finding, first, told
from lang1.remede.audit.material import Material, TaskRows
from lang1.remede.audit.words import WORD
from lang1.reporting.numbers import fixed, percent, plural

GUARD = "phrases"
LONGEST = 3
# Phrases in fewer train notes are not tried: no interval could judge them.
LEAST_NOTES = 10
MOST_CANDIDATES = 200
SHOWN = 10


@dataclass(frozen=True)
class _Grams:
    """Phrases and where they stand: ``phrase[M]`` numbers of phrases, ``text[M]`` rows of the words' texts."""

    phrase: Ints
    text: Ints
    length: Ints  # by phrase
    start: Ints  # by phrase, one place where it stands
    texts: int


def check(material: Material) -> list[Finding]:
    """One finding a task."""
    place, _ = material.words
    grams = _grams(material)
    return [
        _judge(material, rows, np.array([place[i] for i in rows.inputs]), grams) for rows in material.tasks.values()
    ]


def _grams(material: Material) -> _Grams:
    _, words = material.words
    phrase, text, length, start, total = [], [], [], [], 0
    for n in range(1, LONGEST + 1):
        hashes, texts, places = words.runs(n)
        order = np.lexsort((texts, hashes))
        hashes, texts, places = hashes[order], texts[order], places[order]
        once = np.ones(len(hashes), dtype=bool)
        once[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
        hashes, texts, places = hashes[once], texts[once], places[once]
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = hashes[1:] != hashes[:-1]
        number = np.cumsum(new) - 1
        held_by = np.bincount(number, minlength=int(new.sum()))
        kept = held_by >= LEAST_NOTES
        fresh = np.cumsum(kept) - 1 + total
        use = kept[number]
        phrase.append(fresh[number[use]])
        text.append(texts[use])
        start.append(places[new][kept])
        length.append(np.full(int(kept.sum()), n))
        total += int(kept.sum())
    return _Grams(
        np.concatenate(phrase), np.concatenate(text), np.concatenate(length), np.concatenate(start), len(words.ends)
    )


def _judge(material: Material, rows: TaskRows, row_text: Ints, grams: _Grams) -> Finding:
    settings, task = material.settings, rows.task
    classes = rows.classes(settings.least_cases)
    if not classes or not len(grams.length):
        said = "Too few cases in train or held-out notes to try phrases alone."
        return Finding(GUARD, (1,), task, "not_applicable", said)
    area, odds = material.threshold("phrase_auroc", task), material.threshold("deciding_odds", task)
    decides = material.threshold("deciding_share", task)
    allowed = [f" {' '.join(WORD.findall(p.lower()))} " for p in settings.allowed_phrases.get(task, ())]
    sides = [_counts(rows, row_text, grams, side) for side in (rows.train, rows.held)]
    tried = int((sides[0][0].sum(axis=1) >= LEAST_NOTES).sum())
    candidates = _candidates(sides[0], classes, area.value, decides.value)
    level = corrected(settings.confidence, len(candidates))
    _, words = material.words
    bad: list[tuple[str, int, float, float]] = []
    best = ("", 0.5)
    for phrase, c in candidates:
        name = words.phrase(int(grams.start[phrase]), int(grams.length[phrase]))
        (with_it, notes) = sides[1]
        one, n_one = with_it[phrase, c], notes[c]
        two, n_two = with_it[phrase].sum() - one, notes.sum() - n_one
        value = float(hit_auroc(one, n_one, two, n_two))
        best = max(best, (name, max(value, 1 - value)), key=lambda pair: pair[1])
        far = max(
            float(difference_low(one, n_one, two, n_two, level)), float(difference_low(two, n_two, one, n_one, level))
        )
        ppv, prior = float(exact_low(one, one + two, level)), n_one / notes.sum()
        lifts = prior < 0.5 and ppv > decides.value and _lift(ppv, prior) > odds.value
        if (0.5 + far / 2 > area.value or lifts) and not any(f" {name} " in phrases for phrases in allowed):
            bad.append((name, c, value, one / max(one + two, 1)))
    figures = {
        "phrases_tried": tried,
        "confirmed_on_held_out": len(candidates),
        "strongest_on_held_out": best[1],
        "phrases": [
            {"phrase": name, "class": rows.card.options[c], "auroc": value, "share_of_class": ppv}
            for name, c, value, ppv in bad[:SHOWN]
        ],
    }
    if not bad:
        said = (
            f"{tried:,} phrases were tried alone; none tells the outcome by itself on both train and held-out notes"
            + (f" (strongest: AUROC {fixed(best[1])})." if best[0] else ".")
        )
        return Finding(GUARD, (1,), task, "pass", said, 0, (), figures, told("phrase_auroc", area))
    name, c, value, ppv = bad[0]
    said = (
        f'{plural(len(bad), "phrase")} tell the outcome alone: of the held-out notes with "{name}", {percent(ppv)} are '
        f"'{rows.card.options[c]}' (AUROC {fixed(value)})."
    )
    return Finding(
        GUARD, (1,), task, "fail", said, len(bad), first([n for n, *_ in bad]), figures, told("phrase_auroc", area)
    )


def _lift(share: float, prior: float) -> float:
    return float("inf") if share >= 1 else share / (1 - share) / (prior / (1 - prior))


def _counts(rows: TaskRows, row_text: Ints, grams: _Grams, side: np.typing.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Notes with each phrase by class ``[phrases, classes]``, and notes by class ``[classes]``."""
    classes, phrases = rows.card.classes, len(grams.length)
    found = np.zeros((phrases, classes))
    for c in range(classes):
        notes = np.bincount(row_text[side & (rows.labels == c)], minlength=grams.texts)
        found[:, c] = np.bincount(grams.phrase, weights=notes[grams.text], minlength=phrases)
    return found, np.bincount(rows.labels[side], minlength=classes).astype(np.float64)


def _candidates(train: tuple[Floats, Floats], classes: list[int], area: float, decides: float) -> list[tuple[int, int]]:
    """Phrases that look strong in train, as (phrase, class): the few whose strength held-out notes must confirm."""
    with_it, notes = train
    total = with_it.sum(axis=1)
    found: list[tuple[float, int, int]] = []
    for c in classes:
        one, two = with_it[:, c], total - with_it[:, c]
        areas = hit_auroc(one, notes[c], two, notes.sum() - notes[c])
        far = np.maximum(areas, 1 - areas)
        ppv = np.divide(one, total, out=np.zeros_like(one), where=total > 0)
        strong = (total >= LEAST_NOTES) & ((far > area) | ((ppv > decides) & (notes[c] < 0.5 * notes.sum())))
        # Of equally strong ones the commoner first; runs of one sentence have the same counts.
        found += [(float(far[p] + ppv[p] * (notes[c] < 0.5 * notes.sum())), int(p), c) for p in np.flatnonzero(strong)]
    found.sort(key=lambda row: (-row[0], row[1], row[2]))
    return [(p, c) for _, p, c in found[:MOST_CANDIDATES]]
