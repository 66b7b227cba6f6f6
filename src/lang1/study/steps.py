"""The kinds of steps that a study can hold: each calls one room's public function.

Rooms are imported when a step runs, so that ``lang1 --help`` and a study's validation stay quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import Field

from lang1.common.artefact import open_folder
from lang1.common.settings import Settings
from lang1.corpus.settings import CorpusSettings
from lang1.evaluation.settings import EvaluateSettings
from lang1.model.config import ImportSettings
from lang1.records.pooling import PoolSettings
from lang1.records.readers.diabetes130 import Diabetes130Settings
from lang1.remede.settings import BuildSettings
from lang1.simulator.settings import SimulatorSettings
from lang1.study.cells import Cell
from lang1.study.runner import Inputs, StepKind, Waiting
from lang1.training.settings import FinetuneSettings, PretrainSettings


class EvaluateStep(EvaluateSettings):
    """Score a model of this package; ``regime`` names how it was made (zero-shot, finetuned, joint)."""

    regime: str
    name: str | None = None
    suffix: str = Field(default="", description="added to the name; a study of several seeds sets it")


class BaselineStep(EvaluateSettings):
    """Train and score one baseline."""

    baseline: str


class PredictionsStep(EvaluateSettings):
    """Take predictions made elsewhere, e.g. the simulator's oracle."""

    name: str = "oracle"
    regime: str = "oracle"


class ReportStep(EvaluateSettings):
    """Gather predictions into ``results.json`` and draw ``report.html``."""

    title: str = "Results"
    subtitle: str = ""
    notes: list[str] = Field(default=[], description="sentences shown among the report's warnings")


class MilestoneStep(Settings):
    """A milestone of a pretraining as a model of its own."""

    step: int = Field(ge=1, description="after so many steps")


class StudyReportStep(EvaluateSettings):
    """Judge everything that a study scored, and write ``study.json`` and its report."""

    title: str = "Study"
    subtitle: str = ""
    home: str = Field(description="the health system that the main tables are about")
    cells: list[Cell] = Field(description="what each predictions folder stands for")
    grid: dict[str, Any] = Field(default={}, description="the design as it was declared")
    cases: int = Field(default=0, ge=0, description="notes of each task in the case browser")
    real_cases: bool = Field(default=False, description="of real patients too")
    notes: list[str] = Field(default=[], description="sentences shown among the report's warnings")
    failed: list[str] = Field(default=[], description="steps that failed, with their error; the runner fills it")


def _one(inputs: Inputs, role: str) -> Path:
    return cast(Path, inputs[role])


def _many(inputs: Inputs, role: str) -> list[Path]:
    value = inputs.get(role, [])
    return value if isinstance(value, list) else [value]


