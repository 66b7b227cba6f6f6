"""Prompts as text, for models with tokenizers of their own: note cut to a budget, then the question, never cut."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lang1.text.chart import Chart, fit
from lang1.text.truncate import cut_text

Spans = Sequence[tuple[int, int]]
# Where the model's tokenizer is not at hand: four characters without the space before them count as a token, which
# clinical text comes to with vocabularies of 32,000 to 200,000.
_PIECE = re.compile(r"\s*\S{1,4}|\s+")


@dataclass(frozen=True)
class Prompted:
    """One example to answer: the text of a note or of a chart, and which question."""

    text: str
    task: str
    chart: Chart | None = None


@dataclass(frozen=True)
class Cutter:
    """Cuts notes to a budget of some tokenizer's tokens.

    Attributes:
        spans: the characters of each token of a text.
    """

    spans: Callable[[str], Spans]

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.spans(text))

    def cut(self, text: str, budget: int, policy: str = "head") -> tuple[str, int]:
        """A text cut to a budget on a token's edge, and how many tokens were cut."""
        return cut_text(text, self.spans(text), budget, policy)

    def cut_chart(self, chart: Chart, budget: int, policy: str = "head") -> tuple[str, int]:
        """:meth:`cut` for an input of several notes, from which whole notes leave before one is cut."""
        bodies = chart.bodies(clean=True)
        heads, sizes = ([self.count(text) for text in texts] for texts in (chart.headers, bodies))
        # Joining pieces can split differently from the pieces alone: two spare tokens a join.
        kept = fit(heads, sizes, max(1, budget - 2 * (len(bodies) - 1)), chart.drop)
        text, left = "", 0
        for head, body, size, cost, stays in zip(chart.headers, bodies, sizes, heads, kept, strict=True):
            if stays < 0:
                left += size + cost
                continue
            part, cut = self.cut(body, max(stays, 1), policy)
            text, left = text + head + part, left + cut
        text, over = self.cut(text, budget, "tail")  # one note whose header alone fills the budget
        return text, left + over

    def note(self, one: Prompted, budget: int, policy: str = "head") -> tuple[str, int]:
        """The note or chart of an example within a budget, and how many tokens were cut."""
        return self.cut(one.text, budget, policy) if one.chart is None else self.cut_chart(one.chart, budget, policy)


def by_characters(text: str) -> Spans:
    """Stand-in tokens of at most four characters each, for models whose tokenizer is not at hand."""
    return [found.span() for found in _PIECE.finditer(text)]
