"""The audit finds leaks that are planted by editing records or benchmark, and fails nothing on a clean system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from lang1.common.artefact import MANIFEST, new_folder
from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.common.identity import write_patient_hashes
from lang1.common.settings import load_settings
from lang1.records.schema import TABLES
from lang1.records.store import part_files, write_table_part
from lang1.remede.audit import (
    AuditReport,
    AuditSettings,
    Finding,
    answers,
    audit,
    claims,
    duplicates,
    masks,
    observation,
    phrases,
    pretraining,
    rebuild,
    run,
    shortcuts,
    sites,
    structure,
    support,
    tails,
    times,
)
from lang1.remede.audit.material import Material
from lang1.remede.benchmark import EXAMPLES
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.remede.tasks import cohort_of
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

QUICK = AuditSettings(rebuilt=8, resamples=50)
Check = Callable[[Material], list[Finding]]
OUTCOMES = """
    WITH stays AS (
        SELECT *, lead(admit_time) OVER (PARTITION BY patient_id ORDER BY admit_time) AS next FROM encounters
        WHERE encounter_class = 'inpatient'),
    denials AS (SELECT encounter_id, bool_or(final_status LIKE 'denied%') AS denied FROM claims GROUP BY 1)
    SELECT encounter_id, disposition = 'expired' AS died, discharge_time, denied,
        coalesce(next <= discharge_time + INTERVAL 30 DAY, false) AS back,
        date_diff('day', admit_time, discharge_time) AS days
    FROM stays LEFT JOIN denials USING (encounter_id)"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``records`` and ``benchmark`` of a simulated system."""
    place = tmp_path_factory.mktemp("clean")
    settings = SimulatorSettings(patients=1100, seed=17, preset="high-acuity", workers=1)
    (made,) = simulate(place / "sim", settings)
    made.rename(place / "records")
    build(place / "records", place / "benchmark", BuildSettings(calendar="demo"))
    return place


@pytest.fixture(scope="module")
def report(clean: Path) -> AuditReport:
    return audit(clean / "benchmark", clean / "audit", QUICK)


def planted(clean: Path, tmp_path: Path, **edits: str) -> Path:
    """A copy whose tables are rewritten by SQL (``out`` holds outcomes); the benchmark is not built again."""
    shutil.copytree(clean / "records", tmp_path / "records")
    shutil.copytree(clean / "benchmark", tmp_path / "benchmark")
    point(tmp_path)
    edit(tmp_path / "records", **edits)
    return tmp_path / "benchmark"


def point(place: Path) -> None:
    manifest = place / "benchmark" / MANIFEST
    said = json.loads(manifest.read_text())
    said["extra"]["records"]["path"] = str(place / "records")
    manifest.write_text(json.dumps(said))


def edit(records: Path, **edits: str) -> None:
    for table, sql in edits.items():
        connection = duckdb.connect(":memory:")
        for name in TABLES:
            files = [str(file) for file in part_files(records, name)]
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet({files})")
        connection.execute(f"CREATE TABLE out AS {OUTCOMES}")
        rows = connection.sql(sql).to_arrow_table()
        connection.close()
        for file in part_files(records, table):
            file.unlink()
        write_table_part(records, table, rows, 0)


def rebuilt(clean: Path, tmp_path: Path, build_settings: BuildSettings | None = None, **edits: str) -> Path:
    """A copy whose tables are rewritten by SQL before the benchmark is built."""
    shutil.copytree(clean / "records", tmp_path / "records")
    edit(tmp_path / "records", **edits)
    return build(tmp_path / "records", tmp_path / "benchmark", build_settings or BuildSettings(calendar="demo"))


def found(
    check: Check, benchmark: Path, settings: AuditSettings = QUICK, only: tuple[str, ...] = (), **named: Any
) -> list[Finding]:
    """Findings of one guard, of some tasks only where that saves time."""
    material = Material.open(benchmark, settings, **named)
    material.cards = {task: card for task, card in material.cards.items() if not only or task in only}
    return check(material)


def failed(findings: list[Finding], task: str | None = None) -> list[Finding]:
    return [f for f in findings if f.verdict == "fail" and f.task == task]


