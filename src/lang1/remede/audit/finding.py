"""What a guard found, and the whole of an audit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lang1.remede.audit.settings import Pitfall, Threshold

Verdict = Literal["pass", "fail", "warn", "not_applicable"]
MOST_EXAMPLES = 10
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "warn", "pass", "not_applicable")


@dataclass(frozen=True)
class Finding:
    """One verdict of one guard.

    Attributes:
        guard: the guard's name.
        pitfalls: numbers of the pitfalls that it speaks about (``pitfalls.yaml``).
        task: the task, or null where the whole benchmark is meant.
        verdict: ``pass``, ``fail``, ``warn`` or ``not_applicable``.
        count: rows, notes or patients that it is about.
        examples: their ids, ten at most; never text.
        figures: the numbers behind the sentence.
        words: one plain sentence made from the numbers.
        threshold: name, value and reason of the threshold in force, where there is one.
        excerpts: words around hits, only where the settings ask for text.
    """

    guard: str
    pitfalls: tuple[int, ...]
    task: str | None
    verdict: Verdict
    words: str
    count: int = 0
    examples: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    threshold: Mapping[str, Any] | None = None
    excerpts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.verdict in _WORST_FIRST and len(self.examples) <= MOST_EXAMPLES

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values; numbers that are not finite become null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def graded(beyond: bool, then: Verdict, otherwise: Verdict) -> Verdict:
    """One verdict where something lies beyond its threshold, another where it does not."""
    return then if beyond else otherwise


def told(name: str, threshold: Threshold) -> dict[str, Any]:
    """A threshold as a finding shows it."""
    return {"name": name, "value": threshold.value, "reason": threshold.reason}


def first(ids: Sequence[str]) -> tuple[str, ...]:
    """The first ids in order, as many as a finding shows."""
    return tuple(sorted(set(ids))[:MOST_EXAMPLES])


def worst(findings: Sequence[Finding]) -> Verdict:
    """The gravest verdict among findings."""
    said = {finding.verdict for finding in findings}
    return next(verdict for verdict in _WORST_FIRST if verdict in said)


@dataclass(frozen=True)
class AuditReport:
    """All findings of an audit, in the order of the guards."""

    benchmark: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether a guard failed."""
        return any(finding.verdict == "fail" for finding in self.findings)

    def by_guard(self) -> dict[str, list[Finding]]:
        """The findings of each guard, in order."""
        found: dict[str, list[Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.guard, []).append(finding)
        return found

    def lines(self) -> list[str]:
        """One line a guard: its gravest verdict and what led to it."""
        lines = []
        for guard, findings in self.by_guard().items():
            verdict = worst(findings)
            grave = [finding for finding in findings if finding.verdict == verdict]
            more = f" (and {len(grave) - 1} more)" if len(grave) > 1 and verdict in ("fail", "warn") else ""
            lines.append(f"{verdict.upper().replace('_', ' '):<14} {guard:<17} {grave[0].words}{more}")
        return lines

    def covered(self, known: Mapping[int, Pitfall]) -> list[dict[str, Any]]:
        """For each pitfall what the audit can say of it: ``number, title, verdict, guards, elsewhere``."""
        rows = []
        for number, pitfall in known.items():
            said = [finding for finding in self.findings if number in finding.pitfalls]
            verdict = worst(said) if said else "checked elsewhere"
            guards = sorted({finding.guard for finding in said}, key=list(self.by_guard()).index)
            rows.append(
                {
                    "number": number,
                    "title": pitfall.title,
                    "verdict": verdict,
                    "guards": guards,
                    "elsewhere": pitfall.elsewhere,
                }
            )
        return rows


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
