"""Documents as notes: the text of each, the time at which it could be read, and what amends what."""

from __future__ import annotations

from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_sql import IN_UTC, drop_copies, listed, resolve
from lang1.records.readers.staging import Staging
from lang1.records.store import quoted

SIGNED = ("final", "amended", "corrected", "appended")
# Of one text in several envelopes the first of these counts.
SOURCES = ("DocumentReference", "Composition", "DiagnosticReport")


def put_notes(stage: Staging, settings: FhirSettings) -> None:
    """Notes; see the module and ``docs/readers/fhir.md``."""
    # Of two versions of one document the first could be read at its time; a later text could not.
    drop_copies(stage, "documents", keep="first", by="source, id")
    drop_copies(stage, "binaries")
    for column, kind in (("patient", "Patient"), ("encounter", "Encounter"), ("amends", "DocumentReference")):
        resolve(stage, "documents", column, kind)
    for status in ("entered-in-error", "cancelled", "registered"):
        stage.set_aside("documents", f"status = '{status}' OR doc_status = '{status}'", f"status {status}")
    if settings.diagnostic_reports == "notes":
        stage.set_aside(
            "documents", "source = 'DiagnosticReport' AND kind = 'other'", "a report of results (diagnostic_reports)"
        )
    _choose_text(stage)
    _leave_copies(stage)
    _read(stage, settings)
    if settings.notes_without_encounter == "by_time":
        _by_time(stage)
    stage.put(
        "notes",
        """
        SELECT note_id, parent_note_id, patient AS patient_id, encounter_id, kind AS note_type, created_time,
            signed_time, available_time, text, _file, _row, bad AS _bad
        FROM notes_read ORDER BY _file, _row""",
    )


def _choose_text(stage: Staging) -> None:
    """``document_texts``: the best text of each document; documents without any are left out by reason."""
    stage.connection.execute("""
        CREATE TABLE bodies AS
        SELECT a._file, a._row, a.nth, a.preference, coalesce(a.text, b.text) AS text,
            coalesce(b.guessed, a.guessed, false) AS guessed,
            coalesce(a.lack, b.lack, CASE WHEN a.binary IS NOT NULL THEN 'its Binary is not in the export' END) AS lack
        FROM attachments a LEFT JOIN binaries b ON b.id = a.binary;
        DROP TABLE attachments;
        DROP TABLE binaries;
        CREATE TABLE best AS
        SELECT _file, _row, nth FROM bodies QUALIFY row_number() OVER (
            PARTITION BY _file, _row ORDER BY (text IS NULL)::INTEGER, preference, nth) = 1;
        CREATE TABLE document_texts AS
        SELECT d.* EXCLUDE (text, guessed, lack), coalesce(d.text, b.text) AS text,
            coalesce(b.guessed, false) AS guessed,
            CASE WHEN coalesce(d.text, b.text) IS NULL THEN coalesce(d.lack, b.lack, 'no attachment') END AS lack
        FROM documents d LEFT JOIN (SELECT b.* FROM bodies b JOIN best USING (_file, _row, nth)) b USING (_file, _row);
        DROP TABLE bodies;
        DROP TABLE documents""")
    for (lack,) in stage.ask("SELECT DISTINCT lack FROM document_texts WHERE lack IS NOT NULL ORDER BY 1"):
        stage.set_aside("document_texts", f"lack = {quoted(lack)}", f"no text: {lack}")
    guessed = stage.ask("SELECT count(*) FROM document_texts WHERE guessed")[0][0]
    if guessed:
        stage.draft.counts["notes not in the character set that they state (read as UTF-8, else Windows-1252)"] = (
            guessed
        )


def _leave_copies(stage: Staging) -> None:
    """The same text of one encounter as a document and as a report is one note."""
    place = " ".join(f"WHEN {quoted(source)} THEN {nth}" for nth, source in enumerate(SOURCES))
    stage.connection.execute(f"""
        CREATE TABLE copies AS
        WITH mixed AS (
            SELECT patient, encounter FROM document_texts GROUP BY ALL HAVING count(DISTINCT source) > 1
        )
        SELECT _file, _row FROM (
            SELECT _file, _row, CASE source {place} END AS place, min(CASE source {place} END) OVER (
                PARTITION BY patient, encounter, md5(regexp_replace(text, '\\s+', ' ', 'g'))) AS best
            FROM document_texts SEMI JOIN mixed USING (patient, encounter)) WHERE place > best""")
    stage.set_aside(
        "document_texts", "(_file, _row) IN (SELECT (_file, _row) FROM copies)", "the same text as another document's"
    )


