"""Mixtures that change, caps on epochs, and the same order however the work is divided."""

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_corpus_order import distinct_documents, make_corpus

from lang1.common.errors import SettingsError
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.corpus.schedule import MixturePoint, Schedule

LENGTH, ROWS = 32, 8
SAMPLES = 10_000
# A process that computes its share of each step's rows, from a given step on.
WORKER = """
import json, sys
from pathlib import Path
import numpy as np
from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.corpus.schedule import MixturePoint
folder, out, rank, of, first, last, mixture = sys.argv[1:]
rank, of, first, last = int(rank), int(of), int(first), int(last)
more = json.loads(mixture)
points = [MixturePoint(**point) for point in more.pop("mixture", [])]
order = BatchOrder(Corpus.open(folder), more.pop("weights", None), {length}, {rows}, 3407, mixture=points, **more)
mine = np.arange(first * {rows}, last * {rows}).reshape(-1, {rows})[:, rank::of].reshape(-1)
tokens, numbers = order.rows(mine)
np.savez(out, at=mine, places=np.stack(order.schedule.place(mine)), tokens=tokens, numbers=numbers)
""".replace("{length}", str(LENGTH)).replace("{rows}", str(ROWS))
PLAIN = {"weights": {"notes": 0.7, "general": 0.3}}
CHANGING = {
    "mixture": [
        {"at": 0.0, "weights": {"notes": 1, "general": 4}},
        {"at": 0.5, "weights": {"notes": 1, "general": 1}},
        {"at": 1.0, "weights": {"notes": 9, "general": 1}},
    ],
    "epochs_cap": {"general": 40},
    "steps": SAMPLES // ROWS,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    notes = distinct_documents([37 * i % 59 + 1 for i in range(50)])
    general = distinct_documents([53 * i % 181 + 20 for i in range(20)], first=20_000)
    out = tmp_path_factory.mktemp("corpus") / "c"
    return make_corpus(out, {"notes": notes, "general": general}, shard_tokens=700)


def _run(corpus: Corpus, folder: Path, of: int, cuts: list[int], mixture: dict[str, object]) -> str:
    """The hash of the first sample indices and their tokens, made by ``of`` processes, started anew at each cut."""
    folder.mkdir()
    places, tokens = np.empty((2, SAMPLES), np.int64), np.empty((SAMPLES, 2 * LENGTH), np.int64)
    steps = [0, *cuts, SAMPLES // ROWS]
    for first, last in pairwise(steps):
        outs = [folder / f"{first}-{rank}.npz" for rank in range(of)]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(corpus.folder.path), str(out), str(rank), str(of), str(first),
                 str(last), json.dumps(mixture)]
            )
            for rank, out in enumerate(outs)
        ]  # fmt: skip
        assert [process.wait() for process in started] == [0] * of
        for out in outs:
            found = np.load(out)
            places[:, found["at"]] = found["places"]
            tokens[found["at"]] = np.concatenate([found["tokens"], found["numbers"]], axis=1)
    return hashlib.sha256(places.astype("<i8").tobytes() + tokens.astype("<i8").tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("mixture", "published"),
    [
        (PLAIN, "52906cfb24e1d18a83e6fc00785cd285dc29713e9db7e1777b710f4a71a26f77"),
        (CHANGING, "1c46379ba5dca02c7b03e3f2e08db67ba0130071613502b529c128bcdf3d221f"),
    ],
    ids=["constant", "changing"],
)
def test_first_10000_samples_for_1_2_and_4_processes_and_two_resumes(
    tmp_path: Path, corpus: Corpus, mixture: dict[str, object], published: str
) -> None:
    """Change these hashes only on purpose: runs that are under way could not go on."""
    whole = _run(corpus, tmp_path / "1", 1, [], mixture)
    assert whole == published
    assert _run(corpus, tmp_path / "2", 2, [311, 900], mixture) == whole
    assert _run(corpus, tmp_path / "4", 4, [], mixture) == whole


