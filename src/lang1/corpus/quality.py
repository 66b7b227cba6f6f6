"""What a corpus's text is like: lengths, types, departments, years, boilerplate, repetition.

Documents are read once; memory stays bounded however many there are. What is estimated says so and how well: lengths to
1 %, phrases by a Misra-Gries summary with a known undercount, equal texts by a sample of hashes.

No patient's words are shown: a phrase appears only once it has been seen in the notes of :data:`SHOWN_PATIENTS`
different patients.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lang1.common.identity import patient_hash
from lang1.corpus.copy_forward import segments
from lang1.corpus.dedup import content_hash
from lang1.corpus.filters import Document
from lang1.reporting.document import Document as Page
from lang1.reporting.document import Grid, Section
from lang1.text.tokenizer import Tokenizer

SHOWN_PATIENTS = 20
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Phrases followed at once, and hashes of texts, at most: about 50 MB each.
PHRASES = 20_000
HASHES = 500_000
# Documents of each type that are tokenized.
_TOKENIZED = 300
_LISTED = 40
_STEP = math.log(1.02)
UNKNOWN = "not known"


class Lengths:
    """Counts of lengths in bins 2 % wide, so that a quantile is right to 1 %."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()

    def add(self, length: int) -> None:
        """Count one length; 0 has a bin of its own."""
        self.bins[round(math.log(length) / _STEP) if length else -1] += 1

    def quantile(self, share: float) -> int:
        """The length that this share of the documents does not exceed; 0 where there are none."""
        wanted, seen = share * self.bins.total(), 0
        for one in sorted(self.bins):
            seen += self.bins[one]
            if seen >= wanted:
                return round(math.exp(one * _STEP)) if one >= 0 else 0
        return 0


@dataclass
class Phrase:
    """What is known of one phrase: a count that never exceeds the truth, by type, and who was seen to have it."""

    count: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    patients: set[int] = field(default_factory=set)


class Phrases:
    """The phrases that stand in most documents (Misra and Gries 1982; batch form of Agarwal et al. 2012).

    Args:
        most: phrases that are followed. A phrase's count is too small by at most ``error``, which is at most the
            number of phrases read divided by ``most``; any phrase more frequent than that is among those followed.
    """

    def __init__(self, most: int) -> None:
        self.most, self.error = most, 0
        self.found: dict[str, Phrase] = {}

    def add(self, phrase: str, label: str, patient: int) -> None:
        """Count one document of a patient that has the phrase."""
        one = self.found.get(phrase)
        if one is None:
            if len(self.found) >= 2 * self.most:
                self._thin()
            one = self.found[phrase] = Phrase()
        one.count += 1
        one.seen[label] += 1
        if len(one.patients) < SHOWN_PATIENTS:
            one.patients.add(patient)

    def _thin(self) -> None:
        cut = heapq.nlargest(self.most + 1, (one.count for one in self.found.values()))[-1]
        self.error += cut
        for phrase, one in list(self.found.items()):
            one.count -= cut
            if one.count <= 0:
                del self.found[phrase]

    def common(self) -> list[tuple[str, Phrase]]:
        """The phrases that enough different patients have, most frequent first."""
        shared = [(text, one) for text, one in self.found.items() if len(one.patients) >= SHOWN_PATIENTS]
        return sorted(shared, key=lambda item: (-item[1].seen.total(), item[0]))


class Equals:
    """How many texts are equal to another, by type, from those whose hash falls below a bound that shrinks as needed.

    All texts that are equal fall on the same side of the bound, so the share among the sampled is without bias.
    """

    def __init__(self, most: int) -> None:
        self.most, self.bits = most, 0
        self.seen: dict[int, Counter[str]] = {}

    def add(self, text: str, label: str) -> None:
        """Count one text."""
        key = content_hash(text)
        if key & ((1 << self.bits) - 1):
            return
        self.seen.setdefault(key, Counter())[label] += 1
        while len(self.seen) > self.most:
            self.bits += 1
            self.seen = {k: v for k, v in self.seen.items() if not k & ((1 << self.bits) - 1)}

    def shares(self) -> dict[str, float]:
        """By type, the share of documents whose text another document has too, the first of each not counted."""
        documents: Counter[str] = Counter()
        again: dict[str, float] = {}
        for counts in self.seen.values():
            documents.update(counts)
            whole = counts.total()
            for label, count in counts.items():
                again[label] = again.get(label, 0.0) + count * (whole - 1) / whole
        return {label: again[label] / count for label, count in documents.items()}


@dataclass
class _Type:
    documents: int = 0
    words: int = 0
    characters: int = 0
    phrases: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    # (negative draw, text) of the documents with the least draws, to be tokenized.
    sample: list[tuple[int, str]] = field(default_factory=list)


