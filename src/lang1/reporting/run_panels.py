"""The curves of a training run: which of the log's measures share a panel, and what is marked in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, quantiles
from typing import Any

from lang1.reporting import plots
from lang1.reporting.figures import SERIES
from lang1.reporting.numbers import compact, fixed, percent
from lang1.reporting.plots import Axes, Line, Mark
from lang1.reporting.svg import Point

Record = Mapping[str, Any]
MOST_POINTS = 400  # a line of more is drawn as the means of as many stretches
FAR = 3.0  # an axis ends at so many times what 98 % of the values stay under


@dataclass(frozen=True)
class Panel:
    """A panel: its title, and the measures in it.

    Attributes:
        measures: kind of record, measure (all its parts, where it has some), what its lines are called (``{}`` is the
            part), and how they are dashed.
        text: how values of the axis are written.
        floor: where the axis starts; None: under the smallest value.
        note: what a reader should know.
        clip: whether a few values far above all others may leave the frame.
    """

    title: str
    measures: Sequence[tuple[str, str, str, str]]
    text: Callable[[float], str] | None = None
    floor: float | None = None
    note: str = ""
    clip: bool = False


def _rate(value: float) -> str:
    """``3e-3``, as learning rates are written in settings."""
    return f"{value:.2g}" if value == 0 else re.sub(r"(\.0)?e([+-])0?", r"e\2", f"{value:.1e}")


NOISE = "0.5 is guessing. These are fixed samples: their size is in the settings, and their noise with it."
PANELS = (
    Panel(
        "Loss",
        (("train", "loss", "training", "d0"), ("val", "loss", "held out, {}", "d2")),
        note="A held-out loss that turns upward while the training loss falls is overfitting.",
        clip=True,
    ),
    Panel(
        "AUROC on validation notes",
        (("val", "auroc", "{}", "d0"), ("eval", "auroc", "{}, on the way", "d2")),
        text=partial(fixed, digits=2),
        note=NOISE,
    ),
    Panel("AUROC, few-shot", (("eval", "few_shot_auroc", "{}", "d0"),), text=partial(fixed, digits=2), note=NOISE),
    Panel("Comprehension, share answered right", (("eval", "accuracy", "{}", "d0"),), text=percent, floor=0.0),
    Panel(
        "Probability on the option letters",
        (("eval", "option_mass", "{}", "d0"),),
        text=percent,
        floor=0.0,
        note="How far the model has learnt to answer with a letter at all, right or wrong.",
    ),
    Panel("Learning rate", (("train", "lr", "peak rate × schedule", "d0"),), text=_rate, floor=0.0),
    Panel("Gradient norm, before clipping", (("train", "grad_norm", "norm", "d0"),), floor=0.0, clip=True),
    Panel(
        "Tokens a second",
        (("train", "tokens_per_second", "useful", "d0"), ("train", "padded_per_second", "with fill", "d2")),
        floor=0.0,
        note="Of the training steps alone: validation, evaluations and checkpoints are in the time, not in the rate.",
    ),
    Panel("Model FLOP/s utilisation", (("train", "mfu", "MFU", "d0"),), text=percent, floor=0.0),
    Panel("Realised mixture", (("train", "share", "{}", "d0"),), text=percent, floor=0.0),
    Panel("Peak memory, GiB", (("train", "peak_memory_gib", "of the first process", "d0"),), floor=0.0),
)
# Measures that stand elsewhere in the report, or say the same as one that is drawn.
NOT_DRAWN = {"step", "tokens", "seconds", "lr_factor", "skipped", "left_out", "perplexity"}


def panels(records: Sequence[Record], unit: str, marks: Sequence[Mark]) -> list[dict[str, Any]]:
    """Every panel that has points, then one for each measure that no panel names; x is ``tokens`` or ``step``."""
    found = series(records, unit)
    # A task or source has one colour in all panels.
    parts = list(dict.fromkeys(["", *(part for _, _, part in found)]))
    made: list[dict[str, Any]] = []
    drawn: set[tuple[str, str]] = set()
    for panel in PANELS:
        lines = []
        for kind, measure, name, dash in panel.measures:
            drawn.add((kind, measure))
            for (_, _, part), points in _of(found, kind, measure):
                lines.append((name.format(part.replace("_", " ")).strip(", "), part, dash, points))
        if len({dash for *_, dash, _ in lines}) == 1:  # nothing to tell apart
            lines = [(part.replace("_", " ") or name, part, "d0", points) for name, part, _, points in lines]
        if lines:
            made.append(_drawn(f"run-{len(made)}", panel, lines, unit, marks, parts))
    for kind, measure in dict.fromkeys((kind, measure) for kind, measure, _ in found):
        if measure in NOT_DRAWN or (kind, measure) in drawn:
            continue
        title = f"{ {'val': 'Validation: ', 'eval': 'Evaluation: '}.get(kind, '') }{measure.replace('_', ' ')}"
        lines = [
            (part.replace("_", " ") or measure, part, "d0", points)
            for (_, _, part), points in _of(found, kind, measure)
        ]
        made.append(_drawn(f"run-{len(made)}", Panel(title[0].upper() + title[1:], ()), lines, unit, marks, parts))
    return made


def series(records: Sequence[Record], unit: str) -> dict[tuple[str, str, str], list[Point]]:
    """The points of every measure by kind, measure and part."""
    found: dict[tuple[str, str, str], list[Point]] = {}
    before: tuple[float, float] | None = None
    told = any("tokens_per_second" in record for record in records)
    for record in records:
        kind, x = str(record.get("kind", "train")), number(record.get("tokens" if unit == "tokens" else "step"))
        if x is None or kind not in ("train", "val", "eval"):
            continue
        for key, value in record.items():
            y = number(value)
            if y is not None:
                measure, _, part = key.partition("/")
                found.setdefault((kind, measure, part), []).append((x, y))
        seconds, tokens = number(record.get("seconds")), number(record.get("tokens"))
        if told or seconds is None or tokens is None:
            continue
        # A log that does not tell its rate: by its clock, where that was not set back.
        if before is not None and seconds > before[0] and tokens > before[1]:
            rate = (tokens - before[1]) / (seconds - before[0])
            found.setdefault(("train", "tokens_per_second", ""), []).append((x, rate))
        before = (seconds, tokens)
    return found


def number(value: Any) -> float | None:
    """A value of the log as a number; None where it is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most ``MOST_POINTS`` points, each the mean of a stretch; the last point stays as it is."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = -(-len(points) // MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [*((fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts[:-1]), points[-1]]