def note(text: str, when: str, kind: str = "history_and_physical") -> str:
    return f"""SELECT n.* REPLACE (CASE WHEN n.note_type = '{kind}' AND n.parent_note_id IS NULL AND ({when})
        THEN {text} ELSE n.text END AS text) FROM notes n LEFT JOIN out o USING (encounter_id)"""


def stays(what: str) -> str:
    return f"SELECT e.* REPLACE ({what}) FROM encounters e LEFT JOIN out o USING (encounter_id)"


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_clean_system_passes(report: AuditReport) -> None:
    assert [f for f in report.findings if f.verdict in ("fail", "warn")] == []
    assert not report.failed
    swapped = [f for f in report.findings if f.guard == "swapped_outcome"]
    assert len(swapped) == 5 and all(f.figures["compared"] >= 4 for f in swapped)
    truncated = [f for f in report.findings if f.guard == "truncation"]
    assert all(f.figures["not_asked_again"] == 0 and f.figures["rebuilt"] == 8 for f in truncated)


def test_the_folder_says_what_was_found(report: AuditReport, clean: Path) -> None:
    said = json.loads((clean / "audit" / "audit.json").read_text())
    assert said["failed"] is False
    assert [row["number"] for row in said["pitfalls"]] == list(range(1, 24))
    assert {row["number"] for row in said["pitfalls"] if row["verdict"] == "checked elsewhere"} == {15, 18, 19, 21}
    assert all(row["guards"] or row["elsewhere"] for row in said["pitfalls"])
    assert {finding["guard"] for finding in said["findings"]} == {guard["name"] for guard in said["guards"]}
    assert len(report.lines()) == len(said["guards"])
    page = (clean / "audit" / "audit.html").read_text()
    assert "None of 18 guards failed" in page and "://" not in page
    assert "Signs" not in page, "text of a note must not reach the page"
    with pytest.raises(ArtefactError, match="exists already"):
        audit(clean / "benchmark", clean / "audit", QUICK)


def test_a_guard_that_breaks_off_fails(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = planted(clean, tmp_path)
    monkeypatch.setattr(run, "GUARDS", {name: run.GUARDS[name] for name in ("answer_text", "pretraining")})
    own = tmp_path / "detectors.yaml"
    own.write_text("mine: {rules: ['*'], finds: phrase, words: x, pattern: '('}")
    with pytest.raises(SettingsError, match="no regular expression"):
        answers.check(Material.open(benchmark, AuditSettings(detectors=own)))
    said = audit(benchmark, tmp_path / "audit", AuditSettings(rebuilt=2, resamples=50, detectors=own))
    assert said.failed
    assert any(f.guard == "answer_text" and "could not be checked" in f.words for f in said.findings)


def test_thresholds_are_known_and_can_be_set() -> None:
    with pytest.raises(SettingsError, match="unknown 'phrase_aurok'"):
        load_settings(AuditSettings, overrides=["thresholds.phrase_aurok=0.6"])
    settings = load_settings(AuditSettings, overrides=["thresholds.phrase_auroc=0.6"])
    assert settings.threshold("phrase_auroc").value == 0.6
    assert AuditSettings().threshold("phrase_auroc", "comorbidity").value == 0.95
    assert AuditSettings().threshold("phrase_auroc", "mortality").value == 0.70


# --- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "kind", "when", "text"),
    [
        ("mortality", "history_and_physical", "o.died", "n.text || ' The patient expired on the ward.'"),
        ("readmission", "discharge_summary", "o.back", "n.text || ' She was readmitted two weeks later.'"),
        ("length_of_stay", "history_and_physical", "o.days >= 0", "n.text || ' LOS ' || o.days || ' days'"),
        ("insurance_denial", "history_and_physical", "o.denied", "n.text || ' Claim denied, appeal sent.'"),
    ],
)
def test_stated_answers(task: str, kind: str, when: str, text: str, clean: Path, tmp_path: Path) -> None:
    some = f"{when} AND hash(n.note_id) % 3 = 0"
    benchmark = planted(clean, tmp_path, notes=note(text, some, kind))
    bad = [f for f in failed(found(answers.check, benchmark, only=(task,)), task) if "detector" in f.figures]
    assert bad and bad[0].count >= 10 and all(example.startswith(f"{task}:") for example in bad[0].examples)
    assert len(bad[0].examples) == 10


