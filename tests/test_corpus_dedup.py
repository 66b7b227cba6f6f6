"""Duplicates and copy-forward: planted copies are found, strangers' notes of one template stay, order decides."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.artefact import read_json
from lang1.common.errors import ArtefactError
from lang1.corpus.arrays import map_arrays, write_arrays
from lang1.corpus.build import build_corpus
from lang1.corpus.copy_forward import CopyForward, CopyForwardSettings, _by_patient, segments
from lang1.corpus.dedup import Duplicates, DuplicateSettings, content_hash, equal_groups
from lang1.corpus.filters import Context, Document, Filter, Report
from lang1.corpus.minhash import band_keys, shared, shingles
from lang1.corpus.settings import CorpusSettings, GeneralSource

WORDS = [
    f"{a}{b}" for a in "bcdfghklmnprst" for b in ("arlin", "emot", "iva", "osten", "ulper", "yrin", "achet", "edo")
]
# Forty words that stand in every note.
TEMPLATE = " ".join(f"{WORDS[i]} of {WORDS[-i - 1]} was seen." for i in range(10))


def own_text(rng: random.Random, words: int = 60) -> str:
    return " ".join(rng.choice(WORDS) + ("." if i % 12 == 11 else "") for i in range(words))


def templated(rng: random.Random, words: int = 60) -> str:
    return f"{TEMPLATE}\n{own_text(rng, words)}\n{TEMPLATE}"


def edited(text: str, share: float, rng: random.Random) -> str:
    pieces = re.split(r"(\s+)", text)
    places = range(0, len(pieces), 2)
    for at in rng.sample(places, round(share * len(places))):
        pieces[at] = rng.choice(WORDS) + "x"
    return "".join(pieces)


def documents(texts: Sequence[str], units: Sequence[str] | None = None, **fields: Any) -> list[Document]:
    owners = units or [f"p{i}" for i in range(len(texts))]
    return [
        Document(t, u, i, "notes", note_type="progress", **fields)
        for i, (t, u) in enumerate(zip(texts, owners, strict=True))
    ]


def passed(
    cls: type[Filter[Any]], chosen: Any, given_: Sequence[Document], folder: Path, parts: int = 1
) -> tuple[list[Document], Report]:
    """What a filter lets through, its source being collected in so many parts."""
    folder.mkdir(exist_ok=True)
    one, files = cls(chosen, Context("notes")), []
    for part in range(parts):
        a, b = (len(given_) * (part + i) // parts for i in (0, 1))
        files.append(folder / f"part{part}")
        one.collect(iter(given_[a:b]), files[-1])
    one.combine(files, folder / "combined")
    ready, report = cls(chosen, Context("notes", artefact=folder / "combined")), Report()
    return [d for document in given_ if (d := ready.apply(document, report)) is not None], report


def test_only_texts_of_their_own_are_duplicates(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [templated(rng) for _ in range(120)]  # strangers, two thirds of whose notes are one template
    copies = {len(texts) + i: (i, share) for i, share in enumerate((0.02, 0.05, 0.08, 0.1) * 10)}
    texts += [edited(texts[source], share, rng) for source, share in copies.values()]
    kept, report = passed(Duplicates, DuplicateSettings(), documents(texts), tmp_path)
    gone = set(range(len(texts))) - {d.place for d in kept}
    assert not gone - set(copies)  # no stranger's note
    assert len(gone) >= 0.9 * len(copies)
    counts = report.counts["duplicates"]
    assert counts["near duplicates: progress"] == len(gone) == report.left_out["near duplicate"]
    assert counts["characters in near duplicates: progress"] == sum(len(texts[i]) for i in gone)


def test_without_looking_for_templates_strangers_are_lost(tmp_path: Path) -> None:
    rng = random.Random(2)
    strangers = documents([templated(rng, 20) for _ in range(100)])
    kept, _ = passed(Duplicates, DuplicateSettings(), strangers, tmp_path / "a")
    assert len(kept) == 100
    careless = DuplicateSettings(template_patients=1000, own_threshold=0.01)
    kept, _ = passed(Duplicates, careless, strangers, tmp_path / "b")
    assert len(kept) < 50


def test_the_first_of_equal_texts_stays_in_any_case_and_layout(tmp_path: Path) -> None:
    given_ = documents(["One note.", "two notes", "one  NOTE.", "one note .", "ONE\nnote."])
    kept, report = passed(Duplicates, DuplicateSettings(), given_, tmp_path)
    assert [d.place for d in kept] == [0, 1, 3]
    assert report.left_out == {"exact duplicate": 2}
    places, kinds, stays = map_arrays(tmp_path / "combined")
    assert (places.tolist(), kinds.tolist(), stays.tolist()) == ([2, 4], [0, 0], [0, 0])


@pytest.mark.parametrize("exact, near, left", [(False, False, 4), (True, False, 3), (False, True, 3), (True, True, 2)])
def test_each_kind_has_its_switch(tmp_path: Path, exact: bool, near: bool, left: int) -> None:
    rng = random.Random(3)
    text = own_text(rng, 80)
    given_ = documents([text, own_text(rng, 80), text.upper(), edited(text, 0.03, rng)])
    kept, _ = passed(Duplicates, DuplicateSettings(exact=exact, near=near), given_, tmp_path)
    assert len(kept) == left


def test_notes_of_one_patient_may_be_alike(tmp_path: Path) -> None:
    rng = random.Random(4)
    text = own_text(rng, 80)
    texts = [text, edited(text, 0.08, rng)]
    assert len(passed(Duplicates, DuplicateSettings(), documents(texts, ["a", "a"]), tmp_path / "a")[0]) == 2
    assert len(passed(Duplicates, DuplicateSettings(), documents(texts, ["a", "b"]), tmp_path / "b")[0]) == 1


def test_who_leaves_is_like_somebody_who_stays(tmp_path: Path) -> None:
    """A chain of edits: its end is unlike its start, and must not leave because of the link between them."""
    rng = random.Random(5)
    chain = [own_text(rng, 100)]
    for _ in range(6):
        chain.append(edited(chain[-1], 0.07, rng))
    kept, _ = passed(Duplicates, DuplicateSettings(), documents(chain), tmp_path)
    places, _, stays = map_arrays(tmp_path / "combined")
    assert set(stays.tolist()) <= {d.place for d in kept}
    assert len(kept) >= 2
    for a, b in zip(places.tolist(), stays.tolist(), strict=True):
        assert similarity(chain[a], chain[b]) >= 0.4


@pytest.mark.parametrize("cls", [Duplicates, CopyForward])
def test_parts_do_not_matter(tmp_path: Path, cls: type[Filter[Any]]) -> None:
    rng = random.Random(6)
    given_ = world(rng)
    copies = [replace(d, unit=f"copy{d.unit}", text=edited(d.text, 0.05, rng)) for d in given_[:20]]
    given_ = [replace(d, place=i) for i, d in enumerate(given_ + copies + given_[20:30])]
    artefacts = []
    for parts in (1, 3, 50):
        passed(cls, cls.settings_class(), given_, tmp_path / str(parts), parts)
        artefacts.append((tmp_path / str(parts) / "combined").read_bytes())
    assert artefacts[0] == artefacts[1] == artefacts[2]
    assert len(map_arrays(tmp_path / "1" / "combined")[0]) > 5


def test_nothing_at_all(tmp_path: Path) -> None:
    for cls in (Duplicates, CopyForward):
        assert passed(cls, cls.settings_class(), [], tmp_path)[0] == []
        assert len(passed(cls, cls.settings_class(), documents(["", "a", "- -"]), tmp_path)[0]) == 3


def similarity(a: str, b: str) -> float:
    left, right = (plain_shingles(text) for text in (a, b))
    return len(left & right) / len(left | right)


def plain_shingles(text: str, size: int = 3) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


short_texts = st.lists(st.text("abAB cd.,\n9é", max_size=60), min_size=1, max_size=6)


@given(short_texts)
def test_shingles_are_runs_of_words(texts: list[str]) -> None:
    hashes, counts = shingles(texts, 3, 512)
    assert counts.tolist() == [len(plain_shingles(text)) for text in texts]
    first = np.repeat(np.arange(len(texts)), counts) == 0
    ours = hashes[first]
    for i, text in enumerate(texts):
        theirs = hashes[np.repeat(np.arange(len(texts)), counts) == i]
        both, _ = shared(ours, counts[:1], theirs, counts[i : i + 1])
        assert len(both) == len(plain_shingles(texts[0]) & plain_shingles(text))


def test_a_sample_of_shingles_is_the_least_of_them() -> None:
    text = own_text(random.Random(7), 300)
    every, (count,) = shingles([text], 3, 512)
    some, counts = shingles(["", text], 3, 50)
    assert count > 200 and counts.tolist() == [0, 50] and some.tolist() == np.sort(every)[:50].tolist()


def test_bands_agree_as_often_as_theory_says() -> None:
    rng = np.random.default_rng(8)
    agreed = np.zeros(3)
    for _ in range(60):
        common = rng.integers(1 << 32, size=60, dtype=np.uint32)
        others = rng.integers(1 << 32, size=(2, 20), dtype=np.uint32)
        sets = [np.unique(np.concatenate([common, other])) for other in others]
        keys = band_keys(np.concatenate(sets), np.array([len(one) for one in sets]), 30, 2)
        agreed[0] += np.mean(keys[:, 0] == keys[:, 1])
    assert agreed[0] / 60 == pytest.approx(0.6**2, abs=0.04)  # a Jaccard index of 60 of 100, two rows


@given(st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=4), st.integers(1, 20))
def test_groups_of_equal_keys(parts: list[list[int]], rows: int) -> None:
    whole = [key << 60 for part in parts for key in part]
    keys = [np.array([key << 60 for key in part], dtype=np.uint64) for part in parts]
    found: dict[int, list[int]] = {}
    for order, first in equal_groups(keys, rows):
        for row, is_first in zip(order.tolist(), first.tolist(), strict=True):
            assert is_first == (whole[row] not in found)
            found.setdefault(whole[row], []).append(row)
    wanted = {key: [i for i, other in enumerate(whole) if other == key] for key in whole if whole.count(key) > 1}
    assert found == wanted


def test_damaged_work_is_refused(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", [np.arange(9), np.empty((2, 0), np.uint8)])
    assert [array.tolist() for array in map_arrays(tmp_path / "a")] == [list(range(9)), [[], []]]
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:150])
    with pytest.raises(ArtefactError, match="cut short"):
        map_arrays(tmp_path / "a")


# Copy-forward ---------------------------------------------------------------------------------------------------------

NOON = datetime(2020, 1, 1, 12)


def sentence(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def world(rng: random.Random) -> list[Document]:
    """Charts in which each note repeats sentences of earlier ones, in a shuffled order of places."""
    charts: list[tuple[str, datetime, str]] = []
    for patient in range(30):
        said: list[str] = []
        for day in range(4):
            new = [sentence(rng) for _ in range(3)]
            old = said[:4] if day else []
            charts.append((f"p{patient}", NOON + timedelta(days=day), " ".join(old + new)))
            said += new
    rng.shuffle(charts)
    return [
        Document(text, unit, place, "notes", note_type="progress", available_time=time)
        for place, (unit, time, text) in enumerate(charts)
    ]


def test_passages_of_an_earlier_note_are_removed(tmp_path: Path) -> None:
    rng = random.Random(9)
    given_ = world(rng)
    kept, report = passed(CopyForward, CopyForwardSettings(), given_, tmp_path)
    assert len(kept) == len(given_)
    said: dict[str, set[str]] = {}
    removed = 0
    for document in sorted(kept, key=lambda d: d.available_time or NOON):
        original = given_[document.place].text
        before = said.setdefault(document.unit, set())
        sentences = re.split(r"(?<=\.) ", original)
        assert document.text == " ".join(s for s in sentences if s not in before)
        removed += len(original) - len(document.text)
        before.update(sentences)
    counts = report.counts["copy_forward"]
    assert counts["passages removed: progress"] == 90
    # What parted the passage from the rest goes with it.
    assert counts["characters removed: progress"] == removed > 0
    assert counts["characters: progress"] == sum(len(d.text) for d in given_)


def chart(*texts: str, unit: str = "p") -> list[Document]:
    return [
        Document(text, unit, i, "notes", note_type="progress", available_time=NOON + timedelta(days=i))
        for i, text in enumerate(texts)
    ]


FIRST = "The patient walked along the hall twice today without any pain at all. He ate all of his meals and slept well."
NEWS = "A fever of 38.9 was seen in the night and blood cultures were drawn at once."


@pytest.mark.parametrize(
    "later, left",
    [
        (f"{FIRST} {NEWS}", NEWS),  # in front
        (f"{NEWS}\n\n{FIRST}", NEWS),  # at the end
        (NEWS + " " + FIRST.replace("hall twice", "hall   \ntwice"), NEWS),  # in other wrapping
        (FIRST.replace("twice", "thrice") + " " + NEWS, None),  # one sentence edited: the rest is under 20 words
        (f"The patient walked along the hall twice today without any pain at all. {NEWS}", None),  # 13 words
    ],
)
def test_what_is_a_passage(tmp_path: Path, later: str, left: str | None) -> None:
    kept, _ = passed(CopyForward, CopyForwardSettings(), chart(FIRST, later), tmp_path)
    assert [d.text for d in kept] == [FIRST, left or later]


def test_another_patients_words_and_later_notes_do_not_count(tmp_path: Path) -> None:
    strangers = [chart(FIRST)[0], replace(chart(f"{FIRST} {NEWS}", unit="q")[0], place=1)]
    assert [d.text for d in passed(CopyForward, CopyForwardSettings(), strangers, tmp_path)[0]] == [
        FIRST,
        f"{FIRST} {NEWS}",
    ]
    # The later note comes first in the corpus; the earlier one keeps its text.
    reversed_ = [replace(d, place=1 - d.place) for d in reversed(chart(FIRST, f"{FIRST} {NEWS}"))]
    assert [d.text for d in passed(CopyForward, CopyForwardSettings(), reversed_, tmp_path)[0]] == [NEWS, FIRST]
    # A note of unknown time comes after those of known time.
    unknown = [replace(chart(f"{FIRST} {NEWS}")[0], available_time=None), replace(chart(FIRST)[0], place=1)]
    assert [d.text for d in passed(CopyForward, CopyForwardSettings(), unknown, tmp_path)[0]] == [NEWS, FIRST]


def test_a_note_without_news_is_left_out_and_repetition_can_weigh_less(tmp_path: Path) -> None:
    notes = chart(FIRST, FIRST)
    kept, report = passed(CopyForward, CopyForwardSettings(), notes, tmp_path)
    assert len(kept) == 1 and report.left_out == {"nothing new: copied forward": 1}
    kept, report = passed(CopyForward, CopyForwardSettings(keep=1), notes, tmp_path)
    assert [d.text for d in kept] == [FIRST, FIRST]
    assert report.counts["copy_forward"]["passages kept by chance: progress"] == 1
    many = world(random.Random(10))
    _, report = passed(CopyForward, CopyForwardSettings(keep=0.3), many, tmp_path)
    counts = report.counts["copy_forward"]
    assert counts["passages removed: progress"] + counts["passages kept by chance: progress"] == 90
    assert 12 <= counts["passages kept by chance: progress"] <= 42


@given(st.text("aB. \n;-é", max_size=80))
def test_segments_cover_all_but_white_space(text: str) -> None:
    found = segments(text)
    assert all(a < b for a, b in found) and all(b <= c for (_, b), (c, _) in pairwise(found))
    assert "".join("".join(text[a:b].split()) for a, b in found) == "".join(text.split())


def test_patients_are_taken_a_few_at_a_time(tmp_path: Path) -> None:
    given_ = world(random.Random(11))
    one = CopyForward(CopyForwardSettings(), Context("notes"))
    files = [tmp_path / "a", tmp_path / "b"]
    one.collect(iter(given_[:50]), files[0])
    one.collect(iter(given_[50:]), files[1])
    seen: list[set[int]] = [set(notes[0].tolist()) for notes, _, _ in _by_patient(files, rows=100)]
    assert len(seen) > 3 and sum(map(len, seen)) == len(set.union(*seen)) == 30


# In the pipeline ------------------------------------------------------------------------------------------------------


def test_a_corpus_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    rng = random.Random(12)
    texts = [own_text(rng, 90) for _ in range(150)]
    texts += [texts[i] for i in range(40)] + [edited(texts[i], 0.05, rng) for i in range(40, 60)]
    (tmp_path / "text").mkdir()
    for part in range(4):
        for i, text in enumerate(texts[part::4]):
            (tmp_path / "text" / f"{part}-{i:03d}.txt").write_text(text, encoding="utf-8")
    found = []
    for workers in (1, 3):
        out = tmp_path / f"corpus{workers}"
        chosen = CorpusSettings(
            vocab_size=600,
            general={"web": GeneralSource(path=tmp_path / "text")},
            filters={"duplicates": True},
            workers=workers,
            unit_bytes=20_000,
        )
        build_corpus([], None, out, chosen)
        manifest = read_json(out / "manifest.json")
        files = sorted(p for p in (out / "web").rglob("*") if p.is_file())
        found.append(([p.read_bytes() for p in files], manifest["counts"]["filters"], manifest["left_out"]))
    assert found[0] == found[1]
    counts = found[0][1]["web"]["duplicates"]
    assert counts["exact duplicates: web"] == 40
    assert counts["near duplicates: web"] >= 18
    assert found[0][2]["web: exact duplicate"] == 40


def test_content_hash_ignores_case_and_space() -> None:
    assert content_hash("Aß  b\n") == content_hash("ass B") != content_hash("assb")


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_any_text_can_be_hashed(text: str) -> None:
    shingles([text, text + "\ud800"], 2, 16)
    assert content_hash(text + "\ud800") != content_hash(text + "x")
