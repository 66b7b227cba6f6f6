"""The user's tables of planned returns: which category a code has, where they are read from, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from test_remede_world import dc, labels, settings, stay, write

from lang1.common.errors import SettingsError
from lang1.remede.benchmark import Benchmark
from lang1.remede.build import build
from lang1.remede.tasks.planned import categories_of, plain_code, read_planned_tables

TABLES = Path(__file__).parent / "data" / "planned"


@pytest.mark.parametrize(
    ("version", "code", "procedure", "categories"),
    [
        ("ICD-10-CM", "k57.32", False, ("diverticulitis",)),  # the longest prefix
        ("ICD-10-CM", "K5730", False, ("diverticular disease",)),
        ("ICD-10-CM", "K58", False, ()),
        ("ICD-10", "K57.32", False, ()),  # another version
        ("ICD-9-CM", "8.45", False, ("gut infection",)),  # zeros lost on the way
        ("ICD-9-CM", "1.24", True, ("skull opening",)),
        ("ICD-9-CM", "0124", True, ("skull opening",)),
        ("ICD-9-CM", "81.54", True, ("joint replacement",)),
        ("ICD-10-PCS", "0TY00Z0", True, ("kidney transplant",)),
    ],
)
def test_a_code_has_the_categories_of_its_longest_prefix(
    version: str, code: str, procedure: bool, categories: tuple[str, ...]
) -> None:
    tables = read_planned_tables(TABLES)
    table = tables.procedures if procedure else tables.diagnoses
    assert categories_of(table, version, plain_code(version, code, procedure=procedure)) == categories


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("lists.csv", None, "lists.csv is missing"),
        ("lists.csv", "list,kind\n", "column 'category' is missing"),
        ("lists.csv", "list,category\nplanned,joint replacement\n", "row 1: list is 'planned'"),
        (
            "lists.csv",
            "list,category\nacute_diagnosis,joint replacement\n",
            "row 1: no code of diagnosis_categories.csv",
        ),
        ("diagnosis_categories.csv", "code_version,code,category\nICD10,I21,mi\n", "row 1: code_version is 'ICD10'"),
        ("procedure_categories.csv", "code_version,code,category\nCPT,1,a\nCPT,,b\n", "row 2: 'code' is empty"),
        ("lists.csv", b"list,category\nacute_diagnosis,\xff\n", "cannot be read as CSV in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_by_file_and_row(
    file: str, content: str | bytes | None, said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(TABLES, tmp_path / "tables"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as error:
        read_planned_tables(folder)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_relative_folder_is_sought_beside_the_card(tmp_path: Path) -> None:
    cards = tmp_path / "cards"
    shutil.copytree(TABLES, cards / "tables")
    own = {"based_on": "readmission_cms_like", "title": "Ours", "constants": {"planned_tables": "tables"}}
    (cards / "ours.yaml").write_text(yaml.safe_dump(own))
    index = stay("A1", "a", "2020-01-01 10:00", "2020-01-05 10:00")
    back = stay("A2", "a", "2020-01-15 10:00", "2020-01-18 10:00", admission_type="emergency")
    code = {"encounter_id": "A2", "patient_id": "a", "code": "Z51.11", "code_version": "ICD-10-CM", "position": 1}
    tables = {"encounters": [index, back], "notes": [dc("A1", "a", "2020-01-05 12:00")], "diagnoses": [code]}
    records = write(tmp_path / "records", tables)
    out = build(records, tmp_path / "out", settings(tasks=["ours", "readmission_cms_like"], card_dir=cards))
    assert labels(Benchmark.open(out)) == {"readmission_cms_like:A1": 1, "ours:A1": 0}
