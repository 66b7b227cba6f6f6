"""Artefact folders: what one step hands to the next.

A step writes into ``.NAME.partial`` beside its target and renames the folder when it is complete, so that
a half-written folder is never mistaken for a whole one. ``manifest.json`` says what made the folder, from
which inputs, with which settings and versions, and what was counted.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import lang1
from lang1.common.errors import ArtefactError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
# Files that record how a run went (times, rates) and not what it made; they do not enter the fingerprint.
LOG_SUFFIXES = (".jsonl", ".log")
# Folders of the same kind: checkpoints that a training run keeps, and the record of what it read.
LOG_FOLDERS = ("checkpoints", "order")


class InputRef(BaseModel):
    """One input of a step: where it lay, what it was, and the fingerprint of its content."""

    model_config = ConfigDict(extra="forbid")
    path: str
    kind: str
    fingerprint: str


class Manifest(BaseModel):
    """The contents of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    lang1_version: str
    fingerprint: str
    inputs: dict[str, InputRef] = {}
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    counts: dict[str, Any] = {}
    left_out: dict[str, int] = {}
    extra: dict[str, Any] = {}


@dataclass(frozen=True)
class Folder:
    """A complete artefact folder, opened for reading."""

    path: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    def ref(self) -> InputRef:
        """How another step's manifest names this folder."""
        return InputRef(path=str(self.path.resolve()), kind=self.kind, fingerprint=self.fingerprint)


@dataclass
class Draft:
    """A folder being written. Fill ``counts``, ``left_out`` and ``extra``; they land in the manifest."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def leave_out(self, reason: str, rows: int = 1) -> None:
        """Count rows that were not taken, by reason. Nothing is dropped uncounted."""
        if rows:
            self.left_out[reason] = self.left_out.get(reason, 0) + rows


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries on which results can depend."""
    found = {"python": platform.python_version(), "lang1": lang1.__version__}
    for name in ("torch", "numpy", "pyarrow", "duckdb", "tokenizers", "scikit-learn", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_fingerprint(path: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, logs and the manifest itself aside."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if file.name == MANIFEST or file.suffix in LOG_SUFFIXES or file.relative_to(path).parts[0] in LOG_FOLDERS:
            continue
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def partial_path(out: Path) -> Path:
    """Where a folder lies while it is being written."""
    return out.parent / f".{out.name}.partial"


@contextmanager
def new_folder(
    out: Path,
    kind: str,
    *,
    inputs: Mapping[str, Folder | InputRef] | None = None,
    settings: Mapping[str, Any] | BaseModel | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[Draft]:
    """Write an artefact folder: yields a :class:`Draft`, then writes the manifest and renames.

    With ``resume`` an earlier partial folder is kept and handed out again (a training run finds its
    checkpoints there), also after an error; without it the partial folder starts empty and is removed on error.

    Raises:
        ArtefactError: ``out`` exists already and ``overwrite`` is false, another run is writing it, or the place cannot
            be written.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise ArtefactError(f"{out} exists already: choose another folder, or remove it first.")
    with _alone(out):
        yield from _new_folder(out, kind, inputs, settings, resume, overwrite)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two runs that write one folder would spoil each other's work: the second is refused while the first is there.

    The lock is the process's own: it ends with it, however that ends, and is not passed on to processes that it starts.
    """
    lock = out.parent / f".{out.name}.lock"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error.strerror}); choose another place.") from error
    with stream:
        if fcntl is not None:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtefactError(
                    f"{out}: another run is writing it now; wait until that has ended, or choose another folder."
                ) from None
            except OSError:  # a file system without locks
                pass
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _new_folder(
    out: Path,
    kind: str,
    inputs: Mapping[str, Folder | InputRef] | None,
    settings: Mapping[str, Any] | BaseModel | None,
    resume: bool,
    overwrite: bool,
) -> Iterator[Draft]:
    partial = partial_path(out)
    try:
        if partial.exists() and not resume:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{out}: cannot be written ({error.strerror}); choose another place.") from error
    draft = Draft(partial)
    try:
        yield draft
    except BaseException:
        if not resume:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    dumped = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings or {})
    manifest = Manifest(
        kind=kind,
        lang1_version=lang1.__version__,
        fingerprint=content_fingerprint(partial),
        inputs={k: v.ref() if isinstance(v, Folder) else v for k, v in (inputs or {}).items()},
        settings=dumped,
        versions=versions(),
        counts=draft.counts,
        left_out=dict(sorted(draft.left_out.items())),
        extra=draft.extra,
    )
    write_json(partial / MANIFEST, manifest.model_dump(mode="json"))
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtefactError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}): the folder is damaged; make it again.") from error


def open_folder(path: Path | str, kind: str | tuple[str, ...]) -> Folder:
    """Open a complete artefact folder of an expected kind.

    Raises:
        ArtefactError: it is missing, half written, damaged or of another kind.
    """
    path = Path(path)
    kinds = (kind,) if isinstance(kind, str) else kind
    wanted = " or ".join(kinds)
    if not path.exists():
        hint = " (an unfinished one is there: run the step again to complete it)" if partial_path(path).exists() else ""
        raise ArtefactError(f"{path} does not exist{hint}; expected a {wanted} folder.")
    if not (path / MANIFEST).is_file():
        raise ArtefactError(f"{path} holds no {MANIFEST}; expected a {wanted} folder made by lang1.")
    try:
        manifest = Manifest.model_validate(read_json(path / MANIFEST))
    except ValidationError as error:
        raise ArtefactError(f"{path / MANIFEST} is not a manifest of this version: {_first(error)}.") from error
    if manifest.kind not in kinds:
        raise ArtefactError(f"{path} is a {manifest.kind} folder; expected a {wanted} folder.")
    return Folder(path, manifest)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
