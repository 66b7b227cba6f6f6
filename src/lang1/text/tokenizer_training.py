"""Training a byte-level BPE tokenizer in which numbers stay legible and answers are single tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lang1.common.errors import InputError, SettingsError
from lang1.text.tokenizer import END_OF_TEXT, PADDING, Tokenizer

Digits = Literal["single", "pairs", "triples", "whole"]

# A run of digits is cut into single digits, into pairs or triples counted from its end ("1204" -> "12", "04" or "1",
# "204"), so that the same quantity is always spelled the same way and place value shows, or not at all, so that merges
# decide; a space before it joins its first piece. What they are worth: benchmarks/corpus_digits.py.
_DIGITS: dict[str, str] = {
    "single": r" ?\p{N}",
    "pairs": r" ?\p{N}{1,2}(?=(?:\p{N}{2})*(?!\p{N}))",
    "triples": r" ?\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "whole": r" ?\p{N}+",
}
# Words with the space before them, English endings after an apostrophe, punctuation, line ends, spaces.
_PATTERN = (
    r"'(?:s|t|m|d|re|ve|ll)(?!\p{{L}})| ?[\p{{L}}\p{{M}}]+|{digits}"
    r"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Longest token in bytes: ruled lines and pasted blobs would otherwise eat the vocabulary.
MAX_TOKEN_BYTES = 32
SPECIALS = (END_OF_TEXT, PADDING)
# Every byte, the special tokens and a few merges.
MIN_VOCAB = 320


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    digits: Digits = "single",
    required: Sequence[str] = (),
    *,
    ascii_only: bool = False,
) -> Tokenizer:
    """Train a byte-level BPE tokenizer. The same texts in the same order give the same bytes.

    Args:
        texts: the training sample; read once.
        vocab_size: how many ids at most, special tokens included. A small sample can give fewer.
        digits: how numbers are cut, see above.
        required: texts whose every word becomes one token (the questions and " A", " B", …): a question is
            computed for every example, and an answer must be a single token. Merges that training did not find
            replace the last ones that it found.
        ascii_only: drop characters outside ASCII, as the paper does. It is part of the tokenizer, so that a
            model sees the same form in pretraining, in finetuning and afterwards.

    Raises:
        InputError: there is no text to train on.
        SettingsError: the vocabulary is too small, or for the required texts.
    """
    if digits not in get_args(Digits):
        raise SettingsError(f"digits '{digits}': expected one of {', '.join(get_args(Digits))}.")
    if vocab_size < MIN_VOCAB:
        raise SettingsError(f"vocab_size {vocab_size}: at least {MIN_VOCAB} are needed (256 bytes and some merges).")
    inner = tokenizers.Tokenizer(models.BPE())
    if ascii_only:
        inner.normalizer = normalizers.Replace(Regex(r"[^\x00-\x7F]"), "")
    pattern = Regex(_PATTERN.format(digits=_DIGITS[digits]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=MAX_TOKEN_BYTES,
    )
    seen = _Counted(texts)
    inner.train_from_iterator(seen, trainer=trainer)
    if not seen.characters:
        raise InputError("there is no text to train a tokenizer on.")
    inner = _with_required(inner, vocab_size, [*_numbers(digits), *required])
    return Tokenizer(inner)


class _Counted:
    """Passes texts on and counts their characters."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.characters = texts, 0

    def __iter__(self) -> Any:
        for text in self.texts:
            self.characters += len(text)
            yield text


def _with_required(inner: tokenizers.Tokenizer, vocab_size: int, required: Sequence[str]) -> tokenizers.Tokenizer:
    """Make every word of the required texts one token, giving up the last merges where room is needed.

    Dropping merges can break words that were whole before, so the number given up grows until all fit.
    """
    words = _words(inner, required)
    trained = json.loads(inner.to_str())
    base = len(SPECIALS) + len(pre_tokenizers.ByteLevel.alphabet())
    keep = len(trained["model"]["merges"])
    while True:
        found = _with_merges(trained, base, keep, words)
        over = len(found["model"]["vocab"]) - vocab_size
        if over <= 0:
            return tokenizers.Tokenizer.from_str(json.dumps(found, ensure_ascii=False))
        if keep == 0:
            raise SettingsError(f"vocab_size {vocab_size}: too small for the questions' words; {over} more are needed.")
        keep = max(0, keep - over)


def _numbers(digits: Digits) -> list[str]:
    """Every piece into which a number can be cut, so that none is spelled differently for being rare.

    The thousand triples are left to the merges: they would fill a small vocabulary.
    """
    pieces = [str(d) for d in range(10)]
    if digits == "pairs":
        pieces += [f"{d:02d}" for d in range(100)]
    return [*pieces, *(f" {piece}" for piece in pieces)]


def _words(inner: tokenizers.Tokenizer, texts: Sequence[str]) -> list[str]:
    """The distinct pieces into which texts are cut before any merge, in order, in the byte alphabet."""
    assert inner.pre_tokenizer is not None
    found: dict[str, None] = {}
    for text in texts:
        normal = inner.normalizer.normalize_str(text) if inner.normalizer is not None else text
        found.update((piece, None) for piece, _ in inner.pre_tokenizer.pre_tokenize_str(normal))
    return list(found)


def _with_merges(trained: dict[str, Any], base: int, keep: int, words: Sequence[str]) -> dict[str, Any]:
    """A copy with the first ``keep`` merges and, after them, what the words still need."""
    model = dict(trained["model"])
    by_id = sorted(model["vocab"].items(), key=lambda item: item[1])
    vocab = {token: number for token, number in by_id if number < base}
    merges: list[list[str]] = []
    for left, right in model["merges"][:keep]:
        merges.append([left, right])
        vocab.setdefault(left + right, len(vocab))
    rank = {(left, right): i for i, (left, right) in enumerate(merges)}
    for word in words:
        pieces = _apply(word, rank)
        while len(pieces) > 1:
            # Appended last, so it has the lowest priority and no earlier merge changes because of it.
            pair = (pieces[0], pieces[1])
            rank[pair] = len(merges)
            merges.append(list(pair))
            vocab.setdefault(pair[0] + pair[1], len(vocab))
            pieces = _apply(word, rank)
    return {**trained, "model": {**model, "vocab": vocab, "merges": merges}}


def _apply(word: str, rank: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word: the merge of the lowest rank first, leftmost first."""
    pieces = list(word)
    while len(pieces) > 1:
        ranked = [(rank.get(pair, len(rank)), i) for i, pair in enumerate(pairwise(pieces))]
        best, at = min(ranked)
        if best == len(rank):
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