def _simulate(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.simulator.simulate import simulate

    simulate(out, settings)


def _diabetes130(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.records.readers.diabetes130 import ingest_diabetes130

    ingest_diabetes130(out, settings)


def _remede(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.remede.build import build

    if "cut_points" in inputs:  # the bins of another health system's benchmark, made by another step
        settings = settings.model_copy(update={"cut_points_from": _one(inputs, "cut_points")})
    build(_one(inputs, "records"), out, settings)


def _pool(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.records.pooling import pool

    pool(_many(inputs, "records"), out, settings)


def _corpus(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.corpus.build import build_corpus

    if "tokenizer" in inputs:  # of a model that training goes on from, made by another step or lying outside the study
        settings = settings.model_copy(update={"tokenizer": _one(inputs, "tokenizer")})
    build_corpus(_many(inputs, "records"), _one(inputs, "benchmark"), out, settings)


def _pretrain(inputs: Inputs, settings: Any, out: Path) -> Waiting | None:
    from lang1.study.launched import elsewhere, launch_step
    from lang1.training.pretrain import pretrain

    start = cast(Path | None, inputs.get("start"))
    if elsewhere(settings):
        options = [] if start is None else ["--start", str(start)]
        return launch_step("pretrain", [_one(inputs, "corpus"), _one(inputs, "benchmark")], out, settings, options)
    pretrain(_one(inputs, "corpus"), out, settings, benchmark=_one(inputs, "benchmark"), start=start)
    return None


def _finetune(inputs: Inputs, settings: Any, out: Path) -> Waiting | None:
    from lang1.study.launched import elsewhere, launch_step
    from lang1.training.finetune import finetune

    if elsewhere(settings):
        return launch_step("finetune", [_one(inputs, "model"), _one(inputs, "benchmark")], out, settings)
    finetune(_one(inputs, "model"), _one(inputs, "benchmark"), out, settings)
    return None


def _milestone(inputs: Inputs, settings: MilestoneStep, out: Path) -> None:
    from lang1.training.milestones import milestone_model

    milestone_model(_one(inputs, "model"), settings.step, out)


def _evaluate(inputs: Inputs, settings: EvaluateStep, out: Path) -> None:
    from lang1.evaluation.predict_benchmark import evaluate_model

    model, name = _one(inputs, "model"), settings.name
    if settings.suffix:
        name = f"{name or open_folder(model, 'model').manifest.extra.get('name', model.name)}{settings.suffix}"
    evaluate_model(model, _one(inputs, "benchmark"), out, settings, regime=settings.regime, name=name)


def _seeds(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.study.seeds import summarise

    benchmark = cast(Path | None, inputs.get("benchmark"))
    summarise(out, _many(inputs, "models"), _many(inputs, "predictions"), benchmark, settings)


def _import(inputs: Inputs, settings: Any, out: Path) -> None:
    from lang1.model.importing import import_model

    import_model(_one(inputs, "source"), out, settings)


def _baseline(inputs: Inputs, settings: BaselineStep, out: Path) -> None:
    from lang1.evaluation.predict_benchmark import evaluate_baseline

    evaluate_baseline(settings.baseline, _one(inputs, "benchmark"), out, settings)


def _generalist(inputs: Inputs, settings: EvaluateStep, out: Path) -> None:
    from lang1.evaluation.predict_benchmark import evaluate_generalist

    evaluate_generalist(_one(inputs, "folder"), _one(inputs, "benchmark"), out, settings, name=settings.name)


def _server_print(file: Path) -> str:
    from lang1.evaluation.scorers.server_settings import server_print

    return server_print(file)


def _predictions(inputs: Inputs, settings: PredictionsStep, out: Path) -> None:
    from lang1.evaluation.predict_benchmark import import_predictions

    import_predictions(
        _one(inputs, "file"), _one(inputs, "benchmark"), out, settings, name=settings.name, regime=settings.regime
    )


def _report(inputs: Inputs, settings: ReportStep, out: Path) -> None:
    from lang1.evaluation.results import collect, write_results
    from lang1.reporting.report import render

    results = collect(
        _one(inputs, "benchmark"),
        _many(inputs, "predictions"),
        settings,
        models=_many(inputs, "models"),
        title=settings.title,
        subtitle=settings.subtitle,
        extra_warnings=settings.notes,
    )
    write_results(out, results, inputs=inputs, finish=lambda file: render(file, file.with_name("report.html")))


def _study_report(inputs: Inputs, settings: StudyReportStep, out: Path) -> None:
    from lang1.study.analyse import write_study

    folders = {
        role: {path.name: path for path in _many(inputs, role)} for role in ("predictions", "benchmarks", "models")
    }
    write_study(out, folders, settings)


STEP_KINDS: dict[str, StepKind] = {
    "simulate": StepKind(SimulatorSettings, {}, _simulate),
    "diabetes-130": StepKind(Diabetes130Settings, {}, _diabetes130),
    "remede": StepKind(BuildSettings, {"records": True, "cut_points": False}, _remede),
    "pool": StepKind(PoolSettings, {"records": True}, _pool),
    "corpus": StepKind(CorpusSettings, {"records": True, "benchmark": True, "tokenizer": False}, _corpus),
    "import": StepKind(ImportSettings, {"source": True}, _import),
    "pretrain": StepKind(PretrainSettings, {"corpus": True, "benchmark": True, "start": False}, _pretrain),
    "finetune": StepKind(FinetuneSettings, {"model": True, "benchmark": True}, _finetune),
    "milestone": StepKind(MilestoneStep, {"model": True}, _milestone),
    "evaluate": StepKind(EvaluateStep, {"model": True, "benchmark": True}, _evaluate),
    "seeds": StepKind(EvaluateSettings, {"models": False, "predictions": False, "benchmark": False}, _seeds),
    "baseline": StepKind(BaselineStep, {"benchmark": True}, _baseline),
    "generalist": StepKind(EvaluateStep, {"folder": True, "benchmark": True}, _generalist, {"folder": _server_print}),
    "predictions": StepKind(PredictionsStep, {"file": True, "benchmark": True}, _predictions),
    "report": StepKind(ReportStep, {"benchmark": True, "predictions": True, "models": False}, _report),
    "study-report": StepKind(
        StudyReportStep, {"predictions": True, "benchmarks": True, "models": False}, _study_report, gathers=True
    ),
}
