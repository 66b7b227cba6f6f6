"""Faster encoders for a ``tokenizer.json``, used only where they give the very ids of the Hugging Face library.

A byte-level BPE tokenizer cuts a text into pieces by a regular expression and encodes each piece by itself. Most of the
library's time goes into cutting, and a hospital writes the same words again and again. :class:`PieceEncoder` cuts with
Python's own ``re`` and keeps the ids of the pieces it has met; where the expression always cuts before a single space,
the text is first cut there, which is quicker still, and the ids of whole words are kept. ``fastokens`` (the extra
``fast``) is a third-party encoder in Rust, quicker again on words not met before.

None is trusted: :func:`fast_encoder` compares each with the library on :func:`proof_texts` before it is used.
"""

from __future__ import annotations

import importlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

Encode = Callable[[Sequence[str]], list[npt.NDArray[np.int32]]]

# Pieces are cut here only in texts made of characters below this code point whose category has not changed since
# Unicode 3.2: Python and the library may know different versions of Unicode.
_BOUND = 0x3000
# What Python's \s holds beyond Unicode's white space.
_PYTHON_SPACES = "\x1c\x1d\x1e\x1f"
# Words and pieces kept, each, and the longest of them in characters: some 50 MB at most. What is full starts again.
_MOST_PIECES = 150_000
_LONGEST_PIECE = 48
# What stands for every kind of character where it is tried out whether a pattern cuts before single spaces.
_KINDS = ("a", "s", "B", "é", "'", "1", ".", "-", "(", "µ", "\n", "\u0301")
_PROPERTY = re.compile(r"\\p\{([LMN])\}")
# In a document: words and numbers of every kind of character, contractions, odd spaces, and a forged end of document.
_PROOF = (
    "HPI: 67M c/o 3/10 chest pain, BP 120/80, T 38.5°C, K+ 4.0, INR 1.25; pt's wife'll call. Don't know'twas IT'S.\n\n"
    "Labs:\tNa  135   (L)\r\n  WBC 10,500 /µL ≥ 2x; Temp. 101.4\n\n\n - naïve Müller, Ἀθήνα, Москва, שלום, العربية\n"
    " 2½ ² ₂ Ⅳ x1234567890 ---- ==== ... <|endoftext|> <|pad|> </s> <s> \u00a0\u2003 end  ",
    "", " ", "\n", "  \n  \n", "a", "'s", " 's'", "1", " 12 345 6789", "日本語 текст 😀 é e\u0301", "\x00\x1c\x85",
)  # fmt: skip


class PieceEncoder:
    """Encodes by words and pieces, remembering their ids. Texts with rare characters go to the library.

    Args:
        inner: a byte-level BPE tokenizer as :func:`_form` knows them.
        form: how it cuts a text.
    """

    def __init__(self, inner: tokenizers.Tokenizer, form: Form) -> None:
        self._inner, self._form = inner, form
        self._common = re.compile(f"[{_ranges(_stable)}]*").fullmatch
        self._pieces = _Pieces(inner.model)
        cut = re.compile(form.pattern).findall
        self._cut = cut
        self._words = _Words(cut, self._pieces) if cuts_at_spaces(form.pattern) else None

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """One int32 array a text."""
        found: list[npt.NDArray[np.int32] | None] = [self._encode(text) for text in texts]
        rest = [at for at, ids in enumerate(found) if ids is None]
        if rest:
            for at, ids in zip(rest, library(self._inner)([texts[at] for at in rest]), strict=True):
                found[at] = ids
        return [ids for ids in found if ids is not None]

    def _encode(self, text: str) -> npt.NDArray[np.int32] | None:
        form = self._form
        if not text.isascii():
            if form.normalizer == "ascii":
                text = text.encode("ascii", "ignore").decode("ascii")
            elif form.normalizer or self._common(text) is None:
                return None
        if any(space in text for space in _PYTHON_SPACES):
            return None
        if form.added and any(token in text for token in form.added):
            return None
        for kept in (self._pieces, self._words):
            if kept is not None and len(kept) > _MOST_PIECES:
                kept.clear()
        if self._words is not None:
            start, *words = text.split(" ")
            if not (words and start[-1:].isspace()):
                try:
                    # One copy of bytes for all words of the text.
                    ids = b"".join(
                        [*map(self._pieces.__getitem__, self._cut(start)), *map(self._words.__getitem__, words)]
                    )
                    return np.frombuffer(ids, dtype=np.int32)
                except _NotAWord:
                    pass
        return np.frombuffer(b"".join(map(self._pieces.__getitem__, self._cut(text))), dtype=np.int32)


class _NotAWord(Exception):
    """White space stands at the edge of what lies between two spaces: the text must be cut as a whole."""


