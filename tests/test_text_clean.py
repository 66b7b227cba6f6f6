"""Cleaning, questions and truncation."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, SettingsError
from lang1.common.sections import sections
from lang1.text.clean import STEPS, clean_note, surely_clean, words_of_clean
from lang1.text.questions import QUESTIONS, letters, render_question
from lang1.text.truncate import cut_text, truncate

AWKWARD = st.text(
    alphabet=st.one_of(
        st.characters(), st.sampled_from(" \n\t\r\x0b\x0c\x85.-_=…–\u0338\u0301\u200b\u2000\u2028\u037e\ufeff")
    )
)


@settings(max_examples=500)
@given(AWKWARD)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean_note(text)
    assert clean_note(once) == once
    assert "\n\n\n" not in once and "  " not in once and once == once.strip()


def test_layout_and_meaning_stay_and_noise_goes() -> None:
    raw = "HPI:\r\n\r\n\r\n  67 y/o\tmale \u2014 \u201cSOB\u201d\u2026  \n --------\n"
    raw += "\u2022 5\u00a0µg ≥ 3\u200b, 38.2 °C\x00\ufffd"
    assert clean_note(raw) == 'HPI:\n\n67 y/o male - "SOB"...\n---\n- 5 µg ≥ 3, 38.2 °C'


def test_plain_text_is_left_alone() -> None:
    text = "Assessment:\n1. CHF, EF 35%.\n2. AKI on CKD (Cr 2.1)\n\nPlan: diuresis; recheck BMP at 06:00."
    assert clean_note(text) == text


@given(st.integers(0, 40), st.integers(1, 50), st.sampled_from(["head", "tail", "head+tail"]))
def test_truncation_keeps_what_it_says(length: int, budget: int, policy: str) -> None:
    tokens = np.arange(length)
    kept, cut = truncate(tokens, budget, policy)
    assert len(kept) == min(length, budget) and cut == length - len(kept)
    assert (np.diff(kept) > 0).all()
    if cut:
        if policy != "tail":
            assert kept[0] == 0
        if policy != "head" and budget > 1:
            assert kept[-1] == length - 1
        if policy == "head+tail":
            head = [i for i, token in enumerate(kept) if token == i]
            assert len(head) == (budget + 1) // 2


def test_truncation_refusals() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        truncate(np.arange(3), 0)
    with pytest.raises(SettingsError, match="middle"):
        truncate(np.arange(3), 2, "middle")


NOTE = """Seen in clinic.
Chief Complaint: chest pain
Hospital Course: treated with heparin and catheterisation
Results: troponin 3.2
Some heading:
words of no known section"""


@given(st.integers(1, 60), st.sampled_from(["sections", "sections:results,chief_complaint", "sections:other"]))
def test_a_cut_by_section_keeps_what_comes_first(budget: int, policy: str) -> None:
    spans = [found.span() for found in re.finditer(r"\s*\S+", NOTE)]
    starts = [start for start, _ in spans]
    tokens = np.arange(len(spans))
    kept, cut = truncate(tokens, budget, policy, NOTE, starts)
    assert len(kept) == min(len(tokens), budget) and cut == len(tokens) - len(kept)
    assert (np.diff(kept) > 0).all()
    # By hand: sections in order of priority, each from its start.
    order = ["hospital_course", "chief_complaint", "start", "results", "other"]
    if ":" in policy:
        named = policy.partition(":")[2].split(",")
        order = named + [s.name for s in sections(NOTE) if s.name not in named]
    parts = {s.name: [i for i, at in enumerate(starts) if s.start <= at < s.end] for s in sections(NOTE)}
    wanted = [i for name in order for i in parts[name]][:budget]
    assert sorted(wanted) == list(kept)
    text, left = cut_text(NOTE, spans, budget, policy)
    assert left == cut and [w.strip() for w in text.split()] == [NOTE[slice(*spans[i])].strip() for i in kept]


@given(st.integers(1, 40), st.sampled_from(["head", "tail", "head+tail"]))
def test_a_text_is_cut_as_its_tokens_are(budget: int, policy: str) -> None:
    spans = [found.span() for found in re.finditer(r"\s*\S+", NOTE)]
    kept, cut = truncate(np.arange(len(spans)), budget, policy)
    text, left = cut_text(NOTE, spans, budget, policy)
    assert left == cut and text.split() == [NOTE[slice(*spans[i])].strip() for i in kept]
    assert cut or text == NOTE


def test_question_layout() -> None:
    text = render_question("mortality", ["No", "Yes"])
    assert text == f"\n\nQuestion: {QUESTIONS['mortality']}\nA. No\nB. Yes\nAnswer:"
    assert letters(5) == ["A", "B", "C", "D", "E"]
    assert render_question("Was the wound infected?", ["No", "Yes"]).startswith(
        "\n\nQuestion: Was the wound infected?\n"
    )


def test_questions_are_short() -> None:
    assert max(len(text.split()) for text in QUESTIONS.values()) <= 20


def test_question_refusals() -> None:
    with pytest.raises(InputError, match="moratlity"):
        render_question("moratlity", ["No", "Yes"])
    with pytest.raises(InputError, match="1 options"):
        render_question("mortality", ["No"])
    with pytest.raises(InputError, match="one line"):
        render_question("mortality", ["No", "Y\nes"])


@given(text=st.text(st.sampled_from("ab1.\n\n \t\r\x0b\x0c\x00\x1c\x85\u00a0\u2028\u3000\u200b-'é")) | st.text())
def test_words_of_a_clean_text_are_counted_without_cutting_it(text: str) -> None:
    clean = clean_note(text)
    assert words_of_clean(clean) == len(clean.split())


@given(
    texts=st.lists(st.text(st.sampled_from("aab1..--==\n\n  \t\r\x00\x7f\x1cé"), max_size=12) | st.text(), max_size=5)
)
def test_what_is_surely_clean_is_left_as_it_is(texts: list[str]) -> None:
    for text, surely in zip(texts, surely_clean(texts), strict=True):
        if surely:
            assert all(step(text) == text for step in STEPS.values())


def test_most_clean_notes_are_surely_clean() -> None:
    clean = ["HPI: 67M, BP 120/80.\n\nPlan: a - b...\n1. rest", "", "a", "x y", "a\n\nb"]
    assert surely_clean(clean) == [True] * len(clean) and surely_clean([]) == []
    for text in (
        " a",
        "a ",
        "\na",
        "a\n",
        "a  b",
        "a \nb",
        "a\n b",
        "a\n\n\nb",
        "a\tb",
        "----",
        "é",
        "a\rb",
        "\x7f",
        "\n",
    ):
        assert surely_clean([*clean, text, *clean]) == [True] * 5 + [False] + [True] * 5, text
    assert surely_clean(["a\x00b", "c"]) == [False, False]


@given(text=st.text(st.sampled_from("ab \t\n\r\x0b\x0c"), max_size=40))
def test_space_is_collapsed_as_by_regular_expressions(text: str) -> None:
    expected = re.sub(r"\r\n|[\r\x0b\x0c]", "\n", text)
    expected = re.sub(r" ?\n ?", "\n", re.sub(r"[ \t]+", " ", expected))
    assert STEPS["collapse_space"](text) == re.sub(r"\n{3,}", "\n\n", expected).strip(" \n")
