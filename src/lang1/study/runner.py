"""The one runner: runs a study's steps in order, skips what is finished, goes on where it was stopped.

Every step writes one folder ``OUT/STEP``. Before a step starts, ``OUT/.state/STEP.json`` records its key: a hash of
its kind, settings, lang1's version and its inputs' fingerprints. A complete folder under the same key is finished and
is not made again; under another key it is moved to ``OUT/.superseded`` (nothing is deleted) and made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import lang1
from lang1.common.artefact import (
    MANIFEST,
    Folder,
    Manifest,
    content_fingerprint,
    open_folder,
    partial_path,
    read_json,
    write_json,
)
from lang1.common.errors import ArtefactError, Lang1Error, SettingsError
from lang1.common.progress import say
from lang1.common.settings import validate_settings
from lang1.study.seeds import fan_out
from lang1.study.spec import StepSpec, StudySpec

STATE = ".state"
SUPERSEDED = ".superseded"

Inputs = Mapping[str, Path | list[Path]]


@dataclass(frozen=True)
class StepKind:
    """A kind of step: its settings, the roles of its inputs, and the function that writes the folder.

    ``roles`` maps each role to True where it is required; ``prints`` says for files of a role what of them counts,
    where that is not all of their bytes.
    """

    settings: type[BaseModel]
    roles: Mapping[str, bool]
    run: Callable[[Inputs, Any, Path], object]
    prints: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A step whose settings are validated and whose inputs are resolved to steps or paths."""

    name: str
    spec: StepSpec
    kind: StepKind
    settings: BaseModel
    needs: tuple[str, ...]


class StepFailed(Lang1Error):
    """A step stopped with an error that is not the user's: names the step and where its log lies."""


def plan(spec: StudySpec, kinds: Mapping[str, StepKind], source: str = "study") -> list[Planned]:
    """Validate every step's kind, settings and inputs before anything runs, and order the steps.

    Raises:
        SettingsError: unknown kind, role or setting, a missing input, or a circle.
    """
    planned: dict[str, Planned] = {}
    for name, step in spec.steps.items():
        kind = kinds.get(step.step)
        if kind is None:
            raise SettingsError(f"{source}: step '{name}': unknown kind '{step.step}'; known: {', '.join(kinds)}.")
        for role in step.inputs:
            if role not in kind.roles:
                raise SettingsError(
                    f"{source}: step '{name}' takes no input '{role}'; it takes {', '.join(kind.roles)}."
                )
        for role, required in kind.roles.items():
            if required and role not in step.inputs:
                raise SettingsError(f"{source}: step '{name}' ({step.step}) needs 'from: {{{role}: …}}'.")
        settings = validate_settings(kind.settings, step.settings, source=f"{source}: step '{name}'")
        needs = tuple(dict.fromkeys(n for ref in _references(step) if (n := ref.split("/")[0]) in spec.steps))
        planned[name] = Planned(name, step, kind, settings, needs)
    return _ordered(planned, source)


def run_study(spec: StudySpec, kinds: Mapping[str, StepKind], out: Path, source: str = "study") -> dict[str, Folder]:
    """Run a study into ``out``; returns each step's folder.

    Raises:
        Lang1Error: a step refused its input (the step is named).
        StepFailed: a step broke; its traceback is in ``OUT/.state/STEP.log``.
    """
    spec = fan_out(spec, source)
    steps = plan(spec, kinds, source)
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error.strerror}); choose another folder.") from error
    done: dict[str, Folder] = {}
    for number, step in enumerate(steps, 1):
        folder = out / step.name
        inputs = {role: _resolve(value, spec, out, source, step.name) for role, value in step.spec.inputs.items()}
        key = _key(step, inputs)
        state_file = out / STATE / f"{step.name}.json"
        state = read_json(state_file) if state_file.exists() else {}
        finished = (folder / MANIFEST).exists() and state.get("key") == key
        if not finished:
            if state.get("key") != key:
                _set_aside(out, step.name, str(state.get("key", "unknown")))
            write_json(state_file, {"key": key, "step": step.spec.step})
            say(f"[{number}/{len(steps)}] {step.name} …")
            started = time.monotonic()
            _run_one(step, inputs, folder, out)
            write_json(
                state_file, {"key": key, "step": step.spec.step, "seconds": round(time.monotonic() - started, 1)}
            )
        else:
            say(f"[{number}/{len(steps)}] {step.name}: done before")
        done[step.name] = Folder(folder, Manifest.model_validate(read_json(folder / MANIFEST)))
    return done