def _read(stage: Staging, settings: FhirSettings) -> None:
    """``notes_read``: times, and the note that each one amends."""
    updated = "moment(updated, true)"
    if settings.time_zone is None:  # a server's own times are often in UTC though the hospital's are not
        updated = f"CASE WHEN NOT regexp_matches(updated, '{IN_UTC}') THEN {updated} END"
    amended = "source = 'DocumentReference' AND doc_status = 'amended' AND relation IS DISTINCT FROM 'replaces'"
    filed = "moment(dated, true)"
    if settings.note_time_is == "written":
        filed = f"greatest({filed}, {updated})" if settings.amended_notes == "last_updated" else updated
        filed = f"CASE WHEN ({updated}) IS NOT NULL THEN {filed} END"
    elif settings.amended_notes == "last_updated":
        filed = (
            f"CASE WHEN NOT coalesce({amended}, false) THEN {filed} "
            f"WHEN ({updated}) IS NOT NULL THEN greatest({filed}, {updated}) END"
        )
    unstated = settings.unstated_status == "signed"
    stage.connection.execute(f"""
        CREATE TABLE notes_read AS
        WITH timed AS (
            SELECT t.*, source || '/' || t.id AS note_id, m.encounter_id AS found, {filed} AS available_time,
                CASE WHEN dated IS NOT NULL AND moment(dated, true) IS NULL THEN 'date is not a time' END AS bad
            FROM document_texts t LEFT JOIN encounter_map m ON m.id = t.encounter
        )
        SELECT t.* EXCLUDE (patient, created, dated, attested, amends),
            coalesce(t.patient, v.patient) AS patient, coalesce(t.found, t.encounter) AS encounter_id,
            {"moment(t.dated, true)" if settings.note_time_is == "written" else "moment(t.created, true)"}
                AS created_time,
            CASE WHEN t.doc_status IN ({listed(SIGNED)}) OR (t.doc_status IS NULL AND {unstated})
                THEN greatest(t.available_time, coalesce(moment(t.attested, true), t.available_time))
                END AS signed_time,
            t.relation = 'appends' AND other.id IS NULL AS goes_on,
            -- A note of another kind, or of another stay, goes on from a note and does not amend it.
            CASE WHEN t.relation = 'replaces' OR other.id IS NOT NULL THEN t.source || '/' || t.amends END
                AS parent_note_id
        FROM timed t LEFT JOIN visits v ON v.id = t.found
            LEFT JOIN (SELECT source, id, kind, encounter FROM timed) other ON other.source = t.source
                AND other.id = t.amends AND other.kind = t.kind AND other.encounter = t.encounter
                AND t.relation = 'appends'""")
    stage.connection.execute("DROP TABLE document_texts")
    words = {
        "notes without an encounter, kept and unusable (notes_without_encounter)": "encounter_id IS NULL",
        "notes without a stated status (unstated_status)": "doc_status IS NULL",
        "superseded notes, kept as earlier versions": "status = 'superseded'",
        "amended notes whose text was there at an unknown time": f"({amended}) AND available_time IS NULL",
        "notes that append to one of another kind or stay, taken as notes of their own": "goes_on",
    }
    found = stage.ask(f"SELECT {', '.join(f'count(*) FILTER ({sql})' for sql in words.values())} FROM notes_read")[0]
    stage.draft.counts.update({what: rows for what, rows in zip(words, found, strict=True) if rows})


def _by_time(stage: Staging) -> None:
    stage.connection.execute("""
        UPDATE notes_read SET encounter_id = found.encounter_id FROM (
            SELECT n._file, n._row, min(e.encounter_id) AS encounter_id
            FROM notes_read n JOIN encounters e ON e.patient_id = n.patient AND e.encounter_class = 'inpatient'
                AND coalesce(n.created_time, n.available_time) >= e.admit_time
                AND coalesce(coalesce(n.created_time, n.available_time) <= e.discharge_time, true)
            WHERE n.encounter_id IS NULL GROUP BY 1, 2 HAVING count(DISTINCT e.encounter_id) = 1) found
        WHERE found._file = notes_read._file AND found._row = notes_read._row""")
