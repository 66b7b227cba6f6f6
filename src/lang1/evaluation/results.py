"""``results.json``: the whole object of docs/architecture.md, made of a benchmark and predictions folders."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lang1.common.artefact import Folder, new_folder, open_folder, versions, write_json
from lang1.common.errors import ArtefactError, InputError
from lang1.evaluation.answered import Scored
from lang1.evaluation.examples import asked
from lang1.evaluation.families import correct
from lang1.evaluation.predictions import Predictions, open_predictions
from lang1.evaluation.recalibrated import FITTED_ON
from lang1.evaluation.rows import task_rows
from lang1.evaluation.settings import EvaluateSettings
from lang1.evaluation.warnings import evaluation_warnings
from lang1.remede.benchmark import Benchmark

KIND = "results"
FILE = "results.json"
METRICS_LOG = "metrics.jsonl"
# Of a training log, the loss of training steps and the measures of validations and evaluations: not what places
# them, nor the perplexity, which is the exponential of a loss that is there.
MEASURED = ("train", "val", "eval")
PLACES = {"kind", "step", "tokens"}
MOST_POINTS = 200


def collect(
    benchmark: Path,
    predictions: Sequence[Path],
    settings: EvaluateSettings,
    *,
    models: Sequence[Path] = (),
    title: str = "Results",
    subtitle: str = "",
    extra_warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Judge predictions on a benchmark: every number that the report shows.

    Args:
        benchmark: benchmark folder.
        predictions: predictions folders, each of one model in one regime.
        settings: which examples, how many resamples, which seed.
        models: model folders whose learning curves and costs are shown.
        title: of the report.
        subtitle: likewise.
        extra_warnings: sentences shown among the warnings, as notes.

    Returns:
        The JSON object; the same inputs give the same object.

    Raises:
        ArtefactError: a folder is missing or damaged, or predictions were made for another benchmark.
        InputError: predictions lack examples of a task and split that they answer, or hold NaN.
    """
    bench = Benchmark.open(benchmark)
    chosen = asked(bench, settings)
    made = [_opened(path, bench) for path in predictions]
    if not made:
        raise InputError("no predictions to judge: give at least one predictions folder.")
    seen: dict[str, Path] = {}
    for one in made:
        if one.key in seen:
            raise InputError(
                f"{one.folder.path} and {seen[one.key]} both hold {one.model} ({one.regime}); name one otherwise."
            )
        seen[one.key] = one.folder.path
    # Validation that was scored for recalibration only is not judged.
    fitting = {FITTED_ON} - set(settings.splits or ()) if settings.recalibrate else set()
    scored: list[Scored] = [
        found
        for task in chosen.tasks
        for split in chosen.splits
        if split not in fitting and (found := task_rows(chosen, made, task, split, settings)) is not None
    ]
    rows = [row for part in scored for row in part.rows]
    families = correct(rows, bench.headline_split)
    opened = [open_folder(path, "model") for path in models]
    return {
        "lang1_results": 1,
        "title": title,
        "subtitle": subtitle,
        "data": [data_line(bench)],
        "tasks": [task_line(bench, task) for task in chosen.tasks],
        "rows": rows,
        "families": families,
        "curves": [curve for part in scored for curve in part.curves],
        "operating": [point for part in scored for point in part.operating],
        "recalibration": [line for part in scored for line in part.recalibration],
        "strata_left_out": [line for part in scored for line in part.strata_left_out],
        "attrition": [line for line in bench.ledger if line["task"] in chosen.tasks],
        "shares": [share for share in bench.shares if share["task"] in chosen.tasks],
        "learning": [curve for model in opened for curve in _learning(model)],
        "cost": [*(_training_cost(model) for model in opened), *(_scoring_cost(one) for one in made)],
        "settings": {
            "evaluation": settings.model_dump(mode="json"),
            "benchmark": bench.manifest.settings,
            **{f"{m.manifest.extra.get('stage', 'model')}: {m.path.name}": m.manifest.settings for m in opened},
        },
        "fingerprints": {
            "records": bench.manifest.extra["records"]["fingerprint"],
            "benchmark": bench.folder.fingerprint,
            **{f"model: {model.path.name}": model.fingerprint for model in opened},
            **{f"predictions: {one.key}": one.folder.fingerprint for one in made},
        },
        "versions": versions(),
        "warnings": evaluation_warnings(chosen, made, scored, settings, extra_warnings),
    }


