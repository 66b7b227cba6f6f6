"""Several evaluations of one benchmark side by side: models × tasks, paired differences, corrected p-values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from lang1.common.artefact import MANIFEST, Folder, new_folder, open_folder, read_json, versions, write_json
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.settings import Settings
from lang1.evaluation.answered import Answered, Part, Scored, Writer, number, p_note
from lang1.evaluation.comparison_tables import as_csv, as_latex
from lang1.evaluation.examples import Asked, asked
from lang1.evaluation.predictions import KIND as PREDICTIONS
from lang1.evaluation.predictions import Predictions, open_predictions
from lang1.evaluation.results import KIND as RESULTS
from lang1.evaluation.results import plain, task_line
from lang1.evaluation.rows import TRAINED, prepared, probability_rows, rank_rows
from lang1.evaluation.settings import EvaluateSettings
from lang1.evaluation.warnings import FEW_EVENTS
from lang1.metrics.bootstrap import RESAMPLES
from lang1.metrics.intervals import Method
from lang1.metrics.multiple import CORRECTIONS
from lang1.remede.benchmark import Benchmark

KIND = "comparison"
FILE = "comparison.json"


class CompareSettings(Settings):
    """What is compared with what, and how p-values are corrected."""

    tasks: list[str] | None = Field(None, description="tasks to compare; null: all that anybody answers")
    split: str | None = Field(None, description="split to compare on; null: the benchmark's headline split")
    reference: str | None = Field(
        None, description="MODEL or 'MODEL|REGIME' that differences are taken from; null: the first trained model"
    )
    all_pairs: bool = Field(False, description="every pair, not only each model against the reference")
    intersect: bool = Field(False, description="compare on the examples that all answer, where these differ")
    correction: Literal["holm", "bh"] = Field("holm", description="holm for claims, bh for exploration")
    resamples: int = Field(RESAMPLES, ge=RESAMPLES, description="patient-level bootstrap resamples")
    interval: Method = Field("student", description="student, log-odds, percentile or bca")
    seed: int = Field(0, ge=0, description="seed of the resamples")


@dataclass(frozen=True)
class _Run:
    """Predictions and the run that they were found in."""

    run: Path
    one: Predictions


def compare(
    runs: Sequence[Path], out: Path, settings: CompareSettings, *, benchmark: Path | None = None, finish: Any = None
) -> dict[str, Any]:
    """Compare models and write ``comparison.json``, ``.csv`` and ``.tex``.

    Args:
        runs: predictions folders, results folders, or the folders of evaluations and studies that hold them.
        out: folder to write.
        settings: what is compared.
        benchmark: where the benchmark lies now, if not where the predictions say.
        finish: called with the path of ``comparison.json`` before the folder counts as complete (draws the page).

    Returns:
        The JSON object: ``results.json`` of the compared split, with ``comparison`` beside its rows.

    Raises:
        ArtefactError: runs of different benchmarks, or folders without predictions.
        InputError: models that answer different examples (unless ``intersect``), or fewer than two models.
        SettingsError: an unknown task, split or reference.
    """
    found = _distinct([item for path in runs for item in _predictions_in(path)])
    if len(found) < 2:
        raise InputError(f"compare: found {len(found)} model in {_listed(runs)}; give runs that hold at least two.")
    bench = _benchmark(found, benchmark)
    chosen, dropped = _examples(bench, found, settings)
    made = [item.one for item in found]
    reference = _reference(made, settings.reference)
    ordered = [reference, *(one for one in made if one is not reference)]
    asking = EvaluateSettings.model_validate(
        {"resamples": settings.resamples, "interval": settings.interval, "seed": settings.seed, "subgroups": []}
    )
    parts: list[Scored] = []
    for task in chosen.tasks:
        ready = prepared(chosen, ordered, task, chosen.splits[0], asking)
        if ready is not None:
            parts.append(_compared(*ready, reference, settings.all_pairs))
    rows = [row for scored in parts for row in scored.rows]
    family = _correct(rows, settings.correction)
    result = {
        "lang1_results": 1,
        "title": f"{len(made)} models on {bench.folder.path.name}",
        "subtitle": "",
        "data": [],
        "tasks": [task_line(bench, scored.task) | {"headline_split": scored.split} for scored in parts],
        "rows": rows,
        "families": [family],
        "settings": {"comparison": settings.model_dump(mode="json")},
        "fingerprints": {
            "benchmark": bench.folder.fingerprint,
            **{f"predictions: {one.key}": one.folder.fingerprint for one in made},
        },
        "versions": versions(),
        "warnings": _warnings(parts, dropped, bench),
        "comparison": {
            "reference": reference.key,
            "models": [one.key for one in ordered],
            "runs": {item.one.key: str(item.run) for item in found},
            "split": chosen.splits[0],
            "correction": settings.correction,
            "family": family["size"],
            "left_out": dropped,
        },
    }
    inputs: dict[str, Folder] = {"benchmark": bench.folder}
    inputs |= {f"predictions.{k}": one.folder for k, one in enumerate(made)}
    with new_folder(out, KIND, inputs=inputs, settings=settings) as draft:
        write_json(draft.path / FILE, plain(result))
        (draft.path / "comparison.csv").write_text(as_csv(rows), encoding="utf-8")
        (draft.path / "comparison.tex").write_text(as_latex(result), encoding="utf-8")
        if finish is not None:
            finish(draft.path / FILE)
        for task, count in dropped.items():
            draft.leave_out(f"{task}: not answered by every model", count)
        draft.counts = {"models": len(made), "tasks": len(parts), "rows": len(rows)}
    return result


def _predictions_in(path: Path) -> list[_Run]:
    """A predictions folder itself, those that a results folder was made of, or those inside a study's folder."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        folder = open_folder(path, (PREDICTIONS, RESULTS))
        if folder.kind == PREDICTIONS:
            return [_Run(path, open_predictions(path))]
        refs = [Path(ref.path) for ref in folder.manifest.inputs.values() if ref.kind == PREDICTIONS]
        gone = next((ref for ref in refs if not ref.is_dir()), None)
        if gone is not None:
            raise ArtefactError(f"{path}: its predictions {gone} are gone; give the predictions folders themselves.")
        return [_Run(path, open_predictions(ref)) for ref in refs]
    if not path.is_dir():
        raise ArtefactError(f"{path}: no such folder; give predictions, results or evaluation folders.")
    inner = sorted(child for child in path.iterdir() if (child / MANIFEST).is_file() and not child.name.startswith("."))
    made = [child for child in inner if _kind(child) == PREDICTIONS]
    if not made:
        raise ArtefactError(f"{path}: no predictions in it; give predictions, results or evaluation folders.")
    return [_Run(path, open_predictions(child)) for child in made]


