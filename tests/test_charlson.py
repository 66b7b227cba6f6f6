"""The Charlson index against the printed table, written here a second time."""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.remede.charlson import create_scores, expand, load, normalise

# ICD-9-CM as number ranges (first and last code, three digits and decimals, both included) and ICD-10 as regular
# expressions, by group with the weights of 1987 and 2011: another form than the prefixes of the shipped table.
NINE: dict[str, list[tuple[float, float]]] = {
    "myocardial_infarction": [(410, 410.99), (412, 412.99)],
    "heart_failure": [
        *[(c, c) for c in (398.91, 402.01, 402.11, 402.91, 404.01, 404.03, 404.11, 404.13, 404.91, 404.93)],
        (425.4, 425.99),
        (428, 428.99),
    ],
    "peripheral_vascular": [
        *[(c, c + 0.09) for c in (93.0, 437.3, 447.1, 557.1, 557.9)],
        (440, 441.99),
        (443.1, 443.99),
    ],
    "cerebrovascular": [(362.34, 362.34), (430, 438.99)],
    "dementia": [(290, 290.99), (294.1, 294.19), (331.2, 331.29)],
    "chronic_pulmonary": [(416.8, 416.99), (490, 505.99), (506.4, 506.49), (508.1, 508.19), (508.8, 508.89)],
    "rheumatic": [(446.5, 446.59), (710.0, 710.49), (714.0, 714.29), (714.8, 714.89), (725, 725.99)],
    "peptic_ulcer": [(531, 534.99)],
    "mild_liver": [
        *[(c, c) for c in (70.22, 70.23, 70.32, 70.33, 70.44, 70.54)],
        *[(c, c + 0.09) for c in (70.6, 70.9, 573.3, 573.4, 573.8, 573.9)],
        (570, 571.99),
    ],
    "diabetes": [(250.0, 250.39), (250.8, 250.99)],
    "diabetes_complicated": [(250.4, 250.79)],
    "paralysis": [(334.1, 334.19), (342, 343.99), (344.0, 344.69), (344.9, 344.99)],
    "renal": [
        *[(c, c) for c in (403.01, 403.11, 403.91, 404.02, 404.03, 404.12, 404.13, 404.92, 404.93)],
        *[(582, 582.99), (583.0, 583.79), (585, 586.99), (588.0, 588.09)],
    ],
    "malignancy": [(140, 172.99), (174, 194.99), (195.0, 195.89), (200, 208.99), (238.6, 238.69)],
    "severe_liver": [(456.0, 456.29), (572.2, 572.89)],
    "metastatic": [(196, 199.99)],
    "aids": [(42, 44.99)],
}
VEES = {"V434": "peripheral_vascular", "V427": "mild_liver", "V420": "renal", "V451": "renal", "V56": "renal"}
TEN: dict[str, str] = {
    "myocardial_infarction": "I2[12]|I252",
    "heart_failure": "I099|I110|I13[02]|I255|I420|I42[5-9]|I43|I50|P290",
    "peripheral_vascular": "I7[01]|I73[189]|I771|I79[02]|K55[189]|Z95[89]",
    "cerebrovascular": "G4[56]|H340|I6",
    "dementia": "F0[0-3]|F051|G30|G311",
    "chronic_pulmonary": "I27[89]|J4[0-7]|J6[0-7]|J684|J70[13]",
    "rheumatic": "M0[56]|M315|M3[2-4]|M35[13]|M360",
    "peptic_ulcer": "K2[5-8]",
    "mild_liver": "B18|K70[01239]|K71[3457]|K7[34]|K76[023489]|Z944",
    "diabetes": "E1[0-4][01689]",
    "diabetes_complicated": "E1[0-4][23457]",
    "paralysis": "G041|G114|G80[12]|G8[12]|G83[012349]",
    "renal": "I120|I131|N03[2-7]|N05[2-7]|N1[89]|N250|Z49[012]|Z940|Z992",
    "malignancy": "C[01]|C2[0-6]|C3[0-4]|C3[789]|C4[01]|C43|C4[5-9]|C5[0-8]|C6|C7[0-6]|C8[1-5]|C88|C9[0-7]",
    "severe_liver": "I85[09]|I864|I982|K704|K711|K72[19]|K76[567]",
    "metastatic": "C7[789]|C80",
    "aids": "B2[0124]",
}
WEIGHTS = {
    "1987": dict(zip(TEN, (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 6, 6), strict=True)),
    "2011": dict(zip(TEN, (0, 2, 0, 0, 2, 1, 1, 0, 2, 0, 1, 2, 1, 2, 4, 6, 4), strict=True)),
}
MILDER = {"severe_liver": "mild_liver", "diabetes_complicated": "diabetes", "metastatic": "malignancy"}


