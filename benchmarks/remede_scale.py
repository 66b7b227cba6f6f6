"""How long, and in how much memory, from a hospital's Parquet to the five tasks?

    python benchmarks/remede_scale.py                        # 10,000, 100,000 and 1,000,000 encounters, five notes each
    python benchmarks/remede_scale.py --encounters 10000

An extract of invented rows is written (times, codes, claims and notes of 600 characters at random: what they say does
not matter here), then `lang1 ingest tables` and `lang1 remede build` run on it as a user would run them, each in a
process of its own whose time and peak memory are taken. Writes ``benchmarks/results/remede_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from lang1.common.artefact import read_json, versions

SIZES = (10_000, 100_000, 1_000_000)
NOTES_EACH = 5
AIM_SECONDS, AIM_GIB = 180.0, 4.0
DAYS = 4000  # from 2013-01-01, so to the end of 2023

# Every value is a hash of the row's number, so that any size is the same on any machine.
EXTRACT = {
    "patients": """
        SELECT 'P' || i AS patient_id, 1930 + (hash(i, 1) % 70)::INTEGER AS birth_year,
            CASE hash(i, 2) % 2 WHEN 0 THEN 'female' ELSE 'male' END AS sex,
            CASE WHEN hash(i, 3) % 20 = 0 THEN TIMESTAMP '2013-01-01' + INTERVAL (hash(i, 4) % {days}) DAY
                + INTERVAL 11 HOUR END AS death_time
        FROM range({encounters} // 3 + 1) r(i)""",
    "encounters": """
        SELECT 'E' || i AS encounter_id, 'P' || (hash(i, 5) % ({encounters} // 3)) AS patient_id,
            'inpatient' AS encounter_class,
            admit AS admit_time, admit + INTERVAL (1 + hash(i, 7) % 300) HOUR AS discharge_time,
            CASE hash(i, 8) % 3 WHEN 0 THEN 'emergency' WHEN 1 THEN 'urgent' ELSE 'elective' END AS admission_type,
            'ward ' || (hash(i, 9) % 30) AS department, 'site ' || (hash(i, 10) % 5) AS facility,
            CASE WHEN hash(i, 11) % 40 = 0 THEN 'expired' WHEN hash(i, 11) % 9 = 1 THEN 'skilled_nursing'
                ELSE 'home' END AS disposition, 'payer ' || (hash(i, 12) % 8) AS payer
        FROM (SELECT i, TIMESTAMP '2013-01-01' + INTERVAL (hash(i, 6) % ({days} * 24)) HOUR AS admit
            FROM range({encounters}) r(i))""",
    "notes": """
        SELECT e.encounter_id || '-' || k AS note_id, e.patient_id, e.encounter_id,
            CASE k WHEN 0 THEN 'history_and_physical' WHEN 1 THEN 'discharge_summary' WHEN 2 THEN 'radiology'
                ELSE 'progress' END AS note_type,
            filed AS created_time, filed AS signed_time, filed AS available_time,
            array_to_string([md5(e.encounter_id || k || j) for j in range(18)], ' ') AS text
        FROM (SELECT e.*, k, CASE k WHEN 1 THEN discharge_time + INTERVAL 2 HOUR
                ELSE admit_time + INTERVAL (20 + k * 30) MINUTE END AS filed
            FROM encounters e, range({notes}) n(k)) e""",
    "diagnoses": """
        SELECT encounter_id, patient_id, k + 1 AS position, 'ICD-10-CM' AS code_version,
            ['I500', 'E119', 'N183', 'J449', 'C780', 'I10', 'Z992', 'K703', 'F039', 'R074']
                [1 + (hash(encounter_id, k) % 10)::INTEGER] AS code
        FROM encounters, range(6) n(k)""",
    "claims": """
        SELECT 'C' || encounter_id AS claim_id, encounter_id, patient_id, payer, 1 AS coverage_order,
            discharge_time + INTERVAL 5 DAY AS submitted_time, discharge_time + INTERVAL 30 DAY AS first_remit_time,
            discharge_time + INTERVAL 60 DAY AS final_time, 1000.0 AS charge, 800.0 AS paid,
            CASE hash(encounter_id, 13) % 8 WHEN 0 THEN 'denied_upheld' WHEN 1 THEN 'denied_overturned' ELSE 'paid' END
                AS final_status
        FROM encounters""",
}  # fmt: skip

