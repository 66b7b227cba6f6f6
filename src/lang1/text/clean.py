"""Light cleaning of a note, the same wherever a model reads one: corpus, finetuning, evaluation, prediction.

The steps are those of the Lang1 paper (arXiv 2511.13703, pretraining data) in its order: punctuation and spacing are
normalised, malformed characters dropped, stray white space removed. Unlike the paper, line ends stay, since a note's
layout carries meaning, and so do meaningful characters outside ASCII (µ, °, ≥, names); dropping those too is an option
of the tokenizer (:func:`lang1.text.tokenizer_training.train_tokenizer`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

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
_BLANKS = re.compile(r"[ \t]{2,}|\t")
_AROUND_LINE_ENDS = re.compile(r" ?\n ?")
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
    if "  " in text or "\t" in text:
        text = _BLANKS.sub(" ", text)
    if " \n" in text or "\n " in text:
        text = _AROUND_LINE_ENDS.sub("\n", text)
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


def words_of_clean(text: str) -> int:
    """How many words white space separates in a text that all of :data:`STEPS` have cleaned, without cutting it.

    White space is then a single space, a line end or a blank line, and stands between words only.
    """
    return 1 + text.count(" ") + text.count("\n") - text.count("\n\n") if text else 0


def _is_malformed(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in _MALFORMED_CATEGORIES