def _of(
    found: Mapping[tuple[str, str, str], list[Point]], kind: str, measure: str
) -> list[tuple[tuple[str, str, str], list[Point]]]:
    return [(key, points) for key, points in found.items() if key[:2] == (kind, measure)]


def _drawn(
    uid: str,
    panel: Panel,
    lines: Sequence[tuple[str, str, str, list[Point]]],
    unit: str,
    marks: Sequence[Mark],
    parts: Sequence[str],
) -> dict[str, Any]:
    values = [y for *_, points in lines for _, y in points]
    high, above = _top(values) if panel.clip else (max(values), 0)
    low = min(values) if panel.floor is None else panel.floor
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    made, legend = [], []
    for name, part, dash, points in lines:
        style = SERIES[parts.index(part) % len(SERIES)]
        shown = [(x, min(y, high + pad)) for x, y in thinned(points)]
        made.append(Line(name, shown, f"series {style}", dash))
        if len(lines) > 1:
            legend.append((plots.line_swatch(f"series {style}", dash), name))
    digits = 2 if high - low < 1.5 else 1
    text = panel.text or (partial(fixed, digits=digits) if high < 100 else compact)
    axes = Axes(
        (0, max(x for *_, points in lines for x, _ in points)),
        (low if panel.floor is not None else low - pad, high + pad),
        unit.capitalize(),
        "",
        compact,
        text,
        width=400,
        height=224,
    )
    note = panel.note
    if above:
        note = f"{note} {above} of {len(values)} values lie above the frame.".strip()
    return {
        "title": panel.title,
        "plot": plots.panel(uid, panel.title, made, axes, marks),
        "legend": legend,
        "note": note,
    }


def _top(values: Sequence[float]) -> tuple[float, int]:
    """Where an axis ends that a few values far above all others may leave, and how many those are."""
    if len(values) < 50:
        return max(values), 0
    most = quantiles(values, n=50)[-1] * FAR
    above = sum(value > most for value in values)
    return (most, above) if above else (max(values), 0)