MAPPING = """
system: scale
time_basis: calendar
complete_through:
{through}
vital_status: {{source: ehr, through: 2024-06-30}}
tables:
{tables}
"""


def write_extract(folder: Path, encounters: int) -> Path:
    """Write the extract as Parquet, a file a table and twenty of notes; returns its mapping."""
    folder.mkdir(parents=True)
    connection = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "2GB", "temp_directory": str(folder)})
    tables, through = [], []
    for table, sql in EXTRACT.items():
        select = sql.format(encounters=encounters, days=DAYS, notes=NOTES_EACH)
        if table == "encounters":  # read again by the tables after it
            connection.execute(f"CREATE TABLE encounters AS {select}")
            select = "SELECT * FROM encounters"
        if table == "notes":
            for part in range(20):
                some = select.replace(
                    "FROM encounters e", f"FROM (SELECT * FROM encounters WHERE hash(encounter_id) % 20 = {part}) e"
                )
                connection.execute(f"COPY ({some}) TO '{folder}/notes-{part:02d}.parquet'")
        else:
            connection.execute(f"COPY ({select}) TO '{folder}/{table}.parquet'")
        columns = [row[0] for row in connection.execute(f"DESCRIBE {select}").fetchall()]
        file = "notes-*.parquet" if table == "notes" else f"{table}.parquet"
        tables.append(f"  {table}: {{file: '{file}', columns: {{{', '.join(f'{c}: {c}' for c in columns)}}}}}")
        if table != "patients":
            through.append(f"  {table}: {{through: 2024-06-30, key: admit_time}}")
    connection.close()
    mapping = folder / "map.yaml"
    mapping.write_text(MAPPING.format(through="\n".join(through), tables="\n".join(tables)))
    return mapping


def timed(command: list[str]) -> dict[str, float]:
    """Run a command to its end: seconds, and the peak resident memory of its process in GiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return {"seconds": round(time.perf_counter() - started, 1), "peak_gib": round(usage.ru_maxrss / 2**20, 2)}


def measure(place: Path, encounters: int) -> dict[str, Any]:
    """Write one extract, ingest it and build its benchmark."""
    mapping = write_extract(place / "extract", encounters)
    lang1 = [sys.executable, "-m", "lang1.cli.main"]
    ingest = timed([*lang1, "ingest", "tables", "--map", str(mapping), str(place / "records")])
    calendar = (
        "calendar={train: {start: 2013-01-01, end: 2020-12-31}, test_newest: {start: 2022-01-01, end: 2024-12-31}}"
    )
    build = timed([*lang1, "remede", "build", str(place / "records"), str(place / "benchmark"), calendar])
    counts = read_json(place / "benchmark" / "manifest.json")["counts"]
    size = sum(file.stat().st_size for file in (place / "extract").rglob("*.parquet"))
    shutil.rmtree(place)
    found = {
        "encounters": encounters,
        "notes": encounters * NOTES_EACH,
        "extract_gib": round(size / 2**30, 2),
        "examples_by_task": {task: sum(splits.values()) for task, splits in counts["by_task"].items()},
        "ingest": ingest,
        "build": build,
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encounters", type=int, action="append", help=f"default {SIZES}")
    parser.add_argument("--place", type=Path, help="where the extracts are made; the largest takes some 12 GB")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "remede_scale.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        sizes = [measure(Path(place) / str(n), n) for n in options.encounters or SIZES]
    last = sizes[-1]
    total = last["ingest"]["seconds"] + last["build"]["seconds"]
    peak = max(last[step]["peak_gib"] for step in ("ingest", "build"))
    met = last["encounters"] >= SIZES[-1] and total < AIM_SECONDS and peak < AIM_GIB
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "remede_scale", "ratio": None,
        "aim": f"1,000,000 encounters with 5,000,000 notes from Parquet to five tasks on two cores: under "
               f"{AIM_SECONDS:.0f} s and {AIM_GIB:.0f} GiB",
        "met": met,
        "figures": {
            "encounters": last["encounters"], "ingest_seconds": last["ingest"]["seconds"],
            "build_seconds": last["build"]["seconds"], "peak_gib": peak,
            "build_seconds_per_100k": {
                str(s["encounters"]): round(s["build"]["seconds"] * 1e5 / s["encounters"], 1) for s in sizes
            },
            "sizes": sizes,
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'met' if met else 'NOT met'}: {options.out}")


if __name__ == "__main__":
    main()
