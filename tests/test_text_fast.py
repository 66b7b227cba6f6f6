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


@pytest.fixture(scope="module", params=["single", "triples", "ascii", "gpt2", "smollm", *CUTS])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    digits = request.param if request.param in ("single", "triples") else "single"
    made = train_tokenizer(SHIPPED[:40], 2000, digits, ascii_only=request.param == "ascii")
    if request.param in CUTS:
        made.inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(request.param), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    elif request.param in ("gpt2", "smollm"):
        own = pre_tokenizers.ByteLevel(add_prefix_space=False)
        both = [pre_tokenizers.Digits(individual_digits=True), own]
        made.inner.pre_tokenizer = own if request.param == "gpt2" else pre_tokenizers.Sequence(both)
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
    assert isinstance(pieces, fast.PieceEncoder) and pieces._words is not None and len(pieces._words) > 1000
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
    for kept in (found._pieces, found._words or {}):
        assert 0 < len(kept) <= 50 + 60 and max(map(len, kept)) <= fast._LONGEST_PIECE + 1


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


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        (r"\w+| |\S", True),
        (r"\s?\w+|[^\w\s]+|\s", True),
        (r"\w+(?: \w+)?|\s|[^\w\s]", False),  # two words in a piece
        (r"\w+ ?|\s|[^\w\s]+", False),  # the space stands at the end
        (r"\w+(?= 1)|\w|\s|[^\w\s]+", False),  # what comes before depends on what comes after
        (r"(?<= )1|\w+|\s|[^\w\s]+", False),
    ],
)
def test_words_are_cut_apart_only_where_a_pattern_allows(pattern: str, whole: bool) -> None:
    assert fast.cuts_at_spaces(pattern) is whole


def test_text_that_is_not_clean_is_cut_as_a_whole(tokenizer: Tokenizer, pieces: fast.Encode) -> None:
    texts = [
        "a  b",
        " a",
        "a ",
        "a \n b",
        "a\tb c",
        "a b\n",
        "\n a b",
        "",
        " ",
        "a\u00a0 b",
        "x 1 2  3 4 's 's",
        "it 's x",
    ]
    texts += [f"{a} {b}" for a in ("a", "a\n", "1", "12", "-", "é") for b in ("b", "\nb", "'s", "1234", "", "µ", ". b")]
    assert fast.same(pieces(texts), fast.library(tokenizer.inner)(texts))


def test_tokens_that_a_text_can_spell_go_to_the_library() -> None:
    made = train_tokenizer(SHIPPED[:5], 600)
    made.inner.add_tokens(["<tool_call>", "BP"])
    found = fast._piece_encoder(made.inner)
    texts = ["a <tool_call> b", "the BP is <|endoftext|> low", "plain words"]
    assert found is not None and fast.same(found(texts), fast.library(made.inner)(texts))
    assert fast.fast_encoder(made.inner)[0] in ("pieces", "fastokens")
    assert any("<tool_call>" in text for text in fast.proof_texts(made.inner))


def test_other_tokenizers_go_to_the_library(tmp_path: Path) -> None:
    """A normaliser that changes ASCII, a prefix space, merges that skip words: not of the form that pieces know."""
    vocabulary = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|endoftext|>"])
    assert fast._piece_encoder(inner) is None
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{L}+|\P{L}+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    assert fast.fast_encoder(inner)[0] != "pieces"
    inner.normalizer = normalizers.Lowercase()
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
