"""Admission and discharge notes: every fact of ``risk.py``'s records, in words, in the system's and author's style.

Rules that keep the notes honest: all facts are written, nothing that happened later is; whatever else is written
(orders of items, filler, typos) is drawn without regard to outcomes. Headings of lists end in the same word and
begin alike, so that only who reads which item stands under which heading learns the risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from lang1.simulator import filler, signs
from lang1.simulator.charlson import CHARLSON, OTHER, Condition
from lang1.simulator.course import Stays
from lang1.simulator.styles import STYLES, TYPOS, Style

YEARS_AN_ERA = 3


class Writer:
    """One author of one system in one era: fixed words and orders, so that writing a note is look-ups and joins."""

    def __init__(self, style_index: int, author: int, era: int, long: bool) -> None:
        self.style: Style = STYLES[style_index]
        self.long = long
        # Authors of large hospitals borrow words from other styles, more of them in later years.
        self._index, self._author, self._era = style_index, author, era
        s = self.style
        self.trends = self._names(signs.TRENDS)
        self.after = self._names(signs.AFTER_TRENDS)
        self.statements = self._names(signs.STATEMENTS)
        self.after_statements = self._names(signs.AFTER_STATEMENTS)
        self.coverage = self._names(signs.COVERAGE)
        self.plans = self._names(signs.PLANS)
        self.papers = self._names(signs.PAPERS)
        self.bookings = self._names(signs.BOOKINGS)
        self.conditions = self._names((*CHARLSON, *OTHER))
        self.reasons = self._names(signs.REASONS)
        # Orders differ by author; conditions inside and outside the index alternate.
        self.trend_order = _rotated(len(self.trends), 5 * author)
        self.after_order = _rotated(len(self.after), 5 * author)
        self.paper_order = _rotated(len(self.papers), 3 * author)
        self.plan_order = _rotated(len(self.plans), 3 * author)
        self.booking_order = _rotated(len(self.bookings), author)
        order = sorted(range(len(self.conditions)), key=lambda c: (c * 11 + 7 * author) % 29)
        self.condition_order = order
        late = era >= 2
        self.admission_title = s.admission_title.title() if late and author % 2 else s.admission_title
        self.discharge_title = s.discharge_title.title() if late and author % 2 else s.discharge_title

    def _word(self, names: signs.Names) -> str:
        if self.long and (len(names[0]) + 3 * self._author + self._era) % 7 == 0:
            return names[(self._index + 2) % 4]
        return names[self._index]

    def _names(self, items: Sequence[signs.Sign | signs.Reason | Condition]) -> list[str]:
        return [self._word(item.names) for item in items]

    def trend_lines(self, values: Sequence[int], first: int | None = None) -> str:
        """The admission trends (all, or the ``first`` few in the author's order); ``values`` 0 lower .. 2 higher."""
        return _lists(self.style.trend_lists, self.trends, self.trend_order[:first], values)

    def condition_lists(self, status: Sequence[int], only_active: bool = False) -> str:
        """Named conditions under the heading of their status (1 active .. 4 excluded)."""
        groups: tuple[list[str], ...] = ([], [], [], [], [])
        names = self.conditions
        for k in self.condition_order:
            groups[status[k]].append(names[k])
        parts = []
        for which in range(1, 2 if only_active else 5):
            if groups[which]:
                parts.append(f"{self.style.problem_lists[which - 1]} {', '.join(groups[which])}.")
        return " ".join(parts)


def _rotated(n: int, start: int) -> list[int]:
    return [(k + start) % n for k in range(n)]


def _lists(headings: Sequence[str], names: Sequence[str], order: Sequence[int], which: Sequence[int]) -> str:
    groups: list[list[str]] = [[] for _ in headings]
    for k in order:
        groups[which[k]].append(names[k])
    return " ".join([f"{h} {', '.join(g)}." for h, g in zip(headings, groups, strict=True) if g])


@lru_cache(maxsize=1024)
def writer(style_index: int, author: int, era: int, long: bool) -> Writer:
    """The writer of a style, author and era."""
    return Writer(style_index, author, era, long)


def _typo(text: str, u: float) -> str:
    if u >= 0.06:
        return text
    right, wrong = TYPOS[int(u / 0.06 * len(TYPOS))]
    return text.replace(right, wrong, 1)


class NoteMaker:
    """Writes the two notes that tasks read, for rows of :class:`Stays`."""

    def __init__(self, stays: Stays, female: Sequence[bool], eras: Sequence[int], style_index: int, long: bool) -> None:
        a, d = stays.admission, stays.discharge
        self.long, self.style_index = long, style_index
        self.female, self.eras = female, eras
        self.author = stays.author.tolist()
        self.age, self.reason, self.payer = a.age.tolist(), a.reason.tolist(), a.payer.tolist()
        self.vitals, self.trends = a.vitals.tolist(), (a.trends + 1).tolist()
        self.statements, self.coverage = a.statements.tolist(), a.coverage.tolist()
        self.plans = (a.plans + 1).tolist()
        self.papers = (~a.papers).astype(int).tolist()
        self.booked = (~d.booked).astype(int).tolist()
        self.after, self.after_statements = (d.trends + 1).tolist(), d.statements.tolist()
        self.conditions = [x + y for x, y in zip(a.conditions.tolist(), stays.other_conditions.tolist(), strict=True)]
        self.patient, self.number = stays.patient.tolist(), stays.number.tolist()
        self.noise = stays.note_noise.tolist()

    def writer(self, i: int) -> Writer:
        """Who wrote the notes of stay ``i``."""
        return writer(self.style_index, self.author[i], self.eras[i], self.long)

    def opening(self, i: int, w: Writer) -> str:
        """Age, sex and reason for admission."""
        sex = w.style.sex[0 if self.female[i] else 1]
        return w.style.opening.format(age=self.age[i], sex=sex, reason=w.reasons[self.reason[i]])

    def admission(self, i: int) -> str:
        """The history and physical of stay ``i``: all its admission facts."""
        w, u = self.writer(i), self.noise[i]
        s = w.style
        sbp, hr, rr, spo2, temp = self.vitals[i]
        noted = [w.statements[k] for k, x in enumerate(self.statements[i]) if x]
        desk = [w.coverage[k] for k, x in enumerate(self.coverage[i]) if x]
        vitals = s.vitals.format(sbp=f"{sbp}/{int(sbp * (0.5 + 0.15 * u[0]))}", hr=hr, rr=rr, spo2=spo2, temp=temp / 10)
        parts = [w.admission_title, self.opening(i, w)]
        if noted:
            parts.append(f"{s.statement_heading} {', '.join(noted)}.")
        parts.append(w.trend_lines(self.trends[i]))
        if self.long:
            parts += filler.before_problems(u)
            if self.number[i] and u[9] < 0.5 and self.patient[i - 1] == self.patient[i]:
                # copied forward from the last stay's note, three of its lines
                parts.append(f"Copied from last admission: {w.trend_lines(self.trends[i - 1], 3)} End of copy.")
        parts.append(w.condition_lists(self.conditions[i]))
        parts.append(vitals)
        if self.long:
            parts += filler.after_vitals(u)
        parts.append(_lists(s.plan_lists, w.plans, w.plan_order, self.plans[i]))
        parts.append(s.payer.format(payer=signs.PAYERS[self.payer[i]]))
        parts.append(_lists(s.paper_lists, w.papers, w.paper_order, self.papers[i]))
        if desk:
            parts.append(f"{s.coverage_heading} {', '.join(desk)}.")
        parts.append(s.closing)
        return _typo("\n".join(p for p in parts if p), u[1])

    def discharge(self, i: int, expired: bool) -> str:
        """The discharge summary of stay ``i``: all its discharge facts, or word of the death."""
        w, u = self.writer(i), self.noise[i]
        s = w.style
        parts = [w.discharge_title, self.opening(i, w), w.condition_lists(self.conditions[i], only_active=True)]
        if expired:
            parts += ["The patient expired despite all care. Family was told.", s.closing]
            return _typo("\n".join(p for p in parts if p), u[2])
        if self.long:
            parts += filler.course(u)
        noted = [w.after_statements[k] for k, x in enumerate(self.after_statements[i]) if x]
        if noted:
            parts.append(f"{s.statement_heading} {', '.join(noted)}.")
        parts.append(_lists(s.after_lists, w.after, w.after_order, self.after[i]))
        parts.append(_lists(s.booking_lists, w.bookings, w.booking_order, self.booked[i]))
        if self.long:
            parts += filler.instructions(u)
        parts.append(s.closing)
        return _typo("\n".join(p for p in parts if p), u[2])