def quality(
    documents: Iterable[Document],
    tokenizer: Tokenizer | None = None,
    *,
    phrases: int = PHRASES,
    hashes: int = HASHES,
) -> dict[str, Any]:
    """Describe documents.

    Args:
        documents: notes or general text, read once. General text is listed under its source's name.
        tokenizer: where given, tokens a word are measured on a sample of each type.
        phrases, hashes: bounds on what is held in memory, see :class:`Phrases` and :class:`Equals`.

    Returns:
        ``documents, words, characters``; ``types`` (by type: documents, words, characters, ``length`` quantiles in
        words, ``boilerplate`` share of phrases that :data:`SHOWN_PATIENTS` patients or more have, ``equal`` share of
        documents whose text stood before, ``tokens_per_word``); ``years``; ``departments``; ``templates`` (most
        frequent phrases, each with at least how many documents have it, and in which types); ``precision`` (how far
        the estimates can be off).
    """
    types: dict[str, _Type] = {}
    years: Counter[str] = Counter()
    departments: Counter[str] = Counter()
    followed, equals = Phrases(phrases), Equals(hashes)
    for document in documents:
        label = document.note_type or document.source or UNKNOWN
        one = types.setdefault(label, _Type())
        words = len(document.text.split())
        one.documents += 1
        one.words += words
        one.characters += len(document.text)
        one.lengths.add(words)
        if document.note_type is not None:
            moment = document.available_time
            years[str(moment.year) if moment is not None else UNKNOWN] += 1
            departments[document.department or UNKNOWN] += 1
        patient = patient_hash(document.unit)
        found = {" ".join(document.text[start:end].split()) for start, end in segments(document.text)}
        one.phrases += len(found)
        for phrase in sorted(found):
            followed.add(phrase, label, patient)
        equals.add(document.text, label)
        if tokenizer is not None and words:
            _draw(one.sample, document.text)
    shared, equal = followed.common(), equals.shares()
    boilerplate: Counter[str] = Counter()
    for _, one_phrase in shared:
        boilerplate.update(one_phrase.seen)
    return {
        "documents": sum(one.documents for one in types.values()),
        "words": sum(one.words for one in types.values()),
        "characters": sum(one.characters for one in types.values()),
        "types": {
            label: {
                "documents": one.documents,
                "words": one.words,
                "characters": one.characters,
                "length": {f"{share:g}": one.lengths.quantile(share) for share in QUANTILES},
                "boilerplate": round(boilerplate[label] / max(one.phrases, 1), 4),
                "equal": round(equal.get(label, 0.0), 4),
                "tokens_per_word": _tokens_per_word(one.sample, tokenizer),
            }
            for label, one in sorted(types.items())
        },
        "years": dict(sorted(years.items())),
        "departments": dict(sorted(departments.items(), key=lambda item: (-item[1], item[0]))),
        "templates": [
            {"phrase": text, "documents": one.seen.total(), "types": dict(sorted(one.seen.items()))}
            for text, one in shared[:_LISTED]
        ],
        "precision": {
            "phrases_read": sum(one.phrases for one in types.values()),
            "undercount_at_most": followed.error,
            "share_of_texts_compared": 2.0**-equals.bits,
        },
    }


def _draw(sample: list[tuple[int, str]], text: str) -> None:
    item = (-content_hash(text), text)
    if len(sample) < _TOKENIZED:
        heapq.heappush(sample, item)
    elif item > sample[0]:
        heapq.heapreplace(sample, item)


def _tokens_per_word(sample: list[tuple[int, str]], tokenizer: Tokenizer | None) -> float | None:
    if tokenizer is None or not sample:
        return None
    texts = [text for _, text in sorted(sample)]
    return round(sum(map(len, tokenizer.encode_batch(texts))) / sum(len(text.split()) for text in texts), 4)