def _kind(path: Path) -> Any:
    return read_json(path / MANIFEST).get("kind")


def _distinct(found: Sequence[_Run]) -> list[_Run]:
    """The same predictions once; different ones of one name told apart by their run."""
    once = list({item.one.folder.fingerprint: item for item in found}.values())
    keys = [item.one.key for item in once]
    named = [
        replace(item, one=replace(item.one, model=f"{item.one.model} ({item.run.name})"))
        if keys.count(item.one.key) > 1
        else item
        for item in once
    ]
    twice = next((i.one.key for k, i in enumerate(named) if i.one.key in [n.one.key for n in named[:k]]), None)
    if twice is not None:
        raise InputError(f"compare: {twice} is there twice with different predictions; give runs of different names.")
    return named


def _benchmark(found: Sequence[_Run], benchmark: Path | None) -> Benchmark:
    made_for: dict[str, tuple[Path, str]] = {}
    for item in found:
        said = item.one.folder.manifest.extra.get("benchmark") or {}
        if not said:
            raise ArtefactError(f"{item.one.folder.path} does not say which benchmark it answers; predict again.")
        made_for.setdefault(said["fingerprint"], (item.one.folder.path, said["path"]))
    if len(made_for) > 1:
        (one, first), (two, second) = list(made_for.values())[:2]
        raise ArtefactError(
            f"{one} and {two} answer different benchmarks ({first}, {second}); compare runs on the same one."
        )
    ((fingerprint, (_, path)),) = made_for.items()
    opened = Benchmark.open(benchmark or path)
    if opened.folder.fingerprint != fingerprint:
        raise ArtefactError(f"{opened.folder.path} is not the benchmark that the runs answer; give theirs ({path}).")
    return opened


