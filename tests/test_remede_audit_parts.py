"""The audit's parts: intervals against scipy, runs of words against brute force, detectors and sections on text."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lang1.common.sections import filled, name_of, sections
from lang1.remede.audit.detectors import dates, load
from lang1.remede.audit.duplicates import RUN, similar
from lang1.remede.audit.effects import (
    area,
    corrected,
    difference_low,
    exact_low,
    hit_auroc,
    rate_ratio,
    share,
    share_ratio,
)
from lang1.remede.audit.settings import guards, pitfalls, shipped_thresholds
from lang1.remede.audit.words import Words

COUNTS = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.9, 0.99, 0.99999]))
def test_shares_against_scipy(counts: tuple[int, int], level: float) -> None:
    k, n = counts
    wilson = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    found = share(k, n, level)
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    exact = stats.binomtest(k, n).proportion_ci(level, method="exact")
    assert float(exact_low(k, n, level)) == pytest.approx(exact.low, abs=1e-9)


@given(COUNTS, COUNTS)
def test_differences_lie_below_their_estimate(one: tuple[int, int], two: tuple[int, int]) -> None:
    low = float(difference_low(*one, *two, 0.99))
    assert -1 - 1e-9 <= low <= one[0] / one[1] - two[0] / two[1] + 1e-9
    assert float(hit_auroc(*one, *two)) == pytest.approx(0.5 + (one[0] / one[1] - two[0] / two[1]) / 2)


def test_ratios() -> None:
    even = rate_ratio(30, 30, 365, 365, 0.99)
    assert even.low < 1 < even.high and even.value == pytest.approx(1)
    assert rate_ratio(0, 30, 365, 365, 0.99).high < 0.3
    assert rate_ratio(0, 30, 3, 365, 0.99).high > 1
    assert share_ratio(4, 4, 9, 110, 0.9999).low < 2.6, "four examples of four decide nothing"
    assert share_ratio(300, 1000, 1000, 1000, 0.999).high < 0.4
    assert corrected(0.99, 10) == pytest.approx(0.999)


def test_an_area_needs_cases() -> None:
    rng = np.random.default_rng(0)
    case = np.arange(400) < 12
    chance = area(case, rng.random(400), np.arange(400), 0.999, 100)
    assert chance.low < 0.5 < chance.high and chance.high - chance.low > 0.3
    assert area(case, case + 0.1 * rng.random(400), np.arange(400), 0.999, 100).low > 0.95
    assert area(np.zeros(5, dtype=bool), np.ones(5), np.arange(5), 0.9, 50).low == 0


TEXTS = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=0, max_size=25).map(" ".join), min_size=1, max_size=7)


@settings(max_examples=60)
@given(TEXTS, st.data())
def test_similar_notes_against_brute_force(texts: list[str], data: st.DataObject) -> None:
    patients = np.array([data.draw(st.integers(0, 3)) for _ in texts], dtype=np.int64)
    bound = data.draw(st.integers(2, 4))
    runs = [{tuple(w[i : i + RUN]) for i in range(len(w) - RUN + 1)} for w in (t.split() for t in texts)]
    holders: dict[tuple[str, ...], set[int]] = {}
    for found, patient in zip(runs, patients.tolist(), strict=True):
        for run in found:
            holders.setdefault(run, set()).add(patient)
    rare = [{run for run in found if len(holders[run]) <= bound} for found in runs]
    expected = {
        (a, b): (len(rare[a] & rare[b]), len(rare[a] & rare[b]) / min(len(rare[a]), len(rare[b])))
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
        if patients[a] != patients[b] and rare[a] & rare[b]
    }
    pairs = similar(Words.of(texts), patients, bound)
    got = zip(pairs.one.tolist(), pairs.two.tolist(), pairs.shared.tolist(), pairs.contained.tolist(), strict=True)
    # A run in many notes of few patients is compared within a window; short lists are compared whole.
    if max(np.bincount(patients)) * 4 <= 2 * bound:
        found = {(a, b): (n, c) for a, b, n, c in got}
        assert found.keys() == expected.keys()
        assert all(found[pair] == pytest.approx(expected[pair]) for pair in expected)
    else:
        assert {(a, b) for a, b, *_ in got} <= set(expected)


def test_templates_are_no_copies_and_edited_copies_are() -> None:
    rng = np.random.default_rng(1)
    template = " ".join(f"line{i} of the form" for i in range(60))
    own = [" ".join(rng.choice([f"w{k}" for k in range(400)], 80)) for _ in range(40)]
    texts = [f"{template} {words}" for words in own]
    copied = texts[3].split()
    for place in range(120, len(copied), 20):
        copied[place] = "changed"
    texts.append(" ".join(copied))
    pairs = similar(Words.of(texts), np.arange(len(texts)), 5)
    strong = pairs.contained >= 0.5
    assert [(int(a), int(b)) for a, b in zip(pairs.one[strong], pairs.two[strong], strict=True)] == [(3, 40)]


def test_words_keep_decimals_and_texts_apart() -> None:
    words = Words.of(["Potassium 3.5 today", "", "today 3.5"])
    assert words.vocabulary == ["potassium", "3.5", "today"]
    hashes, text, start = words.runs(2)
    assert text.tolist() == [0, 0, 2] and len(set(hashes.tolist())) == 3
    assert words.phrase(int(start[0]), 2) == "potassium 3.5"


@pytest.mark.parametrize(
    ("detector", "text", "number"),
    [
        ("stay_stated", "LENGTH OF STAY: 8 days", 8),
        ("stay_stated", "Hospital stay was 12 days.", 12),
        ("stayed_for", "She stayed for 4 days", 4),
        ("index_told", "Charlson comorbidity index: 6", 6),
        ("death_told", "the patient then expired", None),
        ("death_told", "Time of death 04:10", None),
        ("return_told", "readmitted on day 9", None),
        ("denial_told", "Authorization was denied by the plan", None),
        ("denial_told", "adjusted CO-197", None),
        ("late_text", "Plan as above.\nADDENDUM: culture grew", None),
        ("discharge_told", "was discharged home on", None),
    ],
)
def test_detectors_find(detector: str, text: str, number: float | None) -> None:
    spans = load(None)[detector].spans(text)
    assert spans and spans[0][2] == number


@pytest.mark.parametrize(
    ("detector", "text"),
    [
        ("death_told", "Father died of a stroke at 60. Milk expired."),
        ("stay_stated", "plans a long stay of unknown length"),
        ("denial_told", "Patient denies chest pain. Denied any fall. Papers held at desk: authorization."),
        ("return_told", "admitted with a cough"),
        ("late_text", "No amendment to the diet was needed"),
        ("index_told", "Dr Charlson saw the patient, 3 visits"),
    ],
)
def test_detectors_leave_alone(detector: str, text: str) -> None:
    assert not load(None)[detector].spans(text)


def test_dates_in_text() -> None:
    text = "2021-03-04, 3/5/21, 6th March 2021, Mar 7, 2021 and 13/40/2021, on 5/2021"
    assert sorted(day for day, _, _ in dates(text)) == [date(2021, 3, d) for d in (4, 5, 6, 7)]


def test_sections() -> None:
    note = "62 year old man\nHPI: cough\nHospital Course:\ntreated\nPLAN\nhome\nBP: 120/80\nDischarge disposition: \n"
    assert [s.name for s in sections(note)] == [
        "start", "history_of_present_illness", "hospital_course", "assessment_and_plan", "discharge_disposition",
    ]  # fmt: skip
    assert "".join(note[s.start : s.end] for s in sections(note)) == note
    assert [s.heading for s in filled(note, ["hospital_course", "discharge_disposition"])] == ["Hospital Course"]
    assert sections("") == [] and name_of("Final diagnosis codes") == "discharge_codes"
    assert name_of("Disposition") == "other", "an admission note's disposition is where the patient is admitted to"


def test_every_pitfall_has_a_guard_or_a_place_elsewhere() -> None:
    assert all(pitfall.guards or pitfall.elsewhere for pitfall in pitfalls().values())
    assert {guard for pitfall in pitfalls().values() for guard in pitfall.guards} == set(guards())
    assert all(len(threshold.reason) > 30 for threshold in shipped_thresholds().values())
