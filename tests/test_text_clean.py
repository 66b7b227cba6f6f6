"""Cleaning, questions and truncation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import InputError, SettingsError
from lang1.text.clean import clean_note
from lang1.text.questions import QUESTIONS, letters, render_question
from lang1.text.truncate import truncate

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