def removed_by_type(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """What the filters ``duplicates`` and ``copy_forward`` took out, by note type, from their counts.

    Args:
        counts: by filter, what it counted (``Report.counts``, or the same from a corpus's manifest).

    Returns:
        By type: ``documents`` and ``characters`` that came to the filters, ``exact_duplicates``, ``near_duplicates``
        and ``nothing_new`` in documents, and the shares of characters that they and the passages copied forward are.
    """
    first, passages = counts.get("duplicates", {}), counts.get("copy_forward", {})
    came = first or passages
    found: dict[str, dict[str, float]] = {}
    for label in sorted(name.removeprefix("documents: ") for name in came if name.startswith("documents: ")):
        characters = max(came.get(f"characters: {label}", 0), 1)
        exact, near = (first.get(f"characters in {kind} duplicates: {label}", 0) for kind in ("exact", "near"))
        copied = passages.get(f"characters removed: {label}", 0)
        copied += passages.get(f"characters in documents left out: {label}", 0)
        found[label] = {
            "documents": came.get(f"documents: {label}", 0),
            "characters": came.get(f"characters: {label}", 0),
            "exact_duplicates": first.get(f"exact duplicates: {label}", 0),
            "near_duplicates": first.get(f"near duplicates: {label}", 0),
            "nothing_new": passages.get(f"documents left out: {label}", 0),
            "exact_share": round(exact / characters, 4),
            "near_share": round(near / characters, 4),
            "copied_share": round(copied / characters, 4),
        }
    return found


def quality_page(
    found: Mapping[str, Any], title: str, removed: Mapping[str, Mapping[str, float]] | None = None
) -> Page:
    """The report as a page, which writes itself as HTML or Markdown.

    Args:
        found: of :func:`quality`.
        title: what was described.
        removed: of :func:`removed_by_type`, where it is known.
    """
    facts = [(name.capitalize(), f"{found[name]:,}") for name in ("documents", "words", "characters")]
    sections = [
        Section("Types and lengths", ("Lengths in words; right to 1 %.",), grids=[_lengths(found)]),
        Section("Boilerplate and repetition", (_PRECISION.format(**found["precision"]),), grids=[_repetition(found)]),
    ]
    if removed:
        sections.append(Section("What was taken out", (_REMOVED,), grids=[_removed(removed)]))
    for name, key in (("Years", "years"), ("Departments", "departments")):
        if found[key]:
            rows = [(label, f"{count:,}") for label, count in list(found[key].items())[:_LISTED]]
            more = len(found[key]) - len(rows)
            text = (f"The {len(rows)} largest; {more} more are not listed.",) if more else ()
            sections.append(Section(name, text, grids=[Grid((name[:-1], "Documents"), rows)]))
    if found["templates"]:
        head = ("Phrase", "Documents, at least", "Types")
        phrases = [
            (one["phrase"][:200], f"{one['documents']:,}", ", ".join(one["types"])) for one in found["templates"]
        ]
        sections.append(Section("Top templates", (_TEMPLATES,), grids=[Grid(head, phrases)]))
    sentence = (
        "What the text is like before filters, and what the filters took out of it."
        if removed
        else ("What the text is like.")
    )
    return Page(
        title,
        sentence,
        facts,
        sections,
        "Made by lang1 from the text itself; it holds counts and phrases of many patients only.",
    )


def write_quality(
    found: Mapping[str, Any], out: Path, title: str, removed: Mapping[str, Mapping[str, float]] | None = None
) -> Path:
    """Write the report as one HTML page.

    Raises:
        ArtefactError: the place cannot be written.
    """
    return quality_page(found, title, removed).html(out)


_PRECISION = (
    f"Boilerplate: the share of phrases (sentences, or lines) that the notes of at least {SHOWN_PATIENTS} different "
    "patients have. Of {phrases_read:,} phrases read, any one's count is too small by {undercount_at_most:,} at most. "
    "Said before: documents whose text, but for case and white space, another document has too, the first of each not "
    "counted; from {share_of_texts_compared:.2%} of the texts."
)
_REMOVED = (
    "Shares are of the characters that came to the filters. Copied forward: passages that stood in an earlier note of "
    "the same patient, and notes left out since little else was in them."
)
_TEMPLATES = (
    f"Only phrases that were seen in the notes of at least {SHOWN_PATIENTS} different patients are shown. Names of "
    "staff who sign many notes can be among them."
)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _lengths(found: Mapping[str, Any]) -> Grid:
    head = ("Type", "Documents", "Words", *(f"{100 * share:g} %" for share in QUANTILES), "Tokens a word")
    rows = [
        (
            label,
            f"{one['documents']:,}",
            f"{one['words']:,}",
            *(f"{length:,}" for length in one["length"].values()),
            f"{one['tokens_per_word']:.2f}" if one["tokens_per_word"] is not None else "",
        )
        for label, one in found["types"].items()
    ]
    return Grid(head, rows)


def _repetition(found: Mapping[str, Any]) -> Grid:
    rows = [(label, _percent(one["boilerplate"]), _percent(one["equal"])) for label, one in found["types"].items()]
    return Grid(("Type", "Boilerplate", "Said before"), rows)


def _removed(removed: Mapping[str, Mapping[str, float]]) -> Grid:
    head = ("Type", "Documents", "Equal", "Near", "Nothing new", "Characters equal", "near", "copied forward")
    rows = [
        (
            label,
            *(f"{one[name]:,}" for name in ("documents", "exact_duplicates", "near_duplicates", "nothing_new")),
            *(_percent(one[name]) for name in ("exact_share", "near_share", "copied_share")),
        )
        for label, one in removed.items()
    ]
    return Grid(head, rows)