def test_phrases_without_a_detector(clean: Path, tmp_path: Path) -> None:
    text = "n.text || ' Routed by the violet pathway.'"
    benchmark = planted(clean, tmp_path, notes=note(text, "o.died AND hash(n.note_id) % 2 = 0"))
    (bad,) = failed(found(phrases.check, benchmark, only=("mortality",)), "mortality")
    assert {p["phrase"] for p in bad.figures["phrases"]} & {"violet", "violet pathway", "the violet pathway"}
    allowed = AuditSettings(allowed_phrases={"mortality": ("Plan as above. Routed by the violet pathway.",)})
    assert not failed(found(phrases.check, benchmark, allowed, only=("mortality",)), "mortality")


def test_a_phrase_that_is_chance_is_none(clean: Path, tmp_path: Path) -> None:
    text = "n.text || ' The patient expired on the ward.'"
    benchmark = planted(clean, tmp_path, notes=note(text, "hash(n.note_id, 5) % 10 = 0"))
    findings = found(answers.check, benchmark, only=("mortality",))
    assert not failed(findings, "mortality")
    assert [
        f for f in findings if f.verdict == "warn" and f.task == "mortality" and f.figures["detector"] == "death_told"
    ]


def test_dates_codes_and_sections_of_the_discharge(clean: Path, tmp_path: Path) -> None:
    date = "n.text || ' To be seen ' || strftime(o.discharge_time, '%B %d, %Y')"
    benchmark = planted(clean, tmp_path, notes=note(date, "o.discharge_time IS NOT NULL AND hash(n.note_id) % 5 = 0"))
    (bad,) = [
        f
        for f in failed(found(answers.check, benchmark, only=("length_of_stay",)), "length_of_stay")
        if f.guard == "answer_dates"
    ]
    assert bad.figures["share"] > 0.15 > bad.figures["by_chance"]
    codes = """SELECT n.* REPLACE (CASE WHEN n.note_type = 'history_and_physical' AND c.codes IS NOT NULL
        AND hash(n.note_id) % 10 = 0 THEN n.text || chr(10) || 'Discharge diagnosis:' || chr(10) || c.codes
        ELSE n.text END AS text)
        FROM notes n LEFT JOIN (SELECT encounter_id, string_agg(replace(code, '.', ''), ' ') AS codes FROM diagnoses
        GROUP BY 1) c USING (encounter_id)"""
    edit(tmp_path / "records", notes=codes)
    bad_codes = failed(found(answers.check, benchmark, only=("comorbidity",)), "comorbidity")
    assert {f.figures.get("detector") for f in bad_codes} >= {"own_codes", "written_at_discharge"}


# --- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("n.signed_time + INTERVAL 3 DAY AS signed_time", "signed after"),
        ("n.available_time + INTERVAL 1 DAY AS created_time", "begun after"),
        ("n.available_time + INTERVAL 1 DAY AS available_time", "became available after"),
        ("NULL::TIMESTAMP AS available_time", "no known time"),
    ],
)
def test_notes_from_after_the_question(change: str, words: str, clean: Path, tmp_path: Path) -> None:
    some = "n.note_type = 'history_and_physical' AND hash(n.note_id) % 20 = 0"
    column = change.rpartition(" ")[2]
    sql = f"""SELECT n.* REPLACE (CASE WHEN {some} THEN {change.rpartition(" AS ")[0]} ELSE n.{column} END AS {column})
        FROM notes n"""
    bad = failed(found(times.check, planted(clean, tmp_path, notes=sql)), "mortality")
    assert any(words in f.words and f.count > 20 for f in bad)


def test_mixed_precision_is_told(clean: Path, tmp_path: Path) -> None:
    sql = """SELECT n.* REPLACE (CASE WHEN hash(n.note_id) % 3 = 0 THEN date_trunc('day', available_time)
        ELSE available_time END AS available_time) FROM notes n"""
    (said,) = [f for f in found(times.check, planted(clean, tmp_path, notes=sql)) if f.pitfalls == (3,)]
    assert said.verdict == "warn" and 0.25 < said.figures["share_of_bare_dates"] < 0.4