def write_results(
    out: Path,
    results: Mapping[str, Any],
    inputs: Mapping[str, Path | Sequence[Path]] | None = None,
    finish: Callable[[Path], object] | None = None,
) -> Path:
    """Write a results folder that holds ``results.json``.

    Args:
        out: the folder.
        results: what :func:`collect` returned.
        inputs: the folders that it was made of, by role.
        finish: called with the path of ``results.json`` before the folder counts as complete (draws the report).

    Raises:
        ArtefactError: ``out`` exists already.
    """
    refs: dict[str, Folder] = {}
    for role, value in (inputs or {}).items():
        paths = [value] if isinstance(value, Path) else list(value)
        for i, path in enumerate(paths):
            refs[role if len(paths) == 1 else f"{role}.{i}"] = open_folder(path, ("benchmark", "predictions", "model"))
    settings = results.get("settings", {}).get("evaluation", {})
    with new_folder(out, KIND, inputs=refs, settings=settings) as draft:
        write_json(draft.path / FILE, plain(results))
        if finish is not None:
            finish(draft.path / FILE)
        draft.counts = {"rows": len(results["rows"]), "curves": len(results["curves"])}
        draft.extra = {"title": results["title"]}
    return out


def _opened(path: Path, bench: Benchmark) -> Predictions:
    one = open_predictions(path)
    made_for = one.folder.manifest.extra.get("benchmark", {}).get("fingerprint")
    if made_for is not None and made_for != bench.folder.fingerprint:
        raise ArtefactError(
            f"{path} was made for another benchmark than {bench.folder.path}; make the predictions again."
        )
    return one


def data_line(bench: Benchmark) -> dict[str, Any]:
    """A benchmark's records as ``results.json`` lists them."""
    records = bench.records
    counts = records.folder.manifest.counts
    meta = records.meta
    return {
        "name": meta.system,
        "real": meta.real,
        "description": meta.source,
        "licence": meta.licence,
        "patients": counts.get("patients"),
        "encounters": counts.get("encounters"),
        "notes": counts.get("notes"),
        "time_basis": meta.time_basis,
    }


def task_line(bench: Benchmark, task: str) -> dict[str, Any]:
    """A task as ``results.json`` lists it."""
    card = bench.cards[task]
    marks = [mark for mark in bench.manifest.extra.get("marks", []) if mark["task"] == task]
    lacking = [f"Not supported by these records: {mark['reason']}." for mark in marks]
    return {
        "task": task,
        "title": card.title,
        "question": card.question().strip(),
        "options": list(card.options),
        "note_type": card.note_type,
        "definition": card.definition,
        "headline_split": bench.headline_split,
        "caveat": " ".join([*lacking, *card.caveats]) or None,
    }


def _learning(model: Folder) -> list[dict[str, Any]]:
    """Curves of a training log: one a measure, over tokens, thinned to 200 points."""
    file = model.path / METRICS_LOG
    if not file.is_file():
        return []
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that was being written when a run was stopped
        kind = record.get("kind", "train")
        if kind not in MEASURED:
            continue
        for key, value in record.items():
            if (
                key in PLACES
                or (kind == "train" and key != "loss")
                or isinstance(value, bool)
                or not isinstance(value, int | float)
            ):
                continue
            if math.isfinite(value):
                name = key.replace("/", ":", 1)
                x, y = series.setdefault(name if kind == "train" else f"{kind}_{name}", ([], []))
                x.append(record.get("tokens", record.get("step", 0)))
                y.append(value)
    stage = str(model.manifest.extra.get("stage", ""))
    made = []
    for metric, (x, y) in series.items():
        step = -(-len(x) // MOST_POINTS)
        kept = sorted({*range(0, len(x), step), len(x) - 1})
        made.append(
            {
                "run": model.path.name,
                "stage": stage,
                "metric": metric,
                "unit": "tokens",
                "x": [x[i] for i in kept],
                "y": [y[i] for i in kept],
            }
        )
    return made


def _training_cost(model: Folder) -> dict[str, Any]:
    extra = model.manifest.extra
    cost = extra.get("cost", {})
    return {
        "step": {"pretrained": "pretrain", "finetuned": "finetune"}.get(str(extra.get("stage")), "train"),
        "model": extra.get("name", model.path.name),
        "parameters": extra.get("parameters"),
        "tokens": cost.get("tokens"),
        "seconds": cost.get("seconds"),
        "device": cost.get("device"),
    }


def _scoring_cost(one: Predictions) -> dict[str, Any]:
    cost = one.folder.manifest.extra.get("cost", {})
    return {
        "step": "train and score" if one.regime == "baseline" else f"score, {one.regime}",
        "model": one.model,
        "parameters": one.folder.manifest.extra.get("parameters"),
        "tokens": cost.get("tokens"),
        "seconds": cost.get("seconds"),
        "device": cost.get("device"),
    }


def plain(value: Any) -> Any:
    """JSON without NaN: what is not known is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