def _examples(bench: Benchmark, found: Sequence[_Run], settings: CompareSettings) -> tuple[Asked, dict[str, int]]:
    """The examples that every model of a task answers; how many others each task had.

    A model may leave out whole tasks, but not some examples of one.
    """
    split = settings.split or bench.headline_split
    whole = asked(bench, EvaluateSettings.model_validate({"tasks": settings.tasks, "splits": [split]}))
    kept: list[pa.Table] = []
    dropped: dict[str, int] = {}
    for task in whole.tasks:
        examples = whole.of(task, split)
        answers = []
        for item in found:
            ids = item.one.table["example_id"].combine_chunks()
            known = pc.is_in(examples["example_id"], value_set=ids)
            if pc.any(known).as_py():
                answers.append((item.one, known.combine_chunks()))
        if not answers:
            continue
        common, union = answers[0][1], answers[0][1]
        for _, known in answers[1:]:
            common, union = pc.and_(common, known), pc.or_(union, known)
        count = pc.sum(common).as_py() or 0
        lost = (pc.sum(union).as_py() or 0) - count
        if lost and not settings.intersect:
            (one, some), (other, others) = _furthest(answers)
            raise InputError(
                f"{task}, {split}: {one.key} answers {some} examples and {other.key} {others}, {count} of them in "
                "common to all; evaluate with the same limit, or compare on those with intersect=true."
            )
        if not count:
            raise InputError(f"{task}, {split}: no example is answered by all models; leave the task or a run out.")
        if lost:
            dropped[task] = lost
        kept.append(examples.filter(common))
    if not kept:
        raise InputError(f"compare: nobody answers any example of split {split}.")
    tasks = tuple(task for task in whole.tasks if any(part["task"][0].as_py() == task for part in kept))
    return Asked(bench, tasks, (split,), pa.concat_tables(kept)), dropped


def _furthest(answers: Sequence[tuple[Predictions, Any]]) -> tuple[tuple[Predictions, int], tuple[Predictions, int]]:
    counted = [(one, pc.sum(known).as_py() or 0) for one, known in answers]
    return max(counted, key=lambda item: item[1]), min(counted, key=lambda item: item[1])


def _reference(made: Sequence[Predictions], name: str | None) -> Predictions:
    if name is None:
        return next((one for one in made if one.regime in TRAINED), made[0])
    fits = [one for one in made if name in (one.key, one.model)]
    if len(fits) != 1:
        known = ", ".join(one.key for one in made)
        raise SettingsError(f"reference '{name}' names {len(fits)} of the models; they are {known}.")
    return fits[0]


def _compared(result: Scored, part: Part, answered: list[Answered], reference: Predictions, all_pairs: bool) -> Scored:
    for model in answered:
        writer = Writer(result, model.one, part.binary)
        rank_rows(writer, model, part)
        probability_rows(writer, model, part)
    base = next((model for model in answered if model.one is reference), None)
    pairs: Iterable[tuple[Answered, Answered]] = ()
    if all_pairs:
        pairs = ((two, one) for one, two in combinations(answered, 2))
    elif base is not None:
        pairs = ((model, base) for model in answered if model is not base)
    for model, other in pairs:
        gap, value = model.draws - other.draws, model.auroc - other.auroc
        p = part.interval.p_value(gap, value)
        Writer(result, model.one, part.binary).add(
            "auroc",
            value,
            gap,
            bounds=part.interval.difference(gap, value),
            versus=other.one.key,
            note=p_note(p),
            p=number(p),
        )
    return result


def _correct(rows: Sequence[dict[str, Any]], correction: str) -> dict[str, Any]:
    """All differences of the comparison are one family; oracles are bounds and stay outside."""
    asking = [
        row
        for row in rows
        if row.get("p") is not None and "oracle" not in (row["regime"], str(row["versus"]).rpartition("|")[2])
    ]
    adjusted = CORRECTIONS[correction]([row["p"] for row in asking])
    for row, value in zip(asking, adjusted, strict=True):
        row |= {"p_adjusted": float(value), "correction": correction, "family": len(asking)}
    below = int((adjusted < 0.05).sum())
    return {"family": "paired differences in AUROC", "correction": correction, "size": len(asking), "below": below}


def _warnings(parts: Sequence[Scored], dropped: dict[str, int], bench: Benchmark) -> list[dict[str, str]]:
    found = []
    for task, count in dropped.items():
        text = f"{bench.cards[task].title}: {count:,} examples were left out since not every model answers them."
        found.append({"level": "warn", "text": text})
    for scored in parts:
        few = min(scored.class_counts) if len(scored.class_counts) == 2 else None
        if few is not None and few < FEW_EVENTS:
            text = f"{bench.cards[scored.task].title}: only {few} in the rarer class among {scored.n:,}."
            found.append({"level": "warn", "text": text})
    if not bench.records.meta.real:
        found.append({"level": "info", "text": "The records are simulated: no number here is about real patients."})
    return found


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