def test_truncation_finds_an_input_that_another_build_made(clean: Path, tmp_path: Path) -> None:
    """Examples that read a note of the stay's later days, as a build that takes the last note would."""
    benchmark = planted(clean, tmp_path)
    examples = pq.read_table(benchmark / EXAMPLES)
    connection = duckdb.connect(":memory:")
    connection.execute(f"CREATE TABLE notes AS SELECT * FROM read_parquet('{tmp_path}/records/notes/*.parquet')")
    later = connection.sql("""
        SELECT x.* REPLACE (CASE WHEN task = 'mortality' THEN coalesce(late.note_id, x.note_id) ELSE x.note_id END
            AS note_id) FROM examples x LEFT JOIN (SELECT encounter_id, max(note_id) AS note_id FROM notes
            WHERE note_type = 'progress' GROUP BY 1) late USING (encounter_id) ORDER BY x.task, x.encounter_id""")
    pq.write_table(later.to_arrow_table().cast(examples.schema), benchmark / EXAMPLES)
    findings = found(rebuild.check, benchmark, AuditSettings(rebuilt=30), ("mortality", "length_of_stay"))
    (bad,) = failed([f for f in findings if f.guard == "truncation"], "mortality")
    assert bad.count >= 3 and not failed([f for f in findings if f.guard == "truncation"], "length_of_stay")