def test_the_constant_order_is_that_of_before_schedules(corpus: Corpus) -> None:
    """The tokens' hash was taken from the first published order, before mixtures could change."""
    order = BatchOrder(corpus, PLAIN["weights"], LENGTH, 4, 3407)
    tokens, numbers = order.rows(np.arange(SAMPLES))
    assert hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest() == (
        "484095a6c6aecc37d6cd512e60de9ebe64b3c4970f39e03bca43232f27c20635"
    )
    assert hashlib.sha256(numbers.astype("<i4").tobytes()).hexdigest() == (
        "92a5d6588b042585076bf1efe472528e5e74de6c3f025f6df13939784b9eca7b"
    )


def test_a_cap_that_is_not_reached_changes_nothing(corpus: Corpus) -> None:
    at = np.arange(2_000)
    plain = BatchOrder(corpus, None, LENGTH, ROWS, 1)
    capped = BatchOrder(corpus, None, LENGTH, ROWS, 1, epochs_cap={"notes": 1e6, "general": 1e6})
    assert all((a == b).all() for a, b in zip(plain.rows(at), capped.rows(at), strict=True))


def test_a_source_that_has_given_its_epochs_leaves_its_share(corpus: Corpus) -> None:
    order = BatchOrder(corpus, {"notes": 1, "general": 1}, LENGTH, ROWS, 1, epochs_cap={"notes": 2})
    limit = 2 * corpus.sources["notes"].train.tokens // LENGTH
    source, row = order.schedule.place(np.arange(1_000))
    notes = np.flatnonzero(source == order.names.index("notes"))
    assert len(notes) == limit and notes.max() <= 2 * limit
    assert list(row[notes]) == list(range(limit))
    general = row[source == order.names.index("general")]
    assert list(general) == list(range(1_000 - limit))
    tokens, _ = order.rows(np.arange(2 * limit + 1, 1_000))
    assert tokens[tokens != corpus.tokenizer.eot_id].min() >= 20_000
    found = order.realised(125)
    assert found["notes"]["rows"] == limit and found["notes"]["epochs"] <= 2
    assert found["notes"]["asked"] == 0.5 and found["notes"]["share"] == pytest.approx(limit / 1_000)
    assert found["notes"]["repeated"] == limit * LENGTH - corpus.sources["notes"].train.tokens
    assert sum(source["share"] for source in found.values()) == pytest.approx(1)


def test_shares_follow_the_points(corpus: Corpus) -> None:
    points = [MixturePoint.model_validate(point) for point in CHANGING["mixture"]]  # type: ignore[attr-defined]
    order = BatchOrder(corpus, None, LENGTH, 8, 1, mixture=points, steps=2_000)
    source, _ = order.schedule.place(np.arange(16_000))
    notes = source == order.names.index("notes")
    for first, last, share in ((0, 800, 0.215), (7_600, 8_400, 0.5), (11_600, 12_400, 0.7), (15_200, 16_000, 0.88)):
        assert notes[first:last].mean() == pytest.approx(share, abs=0.005)
    assert notes.mean() == pytest.approx((0.35 + 0.7) / 2, abs=1e-3)
    assert order.realised(2_000)["notes"]["asked"] == pytest.approx((0.35 + 0.7) / 2, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_schedule_gives_each_row_of_a_source_once_and_in_turn(data: st.DataObject) -> None:
    kinds = data.draw(st.integers(1, 4))
    share = st.lists(st.integers(0, 20), min_size=kinds, max_size=kinds).filter(any)
    points = [
        (at, [w / sum(weights) for w in weights])
        for at, weights in zip(
            sorted(data.draw(st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=1, max_size=4))),
            data.draw(st.lists(share, min_size=4, max_size=4)),
            strict=False,
        )
    ]
    limits = data.draw(
        st.lists(st.one_of(st.none(), st.integers(0, 2_000)), min_size=kinds, max_size=kinds).filter(
            lambda x: None in x
        )
    )
    rows = data.draw(st.sampled_from([1, 7, 999, 3_000]))
    try:
        schedule = Schedule(points, limits, rows)
    except SettingsError:
        # Only where a moment comes at which every source that is asked for is used up.
        assert any(all(limit is not None for limit, s in zip(limits, shares, strict=True) if s) for _, shares in points)
        return
    source, row = schedule.place(np.arange(rows))
    for number, limit in enumerate(limits):
        mine = row[source == number]
        assert list(mine) == list(range(len(mine)))
        assert limit is None or len(mine) <= limit
    assert list(schedule.taken(rows)) == [int((source == number).sum()) for number in range(kinds)]
    if len({tuple(shares) for _, shares in points}) > 1 and all(limit is None for limit in limits):
        assert np.abs(schedule.taken(rows) - schedule.asked(rows) * rows).max() < kinds


