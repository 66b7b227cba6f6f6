"""From what a study made to ``study.json``: opens the folders, asks every analysis, picks cases, draws the report."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lang1.common.artefact import new_folder, open_folder, versions, write_json
from lang1.common.progress import say
from lang1.evaluation.results import data_line, plain, task_line
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.reporting.schema import Data, Task
from lang1.reporting.study_report import render_study
from lang1.reporting.study_schema import VERSION, Analysis, Study
from lang1.study.analyses.registry import ANALYSES
from lang1.study.cases import choose
from lang1.study.cells import Cell
from lang1.study.claims import claims
from lang1.study.context import Context

KIND = "study"
FILE = "study.json"
REPORT = "report.html"


def write_study(out: Path, folders: Mapping[str, Mapping[str, Path]], settings: Any) -> Path:
    """Write a study's folder: ``study.json`` and ``report.html``.

    Args:
        out: the folder.
        folders: by role (``predictions``, ``benchmarks``, ``models``), folders by the name of the step that made them.
        settings: :class:`~lang1.study.steps.StudyReportStep`; cells whose predictions are not there are left out.

    Raises:
        ArtefactError: a folder is missing or damaged.
        InputError: predictions that do not answer what their benchmark asks.
    """
    opened = {
        f"{role}.{name}": open_folder(path, ("benchmark", "predictions", "model"))
        for role, named in folders.items()
        for name, path in named.items()
    }
    with new_folder(out, KIND, inputs=opened, settings=_shown(settings)) as draft:
        context = open_context(folders, settings)
        made, broken = analysed(context, draft.path)
        study = Study(
            lang1_study=VERSION,
            title=settings.title,
            subtitle=settings.subtitle,
            data=[Data.model_validate(data_line(bench)) for bench in _one_each(context.benchmarks.values())],
            tasks=_tasks(context),
            claims=claims(context, made),
            analyses=made,
            cases=choose(context, settings.cases, settings.real_cases) if settings.cases else [],
            failed=[*settings.failed, *broken],
            warnings=[*settings.notes, *_marks(opened.values())],
            settings={"grid": settings.grid, "evaluation": context.settings.model_dump(mode="json")},
            fingerprints={name: folder.fingerprint for name, folder in opened.items()},
            versions=versions(),
            design=[cell.model_dump(mode="json", exclude_defaults=True) for cell in context.cells],
        )
        write_json(draft.path / FILE, plain(study.model_dump(mode="json", by_alias=True)))
        draft.counts = {"cells": len(context.cells), "analyses": len(made), "failed": len(study.failed)}
        render_study(draft.path / FILE, draft.path / REPORT)
    return out


def open_context(folders: Mapping[str, Mapping[str, Path]], settings: Any) -> Context:
    """What the analyses read; cells whose predictions or benchmark are not there are left out.

    Joint models name the tasks that their benchmark really has, and models their number of weights.
    """
    benchmarks = {name: Benchmark.open(path) for name, path in folders["benchmarks"].items()}
    there = [c for c in settings.cells if c.step in folders["predictions"] and c.benchmark in benchmarks]
    judged = EvaluateSettings.model_validate(
        {name: getattr(settings, name) for name in EvaluateSettings.model_fields if name in settings.model_fields_set}
    )
    return Context(
        cells=[_filled(cell, folders["predictions"][cell.step]) for cell in there],
        folders=dict(folders["predictions"]),
        benchmarks=benchmarks,
        settings=judged,
        home=settings.home,
        grid=settings.grid,
        models=dict(folders.get("models", {})),
    )


def _filled(cell: Cell, folder: Path) -> Cell:
    opened = open_folder(folder, "predictions")
    found: dict[str, Any] = {}
    if cell.parameters is None:
        found["parameters"] = opened.manifest.extra.get("parameters")
    model = opened.manifest.inputs.get("model")
    if cell.tasks and model is not None and model.kind == "model" and Path(model.path).is_dir():
        made = open_folder(model.path, "model").manifest
        found["tasks"] = tuple(made.extra.get("tasks") or cell.tasks)
        examples = made.counts.get("examples")
        if isinstance(examples, dict) and examples:
            found["labels"] = round(sum(examples.values()) / len(examples))
    return cell.model_copy(update=found)


def analysed(context: Context, folder: Path) -> tuple[list[Analysis], list[str]]:
    """Every analysis that has something to say, and the words of those that broke; their log lies in ``folder``."""
    made: list[Analysis] = []
    broken: list[str] = []
    for ask in ANALYSES:
        try:
            found = ask(context)
        except Exception as error:
            name = f"{ask.__module__.rpartition('.')[2]}.{ask.__name__}"
            (folder / f"{name}.log").write_text(traceback.format_exc(), encoding="utf-8")
            broken.append(f"analysis '{name}' broke: {type(error).__name__}: {error}")
            say(broken[-1])
            continue
        if found is not None:
            made.append(found)
    return made, broken


def _one_each(benchmarks: Any) -> list[Benchmark]:
    """One benchmark of each records folder."""
    found: dict[str, Benchmark] = {}
    for bench in benchmarks:
        found.setdefault(bench.records.folder.fingerprint, bench)
    return list(found.values())


def _tasks(context: Context) -> list[Task]:
    found: dict[str, Task] = {}
    for bench in context.benchmarks.values():
        for task in bench.tasks:
            if task not in found:
                found[task] = Task.model_validate(task_line(bench, task))
    return list(found.values())


def _marks(folders: Any) -> list[str]:
    """What models and benchmarks say of themselves that a reader must know."""
    said: list[str] = []
    for folder in folders:
        extra = folder.manifest.extra
        if folder.kind == "model":
            said += [f"{folder.path.name}: {mark}" for mark in extra.get("overlap", [])]
        if folder.kind == "benchmark":
            said += [f"{folder.path.name}: {mark['task']}: {mark['reason']}." for mark in extra.get("marks", [])]
    return list(dict.fromkeys(said))


def _shown(settings: Any) -> dict[str, Any]:
    shown: dict[str, Any] = settings.model_dump(mode="json", exclude={"cells"})
    return shown