def test_a_task_that_cannot_be_built_again_fails_and_takes_no_other_with_it(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(records: Path, out: Path, settings: BuildSettings) -> Path:
        if "mortality" in (settings.tasks or ()):
            raise InputError("mortality: its query names a column that is not there.")
        return build(records, out, settings)

    monkeypatch.setattr(rebuild, "build", stumbles)
    findings = found(rebuild.check, clean / "benchmark", AuditSettings(rebuilt=3), ("mortality", "length_of_stay"))
    guards = {"truncation", "swapped_outcome", "eligibility"}
    assert {(f.guard, f.verdict) for f in findings if f.task == "mortality"} == {(guard, "fail") for guard in guards}
    assert all("a column that is not there" in f.words for f in findings if f.task == "mortality")
    assert {f.guard for f in findings if f.task == "length_of_stay" and f.verdict == "pass"} == guards


def test_an_input_that_follows_the_future_is_found(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A builder that takes the last note of the type reads what the invented future adds."""
    first = cohort_of.first_note

    def last(card: Any, timed: bool) -> str:
        return first(card, timed).replace("ORDER BY usable_at NULLS LAST", "ORDER BY usable_at DESC NULLS LAST")

    monkeypatch.setattr(cohort_of, "first_note", last)
    benchmark = rebuilt(clean, tmp_path, BuildSettings(calendar="demo", tasks=("length_of_stay",)))
    findings = found(rebuild.check, benchmark)
    said = {f.guard: f.verdict for f in findings}
    assert said["swapped_outcome"] == "fail" or said["eligibility"] == "fail"


def test_who_is_asked_may_not_hang_on_the_future(clean: Path, tmp_path: Path) -> None:
    sql = """SELECT n.* REPLACE (CASE WHEN note_type = 'history_and_physical' AND hash(note_id) % 2 = 0
        THEN signed_time + INTERVAL 30 DAY ELSE signed_time END AS signed_time) FROM notes n"""
    findings = found(rebuild.check, planted(clean, tmp_path, notes=sql), AuditSettings(rebuilt=30), ("mortality",))
    (bad,) = failed([f for f in findings if f.guard == "eligibility"], "mortality")
    assert 5 < bad.count < 25 and "has a history and physical note" in bad.words


# --- patients, pretraining, the end of the data ---------------------------------------------------------------------


def test_copies_and_second_ids(clean: Path, tmp_path: Path) -> None:
    """Held-out patients under another id: each has a stay with the times and the text of a training patient's."""
    benchmark = planted(clean, tmp_path)
    connection = duckdb.connect(":memory:")
    examples, folds = pq.read_table(benchmark / EXAMPLES), pq.read_table(benchmark / "splits.parquet")
    connection.register("folds", folds)
    pairs = connection.execute("""
        WITH numbered AS (
            SELECT DISTINCT patient_id, fold FROM examples JOIN folds USING (patient_id) WHERE task = 'mortality'),
        ranked AS (SELECT *, row_number() OVER (PARTITION BY fold ORDER BY patient_id) AS nth FROM numbered)
        SELECT a.patient_id, b.patient_id FROM ranked a JOIN ranked b USING (nth)
        WHERE a.fold = 'train' AND b.fold = 'test' ORDER BY nth LIMIT 12""").fetchall()
    assert examples.num_rows and len(pairs) == 12
    cases = " ".join(f"WHEN n.patient_id = '{b}' THEN (SELECT text FROM notes m WHERE m.patient_id = '{a}' AND "
                     "m.note_type = 'history_and_physical' ORDER BY m.note_id LIMIT 1)" for a, b in pairs)  # fmt: skip
    copied = f"""SELECT n.* REPLACE (CASE WHEN n.note_type = 'history_and_physical' THEN CASE {cases} ELSE n.text END
        ELSE n.text END AS text) FROM notes n"""
    alike = " ".join(f"WHEN p.patient_id = '{b}' THEN (SELECT {{0}} FROM patients q WHERE q.patient_id = '{a}')"
                     for a, b in pairs)  # fmt: skip
    people = (
        f"SELECT p.* REPLACE (CASE {alike.format('sex')} ELSE p.sex END AS sex, "
        f"CASE {alike.format('birth_year')} ELSE p.birth_year END AS birth_year) FROM patients p"
    )
    edit(tmp_path / "records", notes=copied, patients=people)
    copies, aliases = found(duplicates.check, benchmark)
    assert copies.verdict == "fail" and copies.count >= 12
    assert aliases.verdict == "fail" and aliases.count >= 12
    assert all(" = " in pair for pair in aliases.examples)


def test_the_same_stay_under_two_ids(clean: Path, tmp_path: Path) -> None:
    """Patients of one sex and year of birth with a stay of the same minutes; the text differs."""
    benchmark = planted(clean, tmp_path)
    material = Material.open(benchmark, QUICK)
    half = material.sql("SELECT fold, list(patient_id ORDER BY patient_id)[:15] FROM folds GROUP BY 1")
    folds = dict(half)
    pairs = list(zip(folds["train"], folds["test"], strict=True))
    listed = ", ".join(f"('{a}', '{b}')" for a, b in pairs)
    people = f"""SELECT p.* REPLACE (coalesce(q.sex, p.sex) AS sex, coalesce(q.birth_year, p.birth_year) AS birth_year)
        FROM patients p LEFT JOIN (VALUES {listed}) v(a, b) ON v.b = p.patient_id
        LEFT JOIN patients q ON q.patient_id = v.a"""
    again = f"""WITH first AS (SELECT patient_id, min(encounter_id) AS encounter_id FROM encounters
            WHERE encounter_class = 'inpatient' GROUP BY 1)
        SELECT e.* REPLACE (coalesce(s.admit_time, e.admit_time) AS admit_time,
            CASE WHEN s.encounter_id IS NULL THEN e.discharge_time ELSE s.discharge_time END AS discharge_time)
        FROM encounters e LEFT JOIN first f ON f.encounter_id = e.encounter_id
        LEFT JOIN (VALUES {listed}) v(a, b) ON v.b = f.patient_id
        LEFT JOIN first g ON g.patient_id = v.a LEFT JOIN encounters s ON s.encounter_id = g.encounter_id"""
    edit(tmp_path / "records", patients=people, encounters=again)
    copies, aliases = found(duplicates.check, benchmark)
    assert copies.verdict == "pass"
    assert aliases.verdict == "fail" and aliases.count >= 12


def test_inputs_of_several_notes(clean: Path, tmp_path: Path) -> None:
    """An older discharge summary among the notes is no answer, and the rebuilt inputs are the same."""
    inputs = {"mortality": {"inputs": {"select": "last_k", "k": 4, "scope": "patient"}}}
    settings = BuildSettings(calendar="demo", tasks=("mortality",), cards=inputs)
    benchmark = build(clean / "records", tmp_path / "benchmark", settings)
    findings = [*found(rebuild.check, benchmark), *found(answers.check, benchmark), *found(times.check, benchmark)]
    assert not [f for f in findings if f.verdict == "fail"]
    (said,) = [f for f in findings if f.guard == "truncation"]
    assert said.figures["rebuilt"] == 8 and said.figures["not_asked_again"] == 0


def test_pretraining(clean: Path, tmp_path: Path) -> None:
    material = Material.open(clean / "benchmark", QUICK)
    held = [p for (p,) in material.sql("SELECT patient_id FROM folds WHERE fold <> 'train' ORDER BY 1 LIMIT 3")]
    train = [p for (p,) in material.sql("SELECT patient_id FROM folds WHERE fold = 'train' ORDER BY 1 LIMIT 3")]
    cut = material.extra["pretraining_cut"]
    for name, patients, extra in (
        ("leaky", held, {"cut": cut}),
        ("late", train, {"cut": "2024-01-01T00:00:00"}),
        ("sound", train, {"cut": cut}),
        ("general", [], {}),
    ):
        with new_folder(tmp_path / name, "corpus") as draft:
            write_patient_hashes(draft.path, patients)
            draft.extra.update(extra)
    corpora = [tmp_path / name for name in ("leaky", "late", "sound", "general")]
    findings = found(pretraining.check, clean / "benchmark", corpora=corpora)
    assert [f.verdict for f in findings] == ["fail", "fail", "pass", "pass"]
    assert findings[0].count == 3
    (none,) = found(pretraining.check, clean / "benchmark")
    assert none.verdict == "not_applicable"


def test_an_end_that_was_declared_too_late(clean: Path, tmp_path: Path) -> None:
    sql = "SELECT * FROM encounters WHERE admit_time < TIMESTAMP '2024-11-15'"
    bad = failed(found(tails.check, planted(clean, tmp_path, encounters=sql)))
    assert bad and "encounters come at" in bad[0].words


def test_outcomes_outside_the_complete_data(clean: Path, tmp_path: Path) -> None:
    censoring = {
        "readmission": {"censoring": {"observation_days": 0}},
        "length_of_stay": {"censoring": {"observation_days": 0}},
    }
    settings = BuildSettings(calendar="demo", tasks=("readmission", "length_of_stay"), cards=censoring)
    findings = found(observation.check, rebuilt(clean, tmp_path, settings))
    (bad,) = failed(findings, "readmission")
    assert bad.count and sum(bad.figures["by_label"].values()) == bad.count
    assert failed(findings, "length_of_stay")


# --- shortcuts ------------------------------------------------------------------------------------------------------


def test_registration_length_and_delay(clean: Path, tmp_path: Path) -> None:
    ward = stays(
        "CASE WHEN o.died AND hash(e.encounter_id) % 3 = 0 THEN 'quiet room' ELSE e.department END AS department"
    )
    longer = note("n.text || n.text", "o.denied")
    findings = found(shortcuts.check, planted(clean, tmp_path, encounters=ward, notes=longer))
    (bad,) = failed(findings, "mortality")
    assert bad.figures["value"] == "quiet room" and bad.figures["share"] == 1.0
    assert any(f.figures["from"] == "note_words" for f in failed(findings, "insurance_denial"))


def test_sites(clean: Path, tmp_path: Path) -> None:
    site = stays("CASE WHEN o.died THEN 'annex' ELSE e.facility END AS facility")
    bad = failed(found(sites.check, planted(clean, tmp_path, encounters=site), only=("mortality",)), "mortality")
    assert bad and bad[0].figures["site"] == "annex"


def test_text_that_works_at_one_site_only(clean: Path, tmp_path: Path) -> None:
    """At site c a word tells death; a model that has not learnt there does not know it."""
    three = stays("['a', 'b', 'c'][(hash(e.patient_id) % 3)::BIGINT + 1] AS facility")
    benchmark = planted(clean, tmp_path, encounters=three)
    word = """SELECT n.* REPLACE (CASE WHEN n.note_type = 'history_and_physical' AND e.facility = 'c' AND o.died
        THEN n.text || repeat(' violet', 5) ELSE n.text END AS text)
        FROM notes n LEFT JOIN encounters e USING (encounter_id) LEFT JOIN out o USING (encounter_id)"""
    edit(tmp_path / "records", notes=word)
    (said,) = [
        f for f in found(sites.check, benchmark, only=("mortality",)) if f.task == "mortality" and "drops" in f.figures
    ]
    drops = dict(said.figures["drops"])
    assert drops.pop("c") > 0.1 and all(drop < 0.1 for drop in drops.values())


def test_masks_that_know_the_outcome(clean: Path, tmp_path: Path) -> None:
    benchmark = planted(clean, tmp_path, notes=note("n.text || repeat(' ___', 9)", "o.died"))
    findings = found(masks.check, benchmark, only=("mortality", "comorbidity"))
    assert failed(findings, "mortality") and not failed(findings, "comorbidity")
    assert failed(findings, "mortality")[0].figures["notes_with_masks"] > 30


# --- the folder -----------------------------------------------------------------------------------------------------


def rewrite(benchmark: Path, sql: str) -> None:
    examples = pq.read_table(benchmark / EXAMPLES)
    changed = duckdb.connect(":memory:").sql(sql.replace("examples", "examples")).to_arrow_table()
    pq.write_table(changed.cast(examples.schema), benchmark / EXAMPLES)


def test_structure_reports_and_raises_nothing(clean: Path, tmp_path: Path) -> None:
    benchmark = planted(clean, tmp_path)
    rewrite(
        benchmark,
        """SELECT * REPLACE (
            CASE WHEN task = 'mortality' AND hash(example_id) % 9 = 0 THEN 'test' ELSE split END AS split,
            CASE WHEN task = 'readmission' AND hash(example_id) % 9 = 0 THEN horizon_end + INTERVAL 60 DAY
            ELSE horizon_end END AS horizon_end) FROM examples ORDER BY task, encounter_id""",
    )
    findings = found(structure.check, benchmark)
    words = " ".join(f.words for f in failed(findings))
    assert "more than one of train, val and test" in words and "breaks a promise" in words
    assert any("another length than the card's 30 days" in f.words for f in failed(findings, "readmission"))
    rewrite(benchmark, "SELECT * REPLACE ('test' AS split) FROM examples")
    assert any(f.pitfalls == (16,) for f in failed(found(structure.check, benchmark), "mortality"))


def test_changed_records_and_impossible_orders(clean: Path, tmp_path: Path) -> None:
    dead = """SELECT p.* REPLACE (coalesce((SELECT min(admit_time) FROM encounters e WHERE e.patient_id = p.patient_id)
        - INTERVAL 30 DAY, death_time) AS death_time) FROM patients p"""
    benchmark = planted(clean, tmp_path, patients=dead, encounters=stays("50.0 AS age_at_admission"))
    manifest = json.loads((benchmark / MANIFEST).read_text())
    manifest["extra"]["records"]["fingerprint"] = "another"
    (benchmark / MANIFEST).write_text(json.dumps(manifest))
    words = " ".join(f.words for f in failed(found(structure.check, benchmark)))
    assert "not the ones" in words and "after the patient's death" in words and "the same age at all" in words


def test_rows_that_vanished_and_limits(clean: Path, tmp_path: Path) -> None:
    benchmark = planted(clean, tmp_path)
    rewrite(
        benchmark, "SELECT * FROM examples WHERE NOT (task = 'mortality' AND label = 0 AND hash(example_id) % 2 = 0)"
    )
    findings = found(support.check, benchmark)
    (bad,) = failed(findings, "mortality")
    assert bad.count > 100 and 13 in bad.pitfalls and not failed(findings, "comorbidity")


def test_denials_answered_before_the_question(clean: Path, tmp_path: Path) -> None:
    sql = (
        """SELECT c.* REPLACE (e.admit_time AS first_remit_time) FROM claims c JOIN encounters e USING (encounter_id)"""
    )
    kinds = "SELECT n.* REPLACE ('case_management' AS note_type) FROM notes n"
    bad = failed(found(claims.check, planted(clean, tmp_path, claims=sql, notes=kinds)), "insurance_denial")
    assert len(bad) == 3 and all(f.count > 100 for f in bad)


def test_samples_are_the_same_each_time(clean: Path) -> None:
    small = AuditSettings(most_rows=400)
    one, two = (Material.open(clean / "benchmark", small).tasks["mortality"] for _ in range(2))
    assert not one.whole and np.array_equal(one.ids, two.ids) and int(one.train.sum()) == 200