class _Words(dict[str, bytes]):
    """The ids of words with the space before them, as the bytes of an int32 array."""

    def __init__(self, cut: Callable[[str], list[str]], pieces: _Pieces) -> None:
        super().__init__()
        self._cut, self._pieces = cut, pieces

    def __missing__(self, word: str) -> bytes:
        if not word or word[0].isspace() or word[-1].isspace():
            raise _NotAWord
        ids = b"".join(map(self._pieces.__getitem__, self._cut(f" {word}")))
        if len(word) <= _LONGEST_PIECE:
            self[word] = ids
        return ids


@lru_cache(maxsize=8)
def cuts_at_spaces(pattern: str) -> bool:
    """Whether a pattern cuts a text before every space that stands between two characters that are no white space.

    Tried out on every kind of character, two before the space and two after it: both sides must be cut as if they were
    texts of their own. A pattern that looks back is refused, since it could look further.
    """
    if "(?<" in pattern or "\\b" in pattern or "\\B" in pattern or "^" in pattern.replace("[^", ""):
        return False
    cut = re.compile(pattern).findall
    sides = ["".join(some) for n in (1, 2) for some in itertools.product(_KINDS, repeat=n)]
    before = [(side, cut(side)) for side in sides if not side[-1].isspace()]
    after = [(f" {side}", cut(f" {side}")) for side in sides if not side[0].isspace()]
    return all(cut(one + other) == left + right for one, left in before for other, right in after)


class _Pieces(dict[str, bytes]):
    """The ids of pieces, as the bytes of an int32 array."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, piece: str) -> bytes:
        spelled = piece.encode().decode("latin-1").translate(_spelling())
        ids = np.array([token.id for token in self._model.tokenize(spelled)], dtype=np.int32).tobytes()
        if len(piece) <= _LONGEST_PIECE:
            self[piece] = ids
        return ids


def library(inner: tokenizers.Tokenizer) -> Encode:
    """The Hugging Face library's own batch encoding."""

    def encode(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        encoded = inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(one.ids, dtype=np.int32) for one in encoded]

    return encode


def fast_encoder(inner: tokenizers.Tokenizer) -> tuple[str, Encode]:
    """The fastest encoder there is for a tokenizer that gives the library's ids on all of :func:`proof_texts`.

    Returns:
        Its name (``fastokens``, ``pieces`` or ``tokenizers``, which is the library) and what encodes.
    """
    texts = proof_texts(inner)
    reference = library(inner)
    expected = reference(texts)
    for name, make in (("fastokens", _fastokens), ("pieces", _piece_encoder)):
        encode = make(inner)
        if encode is not None and same(encode(texts), expected):
            return name, encode
    return "tokenizers", reference


def same(one: Sequence[npt.NDArray[np.int32]], other: Sequence[npt.NDArray[np.int32]]) -> bool:
    """Whether two encodings of the same texts are equal, id for id."""
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def proof_texts(inner: tokenizers.Tokenizer | None = None) -> list[str]:
    """Texts in which encoders that differ would show it: invented notes, and every common character in context.

    With a tokenizer, also its added tokens as a text spells them.
    """
    if inner is None:
        return _common_texts()
    added = [token.content for token in inner.get_added_tokens_decoder().values()]
    return [*_common_texts(), *(f"a{token}b {token} \n{token}1" for token in added[:_MOST_ADDED])]


@lru_cache(maxsize=1)
def _common_texts() -> list[str]:
    common = [chr(code) for code in range(_BOUND) if _stable(code)]
    lines = ("".join(f"a{c} {c}{c}1{c}\n" for c in common[at : at + 64]) for at in range(0, len(common), 64))
    return [*_PROOF, *lines]


