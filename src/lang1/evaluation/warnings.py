"""What a reader must know before believing a number: few events, wide intervals, rare classes, cut notes."""

from __future__ import annotations

from collections.abc import Sequence

from lang1.evaluation.answered import Scored
from lang1.evaluation.examples import Asked
from lang1.evaluation.predictions import Predictions
from lang1.evaluation.replies import doubts
from lang1.evaluation.rows import TRAINED
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import MIN_CASES
from lang1.metrics.bootstrap import RESAMPLES

FEW_EVENTS = 100
WIDE_INTERVAL = 0.1  # from low to high, in AUROC
MANY_CUT = 0.05  # share of notes


def evaluation_warnings(
    asked: Asked,
    made: Sequence[Predictions],
    scored: Sequence[Scored],
    settings: EvaluateSettings,
    extra: Sequence[str] = (),
) -> list[dict[str, str]]:
    """Warnings of an evaluation as ``{level, text}``, the gravest first, notes of the user's own last."""
    found: list[tuple[str, str]] = []
    records = asked.benchmark.records
    if not records.meta.real:
        found.append(
            ("info", f"The records of {records.meta.system} are simulated: no number here is about real patients.")
        )
    if settings.resamples < RESAMPLES:
        found.append(("warn", f"Intervals come from {settings.resamples} resamples only (fast): too few to report."))
    if settings.limit is not None:
        found.append(("warn", f"At most {settings.limit} examples a task and split were scored (limit)."))
    for part in scored:
        # Beside the headline, small splits are the rule: worth a note, not an alarm.
        level = "warn" if part.split == asked.benchmark.headline_split else "info"
        found += [(level if grave == "warn" else grave, text) for grave, text in _of_part(asked, part)]
    for one in made:
        for mark in one.folder.manifest.extra.get("overlap") or ():
            found.append(("warn", f"{one.model}, {one.regime}: trained although (allow_overlap) {mark}"))
        seen = {
            s: n for s, n in (one.folder.manifest.extra.get("seen_subjects") or {}).items() if n and s in asked.splits
        }
        if seen and one.regime in TRAINED:
            told = ", ".join(f"{n} in {split}" for split, n in seen.items())
            found.append(("warn", f"{one.model}, {one.regime}: patients whose notes it was trained on: {told}."))
        titles = {task: asked.benchmark.cards[task].title for task in asked.tasks}
        for level, text in doubts(one.folder.manifest.extra.get("answering") or {}, titles, one.regime in TRAINED[:2]):
            found.append((level, f"{one.model}, {one.regime}: {text}"))
        for reason, rows in one.folder.manifest.left_out.items():
            found.append(("warn", f"{one.model}, {one.regime}: {rows:,} rows without an answer ({reason})."))
    found += [("info", notice) for notice in asked.benchmark.notices]
    found += [("info", " ".join(text.split())) for text in extra]
    ranked = sorted(dict.fromkeys(found), key=lambda item: item[0] != "warn")
    return [{"level": level, "text": text} for level, text in ranked]


def _of_part(asked: Asked, part: Scored) -> list[tuple[str, str]]:
    card = asked.benchmark.cards[part.task]
    where = f"{card.title}, {part.split}"
    found: list[tuple[str, str]] = []
    counts = part.class_counts
    if len(counts) == 2:
        events = min(counts)
        if not events:
            found.append(("warn", f"{where}: all {part.n:,} examples have one outcome, so there is no AUROC."))
        elif events < FEW_EVENTS:
            what = "events" if counts[1] <= counts[0] else "non-events"
            found.append(
                ("warn", f"{where}: only {events} {what} among {part.n:,}; intervals cover less than they promise.")
            )
    else:
        out = [c for c in range(len(counts)) if c not in part.judged]
        if out:
            named = "; ".join(f"{card.options[c]} ({counts[c]} cases)" for c in out)
            found.append(
                ("warn", f"{where}: left out of the AUROC of every model for fewer than {MIN_CASES} cases: {named}.")
            )
        few = [c for c in part.judged if counts[c] < FEW_EVENTS]
        if few:
            named = "; ".join(f"{card.options[c]} ({counts[c]})" for c in few)
            found.append(("warn", f"{where}: classes with fewer than {FEW_EVENTS} cases: {named}."))
    wide = [
        row
        for row in part.rows
        if row["metric"] == "auroc"
        and row["versus"] is None
        and row["low"] is not None
        and row["high"] - row["low"] > WIDE_INTERVAL
    ]
    if wide:
        widest = max(wide, key=lambda row: row["high"] - row["low"])
        gap = widest["high"] - widest["low"]
        found.append(
            ("warn", f"{where}: AUROC intervals up to {gap:.2f} wide ({widest['model']}, {widest['regime']}).")
        )
    for key, share in part.truncated.items():
        if share > MANY_CUT:
            name = key.replace("|", ", ")
            found.append(("info", f"{where}: {share:.0%} of the notes were cut to the token budget for {name}."))
    return found
