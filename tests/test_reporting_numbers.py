"""Numbers in words, and the geometry of the plots."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lang1.reporting import numbers, svg


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.fixed(0.8124), "0.812"),
        (numbers.fixed(-0.0001), "0.000"),
        (numbers.fixed(None), "–"),
        (numbers.fixed(math.nan), "–"),
        (numbers.signed(0.0123), "+0.012"),
        (numbers.signed(-0.0123), "−0.012"),
        (numbers.signed(0.00001), "0.000"),
        (numbers.with_interval(0.812, 0.79, 0.833), "0.812 (0.790–0.833)"),
        (numbers.with_interval(0.812, None, None), "0.812"),
        (numbers.with_interval(0.5, 0.5, 0.5), "0.500"),
        (numbers.interval(-0.02, 0.01), "−0.020 to 0.010"),
        (numbers.signed_with_interval(0.022, -0.01, 0.05), "+0.022 (−0.010 to +0.050)"),
        (numbers.percent(0.634), "63\u202f%"),
        (numbers.percent(0.024), "2.4\u202f%"),
        (numbers.percent(0.0999), "10\u202f%"),
        (numbers.percent(None), "–"),
        (numbers.percent_interval(0.58, 0.68), "58–68\u202f%"),
        (numbers.percent_interval(-0.03, 0.3), "−3 to 30\u202f%"),
        (numbers.count(1204), "1,204"),
        (numbers.compact(4_212_480), "4.21\u202fM"),
        (numbers.compact(0), "0"),
        (numbers.duration(212.4), "3\u202fmin 32\u202fs"),
        (numbers.duration(7505), "2\u202fh 05\u202fmin"),
        (numbers.p_value("p=0.0041"), "0.004"),
        (numbers.p_value("p < 0.001"), "<0.001"),
        (numbers.p_value("0"), "<0.001"),
        (numbers.p_value("0.44"), "0.44"),
        (numbers.p_value("3e-9"), "<0.001"),
        (numbers.p_value(None), "–"),
        (numbers.join(["a", "b", "c"]), "a, b and c"),
        (numbers.plural(1, "task"), "1 task"),
    ],
)
def test_a_number_reads_as_a_person_writes_it(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float, wanted: int) -> None:
    high = low + span
    found = svg.ticks(low, high, wanted)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert all(low - slack <= t <= high + slack for t in found)
    assert len(found) <= wanted + 2
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert all(math.isclose(g, gaps[0], rel_tol=1e-3, abs_tol=slack) for g in gaps)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_keep_their_distance_and_order(wanted: list[float]) -> None:
    placed = svg.spread(wanted, 13, 0, 200)
    ranked = sorted(placed)
    assert all(b - a >= 13 - 1e-6 for a, b in itertools.pairwise(ranked))
    assert all(0 - 1e-6 <= p <= 200 + 1e-6 for p in placed)
    by_wish = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [placed[i] for i in by_wish] == ranked


def test_an_element_escapes_its_text_and_attributes() -> None:
    assert svg.tag("text", "<b>", title='"') == '<text title="&#34;">&lt;b&gt;</text>'


def test_a_curve_of_many_points_is_drawn_with_few() -> None:
    dense = [(k / 1000, k / 1000) for k in range(10_001)]
    drawn = svg.path(dense, "curve").count(",")
    assert drawn <= 24
    assert "10,10" in svg.path(dense, "curve")  # the end is kept
