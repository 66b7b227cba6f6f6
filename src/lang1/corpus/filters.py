"""What a document passes on its way into a corpus: named filters that can be switched, each counting what it does.

A filter is written for any number of processes: it sees one cleaned document at a time and holds nothing that another
process would have to know. A filter that must see a whole source first (near-duplicates) says ``prepares = True``:
:meth:`Filter.collect` then runs over each input unit, in any process, and :meth:`Filter.combine` once over what was
collected, in the order of the units; both are steps of their own, finished or not, which an interrupted run keeps.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from lang1.common.errors import SettingsError
from lang1.common.settings import Settings, validate_settings

# Every filter: its name in the settings, and the class behind it. They run in this order, whatever the order in which
# the settings name them.
FILTERS: dict[str, str] = {
    "decontaminate": "lang1.corpus.decontaminate:Decontaminate",
    "duplicates": "lang1.corpus.dedup:Duplicates",
    "copy_forward": "lang1.corpus.copy_forward:CopyForward",
    "deidentify": "lang1.corpus.deid:Deidentify",
}


@dataclass(frozen=True)
class Document:
    """One text on its way into a corpus.

    Attributes:
        text: cleaned.
        unit: the patient, or the document itself where it is nobody's.
        place: where it stands in its source, unique and in the order of the corpus; the same in every run.
        source: name of the source.
        note_id, note_type, department, available_time: of a note; null for general text.
    """

    text: str
    unit: str
    place: int = 0
    source: str = ""
    note_id: str | None = None
    note_type: str | None = None
    department: str | None = None
    available_time: datetime | None = None

    def at(self, unit: str, place: int, source: str) -> Document:
        """The same document in its place (``dataclasses.replace`` takes ten times as long)."""
        return Document(
            self.text, unit, place, source, self.note_id, self.note_type, self.department, self.available_time
        )


@dataclass
class Report:
    """What became of documents: whom the rules left out, and what each step and filter did.

    Attributes:
        left_out: documents, by reason.
        counts: by step or filter, by what it counted.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, documents: int = 1) -> None:
        """Count documents that do not go on, by reason."""
        self.left_out[reason] += documents

    def count(self, name: str, what: str, number: int = 1) -> None:
        """Count what a step or filter did, e.g. ``count("near_duplicates", "left out: radiology")``."""
        counts = self.counts.get(name)
        if counts is None:
            counts = self.counts[name] = Counter()
        counts[what] += number

    def of(self, name: str) -> Counter[str]:
        """What a step or filter counted."""
        return self.counts.get(name, Counter())

    def add(self, other: Report) -> None:
        """Add the counts of another report, of other documents."""
        self.left_out.update(other.left_out)
        for name, counts in other.counts.items():
            self.counts.setdefault(name, Counter()).update(counts)

    def to_json(self) -> dict[str, Any]:
        """As JSON, names in order."""
        return {
            "left_out": dict(sorted(self.left_out.items())),
            "counts": {name: dict(sorted(counts.items())) for name, counts in sorted(self.counts.items())},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Report:
        """What :meth:`to_json` wrote."""
        return cls(Counter(value["left_out"]), {name: Counter(counts) for name, counts in value["counts"].items()})


class FilterSettings(Settings):
    """Base of a filter's settings."""

    sources: tuple[str, ...] | None = None  # names of the sources that it is for; None: all for which it is made


@dataclass(frozen=True)
class Context:
    """What a filter may know besides the documents.

    Attributes:
        source: the source that it filters.
        records: the records folders of the corpus.
        benchmark: the benchmark folder, where there is one.
        artefact: what :meth:`Filter.combine` wrote; None while it is being prepared, and for filters without.
    """

    source: str
    records: tuple[Path, ...] = ()
    benchmark: Path | None = None
    artefact: Path | None = None


S = TypeVar("S", bound=FilterSettings)


class Filter(ABC, Generic[S]):
    """A named stage. Instances are made in each process from settings and context, and must not change.

    Subclasses set the class attributes below, and their settings class as ``settings_class``.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[FilterSettings]]
    on_by_default: ClassVar[bool] = False
    for_notes: ClassVar[bool] = True  # is made for patients' notes
    for_general: ClassVar[bool] = True  # is made for general text
    prepares: ClassVar[bool] = False  # needs combine() to run before apply()
    collects: ClassVar[bool] = False  # needs collect() to run over every input unit before combine()

    def __init__(self, settings: S, context: Context) -> None:
        self.settings, self.context = settings, context

    @abstractmethod
    def apply(self, document: Document, report: Report) -> Document | None:
        """The document as it goes on, or None where it is left out (count that with ``report.leave_out``)."""

    def collect(self, documents: Iterator[Document], out: Path) -> None:
        """Read one input unit's documents, as the filters before this one let them through; write one file.

        The file must depend on the documents and the settings only.
        """
        raise NotImplementedError

    def combine(self, collected: Sequence[Path], out: Path) -> None:
        """Write the file that :meth:`apply` will find as ``context.artefact``.

        Args:
            collected: what :meth:`collect` wrote, in the order of the input units; empty where ``collects`` is false.
            out: one file, to be opened from many processes (best one that can be mapped into memory).
        """
        raise NotImplementedError


def filter_class(name: str) -> type[Filter[Any]]:
    """The class behind a filter's name.

    Raises:
        SettingsError: there is no such filter.
    """
    if name not in FILTERS:
        raise SettingsError(f"filters: '{name}' is not a filter; filters are {', '.join(FILTERS) or '(none)'}.")
    module, _, cls = FILTERS[name].partition(":")
    found: type[Filter[Any]] = getattr(importlib.import_module(module), cls)
    return found


def resolve_filters(asked: Mapping[str, bool | Mapping[str, Any]]) -> dict[str, FilterSettings]:
    """The settings of every filter that is on, in the order in which they run.

    Args:
        asked: by filter: true or false, or its settings, which switch it on.

    Raises:
        SettingsError: an unknown filter, or settings that it does not take.
    """
    for name in asked:
        filter_class(name)
    chosen: dict[str, FilterSettings] = {}
    for name in FILTERS:
        cls = filter_class(name)
        value = asked.get(name, cls.on_by_default)
        if value is not False:
            given = {} if value is True else value
            chosen[name] = validate_settings(cls.settings_class, given, source=f"filters.{name}")
    return chosen


def filters_for(source: str, is_notes: bool, chosen: Mapping[str, FilterSettings]) -> list[str]:
    """The names of the filters that a source passes, in order."""
    names = []
    for name, settings in chosen.items():
        cls = filter_class(name)
        made_for = cls.for_notes if is_notes else cls.for_general
        if made_for if settings.sources is None else source in settings.sources:
            names.append(name)
    return names
