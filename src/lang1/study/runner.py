"""The one runner: runs a study's steps in order, skips what is finished, goes on where it was stopped.

Every step writes one folder ``OUT/STEP``. Before a step starts, ``OUT/.state/STEP.json`` records its key: a hash of
its kind, settings, lang1's version and its inputs' fingerprints. A complete folder under the same key is finished and
is not made again; under another key it is moved to ``OUT/.superseded`` (nothing is deleted) and made anew.

A step that fails leaves its log in ``OUT/.state/STEP.log``. The study then ends, or, where it is told to keep going,
goes on with the steps that do not need it; a step that gathers (a study's report) is made from what is there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from lang1.common.errors import ArtefactError, InputError, Lang1Error, SettingsError
from lang1.common.progress import say
from lang1.common.settings import validate_settings
from lang1.study.seeds import fan_out
from lang1.study.spec import StepSpec, StudySpec

STATE = ".state"
SUPERSEDED = ".superseded"

Inputs = Mapping[str, Path | list[Path]]
POLL_SECONDS = 10.0


@dataclass(frozen=True)
class Waiting:
    """A step that works elsewhere (a job of a cluster): ``ended`` says whether it has, and raises where it failed."""

    what: str
    ended: Callable[[], bool]


@dataclass(frozen=True)
class StepKind:
    """A kind of step: its settings, the roles of its inputs, and the function that writes the folder.

    ``run`` writes the folder, or returns a :class:`Waiting` where that is being done elsewhere: the runner then goes
    on with steps that do not need it. ``roles`` maps each role to True where it is required; ``prints`` says for files
    of a role what of them counts, where that is not all of their bytes. A kind that ``gathers`` is also made where
    some of its inputs are missing, and has a setting ``failed`` that says which and why.
    """

    settings: type[BaseModel]
    roles: Mapping[str, bool]
    run: Callable[[Inputs, Any, Path], object]
    prints: Mapping[str, Callable[[Path], str]] = field(default_factory=dict)
    gathers: bool = False


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


class StudyFailed(Lang1Error):
    """A study that kept going ended with steps that failed; ``done`` holds what was made all the same."""

    def __init__(self, message: str, done: Mapping[str, Folder]) -> None:
        super().__init__(message)
        self.done = dict(done)


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


def run_study(
    spec: StudySpec, kinds: Mapping[str, StepKind], out: Path, source: str = "study", *, keep_going: bool = False
) -> dict[str, Folder]:
    """Run a study into ``out``; returns each step's folder.

    Args:
        spec: the study, its grid written out.
        kinds: what steps there can be.
        out: the folder to write.
        source: what errors call the study.
        keep_going: after a step that failed, go on with those that do not need it.

    Raises:
        Lang1Error: a step refused its input (the step is named).
        StepFailed: a step broke; its traceback is in ``OUT/.state/STEP.log``.
        StudyFailed: some failed while the study kept going.
    """
    spec = fan_out(spec, source)
    steps = plan(spec, kinds, source)
    check_references(spec, source)
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error.strerror}); choose another folder.") from error
    run = _Run(spec, out, source, len(steps))
    waiting = list(steps)
    while waiting or run.elsewhere:
        ready = next((step for step in waiting if not run.elsewhere.keys() & set(step.needs)), None)
        try:
            if ready is not None:
                waiting.remove(ready)
                run.step(ready)
                run.settle()
            elif not run.settle():
                time.sleep(POLL_SECONDS)
        except Lang1Error as error:
            if not keep_going:
                raise
            run.fail(error)
    if run.failed:
        raise StudyFailed(run.summary(), run.done)
    return run.done


class _Run:
    """One run over the steps: what is done, what failed with which words, and what cannot be made for that."""

    def __init__(self, spec: StudySpec, out: Path, source: str, steps: int) -> None:
        self.spec, self.out, self.source, self.steps = spec, out, source, steps
        self.number = 0
        self.done: dict[str, Folder] = {}
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}  # by step, the failed one that it needs
        self.elsewhere: dict[str, tuple[Planned, str, float, Waiting]] = {}  # with its key and when it began
        self._current = ""

    def step(self, step: Planned) -> None:
        """Make one step, or find that it is done, cannot be made, or is being made elsewhere."""
        self._current = step.name
        self.number += 1
        said = f"[{self.number}/{self.steps}] {step.name}"
        lost = [need for need in step.needs if need not in self.done]
        if lost and not step.kind.gathers:
            self.left_out[step.name] = self.left_out.get(lost[0], lost[0])
            say(f"{said}: left out, since '{self.left_out[step.name]}' failed")
            return
        with _named(step, self.out):
            if step.kind.gathers:
                step = self._gathering(step, lost)
            inputs = resolved(step, self.spec, self.out)
            key = _key(step, inputs)
        folder = self.out / step.name
        state = _state(self.out, step.name)
        if (folder / MANIFEST).exists() and state.get("key") == key and not _partly_broken(step, folder):
            say(f"{said}: done before")
            self._finished(step)
            return
        if state.get("key") != key:
            _set_aside(self.out, step.name, str(state.get("key", "unknown")), "settings or inputs changed since")
        elif (folder / MANIFEST).exists():
            _set_aside(self.out, step.name, key, "a part of it broke when")
        write_json(self.out / STATE / f"{step.name}.json", {"key": key, "step": step.spec.step})
        say(f"{said} …")
        started = time.monotonic()
        with _named(step, self.out):
            made = step.kind.run(inputs, step.settings, folder)
        if isinstance(made, Waiting):
            say(f"{said}: {made.what}")
            self.elsewhere[step.name] = (step, key, started, made)
        else:
            self._made(step, key, started)

    def settle(self) -> bool:
        """Take in what has ended elsewhere; returns whether anything had."""
        for name, (step, key, started, waiting) in list(self.elsewhere.items()):
            self._current = name
            try:
                with _named(step, self.out):
                    if not waiting.ended():
                        continue
            except Lang1Error:
                del self.elsewhere[name]
                raise
            del self.elsewhere[name]
            self._made(step, key, started)
            return True
        return False

    def fail(self, error: Lang1Error) -> None:
        """Remember that the step that was just tried failed."""
        self.failed[self._current] = str(error)
        say(str(error))

    def _made(self, step: Planned, key: str, started: float) -> None:
        state = {"key": key, "step": step.spec.step, "seconds": round(time.monotonic() - started, 1)}
        write_json(self.out / STATE / f"{step.name}.json", state)
        self._finished(step)
        if _partly_broken(step, self.out / step.name):
            self.failed[step.name] = f"step '{step.name}': a part of it broke; what is there names it."

    def _finished(self, step: Planned) -> None:
        folder = self.out / step.name
        with _named(step, self.out):
            self.done[step.name] = Folder(folder, Manifest.model_validate(read_json(folder / MANIFEST)))
        (self.out / STATE / f"{step.name}.log").unlink(missing_ok=True)

    def _gathering(self, step: Planned, lost: list[str]) -> Planned:
        """The step with what there is of its inputs, and with the words of what failed.

        Raises:
            InputError: all inputs of a role that it needs are missing.
        """
        inputs: dict[str, str | list[str]] = {}
        for role, value in step.spec.inputs.items():
            there = [ref for ref in (value if isinstance(value, list) else [value]) if ref.split("/")[0] not in lost]
            if not there and step.kind.roles[role]:
                raise InputError(f"nothing is left of its {role}: the steps that make them failed.")
            inputs[role] = there if isinstance(value, list) else there[0]
        absent = (f"step '{name}': not made, since '{root}' failed" for name, root in self.left_out.items())
        words = [*self.failed.values(), *absent]
        settings = step.settings.model_copy(update={"failed": words})
        return replace(step, spec=step.spec.model_copy(update={"inputs": inputs}), settings=settings)

    def summary(self) -> str:
        """What failed, in one line."""
        words = "; ".join(error.rstrip(".") for error in self.failed.values())
        lost = f", {len(self.left_out)} that need them left out" if self.left_out else ""
        return (
            f"{len(self.failed)} of {self.steps} steps failed{lost}: {words}. Logs are in {self.out / STATE}; what is "
            "finished is kept, run the same command again to go on."
        )


@contextmanager
def _named(step: Planned, out: Path) -> Iterator[None]:
    """Errors of a step say which one it was; the whole of each is kept in its log."""
    log = out / STATE / f"{step.name}.log"
    try:
        yield
    except Lang1Error as error:
        log.write_text(traceback.format_exc(), encoding="utf-8")
        if isinstance(error, StepFailed):
            raise
        raise type(error)(f"step '{step.name}': {error}") from error
    except Exception as error:
        log.write_text(traceback.format_exc(), encoding="utf-8")
        raise StepFailed(
            f"step '{step.name}' broke: {type(error).__name__}: {error}. The whole message is in {log}; "
            "finished steps are kept, run the same command again to go on."
        ) from error


def standing(spec: StudySpec, kinds: Mapping[str, StepKind], out: Path, source: str = "study") -> list[tuple[str, str]]:
    """Each step in order with how it stands in ``out``: what a run would find, without running anything.

    ``done``; ``unfinished`` (it would go on); ``changed`` (made under other settings or inputs: it would be set aside
    and made again); ``failed`` before; ``to do``. What follows from a step that is not done is not done either.
    """
    spec = fan_out(spec, source)
    steps = plan(spec, kinds, source)
    check_references(spec, source)
    found: dict[str, str] = {}
    for step in steps:
        found[step.name] = _stands(step, spec, out, found)
    return list(found.items())


def _stands(step: Planned, spec: StudySpec, out: Path, found: Mapping[str, str]) -> str:
    folder, state = out / step.name, _state(out, step.name)
    if all(found[need] == "done" for need in step.needs):
        try:
            same = state.get("key") == _key(step, resolved(step, spec, out))
        except Lang1Error:
            return "failed" if (out / STATE / f"{step.name}.log").exists() else "to do"
        if (folder / MANIFEST).exists():
            if same and _partly_broken(step, folder):
                return "failed"
            return "done" if same else "changed"
        if (out / STATE / f"{step.name}.log").exists():
            return "failed"
        return "unfinished" if same and partial_path(folder).exists() else "to do"
    return "to do"


def _state(out: Path, name: str) -> dict[str, Any]:
    file = out / STATE / f"{name}.json"
    return dict(read_json(file)) if file.exists() else {}


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


def check_references(spec: StudySpec, source: str) -> None:
    """Refuse inputs that are neither a step nor there, before anything runs.

    Raises:
        SettingsError: naming the step and the input.
    """
    for name, step in spec.steps.items():
        for reference in _references(step):
            if reference.split("/")[0] not in spec.steps and not Path(reference).exists():
                raise SettingsError(
                    f"{source}: step '{name}': '{reference}' is neither a step of this study nor a folder."
                )


def resolved(step: Planned, spec: StudySpec, out: Path) -> dict[str, Path | list[Path]]:
    """The paths of a step's inputs by role."""

    def path(reference: str) -> Path:
        return out / reference if reference.split("/")[0] in spec.steps else Path(reference)

    return {
        role: [path(one) for one in value] if isinstance(value, list) else path(value)
        for role, value in step.spec.inputs.items()
    }


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
    kinds = ("simulation", "records", "benchmark", "corpus", "model", "predictions", "results", "summary")
    if path.is_dir() and not (path / MANIFEST).exists() and (path / "config.json").is_file():
        return content_fingerprint(path)  # a model from elsewhere, in the Hugging Face layout
    return open_folder(path, kinds).fingerprint if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def _partly_broken(step: Planned, folder: Path) -> bool:
    """Whether a step that gathers could not make all of it, for other reasons than steps that failed before it."""
    if not step.kind.gathers:
        return False
    counts = read_json(folder / MANIFEST).get("counts", {})
    return int(counts.get("failed", 0)) > len(getattr(step.settings, "failed", ()))


def _set_aside(out: Path, name: str, key: str, why: str) -> None:
    """Move what is to be made again out of the way, finished or not: it may have cost days."""
    for folder in (out / name, partial_path(out / name)):
        if not folder.exists():
            continue
        place = out / SUPERSEDED / f"{name}-{key[:8]}{'' if folder.name == name else '-unfinished'}"
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            shutil.rmtree(place)  # the same step under the same key: superseded once before
        folder.rename(place)
        say(f"{name}: {why} it was made; the old folder is kept in {place}")
