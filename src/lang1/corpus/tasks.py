"""The plan of a corpus: input units, stages, and keys that say whether a finished piece of work still counts.

A plan is a JSON file beside the work (``.NAME.partial/.work/plan.json``): one configuration for one process, many, a
job array or a Ray cluster. The work is cut into input units (a part file of notes or row groups of it, a file of
general text or a range of it) by the inputs alone. A unit's work is kept under a key made from its input, the
settings that bear on it and the versions that made it; under another key it is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lang1.common.artefact import partial_path, read_json, versions, write_json
from lang1.common.errors import ArtefactError
from lang1.corpus.filters import Context, Filter, filter_class
from lang1.corpus.general import row_group_ranges, splits_at
from lang1.corpus.notes import EligibleNotes, NoteRules
from lang1.corpus.settings import CorpusSettings

PLAN = "plan.json"
ENCODE = "encode"
# What reads, cleans and tokenizes: a unit made with other versions is not mixed with these.
_VERSIONS = ("python", "lang1", "numpy", "pyarrow", "duckdb", "tokenizers")


@dataclass(frozen=True)
class Piece:
    """A file, or a range of it (bytes of JSON Lines, row groups of Parquet), of a health system or of nobody.

    Attributes:
        file: absolute path; empty for a part of the patients of a health system, whatever files their notes lie in.
        start, stop: see :func:`~lang1.corpus.general.read_general`; of patients: which part, of how many.
        rules: for notes, the place in the source's list of rules of whose notes these are; -1 for general text.
    """

    file: str
    start: int = 0
    stop: int | None = None
    rules: int = -1


@dataclass(frozen=True)
class Source:
    """One source of a plan.

    Attributes:
        name: as in the settings.
        units: the pieces of each input unit, in the order of the corpus.
        bytes: text of each unit, about.
        filters: the filters that it passes, in order.
        key: of its inputs and its cleaning.
        text_field: of general text.
        rules: for notes, who may enter from each records folder; empty for general text.
    """

    name: str
    units: tuple[tuple[Piece, ...], ...]
    bytes: tuple[int, ...]
    filters: tuple[str, ...]
    key: str
    text_field: str = "text"
    rules: tuple[NoteRules, ...] = ()


@dataclass(frozen=True)
class Stage:
    """Work that can be done in any order and anywhere: tasks of (source, unit).

    Attributes:
        name: ``encode``, or the name of the filter that is prepared.
        tasks: by source and number of the unit.
    """

    name: str
    tasks: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Plan:
    """What is to be made; see the module. Written and read as JSON.

    Attributes:
        out: the corpus folder, absolute.
        records: the records folders.
        benchmark: the benchmark folder, or None.
        settings: of the corpus.
        tokenizer: fingerprint of the tokenizer, which lies in ``.work/tokenizer``.
        sources: in the order of the corpus.
        versions: of what reads, cleans and tokenizes.
    """

    out: str
    records: tuple[str, ...]
    benchmark: str | None
    settings: CorpusSettings
    tokenizer: str
    sources: tuple[Source, ...]
    versions: dict[str, str]

    @property
    def work(self) -> Path:
        """Where unfinished work lies."""
        return work_folder(Path(self.out))

    @property
    def stages(self) -> list[Stage]:
        """What is to be done, one stage after the other: each filter that needs a pass of its own, then the rest."""
        prepared = [name for name in self.settings.filters if self._users(name) and filter_class(name).prepares]
        stages = []
        for name in prepared:
            users = self._users(name) if filter_class(name).collects else []
            stages.append(Stage(name, tuple((s.name, i) for s in users for i in range(len(s.units)))))
        return [*stages, Stage(ENCODE, tuple((s.name, i) for s in self.sources for i in range(len(s.units))))]

    def source(self, name: str) -> Source:
        """A source by name."""
        return next(source for source in self.sources if source.name == name)

    def _users(self, name: str) -> list[Source]:
        return [source for source in self.sources if name in source.filters]

    def users(self, stage: str) -> list[Source]:
        """The sources that a stage is for."""
        return list(self.sources) if stage == ENCODE else self._users(stage)

    def before(self, source: Source, stage: str) -> list[str]:
        """The filters that a source's documents have passed when they reach a stage."""
        return list(source.filters if stage == ENCODE else source.filters[: source.filters.index(stage)])

    def key(self, source: Source, stage: str, unit: int | None = None) -> str:
        """The key of a unit's work at a stage, or of what a stage combined from all units (``unit`` None)."""
        names = [*self.before(source, stage), *([stage] if stage != ENCODE else [])]
        chosen = [[name, self.settings.filters[name]] for name in names]
        last = self.tokenizer if stage == ENCODE else ""
        pieces = source.units if unit is None else source.units[unit : unit + 1]
        return digest(source.key, chosen, last, self.versions, [[asdict(p) for p in pieces_] for pieces_ in pieces])

    def folder(self, source: Source, stage: str) -> Path:
        """Where a source's work of a stage lies."""
        return self.work / source.name / stage

    def artefact(self, source: Source, name: str) -> Path:
        """What the filter ``name`` prepared for a source."""
        return self.folder(source, name) / "combined"

    def filter(self, source: Source, name: str, *, prepared: bool) -> Filter[Any]:
        """A filter as a source meets it."""
        cls = filter_class(name)
        artefact = self.artefact(source, name) if prepared and cls.prepares else None
        benchmark = Path(self.benchmark) if self.benchmark is not None else None
        context = Context(source.name, tuple(map(Path, self.records)), benchmark, artefact)
        return cls(cls.settings_class.model_validate(self.settings.filters[name]), context)

    def save(self) -> Path:
        """Write the plan beside its work; returns the file."""
        file = self.work / PLAN
        write_json(file, {**asdict(self), "settings": self.settings.model_dump(mode="json")})
        return file

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a plan.

        Raises:
            ArtefactError: it is missing or damaged, or this machine has other versions than the one that made it.
        """
        value = read_json(file)
        try:
            sources = [
                Source(
                    **{
                        **source,
                        "units": tuple(tuple(Piece(**piece) for piece in unit) for unit in source["units"]),
                        "bytes": tuple(source["bytes"]),
                        "filters": tuple(source["filters"]),
                        "rules": tuple(
                            NoteRules(**{**r, "types": None if r["types"] is None else tuple(r["types"])})
                            for r in source["rules"]
                        ),
                    }
                )
                for source in value["sources"]
            ]
            settings = CorpusSettings.model_validate(value["settings"])
            plan = cls(**{**value, "settings": settings, "sources": tuple(sources), "records": tuple(value["records"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{file} is not a plan of this version ({error}): start lang1 corpus again.") from error
        here = used_versions()
        for name, version in plan.versions.items():
            if here.get(name) != version:
                raise ArtefactError(
                    f"{file} was made with {name} {version}, and this machine has {here.get(name)}: "
                    "every machine must have the same versions, or their work could differ."
                )
        return plan


def work_folder(out: Path) -> Path:
    """Where the unfinished work of a corpus lies."""
    return partial_path(out) / ".work"


def used_versions() -> dict[str, str]:
    """Versions on which a unit's bytes can depend."""
    found = versions()
    return {name: found[name] for name in _VERSIONS if name in found}