def _fastokens(inner: tokenizers.Tokenizer) -> Encode | None:
    try:
        fastokens: Any = importlib.import_module("fastokens")
        encoder = fastokens.Tokenizer.from_json_str(_without_special(inner))
        flat = hasattr(encoder, "encode_batch_flat")  # newer ones: no Python number for each id
    except Exception:  # not installed, or a tokenizer that it does not know; the library is there for those
        return None

    def encode(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        try:
            if not flat:
                return [np.asarray(one.ids, dtype=np.int32) for one in encoder.encode_batch(list(texts), False)]
            ids, ends = encoder.encode_batch_flat(list(texts), False)
        except ValueError:  # bytes for which a vocabulary has no token; the library leaves them out
            return library(inner)(texts)
        found = np.frombuffer(ids, dtype="<u4").astype(np.int32)
        return [found[a:b] for a, b in itertools.pairwise(np.frombuffer(ends, dtype="<u8").tolist())]

    return encode


def _without_special(inner: tokenizers.Tokenizer) -> str:
    """The tokenizer with no special tokens to find in a text: a note cannot forge a document's end."""
    value = json.loads(inner.to_str())
    value["added_tokens"] = [one for one in value["added_tokens"] if not one["special"]]
    value["post_processor"] = None
    return json.dumps(value)


def _piece_encoder(inner: tokenizers.Tokenizer) -> Encode | None:
    form = _form(json.loads(inner.to_str()))
    try:
        return PieceEncoder(inner, form) if form is not None else None
    except re.error:
        return None


@dataclass(frozen=True)
class Form:
    """How a byte-level BPE tokenizer cuts a text.

    Attributes:
        pattern: in Python's ``re``.
        normalizer: ``ascii`` drops what is not ASCII; any other name leaves ASCII as it is; empty: none.
        added: tokens that it finds in a text (not special ones, which are encoded as text here).
    """

    pattern: str
    normalizer: str
    added: tuple[str, ...]


def _form(value: dict[str, Any]) -> Form | None:
    """The form of a tokenizer; None where it is not byte-level BPE of a known form."""
    model, normalizer = value["model"], value.get("normalizer")
    if model.get("type") != "BPE" or model.get("dropout") or model.get("byte_fallback"):
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    regex = _expression(value.get("pre_tokenizer") or {})
    if regex is None:
        return None
    if normalizer is None:
        name = ""
    elif normalizer == _ASCII_ONLY:
        name = "ascii"
    elif normalizer == {"type": "NFC"}:
        name = "nfc"
    else:
        return None
    added = tuple(one["content"] for one in value["added_tokens"] if not one["special"])
    if len(added) > _MOST_ADDED or any(not one for one in added):
        return None
    return Form(_in_python(regex), name, added)


def _expression(before: dict[str, Any]) -> str | None:
    """The regular expression by which a pre-tokenizer cuts a text, as the library spells them."""
    steps = before.get("pretokenizers") or [before]
    kinds = [one.get("type") for one in steps]
    if not kinds or kinds[-1] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if kinds == ["ByteLevel"]:  # GPT-2
        return _GPT2 if steps[0]["use_regex"] else None
    if kinds == ["Digits", "ByteLevel"]:  # SmolLM
        return _GPT2_DIGITS if steps[0]["individual_digits"] and steps[1]["use_regex"] else None
    if kinds != ["Split", "ByteLevel"] or steps[1]["use_regex"]:
        return None
    regex = steps[0]["pattern"].get("Regex")
    return regex if steps[0]["behavior"] == "Isolated" and not steps[0]["invert"] else None


def _in_python(regex: str) -> str:
    """An expression with its properties of characters written out."""
    parts, inside, at = [], False, 0
    while at < len(regex):
        found = _PROPERTY.match(regex, at)
        if found:
            ranges = _category(found[1])
            parts.append(ranges if inside else f"[{ranges}]")
            at = found.end()
            continue
        step = 2 if regex[at] == "\\" else 1
        inside = {"[": True, "]": False}.get(regex[at], inside)
        parts.append(regex[at : at + step])
        at += step
    return "".join(parts)


_ASCII_ONLY = {"type": "Replace", "pattern": {"Regex": r"[^\x00-\x7F]"}, "content": ""}
# How GPT-2 cuts (Radford et al. 2019), and the same after digits were set apart, each by itself.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# Tokens found in texts, at most, with which a text is compared before it is encoded by pieces.
_MOST_ADDED = 64


@lru_cache(maxsize=4)
def _category(major: str) -> str:
    return _ranges(lambda code: unicodedata.category(chr(code))[0] == major)


def _stable(code: int) -> bool:
    """Whether a character's category is the same in all versions of Unicode since 3.2, and Python's spaces are its."""
    character = chr(code)
    old = unicodedata.ucd_3_2_0.category(character)
    return old not in ("Cn", "Cs") and old == unicodedata.category(character) and character not in _PYTHON_SPACES


def _ranges(holds: Callable[[int], bool]) -> str:
    """The characters below the bound for which ``holds``, as ranges inside a bracket of a regular expression."""
    codes = [code for code in range(_BOUND) if holds(code)]
    starts = [code for at, code in enumerate(codes) if not at or codes[at - 1] != code - 1]
    stops = [code for at, code in enumerate(codes) if at + 1 == len(codes) or codes[at + 1] != code + 1]
    return "".join(f"\\u{start:04x}-\\u{stop:04x}" for start, stop in zip(starts, stops, strict=True))


@lru_cache(maxsize=1)
def _spelling() -> dict[int, int]:
    """How byte-level BPE spells each byte: printable ones as themselves, the others from U+0100 on."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: 0x100 + place for place, byte in enumerate(hidden)}
