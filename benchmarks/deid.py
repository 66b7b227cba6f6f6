"""How much de-identification finds and how much it takes out too much, by class, where every identifier is known.

    python benchmarks/deid.py                 # seeds 11 to 15, a minute on a quiet core
    python benchmarks/deid.py --seeds 1 --only tuning --misses 40    # what rules may be tuned on

Writes ``benchmarks/results/deid.json``. Recall: the share of identifiers of which every letter and digit is covered.
Precision: the share of the removed letters and digits that belong to an identifier. Reported on sentences and ways of
writing that the rules were not tuned on (``held_out`` in ``simulator/identifier_forms.yaml``), with seeds other than 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lang1.common.artefact import versions
from lang1.corpus.deid import Deidentifier, DeidSettings
from lang1.corpus.deid_rules import CLASSES
from lang1.simulator.identifiers import DISTRACTORS, IDENTIFIERS, KNOWN_PATIENTS, KNOWN_STAFF
from lang1.simulator.settings import SimulatorSettings
from lang1.simulator.simulate import simulate

AIM = 0.99
AIMED = ("NAME", "DATE", "SSN", "MRN", "HEALTH_PLAN", "ACCOUNT")
DISTRACTOR = "KEEP"


class Tally:
    """What was found, by class and by part (tuning or held_out)."""

    def __init__(self) -> None:
        self.there: Counter[tuple[str, str]] = Counter()
        self.found: Counter[tuple[str, str]] = Counter()
        self.removed: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.distractors = self.distractors_hit = self.notes = 0
        self.seconds = 0.0
        self.missed: dict[str, Counter[str]] = {}
        self.too_much: Counter[str] = Counter()

    def note(self, text: str, truth: list[dict[str, Any]], spans: list[Any]) -> None:
        covered, real = bytearray(len(text)), bytearray(len(text))
        for start, end, _ in spans:
            covered[start:end] = b"\1" * (end - start)
        for t in truth:
            where = range(t["start"], t["end"])
            if t["class"] == DISTRACTOR:
                self.distractors += 1
                self.distractors_hit += any(covered[i] for i in where)
                continue
            real[t["start"] : t["end"]] = b"\1" * len(where)
            key = (t["class"], "held_out" if t["held_out"] else "tuning")
            self.there[key] += 1
            whole = all(covered[i] for i in where if text[i].isalnum())
            self.found[key] += whole
            if not whole:
                line = text[text.rfind("\n", 0, t["start"]) + 1 : (text + "\n").find("\n", t["end"])]
                self.missed.setdefault(f"{t['class']} {key[1]}", Counter())[f"{t['text']} | {line}"] += 1
        for start, end, cls in spans:
            signs = [i for i in range(start, end) if text[i].isalnum()]
            good = sum(real[i] for i in signs)
            self.removed[cls] += len(signs)
            self.right[cls] += good
            if good < len(signs):
                self.too_much[f"{cls}: {text[start:end]}"] += 1
        self.notes += 1

    def figures(self) -> dict[str, Any]:
        classes = {}
        for cls in CLASSES:
            row: dict[str, Any] = {}
            for part in ("held_out", "tuning"):
                n = self.there[cls, part]
                row[part] = {"n": n, "recall": round(self.found[cls, part] / n, 5) if n else None}
            row["precision"] = round(self.right[cls] / self.removed[cls], 5) if self.removed[cls] else None
            classes[cls] = row
        removed = sum(self.removed.values())
        return {
            "notes": self.notes,
            "classes": classes,
            "recall_held_out": _ratio(self.found, self.there, "held_out"),
            "recall_tuning": _ratio(self.found, self.there, "tuning"),
            "precision": round(sum(self.right.values()) / removed, 5) if removed else None,
            "distractors": self.distractors,
            "distractors_touched": self.distractors_hit,
            "documents_per_second": round(self.notes / self.seconds, 1),
            "missed": {k: [text for text, _ in v.most_common(4)] for k, v in sorted(self.missed.items())},
            "removed_wrongly": [text for text, _ in self.too_much.most_common(12)],
        }


def _ratio(found: Counter[tuple[str, str]], there: Counter[tuple[str, str]], part: str) -> float | None:
    n = sum(v for k, v in there.items() if k[1] == part)
    return round(sum(v for k, v in found.items() if k[1] == part) / n, 5) if n else None


def run(seeds: list[int], patients: int, settings: dict[str, Any], key: Path) -> dict[str, Tally]:
    """Simulate each seed once and read its notes with and without tables."""
    tallies = {name: Tally() for name in ("rules", "rules and tables")}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            asked = SimulatorSettings.model_validate(
                {"patients": patients, "seed": seed, "systems": 2, "identifiers": True, "workers": 1}
            )
            for records in simulate(Path(folder) / "sim", asked):
                truth_folder = records.parent / "truth" / records.name
                truth: dict[str, list[dict[str, Any]]] = {}
                for file in (IDENTIFIERS, DISTRACTORS):
                    for row in pq.read_table(truth_folder / file).to_pylist():
                        truth.setdefault(row["note_id"], []).append(row)
                notes = [n for f in sorted((records / "notes").glob("*.parquet")) for n in pq.read_table(f).to_pylist()]
                for name, tally in tallies.items():
                    tables = {"patients": truth_folder / KNOWN_PATIENTS, "staff": truth_folder / KNOWN_STAFF}
                    given = {**settings, "key_file": key} | (tables if name != "rules" else {})
                    deidentifier = Deidentifier(DeidSettings.model_validate(given))
                    for note in notes:
                        started = time.process_time()
                        year = note["available_time"].year
                        _, spans = deidentifier.replace(note["text"], note["patient_id"], year)
                        tally.seconds += time.process_time() - started
                        tally.note(note["text"], truth.get(note["note_id"], []), spans)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--patients", type=int, default=60, help="patients in each of two systems a seed")
    parser.add_argument("--only", choices=("tuning",), help="print what is missed among the forms to tune on, no more")
    parser.add_argument("--misses", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deid.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_text("a key of the benchmark, no secret of anybody\n")
        tallies = run(options.seeds, options.patients, {"mode": "surrogate"}, key)
    if options.only:
        for name, tally in tallies.items():
            shown = tally.figures()
            print(f"{name}: recall {shown['recall_tuning']}, precision {shown['precision']}")
            print({c: v["tuning"]["recall"] for c, v in shown["classes"].items()})
            print({c: v["precision"] for c, v in shown["classes"].items()})
            print(f"distractors touched: {tally.distractors_hit} of {tally.distractors}")
            for cls, lines in tally.missed.items():
                for line, count in lines.most_common(options.misses) if cls.endswith("tuning") else ():
                    print(f"  missed {count}x {cls}: {line}")
            for line, count in tally.too_much.most_common(options.misses):
                print(f"  too much {count}x {line}")
        return
    figures = {"seeds": options.seeds, **{name: tally.figures() for name, tally in tallies.items()}}
    best = figures["rules and tables"]["classes"]
    worst = min(best[cls]["held_out"]["recall"] for cls in AIMED)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "deid", "ratio": None,
        "aim": f"recall of names, dates and ids of at least {AIM} with tables, on forms that were not tuned on",
        "met": worst >= AIM, "figures": figures,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{'met' if result['met'] else 'NOT met'} (lowest recall {worst}): {options.out}")


if __name__ == "__main__":
    main()
