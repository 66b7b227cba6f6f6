"""Light cleaning of a note, the same wherever a model reads one: corpus, finetuning, evaluation, prediction.

The steps are those of the Lang1 paper (arXiv 2511.13703, pretraining data) in its order: punctuation and spacing are
normalised, malformed characters dropped, stray white space removed. Unlike the paper, line ends stay, since a note's
layout carries meaning, and so do meaningful characters outside ASCII (µ, °, ≥, names); dropping those too is an option
of the tokenizer (:func:`lang1.text.tokenizer_training.train_tokenizer`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

# Typographic variants of plain punctuation, to the plain form.
_PUNCTUATION: dict[str, str] = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2022\u2023\u2043\u25aa\u25cf\u25e6\u2219", "-"),  # bullets
    "\u2026": "...",
    "\u2044": "/",
    "\uff1a": ":",
    "\uff0c": ",",
}
# Everything that breaks a line, to "\n"; every other space, to " ".
_LINE_ENDS = "\u0085\u2028\u2029\x0b\x0c"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_PLAIN = {**_PUNCTUATION, **dict.fromkeys(_LINE_ENDS, "\n"), **dict.fromkeys(_SPACES, " ")}
_NOT_PLAIN = re.compile(f"[{''.join(_PLAIN)}]")

# Control and format characters, lone surrogates, private use, U+FFFD: nothing that a reader sees.
_MALFORMED_CATEGORIES = ("Cc", "Cf", "Cs", "Co")
_ASCII_MALFORMED = bytes([*range(0x09), *range(0x0E, 0x20), 0x7F])
_KEPT_CONTROLS = frozenset("\n\t\r\x0b\x0c\u0085")
_RULED_LINE = re.compile(r"([-_=*#~.+])\1{3,}")
_RULES = tuple(4 * mark for mark in "-_=*#~.+")
_BLANK_LINES = re.compile(r"\n{3,}")


def drop_malformed(text: str) -> str:
    """Drop control and format characters, lone surrogates, private-use characters and U+FFFD."""
    if text.isascii():
        # Ten times faster than a regular expression.
        kept = text.encode().translate(None, _ASCII_MALFORMED)
        return text if len(kept) == len(text) else kept.decode()
    bad = [c for c in set(text) if c not in _KEPT_CONTROLS and _is_malformed(c)]
    return text.translate(dict.fromkeys(map(ord, bad))) if bad else text


def normalise_punctuation(text: str) -> str:
    """Typographic quotes, dashes, bullets and ellipses to their plain forms, ruled lines to three characters, NFC."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _NOT_PLAIN.sub(lambda found: _PLAIN[found[0]], text))
    # Looking for a fixed text is many times faster than a regular expression, and most notes have none of these.
    return _RULED_LINE.sub(r"\1\1\1", text) if any(rule in text for rule in _RULES) else text


def collapse_space(text: str) -> str:
    """One space for a run of spaces, at most one blank line, nothing at the ends of lines or of the text."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\x0b", "\n").replace("\x0c", "\n")
    # Replacing fixed texts is several times faster than regular expressions.
    text = text.replace("\t", " ")
    while "  " in text:
        text = text.replace("  ", " ")
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip(" \n")


# By name, in the order in which they run.
STEPS: dict[str, Callable[[str], str]] = {
    "drop_malformed": drop_malformed,
    "normalise_punctuation": normalise_punctuation,
    "collapse_space": collapse_space,
}


def clean_note(text: str) -> str:
    """The form in which a model reads a note. Cleaning twice changes nothing more."""
    for step in STEPS.values():
        text = step(text)
    return text


def surely_clean(texts: Sequence[str]) -> list[bool]:
    """Of each text, whether :func:`clean_note` certainly leaves it as it is; most notes of a system pass.

    One look at all texts together takes a tenth of the time that the steps take one by one. False says nothing.
    """
    ascii_only = [text.isascii() for text in texts]
    joined = "\x00".join([text if plain else "" for text, plain in zip(texts, ascii_only, strict=True)])
    found = np.frombuffer(f"\x00{joined}\x00".encode(), dtype=np.uint8)
    space, line_end, edge = found == 0x20, found == 0x0A, found == 0x00
    white = space | line_end
    # Control characters, tabs and carriage returns among them; the zeros that part the texts are looked at below.
    suspect = ((found < 0x20) | (found == 0x7F)) & ~line_end & ~edge
    # Two spaces, a space beside a line end, and either at an end of the text.
    beside = white | edge
    suspect[1:] |= beside[1:] & beside[:-1] & ~(line_end[1:] & line_end[:-1]) & ~(edge[1:] & edge[:-1])
    # Two blank lines; four of a kind, which may be a ruled line.
    suspect[2:] |= line_end[2:] & line_end[1:-1] & line_end[:-2]
    same = found[1:] == found[:-1]
    suspect[3:] |= same[2:] & same[1:-1] & same[:-2] & ~edge[3:]
    # Texts stand between zeros; a text that holds a zero itself makes the count wrong, and all are then looked at.
    parted = np.flatnonzero(edge)
    if len(parted) != len(texts) + 1:
        return [False] * len(texts)
    clean = np.array(ascii_only, dtype=np.bool_)
    # A suspect place at an end is the zero after its text.
    clean[np.clip(np.searchsorted(parted, np.flatnonzero(suspect), side="left") - 1, 0, None)] = False
    flags: list[bool] = clean.tolist()
    return flags


def words_of_clean(text: str) -> int:
    """How many words white space separates in a text that all of :data:`STEPS` have cleaned, without cutting it.

    White space is then a single space, a line end or a blank line, and stands between words only.
    """
    return 1 + text.count(" ") + text.count("\n") - text.count("\n\n") if text else 0


def _is_malformed(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in _MALFORMED_CATEGORIES
