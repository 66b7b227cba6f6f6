"""Several seeds of one step: one folder a seed, the steps that follow likewise, and a summary of how far they differ.

``seeds: [1, 2, 3]`` among the settings of a step makes ``NAME-seed1``, ``NAME-seed2``, …, each with its ``seed``. A
step that takes such a step as its one input of a role is made once a seed as well; one that takes a list of inputs
takes all of them. For models and for their scores ``NAME-seeds`` then holds a summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from lang1.common.artefact import new_folder, open_folder, write_json
from lang1.common.errors import InputError, SettingsError
from lang1.common.progress import say
from lang1.study.spec import StepSpec, StudySpec

SUMMARY = "summary.json"
KIND = "summary"
TRAINED = ("pretrain", "finetune")


def fan_out(spec: StudySpec, source: str = "study") -> StudySpec:
    """The study with every step of several seeds, and what follows from it, written out; see the module's docstring.

    Raises:
        SettingsError: seeds that are no list of different integers, or two inputs of a step with different seeds.
    """
    seeds: dict[str, list[int]] = {}
    # Steps may stand in any order: go round until no step takes over seeds from another any more.
    for name, step in spec.steps.items():
        if step.settings.get("seeds") is not None:
            seeds[name] = _checked(step.settings["seeds"], f"{source}: step '{name}'")
    while True:
        found = {name: inherited for name, step in spec.steps.items() if (inherited := _inherited(step, seeds))}
        for name, inherited in found.items():
            if any(other != inherited[0] for other in [*inherited, *([seeds[name]] if name in seeds else [])]):
                raise SettingsError(f"{source}: step '{name}': it and its inputs have different seeds; give one list.")
        new = {name: inherited[0] for name, inherited in found.items() if name not in seeds}
        if not new:
            break
        seeds.update(new)
    steps: dict[str, StepSpec] = {}
    for name, step in spec.steps.items():
        settings = {key: value for key, value in step.settings.items() if key != "seeds"}
        if name not in seeds:
            steps[name] = step.model_copy(update={"settings": settings, "inputs": _listed(step, seeds)})
            continue
        for seed in seeds[name]:
            own = {**settings, "seed": seed} if step.step in TRAINED else dict(settings)
            if step.step == "evaluate":
                own["suffix"] = f", seed {seed}"
            inputs = {role: _single(value, seeds, seed) for role, value in _listed(step, seeds).items()}
            steps[f"{name}-seed{seed}"] = step.model_copy(update={"settings": own, "inputs": inputs})
        summed = _summary_of(name, step, settings, seeds[name])
        if summed is not None:
            steps[f"{name}-seeds"] = summed
    return spec.model_copy(update={"steps": steps})


def _checked(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(isinstance(s, int) and s >= 0 for s in value):
        raise SettingsError(f"{where}: seeds: expected a list of integers such as [1, 2, 3], got {value!r}.")
    if len(set(value)) < len(value):
        raise SettingsError(f"{where}: seeds: {value} holds one twice.")
    return list(value)


def _inherited(step: StepSpec, seeds: Mapping[str, list[int]]) -> list[list[int]]:
    """The seeds of those inputs of a step that are one step each."""
    single = [value for value in step.inputs.values() if isinstance(value, str)]
    return [seeds[base] for value in single if (base := value.split("/")[0]) in seeds]


def _listed(step: StepSpec, seeds: Mapping[str, list[int]]) -> dict[str, str | list[str]]:
    """Inputs that are lists, with all seeds of each step that has several."""
    return {
        role: [one for ref in value for one in _all(ref, seeds)] if isinstance(value, list) else value
        for role, value in step.inputs.items()
    }


def _all(reference: str, seeds: Mapping[str, list[int]]) -> list[str]:
    return [str(_single(reference, seeds, seed)) for seed in seeds.get(reference.split("/")[0], [0])]


def _single(reference: str | list[str], seeds: Mapping[str, list[int]], seed: int) -> str | list[str]:
    if isinstance(reference, list):
        return reference
    base, slash, rest = reference.partition("/")
    return f"{base}-seed{seed}{slash}{rest}" if base in seeds else reference


def _summary_of(name: str, step: StepSpec, settings: dict[str, Any], seeds: Sequence[int]) -> StepSpec | None:
    copies = [f"{name}-seed{seed}" for seed in seeds]
    if step.step in TRAINED:
        return StepSpec.model_validate({"step": "seeds", "from": {"models": copies}})
    benchmark = step.inputs.get("benchmark")
    if step.step == "evaluate" and isinstance(benchmark, str):
        judged = {key: settings[key] for key in ("tasks", "splits", "limit") if key in settings}
        inputs = {"predictions": copies, "benchmark": benchmark}
        return StepSpec.model_validate({"step": "seeds", "from": inputs, "settings": judged})
    return None


def summarise(
    out: Path, models: Sequence[Path], predictions: Sequence[Path], benchmark: Path | None, settings: Any
) -> Path:
    """Write ``summary.json``: mean, least, largest and standard deviation over seeds of each task's AUROC.

    Args:
        out: the folder to write.
        models: model folders that differ by their seed: their best validations are summed up.
        predictions: predictions folders of such models: their scores on the benchmark are.
        benchmark: needed with predictions.
        settings: :class:`~lang1.evaluation.settings.EvaluateSettings`; which examples of the benchmark count.

    Raises:
        InputError: neither models nor predictions, or predictions without a benchmark.
    """
    values: dict[tuple[str, str], dict[int, float]] = {}
    inputs = {}
    for path in models:
        folder = open_folder(path, "model")
        inputs[path.name] = folder
        for task, standing in folder.manifest.extra.get("validation_by_task", {}).items():
            if standing["best"] is not None:
                values.setdefault((task, "validation"), {})[_seed_of(folder.manifest.settings)] = standing["best"]
    if predictions:
        from lang1.evaluation.results import collect

        if benchmark is None:
            raise InputError("a summary of predictions needs the benchmark that they answer.")
        quick = settings.model_copy(update={"resamples": 10, "fast": True})
        seed_of = {}
        for path in predictions:
            folder = open_folder(path, "predictions")
            inputs[path.name] = folder
            seed_of[str(folder.manifest.extra["model"])] = int(folder.manifest.extra["training_seed"])
        for row in collect(benchmark, predictions, quick)["rows"]:
            if (
                row["metric"] == "auroc"
                and row["versus"] is None
                and row["stratum"] is None
                and row["value"] is not None
            ):
                values.setdefault((row["task"], row["split"]), {})[seed_of[row["model"]]] = row["value"]
    if not inputs:
        raise InputError("a summary of seeds needs models or predictions.")
    rows = [_row(task, split, by_seed) for (task, split), by_seed in values.items()]
    with new_folder(out, KIND, inputs=inputs, settings=settings) as draft:
        write_json(draft.path / SUMMARY, {"metric": "auroc", "rows": rows})
        draft.counts = {"rows": len(rows)}
    for row in rows:
        say(
            f"{row['task']}, {row['split']}: AUROC {row['mean']:.3f} over {len(row['by_seed'])} seeds "
            f"({row['low']:.3f} to {row['high']:.3f})"
        )
    return out


def _seed_of(settings: Mapping[str, Any] | BaseModel) -> int:
    assert isinstance(settings, Mapping)
    return int(settings["seed"])


def _row(task: str, split: str, by_seed: Mapping[int, float]) -> dict[str, Any]:
    found = np.array(list(by_seed.values()))
    return {
        "task": task,
        "split": split,
        "mean": float(found.mean()),
        "low": float(found.min()),
        "high": float(found.max()),
        "sd": float(found.std(ddof=1)) if len(found) > 1 else None,
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
    }


def finetuning_study(model: Path, benchmark: Path, settings: dict[str, Any]) -> StudySpec:
    """The study that ``lang1 finetune … seeds=[…]`` is: the step ``model``, once a seed, and its summary."""
    inputs = {"model": str(model.resolve()), "benchmark": str(benchmark.resolve())}  # no step's name by chance
    step = {"step": "finetune", "from": inputs, "settings": settings}
    return StudySpec(title=f"{model.name} finetuned with several seeds", steps={"model": StepSpec.model_validate(step)})
