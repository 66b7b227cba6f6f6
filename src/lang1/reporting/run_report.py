"""The report of one training run: ``metrics.jsonl`` and the manifest of a model folder, drawn with the same kit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lang1.common.artefact import Folder, open_folder
from lang1.common.errors import ArtefactError
from lang1.reporting import figures, views
from lang1.reporting.numbers import compact, count, duration, fixed, percent, plural
from lang1.reporting.page import write_page
from lang1.reporting.schema import Learning

METRICS = "metrics.jsonl"
AXES = ("kind", "step", "tokens", "seconds", "stage", "skipped")  # fields of a record that are no curve of their own
STAGES = {"pretrained": "Pretraining", "finetuned": "Finetuning"}


def render_run(model_folder: Path, out: Path) -> Path:
    """Write the report of a training run and return where it lies: ``out``, or ``out/run.html`` if that is a folder.

    Reads ``manifest.json`` and ``metrics.jsonl`` (one JSON object a line: step, tokens, loss, seconds; at validation
    ``loss/SOURCE`` or ``auroc/TASK``). The page needs no network and no script.

    Raises:
        ArtefactError: no model folder, no metrics in it, a line that is not JSON, or a place that cannot be written.
    """
    folder = open_folder(Path(model_folder), "model")
    records = read_metrics(folder.path / METRICS)
    extra = folder.manifest.extra
    stage = STAGES.get(str(extra.get("stage", "")), "Training")
    name = str(extra.get("name") or folder.path.name)
    panels = figures.learning(curves(records, name, stage), [])
    out = Path(out)
    contents = [("summary", "The run"), ("curves", "Curves"), ("counts", "Counts"), ("settings", "Settings")]
    return write_page(
        "run.html.j2",
        out / "run.html" if out.is_dir() else out,
        title=f"{stage} of {name}",
        contents=contents,
        sentence=_sentence(folder, records, stage, name),
        facts=_facts(folder, records),
        panels=panels,
        counts=views.flat({**folder.manifest.counts, "left out": folder.manifest.left_out}),
        settings=[("Settings", views.flat(folder.manifest.settings))],
        inputs=[(key, f"{ref.kind}, {ref.fingerprint}") for key, ref in folder.manifest.inputs.items()],
        versions=list(folder.manifest.versions.items()),
        fingerprint=folder.fingerprint,
        footer=f"lang1 {folder.manifest.lang1_version} · drawn from {METRICS} and the manifest alone, without network.",
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
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline behind it: the writer was stopped in the middle
                break
            raise ArtefactError(f"{file} line {number}: not JSON ({error.msg}); the file is damaged.") from error
        if not isinstance(record, dict):
            raise ArtefactError(f"{file} line {number}: expected an object, found a {type(record).__name__}.")
        records.append(record)
    if not records:
        raise ArtefactError(f"{file} holds no records: the run has not begun.")
    return records


def curves(records: list[dict[str, Any]], run: str, stage: str) -> list[Learning]:
    """Every measure over tokens (over steps where no tokens are given), and the rate of tokens a second."""
    unit = "tokens" if all(_number(r.get("tokens")) is not None for r in records) else "steps"
    found: dict[str, tuple[list[float], list[float]]] = {}
    before: tuple[float, float] | None = None
    for record in records:
        x = _number(record.get("tokens" if unit == "tokens" else "step"))
        if x is None:
            continue
        validation = record.get("kind") == "val"
        for key, value in record.items():
            y = _number(value)
            if key in AXES or y is None:
                continue
            name = f"val_{key}" if validation and not key.startswith("val_") else key
            _append(found, name, x, y)
        seconds, tokens = _number(record.get("seconds")), _number(record.get("tokens"))
        if seconds is None or tokens is None:
            continue
        if before is not None and seconds > before[0] and tokens > before[1]:
            _append(found, "tokens_per_second", x, (tokens - before[1]) / (seconds - before[0]))
        before = (seconds, tokens)
    order = sorted(found, key=lambda name: (_rank(name), name))
    return [
        Learning(run=run, stage=stage, metric=name, unit=unit, x=list(found[name][0]), y=list(found[name][1]))
        for name in order
    ]


def _append(found: dict[str, tuple[list[float], list[float]]], name: str, x: float, y: float) -> None:
    xs, ys = found.setdefault(name, ([], []))
    xs.append(x)
    ys.append(y)


def _rank(name: str) -> int:
    order = ("loss", "val_loss", "val_auroc", "val_score", "lr", "tokens_per_second")
    return next(
        (place for place, known in enumerate(order) if name == known or name.startswith(f"{known}/")), len(order)
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _sentence(folder: Folder, records: list[dict[str, Any]], stage: str, name: str) -> str:
    losses = [y for r in records if r.get("kind", "train") != "val" and (y := _number(r.get("loss"))) is not None]
    fell = f" the training loss went from {fixed(losses[0], 2)} to {fixed(losses[-1], 2)}" if len(losses) > 1 else ""
    cost = folder.manifest.extra.get("cost", {})
    steps = folder.manifest.counts.get("steps") or records[-1].get("step")
    took = f" in {duration(_number(cost.get('seconds')))}" if cost.get("seconds") is not None else ""
    read = f"{stage} of {name} read {compact(_number(cost.get('tokens')))} tokens" if cost.get("tokens") else stage
    over = f" over {plural(int(steps), 'step')}" if steps else ""
    return f"{read}{over}{took}{';' if fell else ''}{fell}."


def _facts(folder: Folder, records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    extra, cost = folder.manifest.extra, folder.manifest.extra.get("cost", {})
    tokens, seconds = _number(cost.get("tokens")), _number(cost.get("seconds"))
    rate = compact(tokens / seconds) if tokens and seconds else ""
    skipped = sum(int(n) for n in dict(folder.manifest.counts.get("skipped_steps") or {}).values())
    score = _number(extra.get("validation_score"))
    mixture = extra.get("mixture") if isinstance(extra.get("mixture"), dict) else {}
    given = {k: _number(v.get("share") if isinstance(v, dict) else v) for k, v in (mixture or {}).items()}
    shares = ", ".join(f"{k} {percent(share)}" for k, share in given.items() if share is not None)
    found = [
        ("Parameters", count(_number(extra.get("parameters")))),
        ("Tokens, this run", compact(tokens)),
        ("Tokens, in all", compact(_number(extra.get("tokens_seen")))),
        ("Time", duration(seconds)),
        ("Tokens a second", rate),
        ("Device", str(cost.get("device") or "")),
        ("Learning rate", str(extra.get("lr") or "")),
        ("Best validation score", fixed(score) if score is not None else ""),
        ("Tasks", ", ".join(str(task) for task in extra.get("tasks") or [])),
        ("Mixture", shares),
        ("Steps skipped", count(skipped) if skipped else ""),
    ]
    return [(name, text) for name, text in found if text and text != "–"]
