"""Faster encoders for a ``tokenizer.json``, used only where they give the very ids of the Hugging Face library.

A byte-level BPE tokenizer cuts a text into pieces by a regular expression and encodes each piece by itself. Most of the
library's time goes into cutting, and a hospital writes the same words again and again. :class:`PieceEncoder` cuts with
Python's own ``re`` and keeps the ids of the pieces it has met. ``fastokens`` (the extra ``fast``) is a third-party
encoder in Rust.

Neither is trusted: :func:`fast_encoder` compares each with the library on :func:`proof_texts` before it is used.
"""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
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
# Pieces kept, and the longest of them in characters: some 40 MB at most.
_MOST_PIECES = 250_000
_LONGEST_PIECE = 48
_PROPERTY = re.compile(r"\\p\{([LMN])\}")
# In a document: words and numbers of every kind of character, contractions, odd spaces, and a forged end of document.
_PROOF = (
    "HPI: 67M c/o 3/10 chest pain, BP 120/80, T 38.5°C, K+ 4.0, INR 1.25; pt's wife'll call. Don't know'twas IT'S.\n\n"
    "Labs:\tNa  135   (L)\r\n  WBC 10,500 /µL ≥ 2x; Temp. 101.4\n\n\n - naïve Müller, Ἀθήνα, Москва, שלום, العربية\n"
    " 2½ ² ₂ Ⅳ x1234567890 ---- ==== ... <|endoftext|> <|pad|> </s> <s> \u00a0\u2003 end  ",
    "", " ", "\n", "  \n  \n", "a", "'s", " 's'", "1", " 12 345 6789", "日本語 текст 😀 é e\u0301", "\x00\x1c\x85",
)  # fmt: skip


class PieceEncoder:
    """Encodes by pieces, remembering their ids. Texts with rare characters go to the library.

    Args:
        inner: a byte-level BPE tokenizer as :func:`_pattern` knows them.
        pattern: how it cuts a text, in Python's ``re``.
        ascii_only: whether it drops characters outside ASCII first.
    """

    def __init__(self, inner: tokenizers.Tokenizer, pattern: str, ascii_only: bool) -> None:
        self._inner, self._ascii_only = inner, ascii_only
        self._cut = re.compile(pattern).findall
        self._common = re.compile(f"[{_ranges(_stable)}]*").fullmatch
        self._pieces = _Pieces(inner.model)

    def __call__(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """One int32 array a text."""
        found: list[npt.NDArray[np.int32] | None] = [self._encode(text) for text in texts]
        rest = [at for at, ids in enumerate(found) if ids is None]
        if rest:
            for at, ids in zip(rest, library(self._inner)([texts[at] for at in rest]), strict=True):
                found[at] = ids
        return [ids for ids in found if ids is not None]

    def _encode(self, text: str) -> npt.NDArray[np.int32] | None:
        if not text.isascii():
            if self._ascii_only:
                text = text.encode("ascii", "ignore").decode("ascii")
            elif self._common(text) is None:
                return None
        elif any(space in text for space in _PYTHON_SPACES):
            return None
        if len(self._pieces) > _MOST_PIECES:
            self._pieces.clear()
        # One copy of bytes for all pieces of the text.
        return np.frombuffer(b"".join(map(self._pieces.__getitem__, self._cut(text))), dtype=np.int32)


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
    texts = proof_texts()
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


@lru_cache(maxsize=1)
def proof_texts() -> list[str]:
    """Texts in which encoders that differ would show it: invented notes, and every common character in context."""
    common = [chr(code) for code in range(_BOUND) if _stable(code)]
    lines = ("".join(f"a{c} {c}{c}1{c}\n" for c in common[at : at + 64]) for at in range(0, len(common), 64))
    return [*_PROOF, *lines]


def _fastokens(inner: tokenizers.Tokenizer) -> Encode | None:
    try:
        fastokens: Any = importlib.import_module("fastokens")
        encoder = fastokens.Tokenizer.from_json_str(_without_special(inner))
    except Exception:  # not installed, or a tokenizer that it does not know; the library is there for those
        return None

    def encode(texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        return [np.asarray(one.ids, dtype=np.int32) for one in encoder.encode_batch(list(texts), False)]

    return encode


def _without_special(inner: tokenizers.Tokenizer) -> str:
    """The tokenizer with no special tokens to find in a text: a note cannot forge a document's end."""
    value = json.loads(inner.to_str())
    value["added_tokens"] = []
    value["post_processor"] = None
    return json.dumps(value)


def _piece_encoder(inner: tokenizers.Tokenizer) -> Encode | None:
    value = json.loads(inner.to_str())
    pattern = _pattern(value)
    if pattern is None:
        return None
    try:
        return PieceEncoder(inner, pattern, value["normalizer"] is not None)
    except re.error:
        return None


def _pattern(value: dict[str, Any]) -> str | None:
    """How a tokenizer cuts a text, in Python's ``re``; None where it is not byte-level BPE of the common form."""
    model, before = value["model"], value.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or []
    if model.get("type") != "BPE" or model.get("dropout") or [one["type"] for one in steps] != ["Split", "ByteLevel"]:
        return None
    split, bytes_ = steps
    regex = split["pattern"].get("Regex")
    if regex is None or split["behavior"] != "Isolated" or split["invert"]:
        return None
    if bytes_["add_prefix_space"] or bytes_["use_regex"]:
        return None
    if value.get("normalizer") not in (None, _ASCII_ONLY) or not all(one["special"] for one in value["added_tokens"]):
        return None
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