def _run_one(step: Planned, inputs: Inputs, folder: Path, out: Path) -> None:
    try:
        step.kind.run(inputs, step.settings, folder)
    except Lang1Error as error:
        raise type(error)(f"step '{step.name}': {error}") from error
    except Exception as error:
        log = out / STATE / f"{step.name}.log"
        log.write_text(traceback.format_exc(), encoding="utf-8")
        raise StepFailed(
            f"step '{step.name}' broke: {type(error).__name__}: {error}. The whole message is in {log}; "
            "finished steps are kept, run the same command again to go on."
        ) from error


def _references(step: StepSpec) -> list[str]:
    return [ref for value in step.inputs.values() for ref in (value if isinstance(value, list) else [value])]


def _ordered(planned: dict[str, Planned], source: str) -> list[Planned]:
    order: list[Planned] = []
    visiting: list[str] = []

    def visit(name: str) -> None:
        if any(p.name == name for p in order):
            return
        if name in visiting:
            raise SettingsError(f"{source}: steps go in a circle: {' → '.join([*visiting, name])}.")
        visiting.append(name)
        for need in planned[name].needs:
            visit(need)
        visiting.pop()
        order.append(planned[name])

    for name in planned:
        visit(name)
    return order


def _resolve(value: str | list[str], spec: StudySpec, out: Path, source: str, step: str) -> Path | list[Path]:
    if isinstance(value, list):
        return [_resolve_one(v, spec, out, source, step) for v in value]
    return _resolve_one(value, spec, out, source, step)


def _resolve_one(reference: str, spec: StudySpec, out: Path, source: str, step: str) -> Path:
    if reference.split("/")[0] in spec.steps:
        return out / reference
    path = Path(reference)
    if not path.exists():
        raise SettingsError(f"{source}: step '{step}': '{reference}' is neither a step of this study nor a folder.")
    return path


def _key(step: Planned, inputs: Inputs) -> str:
    prints = {
        role: [_fingerprint(p, step.kind.prints.get(role)) for p in (value if isinstance(value, list) else [value])]
        for role, value in inputs.items()
    }
    text = json.dumps(
        [step.spec.step, step.settings.model_dump(mode="json"), prints, lang1.__version__], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(path: Path, print_of: Callable[[Path], str] | None = None) -> str:
    if print_of is not None and path.is_file():
        return print_of(path)
    kinds = ("simulation", "records", "benchmark", "corpus", "model", "predictions", "results")
    if path.is_dir() and not (path / MANIFEST).exists() and (path / "config.json").is_file():
        return content_fingerprint(path)  # a model from elsewhere, in the Hugging Face layout
    return open_folder(path, kinds).fingerprint if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def _set_aside(out: Path, name: str, key: str) -> None:
    """Move what was made under other settings out of the way, finished or not: it may have cost days."""
    for folder in (out / name, partial_path(out / name)):
        if not folder.exists():
            continue
        place = out / SUPERSEDED / f"{name}-{key[:8]}{'' if folder.name == name else '-unfinished'}"
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            shutil.rmtree(place)  # the same step under the same key: superseded once before
        folder.rename(place)
        say(f"{name}: settings or inputs changed since it was made; the old folder is kept in {place}")