def test_small_shares_are_met_in_a_long_training() -> None:
    points = [(0.0, [0.0002, 0.4998, 0.5]), (1.0, [0.0004, 0.7996, 0.2])]
    schedule = Schedule(points, [None] * 3, 500_000)
    assert abs(schedule.taken(500_000)[0] - 150) <= 2
    source, _ = schedule.place(np.arange(490_000, 500_000))
    assert (source == 1).mean() == pytest.approx(0.7966, abs=1e-3)


def test_a_jump_and_a_source_that_comes_late(corpus: Corpus) -> None:
    points = [
        MixturePoint(at=0.5, weights={"notes": 0, "general": 1}),
        MixturePoint(at=0.5, weights={"notes": 1, "general": 0}),
    ]
    order = BatchOrder(corpus, None, LENGTH, 4, 1, mixture=points, steps=500)
    source, _ = order.schedule.place(np.arange(2_000))
    assert (np.array(order.names)[source[:1_000]] == "general").all()
    assert (np.array(order.names)[source[1_000:]] == "notes").all()


def test_refusals(corpus: Corpus) -> None:
    point = MixturePoint(at=0, weights={"notes": 1, "general": 1})
    other = MixturePoint(at=1, weights={"notes": 1, "general": 0})
    for more, word in (
        ({"epochs_cap": {"web": 1}}, r"epochs_cap\.web"),
        ({"epochs_cap": {"notes": 0}}, r"above 0, got 0"),
        ({"epochs_cap": {"notes": 1, "general": 1}, "steps": 10_000}, r"end after \d+ of 80000 rows"),
        ({"mixture": [point, other]}, "length in steps"),
        ({"mixture": [other, point], "steps": 10}, "must not fall"),
        ({"mixture": [MixturePoint(at=0, weights={"notes": 1})], "steps": 10}, "general is missing"),
    ):
        with pytest.raises(SettingsError, match=word):
            BatchOrder(corpus, None, LENGTH, ROWS, 0, **more)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="one of them"):
        BatchOrder(corpus, {"notes": 1, "general": 1}, LENGTH, ROWS, 0, mixture=[point])
    with pytest.raises(SettingsError, match="past the last row"):
        BatchOrder(corpus, None, LENGTH, ROWS, 0, mixture=[point, other], steps=10).step(10)


def test_many_documents_keep_every_token(tmp_path: Path) -> None:
    """More documents than one stretch of a lay-out, read in uneven runs of rows."""
    documents = distinct_documents([i * 7 % 5 + 1 for i in range(3_000)])
    corpus = make_corpus(tmp_path / "c", {"s": documents}, shard_tokens=4_000)
    order = BatchOrder(corpus, None, 16, 4, 5)
    total = corpus.sources["s"].train.tokens
    rows = np.random.default_rng(0).permutation(-(-total // 16))
    tokens = np.empty((len(rows), 16), np.int64)
    tokens[rows] = order.rows(rows)[0]
    one = tokens.reshape(-1)[:total]
    assert sorted(one[one != corpus.tokenizer.eot_id]) == sorted(t for document in documents for t in document)
