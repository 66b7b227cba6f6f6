"""The report of one training run, finished or not: its ``metrics.jsonl`` drawn with the kit of all reports.

The log alone is enough. Where there is a manifest (the run is finished), counts, inputs and versions come from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lang1.common.artefact import MANIFEST, Folder, open_folder, partial_path
from lang1.common.errors import ArtefactError
from lang1.reporting import views
from lang1.reporting.numbers import compact, count, duration, fixed, percent, plural
from lang1.reporting.page import write_page
from lang1.reporting.plots import Mark
from lang1.reporting.run_panels import Record, number, panels, series

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
STAGES = {"pretrained": "Pretraining", "finetuned": "Finetuning", "pretrain": "Pretraining", "finetune": "Finetuning"}
WORDS = {
    "auroc": "AUROC",
    "few_shot_auroc": "AUROC few-shot",
    "option_mass": "probability on the letters",
    "accuracy": "share answered right",
}
MOMENTS = 5  # of the samples of each prompt: first, last and between
MOST_SKIPS_MARKED = 200
RECENT = 20  # records by which the remaining time is judged


@dataclass(frozen=True)
class Run:
    """What there is of a run: its log, and its manifest once it is finished."""

    log: Path
    folder: Folder | None
    out: str

    @property
    def extra(self) -> Mapping[str, Any]:
        return self.folder.manifest.extra if self.folder is not None else {}


def is_run(place: Path) -> bool:
    """Whether there is something at a place that :func:`render_run` draws."""
    place = Path(place)
    unfinished = not place.exists() and (partial_path(place) / METRICS).is_file()
    return unfinished or (place / METRICS).is_file() or (place.is_file() and place.suffix == ".jsonl")


def find_run(place: Path) -> Run:
    """A finished model folder, the place where one is to be, an unfinished folder, or a ``metrics.jsonl``.

    Raises:
        ArtefactError: nothing of these, or a folder of another kind.
    """
    place = Path(place)
    unfinished = partial_path(place)
    if place.is_file():
        return Run(place, None, place.resolve().parent.name.removeprefix(".").removesuffix(".partial"))
    if (place / METRICS).is_file() and not (place / MANIFEST).is_file():
        return Run(place / METRICS, None, place.resolve().name.removeprefix(".").removesuffix(".partial"))
    if not place.exists() and (unfinished / METRICS).is_file():
        return Run(unfinished / METRICS, None, place.name)
    folder = open_folder(place, "model")
    return Run(place / METRICS, folder, place.name)


def render_run(place: Path, out: Path) -> Path:
    """Write the report of a training run and return where it lies: ``out``, or ``out/run.html`` if that is a folder.

    The page needs no network and no script. It holds the samples that were written on the way, word by word.

    Args:
        place: see :func:`find_run`.
        out: the page.

    Raises:
        ArtefactError: no run there, no metrics in it, a line that is not JSON, or a place that cannot be written.
    """
    run = find_run(place)
    records = read_metrics(run.log)
    start: Record = next((r for r in reversed(records) if r.get("kind") == "start"), {})
    stage = STAGES.get(str(run.extra.get("stage") or start.get("run") or ""), "Training")
    name = str(run.extra.get("name") or start.get("model") or run.out)
    unit = "tokens" if all(number(r.get("tokens")) is not None for r in records) else "steps"
    events, marks = _events(records, unit)
    samples = _samples(run.log.with_name(SAMPLES))
    manifest = run.folder.manifest if run.folder is not None else None
    counts = views.flat({**manifest.counts, "left out": manifest.left_out}) if manifest is not None else []
    settings = manifest.settings if manifest is not None else start.get("settings", {})
    watch = start.get("watch", {})
    contents = [
        ("summary", "The run"),
        ("curves", "Curves"),
        *([("latest", "Latest measures")] if _latest(records) else []),
        *([("events", "Events")] if events else []),
        *([("samples", "Samples")] if samples else []),
        *([("counts", "Counts")] if counts else []),
        ("settings", "Settings"),
    ]
    out = Path(out)
    return write_page(
        "run.html.j2",
        out / "run.html" if out.is_dir() else out,
        title=f"{stage} of {name}",
        contents=contents,
        sentence=_sentence(run, records, start, stage, name),
        facts=_facts(run, records, start),
        panels=panels(records, unit, marks),
        marks=_legend(marks),
        latest=_latest(records),
        events=events,
        samples=samples,
        counts=counts,
        settings=[("Settings", views.flat(settings)), *([("Watching", views.flat(watch))] if watch else [])],
        inputs=[(key, f"{ref.kind}, {ref.fingerprint}") for key, ref in manifest.inputs.items()] if manifest else [],
        versions=list(manifest.versions.items()) if manifest else [],
        fingerprint=manifest.fingerprint if manifest else "",
        footer=f"Drawn from {METRICS}{' and the manifest' if manifest else ' of an unfinished run'}, without network.",
    )


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, in order. A last line cut short by a kill is left out.

    Raises:
        ArtefactError: no file, nothing in it, or a line that is not a JSON object.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{file} cannot be read; give a model folder whose training has run.") from error
    records: list[dict[str, Any]] = []
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if place == len(lines):  # no newline behind it: the writer was stopped in the middle
                break
            raise ArtefactError(f"{file} line {place}: not JSON ({error.msg}); the file is damaged.") from error
        if not isinstance(record, dict):
            raise ArtefactError(f"{file} line {place}: expected an object, found a {type(record).__name__}.")
        records.append(record)
    if not records:
        raise ArtefactError(f"{file} holds no records: the run has not begun.")
    return records


def remaining(records: Sequence[Record], steps: int) -> float | None:
    """Seconds to the last step at the pace of the last records since the last restart; None where it is not known."""
    since = next((i for i in reversed(range(len(records))) if records[i].get("kind") == "start"), 0)
    timed = [r for r in records[since:] if r.get("kind") in ("start", "train") and number(r.get("seconds")) is not None]
    timed = timed[-RECENT:]
    if len(timed) < 2 or timed[-1]["step"] <= timed[0]["step"]:
        return None
    pace = (timed[-1]["seconds"] - timed[0]["seconds"]) / (timed[-1]["step"] - timed[0]["step"])
    return max(0.0, float(pace) * (steps - int(timed[-1]["step"])))


def _sentence(run: Run, records: Sequence[Record], start: Record, stage: str, name: str) -> str:
    losses = [y for r in records if r.get("kind", "train") == "train" and (y := number(r.get("loss"))) is not None]
    fell = f"the training loss went from {fixed(losses[0], 2)} to {fixed(losses[-1], 2)}" if len(losses) > 1 else ""
    done, steps = int(records[-1].get("step", 0)), int(start.get("steps") or 0)
    if run.folder is None and done < steps:
        left = remaining(records, steps)
        eta = f", about {duration(left)} left at its pace" if left else ""
        return f"Unfinished: {stage.lower()} of {name} is at step {count(done)} of {count(steps)}{eta}" + (
            f"; {fell}." if fell else "."
        )
    cost = run.extra.get("cost", {})
    steps_done = (run.folder.manifest.counts.get("steps") if run.folder else None) or records[-1].get("step")
    took = f" in {duration(number(cost.get('seconds')))}" if cost.get("seconds") is not None else ""
    read = f"{stage} of {name} read {compact(number(cost.get('tokens')))} tokens" if cost.get("tokens") else stage
    over = f" over {plural(int(steps_done), 'step')}" if steps_done else ""
    return f"{read}{over}{took}{'; ' if fell else ''}{fell}."


def _facts(run: Run, records: Sequence[Record], start: Record) -> list[tuple[str, str]]:
    extra, cost = run.extra, run.extra.get("cost", {})
    counts = run.folder.manifest.counts if run.folder is not None else {}
    last = next((r for r in reversed(records) if r.get("kind", "train") == "train"), {})
    tokens = number(cost.get("tokens")) or number(last.get("tokens"))
    seconds = number(cost.get("seconds")) or number(last.get("seconds"))
    device = str(cost.get("device") or start.get("device") or "")
    processes = int(start.get("processes") or 1)
    skipped = sum(int(n) for n in dict(counts.get("skipped_steps") or {}).values()) or int(last.get("skipped") or 0)
    score = number(extra.get("validation_score"))
    mixture = extra.get("mixture") if isinstance(extra.get("mixture"), dict) else {}
    given = {k: number(v.get("share") if isinstance(v, dict) else v) for k, v in (mixture or {}).items()}
    given = given or {k.removeprefix("share/"): number(v) for k, v in last.items() if k.startswith("share/")}
    rates = [y for r in records if (y := number(r.get("tokens_per_second"))) is not None]
    rate = sum(rates) / len(rates) if rates else tokens / seconds if tokens and seconds else None
    mfu = [y for r in records if (y := number(r.get("mfu"))) is not None]
    on_gpus = device and not device.startswith("cpu") and seconds
    found = [
        ("Parameters", count(number(extra.get("parameters") or start.get("parameters")))),
        ("Tokens, this run", compact(tokens)),
        ("Tokens, in all", compact(number(extra.get("tokens_seen")))),
        ("Time", duration(seconds)),
        ("Tokens a second", compact(rate)),
        ("MFU", percent(sum(mfu) / len(mfu)) if mfu else ""),
        ("Device", f"{processes} × {device}" if processes > 1 and device else device),
        ("Device-hours", fixed(processes * (seconds or 0) / 3600, 1) if on_gpus else ""),
        ("Learning rate", str(extra.get("lr") or "")),
        ("Best validation score", fixed(score) if score is not None else ""),
        ("Tasks", ", ".join(str(task) for task in extra.get("tasks") or [])),
        ("Mixture", ", ".join(f"{k} {percent(share)}" for k, share in given.items() if share is not None)),
        ("Steps skipped", count(skipped) if skipped else ""),
    ]
    return [(name, text) for name, text in found if text and text != "–"]


def _events(records: Sequence[Record], unit: str) -> tuple[list[tuple[str, str, str]], list[Mark]]:
    """Restarts, skipped steps and rollbacks: rows of a table (step, what, more), and marks for the curves."""
    rows: list[tuple[str, str, str]] = []
    marks: list[Mark] = []
    skips = 0
    for record in records:
        kind, step = record.get("kind"), int(record.get("step", 0))
        x = number(record.get("tokens")) if unit == "tokens" else float(step)
        if kind == "start" and step:
            device = f"{record.get('processes') or 1} × {record.get('device', '')}"
            rows.append((count(step), "taken up again", f"{record.get('started', '')} on {device}"))
            found = ("restart", f"taken up again at step {step}")
        elif kind == "skip":
            skips += 1
            norm, loss = number(record.get("grad_norm")), number(record.get("loss"))
            more = f"loss {fixed(loss, 2)}, gradient norm {fixed(norm, 2)}"
            if skips <= MOST_SKIPS_MARKED:
                rows.append((count(step), f"skipped: {record.get('reason', '')}", more))
            found = ("skip", f"step {step} skipped: {record.get('reason', '')}")
        elif kind == "rollback":
            first, last = int(record.get("first", step)) + 1, int(record.get("last", step)) + 1
            rows.append((count(last), "rolled back", f"to step {count(step)}; steps {first} to {last} are left out"))
            found = ("rollback", f"back to step {step}; steps {first} to {last} are left out")
        elif kind == "tracker":
            rows.append((count(step), f"{record.get('failed')} failed", str(record.get("error", ""))))
            continue
        else:
            continue
        if x is not None and (found[0] != "skip" or skips <= MOST_SKIPS_MARKED):
            marks.append(Mark(x, *found))
    if skips > MOST_SKIPS_MARKED:
        rows.append(("", f"{count(skips - MOST_SKIPS_MARKED)} more skipped steps", f"in {METRICS}"))
    return rows, marks


def _legend(marks: Sequence[Mark]) -> list[tuple[str, str]]:
    names = {"restart": "taken up again", "skip": "step skipped", "rollback": "rolled back"}
    return [(kind, name) for kind, name in names.items() if any(mark.kind == kind for mark in marks)]


def _latest(records: Sequence[Record]) -> list[tuple[str, str, str, str, str]]:
    """Every measure of validations and evaluations: name, first, best so far and last value, step of the last."""
    names = {"val": "Validation", "eval": "Evaluation"}
    rows = []
    steps: dict[tuple[str, str, str], list[int]] = {}
    for record in records:
        for key in record:
            measure, _, part = key.partition("/")
            steps.setdefault((str(record.get("kind", "train")), measure, part), []).append(int(record.get("step", 0)))
    for (kind, measure, part), points in series(records, "step").items():
        if kind not in names or measure in ("step", "tokens", "seconds"):
            continue
        values = [y for _, y in points]
        best = min(values) if measure in ("loss", "perplexity") else max(values)
        label = ", ".join(
            word for word in (WORDS.get(measure, measure.replace("_", " ")), part.replace("_", " ")) if word
        )
        step = count(steps[(kind, measure, part)][-1])
        rows.append((f"{names[kind]}: {label}", _figure(values[0]), _figure(best), _figure(values[-1]), step))
    return rows


def _figure(value: float) -> str:
    return fixed(value, 3) if abs(value) < 100 else compact(value)


def _samples(file: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each prompt what was written at a few moments: step and text."""
    if not file.is_file():
        return []
    found: dict[str, list[tuple[int, str]]] = {}
    for record in read_metrics(file) if file.stat().st_size else []:
        text = str(record.get("text", "")) + ("" if record.get("ended") else " …")
        found.setdefault(str(record.get("prompt", "")), []).append((int(record.get("step", 0)), text))
    made = []
    for prompt, texts in found.items():
        places = sorted({round(i * (len(texts) - 1) / (MOMENTS - 1)) for i in range(MOMENTS)})
        made.append((prompt, [(count(texts[place][0]), texts[place][1]) for place in places]))
    return made