def digest(*parts: Any) -> str:
    """A key made from plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def note_pieces(rules: Sequence[NoteRules], size: int) -> list[tuple[Piece, int]]:
    """The pieces of all records folders' notes, in order, and the bytes of each."""
    found = []
    for number, rule in enumerate(rules):
        for file in EligibleNotes(rule).files:
            found += [(Piece(str(file), a, b, number), n) for a, b, n in row_group_ranges(file, size)]
    return found


def patient_pieces(rules: Sequence[NoteRules], size: int) -> list[tuple[Piece, int]]:
    """Parts of the patients of all records folders, in order, and the bytes of each, about.

    Every part reads all notes of its folder, so there are no more parts than need be to sort one in memory.
    """
    found = []
    for number, rule in enumerate(rules):
        files = EligibleNotes(rule).files
        whole = sum(n for file in files for *_, n in row_group_ranges(file, size))
        parts = max(1, -(-whole // size))
        found += [(Piece("", part, parts, number), whole // parts) for part in range(parts)]
    return found


def general_pieces(files: Iterable[Path], size: int) -> list[tuple[Piece, int]]:
    """The pieces of a general source's files, in order, and the bytes of each."""
    return [(Piece(str(file.resolve()), a, b), n) for file in files for a, b, n in splits_at(file, size)]


def units_of(pieces: Sequence[tuple[Piece, int]], size: int) -> tuple[tuple[tuple[Piece, ...], ...], tuple[int, ...]]:
    """Take neighbouring small pieces together: the pieces of each unit, and its bytes."""
    units: list[tuple[Piece, ...]] = []
    sizes: list[int] = []
    for piece, bytes_ in pieces:
        if units and sizes[-1] + bytes_ <= size:
            units[-1], sizes[-1] = (*units[-1], piece), sizes[-1] + bytes_
        else:
            units.append((piece,))
            sizes.append(bytes_)
    return tuple(units), tuple(sizes)
