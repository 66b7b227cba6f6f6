"""``lang1 evaluate`` as a study: one step a scorer, then the report, so that it can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lang1.common.artefact import open_folder
from lang1.common.errors import SettingsError
from lang1.evaluation.scorers.server_settings import read_server
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.study.spec import StepSpec, StudySpec


def _denial_tasks(benchmark: Path, settings: EvaluateSettings) -> list[str]:
    cards = Benchmark.open(benchmark).cards
    return [
        task
        for task, card in cards.items()
        if card.rule_name == "insurance_denial" and (settings.tasks is None or task in settings.tasks)
    ]


def evaluation_study(
    model: Path,
    benchmark: Path,
    settings: EvaluateSettings,
    *,
    zero_shot: Sequence[Path] = (),
    generalists: Sequence[Path] = (),
    baselines: Sequence[str] = (),
    predictions: Sequence[Path] = (),
) -> StudySpec:
    """The study that scores ``model`` on ``benchmark`` beside others and draws the report.

    Raises:
        ArtefactError: a folder is missing or of another kind.
        SettingsError: two scorers would be written under one name.
    """
    bench = str(open_folder(benchmark, "benchmark").path)
    common = settings.model_dump(mode="json", exclude_unset=True)
    steps: dict[str, StepSpec] = {}

    def add(name: str, kind: str, inputs: dict[str, Any], extra: dict[str, Any]) -> None:
        if name in steps:
            raise SettingsError(f"'{name}' is there twice: give folders of different names.")
        steps[name] = StepSpec.model_validate({"step": kind, "from": inputs, "settings": {**common, **extra}})

    models = [model, *zero_shot]
    for path in models:
        stage = open_folder(path, "model").manifest.extra
        tasks = stage.get("tasks") or []
        regime = "zero-shot" if stage.get("stage") != "finetuned" else "joint" if len(tasks) > 1 else "finetuned"
        # The name comes from the model's settings: a model and its zero-shot self share it.
        add(f"model-{path.name}", "evaluate", {"model": str(path), "benchmark": bench}, {"regime": regime})
    for path in generalists:
        name = read_server(path).shown if path.is_file() else path.name
        add(
            f"generalist-{path.stem if path.is_file() else path.name}",
            "generalist",
            {"folder": str(path), "benchmark": bench},
            {"regime": "zero-shot", "name": name},
        )
    for name in baselines:
        add(f"baseline-{name}", "baseline", {"benchmark": bench}, {"baseline": name})
    denials = _denial_tasks(benchmark, settings)
    if denials and "payer" not in baselines:  # who denies is half the answer: a model must beat the payer alone
        add("baseline-payer", "baseline", {"benchmark": bench}, {"baseline": "payer", "tasks": denials})
    for path in predictions:
        folder = path if path.is_dir() else path.parent
        made = open_folder(folder, "predictions").manifest.extra if (folder / "manifest.json").exists() else {}
        extra = {"name": made.get("model", path.stem), "regime": made.get("regime", "baseline")}
        add(f"predictions-{extra['name']}", "predictions", {"file": str(path), "benchmark": bench}, extra)
    scored = list(steps)
    add(
        "report",
        "report",
        {"benchmark": bench, "predictions": scored, "models": [str(p) for p in models]},
        {"title": f"{model.name} on {benchmark.name}"},
    )
    return StudySpec(title=f"{model.name} on {benchmark.name}", steps=steps)