def table_groups(version: str, code: str) -> set[str]:
    """The groups of one dot-less code by the ranges above."""
    if version != "ICD-9-CM":
        return {name for name, pattern in TEN.items() if re.match(f"(?:{pattern})", code)}
    if not code[0].isdigit():
        return {name for prefix, name in VEES.items() if code.startswith(prefix)}
    # A category alone says nothing of its decimals: only ranges that hold the whole category hold it.
    low = float(f"{code[:3]}.{code[3:] or '0'}")
    high = float(f"{code[:3]}.{code[3:]:9<2}")
    hit = {n for n, rs in NINE.items() if any(a - 1e-9 <= low and high <= b + 1e-9 for a, b in rs)}
    return hit


def brute_score(codes: list[tuple[str, str]], weights: str) -> int:
    groups: set[str] = set()
    for version, code in codes:
        groups |= table_groups(version, code)
    return sum(WEIGHTS[weights][g] for g in groups if not any(MILDER.get(o) == g for o in groups))


def scores(encounters: dict[str, list[tuple[str, str]]], weights: str = "1987", variant: str = "who") -> dict[str, int]:
    """The SQL path."""
    rows = [(name, code, version) for name, codes in encounters.items() for version, code in codes]
    connection = duckdb.connect(":memory:")
    names = ("encounter_id", "code", "code_version")
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    connection.register(
        "diagnoses", pa.table(dict(zip(names, (pa.array(c, pa.string()) for c in columns), strict=True)))
    )
    create_scores(connection, weights, variant)  # type: ignore[arg-type]
    return dict(connection.execute("SELECT encounter_id, score FROM charlson_scores").fetchall())


nine = st.one_of(
    st.integers(1, 999).flatmap(
        lambda c: st.sampled_from([f"{c:03d}{d}" for d in ("", *"0123456789", "01", "13", "91", "54")])
    ),
    st.sampled_from([p + d for p in ("V434", "V427", "V420", "V451", "V56", "V457", "E850") for d in ("", "1")]),
)
ten = st.builds(
    lambda letter, category, rest: f"{letter}{category:02d}{rest}",
    st.sampled_from("ABCEFGHIJKMNPZ"),
    st.integers(0, 99),
    st.sampled_from(["", *"0123456789", "01", "22", "9X"]),
)
some_code = st.one_of(st.tuples(st.just("ICD-9-CM"), nine), st.tuples(st.sampled_from(["ICD-10-CM", "ICD-10"]), ten))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(some_code, min_size=1, max_size=6), min_size=1, max_size=40), st.sampled_from(["1987", "2011"])
)
def test_sql_and_python_equal_the_table(stays: list[list[tuple[str, str]]], weights: str) -> None:
    encounters = {f"e{i}": codes for i, codes in enumerate(stays)}
    expected = {name: brute_score(codes, weights) for name, codes in encounters.items()}
    assert scores(encounters, weights) == expected
    index = load(weights)  # type: ignore[arg-type]
    assert {name: index.score(codes) for name, codes in encounters.items()} == expected


def test_every_category_and_decimal_equals_the_table() -> None:
    codes = [
        ("ICD-9-CM", f"{c:03d}{d}")
        for c in range(1, 1000)
        for d in ("", *map(str, range(10)), "01", "34", "54", "91", "93")
    ]
    codes += [
        ("ICD-10", f"{x}{c:02d}{d}") for x in "BCEFGHIJKMNPZ" for c in range(100) for d in ("", *map(str, range(10)))
    ]
    index = load()
    wrong = [(v, c) for v, c in codes if index.groups([(v, c)]) != table_groups(v, c)]
    assert wrong == []


