"""How many tokens a tokenizer makes of a hospital's words, by note type, and how it cuts numerals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from lang1.common.errors import InputError
from lang1.reporting.document import Document, Grid, Section
from lang1.text.tokenizer import Tokenizer

# Texts that are tokenized together.
_BATCH = 256
# Different numerals that are cut, of each note type, at most; the first ones met.
_NUMERALS = 5_000
_NUMERAL = re.compile(r"\d+(?:[.,/:]\d+)*")
# Shown as each tokenizer cuts them.
EXAMPLES = ("7", "98.6", "120/80", "1403", "10,500", "2024")


@dataclass
class Fertility:
    """One tokenizer on the texts of one note type.

    Attributes:
        documents, words, tokens, bytes: counts; words are what white space separates, bytes those of UTF-8.
        numerals: numerals met, each time counted; ``numeral_digits`` and ``numeral_tokens`` are theirs, as they stand
            after a space; ``numerals_by_digit`` is how many had every digit in a token without another digit.
    """

    documents: int = 0
    words: int = 0
    tokens: int = 0
    bytes: int = 0
    numerals: int = 0
    numeral_digits: int = 0
    numeral_tokens: int = 0
    numerals_by_digit: int = 0
    _cut: dict[str, tuple[int, bool]] = field(default_factory=dict, repr=False)

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / self.words if self.words else 0.0

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_numeral(self) -> float:
        return self.numeral_tokens / self.numerals if self.numerals else 0.0

    @property
    def digit_by_digit(self) -> float:
        """Share of the numerals that are cut digit by digit."""
        return self.numerals_by_digit / self.numerals if self.numerals else 0.0


def fertility(
    tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Fertility]]:
    """Count tokens by note type and tokenizer.

    Args:
        tokenizers: by the name they are shown under.
        texts: by note type; each is read once, and a batch of it is held.

    Returns:
        By note type, then by tokenizer.

    Raises:
        InputError: no tokenizer, or not a word in any text.
    """
    if not tokenizers:
        raise InputError("fertility: expected at least one tokenizer.")
    found: dict[str, dict[str, Fertility]] = {}
    for kind, some in texts.items():
        each = found[kind] = {name: Fertility() for name in tokenizers}
        stream = iter(some)
        while batch := list(islice(stream, _BATCH)):
            words = sum(len(text.split()) for text in batch)
            size = sum(len(text.encode(errors="replace")) for text in batch)
            numerals = Counter(numeral for text in batch for numeral in _NUMERAL.findall(text))
            for name, tokenizer in tokenizers.items():
                one = each[name]
                one.documents += len(batch)
                one.words += words
                one.bytes += size
                one.tokens += sum(map(len, tokenizer.encode_batch(batch)))
                _count_numerals(one, tokenizer, numerals)
    if not any(one.words for each in found.values() for one in each.values()):
        raise InputError("fertility: there is not a word in the texts.")
    return found


def report(found: Mapping[str, Mapping[str, Fertility]], tokenizers: Mapping[str, Tokenizer]) -> Document:
    """The counts as a document, with ``html`` and ``markdown``; ratios to the last tokenizer named.

    Args:
        found: what :func:`fertility` gave.
        tokenizers: the same as there; a general tokenizer to compare with comes last.
    """
    names = list(tokenizers)
    head = ["Note type", "Documents", "Words", *names]
    rows, ratios, sizes, numerals = [], [], [], []
    for kind, each in found.items():
        first = each[names[0]]
        rows.append(
            [kind, f"{first.documents:,}", f"{first.words:,}", *(f"{each[n].tokens_per_word:.2f}" for n in names)]
        )
        last = each[names[-1]].tokens
        ratios.append([kind, *(f"{each[n].tokens / last:.2f}" if last else "–" for n in names)])
        sizes.append([kind, *(f"{each[n].bytes_per_token:.2f}" for n in names)])
        numerals.append(
            [kind, f"{first.numerals:,}"]
            + [f"{each[n].tokens_per_numeral:.2f} ({each[n].digit_by_digit:.0%})" for n in names]
        )
    cut = [[name, *(" · ".join(_spelled(one, text)) for text in EXAMPLES)] for name, one in tokenizers.items()]
    words = Section(
        "Tokens per word",
        ["Words are what white space separates. Fewer tokens a word: more of a note fits, and training costs less."],
        grids=[
            Grid(head, rows, "Tokens per word"),
            Grid(["Note type", *names], ratios, f"Tokens, as a multiple of {names[-1]}'s"),
            Grid(["Note type", *names], sizes, "Bytes of text per token"),
        ],
    )
    figures = Section(
        "Numerals",
        ["Numbers with their points, commas, slashes and colons. In brackets: the share cut digit by digit."],
        grids=[
            Grid(["Note type", "Numerals", *names], numerals, "Tokens per numeral"),
            Grid(["Tokenizer", *EXAMPLES], cut, "How some are cut"),
        ],
    )
    facts = [(name, f"{one.vocab_size:,} tokens") for name, one in tokenizers.items()]
    sentence = "How many tokens each tokenizer makes of the same text."
    return Document("Tokenizers compared", sentence, facts, [words, figures], "Made by lang1.")


def _count_numerals(one: Fertility, tokenizer: Tokenizer, numerals: Mapping[str, int]) -> None:
    for numeral, times in numerals.items():
        if numeral not in one._cut:
            if len(one._cut) == _NUMERALS:
                continue
            pieces = _spelled(tokenizer, numeral)
            one._cut[numeral] = len(pieces), all(sum(map(str.isdigit, piece)) <= 1 for piece in pieces)
        tokens, single = one._cut[numeral]
        one.numerals += times
        one.numeral_digits += times * sum(map(str.isdigit, numeral))
        one.numeral_tokens += times * tokens
        one.numerals_by_digit += times * single


def _spelled(tokenizer: Tokenizer, numeral: str) -> list[str]:
    """The pieces of a numeral as it stands after a word, a space before it left out."""
    before = tokenizer.encode("is")
    pieces = [tokenizer.decode([number]).strip() for number in tokenizer.encode(f"is {numeral}")[len(before) :]]
    return [piece for piece in pieces if piece]
