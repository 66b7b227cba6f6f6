"""The quality report and the cleaning switches: estimates within their stated errors, and no patient's words in it."""

import random
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lang1.corpus.build import build_corpus
from lang1.corpus.describe import compare_tokenizers, describe_corpus
from lang1.corpus.filters import Document, Report
from lang1.corpus.quality import (
    SHOWN_PATIENTS,
    Equals,
    Lengths,
    Phrases,
    quality,
    quality_page,
    removed_by_type,
    write_quality,
)
from lang1.corpus.settings import Cleaning, CorpusSettings, GeneralSource
from lang1.corpus.writing import clean
from lang1.text.tokenizer_training import train_tokenizer

COMMON = "Seen and examined with the team."
RARE = "Mother is a violinist from Trondheim."


def note(patient: str, text: str, kind: str = "progress", year: int = 2020, place: int = 0) -> Document:
    return Document(text, patient, place, "notes", "n", kind, "medicine", datetime(year, 2, 3))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_quantiles_are_right_to_one_percent(lengths: list[int]) -> None:
    counted = Lengths()
    for length in lengths:
        counted.add(length)
    for share in (0.05, 0.5, 1.0):
        true = sorted(lengths)[max(0, -int(-share * len(lengths) // 1) - 1)]
        assert abs(counted.quantile(share) - true) <= 0.5 + 0.0101 * true


@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 12))
def test_no_phrase_is_counted_too_often_and_none_too_rarely_by_more_than_the_error(said: list[int], most: int) -> None:
    followed = Phrases(most)
    for phrase in said:
        followed.add(str(phrase), "type", phrase)
        assert len(followed.found) <= 2 * most
    true = Counter(map(str, said))
    assert followed.error <= len(said) / most
    for phrase, count in true.items():
        one = followed.found.get(phrase)
        low = one.count if one is not None else 0
        assert count - followed.error <= low <= count
        assert one is None or low <= one.seen.total() <= count


def test_only_phrases_of_many_patients_are_shown(tmp_path: Path) -> None:
    documents = [note(f"p{i}", f"{COMMON} Value {i} was measured.") for i in range(SHOWN_PATIENTS)]
    # A patient who says one thing a hundred times is one patient.
    documents += [note("one", RARE) for _ in range(100)]
    documents += [note(f"p{i}", "Nearly enough of them say it.") for i in range(SHOWN_PATIENTS - 1)]
    found = quality(documents)
    assert [one["phrase"] for one in found["templates"]] == [COMMON]
    assert found["templates"][0]["documents"] == SHOWN_PATIENTS
    page = write_quality(found, tmp_path / "report.html", "Corpus").read_text(encoding="utf-8")
    assert COMMON in page and "Trondheim" not in page and "Nearly" not in page


def test_types_years_departments_and_repetition() -> None:
    documents = [note(f"p{i}", f"{COMMON} Value {i} was measured.", year=2018 + i % 3) for i in range(30)]
    documents += [note(f"p{i}", "The same words.", "radiology") for i in range(10)]
    documents += [Document("General text of its own.", "web:0", 0, "web")]
    found = quality(documents)
    assert {k: v["documents"] for k, v in found["types"].items()} == {"progress": 30, "radiology": 10, "web": 1}
    assert found["years"] == {"2018": 10, "2019": 10, "2020": 20}
    assert found["departments"] == {"medicine": 40}
    assert found["types"]["progress"]["boilerplate"] == 0.5  # one of two phrases
    assert found["types"]["radiology"]["boilerplate"] == 0  # ten patients are too few
    assert found["types"]["radiology"]["equal"] == 0.9 and found["types"]["progress"]["equal"] == 0
    assert found["types"]["radiology"]["length"]["0.5"] == 3
    assert found["words"] == 30 * 10 + 30 + 5
    assert found["precision"] == {"phrases_read": 71, "undercount_at_most": 0, "share_of_texts_compared": 1.0}


def test_equal_texts_are_estimated_from_a_part() -> None:
    counted = Equals(200)
    for i in range(6000):
        counted.add(f"text {i % 3000 if i % 2 else i + 10**6}", "progress")
    assert len(counted.seen) <= 200 and counted.bits >= 4
    # 3,000 distinct texts, and 3,000 documents that share 1,500.
    assert counted.shares()["progress"] == pytest.approx(0.25, abs=0.06)


def test_tokens_per_word() -> None:
    rng = random.Random(1)
    documents = [note(f"p{i}", " ".join(rng.choice("abcdefgh") * 3 for _ in range(30))) for i in range(400)]
    tokenizer = train_tokenizer((d.text for d in documents), 400)
    stated = quality(documents, tokenizer)["types"]["progress"]["tokens_per_word"]
    true = sum(len(tokenizer.encode(d.text)) for d in documents) / sum(len(d.text.split()) for d in documents)
    assert stated == pytest.approx(true, rel=0.05)
    assert quality(documents)["types"]["progress"]["tokens_per_word"] is None


def test_what_was_taken_out_by_type() -> None:
    counts = {
        "duplicates": {
            "documents: progress": 10,
            "characters: progress": 1000,
            "exact duplicates: progress": 2,
            "characters in exact duplicates: progress": 200,
            "near duplicates: progress": 1,
            "characters in near duplicates: progress": 50,
            "documents: radiology": 1,
            "characters: radiology": 80,
        },
        "copy_forward": {"characters removed: progress": 300, "characters in documents left out: progress": 100},
    }
    found = removed_by_type(counts)
    assert found["progress"] == {
        "documents": 10,
        "characters": 1000,
        "exact_duplicates": 2,
        "near_duplicates": 1,
        "nothing_new": 0,
        "exact_share": 0.2,
        "near_share": 0.05,
        "copied_share": 0.4,
    }
    assert list(found) == ["progress", "radiology"]
    page = quality_page(quality([note("p", COMMON)]), "Corpus", found).markdown()
    assert "| progress | 10 | 2 | 1 | 0 | 20.0 % | 5.0 % | 40.0 % |" in page


def test_nothing_to_describe() -> None:
    assert quality([])["documents"] == 0
    assert "# Nothing" in quality_page(quality([]), "Nothing").markdown()


OFF = Cleaning(drop_malformed=False, normalise_punctuation=False, collapse_space=False, min_words=0, placeholders=())


def test_cleaning_switched_off_leaves_text_and_counts() -> None:
    text = " \u201cQuoted\u201d\x07  text <NA> with  a bell \u00b5g "
    report = Report()
    assert clean(text, OFF, report) == text
    assert not report.left_out
    for name in ("drop_malformed", "normalise_punctuation", "collapse_space"):
        assert report.counts[name] == {"documents_left_unchanged": 1}


@pytest.mark.parametrize(
    "name, cleaned",
    [
        ("drop_malformed", " \u201cQuoted\u201d  text\n\n\nwith a bell"),
        ("normalise_punctuation", ' "Quoted"\x07  text\n\n\nwith a bell'),
        ("collapse_space", "\u201cQuoted\u201d\x07 text\n\nwith a bell"),
    ],
)
def test_each_step_has_its_switch(name: str, cleaned: str) -> None:
    report = Report()
    chosen = OFF.model_copy(update={name: True})
    assert clean(" \u201cQuoted\u201d\x07  text\n\n\nwith a bell", chosen, report) == cleaned
    assert report.counts[name]["documents_changed"] == 1


def test_placeholders_and_short_documents_are_left_out_and_counted() -> None:
    report = Report()
    assert clean("a <NA> b", Cleaning(min_words=1), report) is None
    assert clean("nine words are here and that is not enough", Cleaning(), report) is None
    assert report.left_out == {"holds the placeholder <NA>": 1, "under 10 words": 1}


def test_a_corpus_describes_its_text_and_what_was_taken_out(tmp_path: Path) -> None:
    rng = random.Random(2)
    lines = [" ".join(rng.choice(["alpha", "beta", "gamma", "delta", "rho"]) for _ in range(40)) for _ in range(60)]
    (tmp_path / "text").mkdir()
    for i, line in enumerate(lines + lines[:15]):
        (tmp_path / "text" / f"{i:03d}.txt").write_text(line, encoding="utf-8")
    general = {"web": GeneralSource(path=tmp_path / "text")}
    chosen = CorpusSettings(vocab_size=600, general=general, filters={"duplicates": {"near": False}}, workers=1)
    build_corpus([], None, tmp_path / "corpus", chosen)
    found = describe_corpus(tmp_path / "corpus", tmp_path / "report.html")
    compare_tokenizers(tmp_path / "corpus", {"other": tmp_path / "corpus" / "tokenizer"}, tmp_path / "tokenizers.html")
    compared = (tmp_path / "tokenizers.html").read_text()
    assert "Tokens per word" in compared and "other" in compared and "1.00" in compared
    assert found["documents"] == 75 and found["types"]["web"]["equal"] == 0.2
    assert found["removed"]["web"]["exact_duplicates"] == 15
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What was taken out" in page and "Text of corpus" in page