@pytest.mark.parametrize(
    ("version", "code", "groups"),
    [
        ("ICD-9-CM", "404.03", {"heart_failure", "renal"}),
        ("ICD-9-CM", "40413", {"heart_failure", "renal"}),
        ("ICD-9-CM", "404.93", {"heart_failure", "renal"}),
        ("ICD-9-CM", "404.01", {"heart_failure"}),
        ("ICD-9-CM", "404.02", {"renal"}),
        ("ICD-9-CM", "437.3", {"peripheral_vascular", "cerebrovascular"}),
        ("ICD-9-CM", "447.1", {"peripheral_vascular"}),  # printed as 47.1
        ("ICD-9-CM", "047.1", set()),
        ("ICD-10-CM", "C86.1", set()),
        ("ICD-10-CM", "C7A.00", set()),
        ("ICD-10-CM", "C7B.02", set()),
        ("ICD-10-CM", "C44.9", set()),
        ("ICD-9-CM", "173.3", set()),
        ("ICD-10-CM", "E10.10", {"diabetes"}),  # the digit one, not the letter
        ("ICD-10-CM", "E10l", set()),
        ("ICD-9-CM", "195", set()),  # needs its fourth digit
        ("ICD-9-CM", "195.3", {"malignancy"}),
        ("ICD-9-CM", "42", {"aids"}),  # a leading zero lost
        ("ICD-9-CM", "42.0", {"aids"}),
        ("ICD-9-CM", "420", set()),
        ("ICD-9-CM", " v42.0 ", {"renal"}),
        ("ICD-10-CM", "i50.22", {"heart_failure"}),
        ("ICD-9-CM", "I50", set()),  # the version decides, not the look
    ],
)
def test_errata_double_hits_and_spelling(version: str, code: str, groups: set[str]) -> None:
    assert load().groups([(version, code)]) == groups
    assert scores({"e": [(version, code)]}) == {"e": sum(WEIGHTS["1987"][g] for g in groups)}


@pytest.mark.parametrize(
    ("codes", "y1987", "y2011"),
    [
        (["K74.6", "K76.6"], 3, 4),
        (["E11.9", "E11.22"], 2, 1),
        (["C18.9", "C78.7"], 6, 6),
        (["I50.9", "I50.1", "I11.0"], 1, 2),
        (["B20"], 6, 4),
        (["I10"], 0, 0),
        (["I21.4", "I50.9", "J44.9", "N18.3", "E11.9"], 6, 4),
    ],
)
def test_hierarchy_and_both_weights(codes: list[str], y1987: int, y2011: int) -> None:
    stay = [("ICD-10-CM", code) for code in codes]
    assert scores({"e": stay}, "1987") == {"e": y1987}
    assert scores({"e": stay}, "2011") == {"e": y2011}
    # The hierarchy belongs to the encounter: the same codes in two stays do not suppress each other.
    apart = scores({str(i): [code] for i, code in enumerate(stay)})
    assert apart == {str(i): load().score([code]) for i, code in enumerate(stay)}


def test_encounters_without_codes_have_no_score() -> None:
    assert scores({}) == {}


def test_ranges_expand() -> None:
    assert expand("425.4-425.6") == ["4254", "4255", "4256"]
    assert expand("C08-C11") == ["C08", "C09", "C10", "C11"]
    assert expand("V43.4") == ["V434"]
    assert normalise("ICD-9-CM", "8.45") == "00845"


@pytest.mark.parametrize(
    ("code", "groups"),
    [
        ("C7A.00", {"malignancy"}),
        ("C4A.0", {"malignancy"}),
        ("C86.1", {"malignancy"}),
        ("C7B.02", {"metastatic"}),
        ("E08.9", {"diabetes"}),
        ("E09.65", {"diabetes"}),
        ("E08.22", {"diabetes_complicated"}),
        ("I85.11", {"severe_liver"}),
        ("D3A.0", set()),  # benign
    ],
)
def test_us_cm_adds_codes_of_its_version_alone(code: str, groups: set[str]) -> None:
    assert load("1987", "us_cm").groups([("ICD-10-CM", code)]) == groups
    assert load("1987", "us_cm").groups([("ICD-10", code)]) == set()
    assert load().groups([("ICD-10-CM", code)]) == set()


def test_us_cm_only_adds() -> None:
    who, us = load(), load("1987", "us_cm")
    assert set(who.prefixes) < set(us.prefixes)
    assert {system for system, _, _ in set(us.prefixes) - set(who.prefixes)} == {"us_cm"}
