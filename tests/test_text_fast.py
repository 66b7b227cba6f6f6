"""The faster encoders give the library's ids, or are not used."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from lang1.corpus.general import general_files, read_general
from lang1.corpus.settings import GeneralSource
from lang1.text import fast
from lang1.text.clean import clean_note
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

SHIPPED = [t[:20_000] for file in general_files("general", GeneralSource()) for t in read_general(file, "text")]
# How other families cut: those of GPT-4 and Llama 3, and of Qwen 2.
CUTS = tuple(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
)


@pytest.fixture(scope="module", params=["single", "pairs", "ascii", *CUTS])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    digits = request.param if request.param in ("single", "pairs") else "single"
    made = train_tokenizer(SHIPPED[:40], 2000, digits, ascii_only=request.param == "ascii")
    if request.param in CUTS:
        made.inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(request.param), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return made


@pytest.fixture(scope="module")
def pieces(tokenizer: Tokenizer) -> fast.Encode:
    found = fast._piece_encoder(tokenizer.inner)
    assert found is not None
    return found


def test_ids_are_equal_on_a_large_sample(tokenizer: Tokenizer, pieces: fast.Encode) -> None:
    texts = SHIPPED[::25]
    texts = texts + [clean_note(text) for text in texts] + fast.proof_texts()
    assert sum(map(len, texts)) > 300_000
    assert fast.same(pieces(texts), fast.library(tokenizer.inner)(texts))
    assert tokenizer.encoder in ("pieces", "fastokens")
    assert fast.same(tokenizer.encode_batch(texts), fast.library(tokenizer.inner)(texts))


@given(texts=st.lists(st.text(), max_size=4))
def test_ids_are_equal_on_any_text(tokenizer: Tokenizer, pieces: fast.Encode, texts: list[str]) -> None:
    assert fast.same(pieces(texts), fast.library(tokenizer.inner)(texts))


def test_the_pieces_kept_are_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "_MOST_PIECES", 50)
    found = fast._piece_encoder(tokenizer.inner)
    assert isinstance(found, fast.PieceEncoder)
    draw = random.Random(0)
    texts = [" ".join("".join(draw.choices("abcdefgh", k=draw.randint(1, 60))) for _ in range(30)) for _ in range(40)]
    assert fast.same(found(texts), fast.library(tokenizer.inner)(texts))
    assert len(found._pieces) <= 50 + 60 and max(map(len, found._pieces)) <= fast._LONGEST_PIECE


def test_a_wrong_encoder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One id wrong in one text of the proof is enough."""
    made = train_tokenizer(SHIPPED[:5], 600)
    right = fast.library(made.inner)

    def wrong(texts: object) -> list[np.ndarray]:
        found = right(texts)  # type: ignore[arg-type]
        found[-1] = found[-1].copy()
        found[-1][-1] += 1
        return found

    monkeypatch.setattr(fast, "_fastokens", lambda inner: wrong)
    assert fast.fast_encoder(made.inner)[0] == "pieces"
    monkeypatch.setattr(fast, "_piece_encoder", lambda inner: wrong)
    assert fast.fast_encoder(made.inner)[0] == "tokenizers"


def test_other_tokenizers_go_to_the_library(tmp_path: Path) -> None:
    """GPT-2's own cutting, a normaliser, WordPiece-like models: not of the form that pieces know."""
    vocabulary = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    assert fast._piece_encoder(inner) is None
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{L}+|\P{L}+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    inner.normalizer = normalizers.NFC()
    assert fast._piece_encoder(inner) is None
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(inner.to_str())))
    texts = SHIPPED[:30]
    loaded = Tokenizer.load(file)
    assert fast.same(loaded.encode_batch(texts), fast.library(inner)(texts))


def test_fastokens_gives_the_same_ids(tokenizer: Tokenizer) -> None:
    pytest.importorskip("fastokens")
    encode = fast._fastokens(tokenizer.inner)
    assert encode is not None
    texts = SHIPPED[::25] + fast.proof_texts()
    assert fast.same(encode(texts), fast.library(tokenizer.inner)(texts))
