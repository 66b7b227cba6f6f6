"""Batches: every token once an epoch, a pure function of seed and step, shares as weighted."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import PADDING_DOCUMENT, Corpus
from lang1.corpus.schedule import normalised_weights
from lang1.corpus.shards import ShardWriter, token_dtype
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer

TOKENIZER: list[Tokenizer] = []


def _tokenizer() -> Tokenizer:
    if not TOKENIZER:
        TOKENIZER.append(train_tokenizer(["a few words to learn from"], 320))
    return TOKENIZER[0]


def make_corpus(
    out: Path, train: dict[str, list[list[int]]], val: dict[str, list[list[int]]] | None = None, shard_tokens: int = 50
) -> Corpus:
    """A corpus folder whose documents are given as token ids."""
    tokenizer, dtype = _tokenizer(), token_dtype(70_000)
    with new_folder(out, "corpus", overwrite=True) as draft:
        tokenizer.save(draft.path / "tokenizer")
        about = {}
        for name, documents in train.items():
            tokens = {}
            for prefix, some in (("", documents), ("val-", (val or {}).get(name, []))):
                with ShardWriter(draft.path / name, prefix, dtype, tokenizer.eot_id, shard_tokens) as writer:
                    for document in some:
                        writer.add(np.array(document, dtype=np.int64))
                tokens[prefix] = writer.tokens
            about[name] = {"tokens": tokens[""], "val_tokens": tokens["val-"], "weight": 1 / len(train)}
        draft.extra = {"sources": about, "dtype": dtype.name, "vocab_size": tokenizer.vocab_size}
    return Corpus.open(out)


def distinct_documents(lengths: list[int], first: int = 1) -> list[list[int]]:
    """Documents of given lengths in which no token id comes twice."""
    starts = np.cumsum([0, *lengths[:-1]]) + first
    return [list(range(start, start + length)) for start, length in zip(starts, lengths, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    row=st.integers(2, 30),
    rows=st.integers(1, 4),
    seed=st.integers(0, 2**32),
    shard_tokens=st.sampled_from([1, 30, 10_000]),
)
def test_every_token_of_every_document_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], row: int, rows: int, seed: int, shard_tokens: int
) -> None:
    documents = distinct_documents(lengths)
    corpus = make_corpus(tmp_path_factory.mktemp("c") / "corpus", {"s": documents}, shard_tokens=shard_tokens)
    order = BatchOrder(corpus, None, row, rows, seed)
    total = corpus.sources["s"].train.tokens
    epochs = 3
    steps = -(-epochs * total // (row * rows))
    batches = [order.step(i) for i in range(steps)]
    stream = np.concatenate([tokens.reshape(-1) for tokens, _ in batches])
    orders = []
    for epoch in range(epochs):
        part = stream[epoch * total : (epoch + 1) * total]
        eot = corpus.tokenizer.eot_id
        cut = np.flatnonzero(part == eot) + 1
        found = [list(piece[:-1]) for piece in np.split(part, cut)[:-1]]
        assert sorted(found) == sorted(documents)
        orders.append(found)
    if len({tuple(d) for d in documents}) > 15:
        assert orders[0] != orders[1]
    for tokens, numbers in batches:
        assert tokens.shape == numbers.shape == (rows, row)
        assert tokens.dtype == np.int64 and numbers.dtype == np.int32
        closes = tokens == corpus.tokenizer.eot_id
        assert (numbers[:, 0] == 0).all()
        # A new document exactly after each end-of-text token.
        assert (np.diff(numbers, axis=1) == closes[:, :-1]).all()


def _two_sources(path: Path) -> Corpus:
    notes = distinct_documents([37 * i % 59 + 1 for i in range(50)])
    general = distinct_documents([53 * i % 181 + 20 for i in range(20)], first=20_000)
    return make_corpus(path, {"notes": notes, "general": general}, shard_tokens=700)


def test_order_does_not_depend_on_access(tmp_path: Path) -> None:
    corpus = _two_sources(tmp_path / "c")
    steps = list(range(60))

    def digests(sequence: list[int], fresh: bool) -> dict[int, str]:
        order = BatchOrder(corpus, None, 32, 4, 7)
        found = {}
        for i in sequence:
            order = BatchOrder(corpus, None, 32, 4, 7) if fresh else order
            tokens, numbers = order.step(i)
            found[i] = hashlib.sha256(tokens.tobytes() + numbers.tobytes()).hexdigest()
        return found

    forward = digests(steps, fresh=False)
    assert forward == digests(steps[::-1], fresh=False)
    assert {i: forward[i] for i in (3, 41, 59)} == digests([41, 3, 59], fresh=True)
    assert len(set(forward.values())) == len(steps)


def test_batch_size_does_not_change_the_rows(tmp_path: Path) -> None:
    corpus = _two_sources(tmp_path / "c")
    wide, narrow = BatchOrder(corpus, None, 32, 8, 7), BatchOrder(corpus, None, 32, 2, 7)
    for i in range(5):
        joined = [narrow.step(4 * i + j) for j in range(4)]
        assert (wide.step(i)[0] == np.concatenate([t for t, _ in joined])).all()
        assert (wide.step(i)[1] == np.concatenate([n for _, n in joined])).all()


def test_order_is_the_one_that_was_published(tmp_path: Path) -> None:
    """A changed order makes earlier runs impossible to resume or repeat; change this hash only on purpose."""
    order = BatchOrder(_two_sources(tmp_path / "c"), {"notes": 0.7, "general": 0.3}, 32, 4, 3407)
    digest = hashlib.sha256()
    for i in range(40):
        tokens, numbers = order.step(i)
        digest.update(tokens.astype("<i8").tobytes() + numbers.astype("<i4").tobytes())
    assert digest.hexdigest() == "875fbfa13e85957d050c6573480f9f9a0370768136deb46f728ab73c6a859d00"


def test_seeds_give_other_orders(tmp_path: Path) -> None:
    corpus = _two_sources(tmp_path / "c")
    first, second = BatchOrder(corpus, None, 32, 4, 0), BatchOrder(corpus, None, 32, 4, 1)
    assert any((first.step(i)[0] != second.step(i)[0]).any() for i in range(3))


@pytest.mark.parametrize(
    "weights", [{"notes": 0.5, "general": 0.5}, {"notes": 3, "general": 1}, {"notes": 0.137, "general": 0.863}]
)
def test_shares_follow_the_weights_from_the_first_row_on(tmp_path: Path, weights: dict[str, float]) -> None:
    corpus = _two_sources(tmp_path / "c")
    order = BatchOrder(corpus, weights, 16, 1, 0)
    share = weights["notes"] / sum(weights.values())
    notes = 0
    for i in range(300):
        notes += int(order.step(i)[0].max() < 20_000)
        assert abs(notes - share * (i + 1)) <= 1.01
    assert order.realised(300)["notes"]["rows"] == notes
    assert order.realised(25_000)["notes"]["share"] == pytest.approx(share, abs=1e-4)
    assert order.realised(25_000)["general"]["tokens"] == pytest.approx(25_000 * 16 * (1 - share), rel=1e-2)


def test_weight_zero_leaves_a_source_out(tmp_path: Path) -> None:
    order = BatchOrder(_two_sources(tmp_path / "c"), {"notes": 1, "general": 0}, 16, 4, 0)
    assert max(order.step(i)[0].max() for i in range(50)) < 20_000


def test_refusals(tmp_path: Path) -> None:
    corpus = _two_sources(tmp_path / "c")
    for weights, word in (
        ({"notes": 1}, "general"),
        ({"notes": 1, "general": -1}, "-1"),
        ({"notes": 0, "general": 0}, "above 0"),
        ({"notes": 1, "general": 1, "web": 1}, "web"),
        ({"notes": 1, "general": float("nan")}, "nan"),
    ):
        with pytest.raises(SettingsError, match=word):
            BatchOrder(corpus, weights, 16, 4, 0)
    with pytest.raises(SettingsError, match="sequence_length 1"):
        BatchOrder(corpus, None, 1, 4, 0)
    empty = make_corpus(tmp_path / "e", {"s": []})
    with pytest.raises(InputError, match="no training tokens"):
        BatchOrder(empty, None, 16, 4, 0)
    assert normalised_weights({"b": 1, "a": 3}, ["a", "b"]) == {"a": 0.75, "b": 0.25}


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), max_size=12), row=st.integers(2, 25), rows=st.integers(1, 5))
def test_validation_covers_every_token_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], row: int, rows: int
) -> None:
    documents = distinct_documents(lengths) if lengths else []
    corpus = make_corpus(tmp_path_factory.mktemp("c") / "corpus", {"s": [[1]]}, {"s": documents}, shard_tokens=40)
    batches = list(corpus.val_batches("s", row, rows))
    seen = [tokens[numbers != PADDING_DOCUMENT] for tokens, numbers in batches]
    expected = [t for document in documents for t in [*document, corpus.tokenizer.eot_id]]
    assert list(np.concatenate(seen) if seen else []) == expected
    for tokens, numbers in batches:
        assert tokens.shape == numbers.shape and tokens.shape[1] == row and tokens.shape[0] <= rows
        closes = (tokens == corpus.tokenizer.eot_id)[:, :-1]
        real = numbers[:, 1:] != PADDING_DOCUMENT
        assert (np.diff(numbers, axis=1)[real] == closes[real]).all()


def test_documents_read_back(tmp_path: Path) -> None:
    documents = distinct_documents([3, 0, 60, 7, 20])
    stream = make_corpus(tmp_path / "c", {"s": documents}, shard_tokens=25).sources["s"].train
    assert len(stream.shards) > 1
    assert [list(stream.document(i))[:-1] for i in range(5)] == documents


def test_damage_is_seen(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "c", {"s": distinct_documents([5, 6])})
    file = next(corpus.folder.path.glob("s/tokens-*.bin"))
    del corpus
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ArtefactError, match="length"):
        Corpus.open(tmp_path / "c")
    file.write_bytes(whole)
    next((tmp_path / "c/s").glob("ends-*.npy")).write_bytes(b"")
    with pytest.raises(ArtefactError, match="ends-00000"):
        Corpus.open(tmp_path / "c")
