"""The tokenizer of a model folder: text to ids and back, and the ids of the option letters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from lang1.common.artefact import read_json, write_json
from lang1.common.errors import ArtefactError, InputError
from lang1.text.fast import Encode, fast_encoder, library

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_END_KEY = "lang1_end_of_text"
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"
# Names under which imported tokenizers know the end of a document, tried in this order.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
PADDING_NAMES = (PADDING, "<pad>", "<|padding|>")
ANSWER = "\nAnswer:"
# Characters in a batch from which on it pays to look for a faster encoder, which takes some tenths of a second.
_WORTH_A_PROOF = 200_000
# What every tokenizer must give back, and what one may change (reported, not refused).
_CLINICAL = "Pt c/o CP x3d, BP 120/80 (L arm); Na 135, T 98.6 F. #1 CHF:\n- furosemide 40 mg PO BID & K+ 20 mEq/d"
_RARE = ("38.5 °C, 5 µg ≥ 2×", "Müller, naïve", "日本語", "😀", "a\tb  c\n\n\nd")
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Tokenizer:
    """A Hugging Face ``tokenizer.json`` with what this project needs of it.

    No token is ever added before or after a text, and a text that happens to contain the spelling of a special
    token (``<|endoftext|>``) is encoded as ordinary text: a note cannot forge a document's end.

    Args:
        inner: the tokenizer as the ``tokenizers`` library holds it.
        source: where it came from, for messages.
        end_of_text: the token that closes a document; None looks for one under :data:`END_NAMES`.

    Raises:
        ArtefactError: it knows no end-of-text token.
    """

    def __init__(self, inner: tokenizers.Tokenizer, source: str = "tokenizer", end_of_text: str | None = None) -> None:
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        # What would put a token of its own before a text (Llama's <s>): models here never see one, so that whoever
        # loads an exported tokenizer must not get one either.
        inner.post_processor = None
        self.inner = inner
        self.source = source
        self._counted = (-1, 0)
        if end_of_text is not None and inner.token_to_id(end_of_text) is None:
            raise ArtefactError(f"{source}: there is no token '{end_of_text}' in it; name another as end_of_text.")
        self.eot = end_of_text or _first_known(inner, END_NAMES)
        if self.eot is None:
            raise ArtefactError(
                f"{source}: no end-of-text token; expected one of {', '.join(END_NAMES)}, or name it (end_of_text)."
            )
        self.pad = _first_known(inner, PADDING_NAMES) or self.eot

    @classmethod
    def load(cls, path: Path | str, end_of_text: str | None = None) -> Tokenizer:
        """Read ``tokenizer.json``, given the file or the folder that holds it.

        The token that closes a document is ``end_of_text``, or what :meth:`save` wrote beside the file, or a known
        name, or the ``eos_token`` of a ``tokenizer_config.json`` beside it, in this order.

        Raises:
            ArtefactError: it is missing, damaged, or knows no end-of-text token.
        """
        path = Path(path)
        file = path / TOKENIZER_FILE if path.is_dir() else path
        if not file.is_file():
            raise ArtefactError(f"{file} is missing: expected a tokenizer in the Hugging Face tokenizer.json format.")
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ArtefactError(f"{file} is not a tokenizer.json that can be read ({error}).") from error
        if end_of_text is None:
            end_of_text = _stated_end(file.with_name(CONFIG_FILE), inner)
        return cls(inner, str(file), end_of_text)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which ``transformers.AutoTokenizer`` loads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(self.inner.to_str(pretty=True), encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.eot,
            "eos_token": self.eot,
            "pad_token": self.pad,
            "add_bos_token": False,
            "add_eos_token": False,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            _END_KEY: self.eot,
        }
        write_json(folder / CONFIG_FILE, config)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing added."""
        ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """The ids of several texts; one int32 array a text. By the fastest encoder that gives the library's ids."""
        if "_fast" not in self.__dict__ and sum(map(len, texts)) < _WORTH_A_PROOF:
            return library(self.inner)(texts)
        return self._fast[1](texts)

    @property
    def encoder(self) -> str:
        """Which encoder :meth:`encode_batch` uses; see :mod:`lang1.text.fast`."""
        return self._fast[0]

    @cached_property
    def _fast(self) -> tuple[str, Encode]:
        return fast_encoder(self.inner)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of ids; special tokens are spelled out."""
        text: str = self.inner.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included: every id is smaller than this."""
        # Counted again only where tokens were added: the library hands out a copy of the whole vocabulary.
        tokens = self.inner.get_vocab_size(with_added_tokens=True)
        if self._counted[0] != tokens:
            self._counted = (tokens, max(self.inner.get_vocab(with_added_tokens=True).values()) + 1)
        return self._counted[1]

    @property
    def eot_id(self) -> int:
        """The id of the token that closes every document."""
        return self._id(self.eot)

    @property
    def pad_id(self) -> int:
        """The id used to fill rows; never looked at."""
        return self._id(self.pad)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer's content; independent of how the file is laid out."""
        content = json.dumps(json.loads(self.inner.to_str()), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def letter_ids(self, n: int) -> list[int]:
        """The ids of " A", " B", … as they stand after ``Answer:``, for the first ``n`` letters.

        Raises:
            InputError: ``n`` is not between 2 and 26.
            ArtefactError: a letter is not one token of its own in that place.
        """
        if not 2 <= n <= len(ALPHABET):
            raise InputError(f"a question has {n} options; between 2 and {len(ALPHABET)} can be lettered.")
        before = self.encode(ANSWER)
        found: list[int] = []
        for letter in ALPHABET[:n]:
            ids = self.encode(f"{ANSWER} {letter}")
            if ids[:-1] != before or ids[-1] in found:
                raise ArtefactError(
                    f"{self.source}: the answer ' {letter}' is not one token of its own after 'Answer:'; "
                    "train a tokenizer with lang1 corpus, or import another."
                )
            found.append(ids[-1])
        return found

    def _id(self, token: str | None) -> int:
        number = self.inner.token_to_id(token) if token is not None else None
        assert number is not None
        return int(number)


@dataclass(frozen=True)
class TokenizerFacts:
    """What :func:`check_tokenizer` found.

    Attributes:
        vocab_size: how many ids there are.
        bytes_per_token: 2 where ids fit 16 bits (at most 65,536 of them), else 4: what a token takes in a corpus.
        end_of_text: the token that closes a document, and its id.
        letters: the ids of the option letters after ``Answer:``.
        changed: sample texts outside plain English that do not come back from their ids as they were; a tokenizer
            that drops or replaces characters does so for every model trained with it.
    """

    vocab_size: int
    bytes_per_token: int
    end_of_text: tuple[str, int]
    letters: tuple[int, ...]
    changed: tuple[str, ...]


def check_tokenizer(tokenizer: Tokenizer, options: int) -> TokenizerFacts:
    """Check that a tokenizer, trained or brought along, can carry a corpus and lettered questions.

    Args:
        tokenizer: any that could be loaded, so that it has an end-of-text token.
        options: how many letters questions need.

    Raises:
        ArtefactError: a letter is not a single token after ``Answer:``; a note that spells the end of a document
            would end it; or plain clinical text does not come back from its ids.
    """
    letters = tokenizer.letter_ids(options)
    assert tokenizer.eot is not None
    if tokenizer.eot_id in tokenizer.encode(f"seen today {tokenizer.eot} by us"):
        raise ArtefactError(
            f"{tokenizer.source}: a note that contains the text '{tokenizer.eot}' would end its document; expected "
            "an end-of-text token marked as special in the file's added_tokens."
        )
    back = tokenizer.decode(tokenizer.encode(_CLINICAL))
    # Tokenizers made from SentencePiece put a space before a text.
    if back.removeprefix(" ") != _CLINICAL:
        raise ArtefactError(
            f"{tokenizer.source}: plain text does not come back from its ids ('{_CLINICAL}' became '{back}'): letters, "
            "digits or line ends are lost; import a byte-level tokenizer, or one with byte fallback."
        )
    changed = tuple(text for text in _RARE if tokenizer.decode(tokenizer.encode(text)).removeprefix(" ") != text)
    size = tokenizer.vocab_size
    width = 2 if size <= 1 << 16 else 4
    return TokenizerFacts(size, width, (tokenizer.eot, tokenizer.eot_id), tuple(letters), changed)


def _stated_end(config: Path, inner: tokenizers.Tokenizer) -> str | None:
    """The end-of-text token that a ``tokenizer_config.json`` states, if the tokenizer has it and it is needed."""
    if not config.is_file():
        return None
    value = read_json(config)
    stated = value.get(_END_KEY) if isinstance(value, dict) else None
    if stated is None and isinstance(value, dict) and _first_known(inner, END_NAMES) is None:
        stated = value.get("eos_token")
        stated = stated.get("content") if isinstance(stated, dict) else stated
    return stated if isinstance(stated, str) and inner.token_to_id(stated) is not None else None


def _first_known(inner: tokenizers.Tokenizer, names: Sequence[str]) -> str | None:
    return next((name for name in names if inner.token_to_id(name) is not None), None)
