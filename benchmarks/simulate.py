"""Is the simulator what ``lang1.simulator.bands`` says, how fast, and in how much memory?

    python benchmarks/simulate.py                    # 100,000 encounters a preset, several minutes
    python benchmarks/simulate.py --encounters 20000 --preset high-acuity

Writes ``benchmarks/results/simulate.json``. Labels are derived here from the five tables alone, by code that knows
nothing of the simulator and shares nothing with the benchmark's own rules.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lang1.common.artefact import versions
from lang1.simulator import bands
from lang1.simulator.settings import SIMULATOR_VERSION, SimulatorSettings
from lang1.simulator.simulate import simulate

TASKS = tuple(bands.ORACLE_AUROC)
TOKENS = r"(?u)\b\w+\b"
STAYS_A_PATIENT = {"default": 1.6, "high-acuity": 1.95}
AIM_RATE = 1000.0  # encounters with all notes a second, two cores

# Charlson by code prefix (Quan 2005), dots stripped: (weight, ICD-9 prefixes, ICD-10 prefixes).
_GROUPS: dict[str, tuple[int, str, str]] = {
    "mi": (1, "410 412", "I21 I22 I252"),
    "hf": (1, "39891 40201 40211 40291 40401 40403 40411 40413 40491 40493 4254 4255 4256 4257 4258 4259 428",
           "I099 I110 I130 I132 I255 I420 I425 I426 I427 I428 I429 I43 I50 P290"),
    "pvd": (1, "0930 4373 440 441 4431 4432 4433 4434 4435 4436 4437 4438 4439 4471 5571 5579 V434",
            "I70 I71 I731 I738 I739 I771 I790 I792 K551 K558 K559 Z958 Z959"),
    "cvd": (1, "36234 430 431 432 433 434 435 436 437 438",
            "G45 G46 H340 I60 I61 I62 I63 I64 I65 I66 I67 I68 I69"),
    "dementia": (1, "290 2941 3312", "F00 F01 F02 F03 F051 G30 G311"),
    "copd": (1, "4168 4169 490 491 492 493 494 495 496 497 498 499 500 501 502 503 504 505 5064 5081 5088",
             "I278 I279 J40 J41 J42 J43 J44 J45 J46 J47 J60 J61 J62 J63 J64 J65 J66 J67 J684 J701 J703"),
    "rheum": (1, "4465 7100 7101 7102 7103 7104 7140 7141 7142 7148 725", "M05 M06 M315 M32 M33 M34 M351 M353 M360"),
    "ulcer": (1, "531 532 533 534", "K25 K26 K27 K28"),
    "liver1": (1, "07022 07023 07032 07033 07044 07054 0706 0709 570 571 5733 5734 5738 5739 V427",
               "B18 K700 K701 K702 K703 K709 K713 K714 K715 K717 K73 K74 K760 K762 K763 K764 K768 K769 Z944"),
    "dm1": (1, "2500 2501 2502 2503 2508 2509", " ".join(f"E1{a}{b}" for a in range(5) for b in (0, 1, 6, 8, 9))),
    "dm2": (2, "2504 2505 2506 2507", " ".join(f"E1{a}{b}" for a in range(5) for b in (2, 3, 4, 5, 7))),
    "plegia": (2, "3341 342 343 3440 3441 3442 3443 3444 3445 3446 3449",
               "G041 G114 G801 G802 G81 G82 G830 G831 G832 G833 G834 G839"),
    "renal": (2, "40301 40311 40391 40402 40403 40412 40413 40492 40493 582 5830 5831 5832 5833 5834 5835 5836 5837 "
                 "585 586 5880 V420 V451 V56",
              "I120 I131 N032 N033 N034 N035 N036 N037 N052 N053 N054 N055 N056 N057 N18 N19 N250 Z490 Z491 Z492 Z940 "
              "Z992"),
    "cancer": (2, " ".join(str(x) for x in [*range(140, 173), *range(174, 196), *range(200, 209)]) + " 2386",
               " ".join(f"C{x:02d}" for x in [*range(27), *range(30, 35), *range(37, 42), 43, *range(45, 59),
                                              *range(60, 77), *range(81, 86), 88, *range(90, 98)])),
    "liver3": (3, "4560 4561 4562 5722 5723 5724 5725 5726 5727 5728",
               "I850 I859 I864 I982 K704 K711 K721 K729 K765 K766 K767"),
    "mets": (6, "196 197 198 199", "C77 C78 C79 C80"),
    "hiv": (6, "042 043 044", "B20 B21 B22 B24"),
}  # fmt: skip


def charlson(rows: list[tuple[str, str, str]]) -> dict[str, int]:
    """Charlson scores by encounter from (encounter, code, version) rows."""
    found: dict[str, set[str]] = {}
    cache: dict[tuple[str, str], set[str]] = {}
    for encounter, code, version in rows:
        key = (code, version)
        if key not in cache:
            which = 1 if version == "ICD-9-CM" else 2
            bare = code.replace(".", "").upper()
            cache[key] = {n for n, g in _GROUPS.items() if any(bare.startswith(p) for p in g[which].split())}
        found.setdefault(encounter, set()).update(cache[key])
    scores = {}
    for encounter, groups in found.items():
        kept = set(groups)
        for severe, mild in (("liver3", "liver1"), ("dm2", "dm1"), ("mets", "cancer")):
            if severe in kept:
                kept.discard(mild)
        scores[encounter] = sum(_GROUPS[g][0] for g in kept)
    return scores


def labels(records: Path) -> dict[str, dict[str, tuple[int, str]]]:
    """``{task: {encounter: (class, note text)}}`` from the tables alone; stays near the extract's end left out."""
    db = duckdb.connect()
    for table in ("patients", "encounters", "notes", "diagnoses", "claims"):
        db.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{records}/{table}/*.parquet')")
    (end,) = db.execute("SELECT max(admit_time) FROM encounters").fetchone() or (None,)
    base = db.execute(
        """
        SELECT e.encounter_id, e.admit_time, e.discharge_time, e.disposition, n.text
        FROM encounters e JOIN (
            SELECT encounter_id, min(available_time) AS t, arg_min(text, available_time) AS text FROM notes
            WHERE note_type = 'history_and_physical' AND parent_note_id IS NULL GROUP BY 1) n USING (encounter_id)
        WHERE e.encounter_class = 'inpatient' AND (e.discharge_time IS NULL OR n.t < e.discharge_time)
          AND e.admit_time < ?::TIMESTAMP - INTERVAL 31 DAY ORDER BY 1
        """,
        [end],
    ).fetchall()
    out: dict[str, dict[str, tuple[int, str]]] = {task: {} for task in TASKS}
    text = {}
    for encounter, admit, leave, disposition, words in base:
        text[encounter] = words
        days = (leave.date() - admit.date()).days
        out["mortality"][encounter] = (int(disposition == "expired"), words)
        out["length_of_stay"][encounter] = (0 if days <= 2 else 1 if days == 3 else 2 if days <= 5 else 3, words)
    codes = db.execute("SELECT encounter_id, code, code_version FROM diagnoses").fetchall()
    for encounter, score in charlson(codes).items():
        if encounter in text:
            cls = 0 if score == 0 else 1 if score <= 2 else 2 if score <= 4 else 3 if score <= 7 else 4
            out["comorbidity"][encounter] = (cls, text[encounter])
    for encounter, status in db.execute(
        "SELECT encounter_id, final_status FROM claims WHERE coverage_order = 1"
    ).fetchall():
        if encounter in text and status in ("paid", "denied_upheld", "denied_overturned"):
            out["insurance_denial"][encounter] = (int(status != "paid"), text[encounter])
    for encounter, returned, words in db.execute(
        """
        WITH stays AS (
            SELECT *, lead(admit_time) OVER w AS next_admit FROM encounters WHERE encounter_class = 'inpatient'
            WINDOW w AS (PARTITION BY patient_id ORDER BY admit_time)),
        signed AS (
            SELECT encounter_id, min(available_time) AS t, arg_min(text, available_time) AS text FROM notes
            WHERE note_type = 'discharge_summary' AND signed_time IS NOT NULL GROUP BY 1)
        SELECT s.encounter_id, coalesce(s.next_admit <= s.discharge_time + INTERVAL 30 DAY, false), n.text
        FROM stays s JOIN signed n USING (encounter_id) JOIN patients p USING (patient_id)
        WHERE s.discharge_time IS NOT NULL AND s.disposition NOT IN ('expired', 'hospice')
          AND s.department NOT IN ('rehabilitation', 'dialysis', 'palliative')
          AND NOT (s.disposition = 'transfer_acute'
                   AND coalesce(s.next_admit <= s.discharge_time + INTERVAL 24 HOUR, false))
          AND n.t <= s.discharge_time + INTERVAL 72 HOUR
          AND coalesce(s.next_admit > n.t, true) AND coalesce(p.death_time > n.t, true)
          AND s.discharge_time + INTERVAL 30 DAY <= ? ORDER BY 1
        """,
        [end],
    ).fetchall():
        out["readmission"][encounter] = (int(returned), words)
    return out


@dataclass
class Frame:
    """One task: labels ``(n,)``, oracle probabilities ``(n, c)``, encounters and their texts, patients' hashes."""

    y: np.ndarray
    p: np.ndarray
    encounters: list[str]
    texts: list[str]
    who: np.ndarray


def frames(out: Path, system: str) -> dict[str, Frame]:
    """What the tables say happened beside what the oracle said would, by task."""
    truth = pq.read_table(out / "truth" / system / "predictions.parquet")
    columns = (truth["probabilities"].to_pylist(), truth["subject_id"].to_pylist())
    oracle = dict(zip(truth["example_id"].to_pylist(), zip(*columns, strict=True), strict=True))
    found = {}
    for task, rows in labels(out / system).items():
        missing = [e for e in rows if f"{task}:{e}" not in oracle]
        if missing:
            raise SystemExit(f"{task}: the oracle lacks {len(missing)} labelled encounters, e.g. {missing[0]}")
        found[task] = Frame(
            np.array([y for y, _ in rows.values()]),
            np.array([oracle[f"{task}:{e}"][0] for e in rows]),
            list(rows),
            [text for _, text in rows.values()],
            np.array([oracle[f"{task}:{e}"][1] for e in rows]),
        )
    return found


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    """AUROC of class 1, or macro one-vs-rest over classes with at least 20 cases."""
    if p.shape[1] == 2:
        return float(roc_auc_score(y, p[:, 1]))
    classes = [c for c in range(p.shape[1]) if 20 <= (y == c).sum() < len(y)]
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in classes]))


def count_ngrams(texts: list[str]) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Counts of word 1-3-grams that occur in at least one note of 500, and the grams."""
    vectorizer = CountVectorizer(
        ngram_range=(1, 3), min_df=max(20, len(texts) // 500), token_pattern=TOKENS, dtype=np.int32
    )
    return vectorizer.fit_transform(texts), vectorizer.get_feature_names_out()


def best_ngram(counts: sparse.csr_matrix, grams: np.ndarray, y: np.ndarray, classes: int) -> tuple[float, str]:
    """The gram whose count separates some class (of at least 200 cases) from the rest best, either way."""
    targets = [c for c in range(classes) if (y == c).sum() >= 200] if classes > 2 else [1]
    onehot = np.column_stack([y == c for c in targets]).astype(float)
    positives, negatives = onehot.sum(0), len(y) - onehot.sum(0)
    area = np.zeros((counts.shape[1], len(targets)))
    tpr, fpr = np.zeros_like(area), np.zeros_like(area)
    # ROC points from the highest count down; trapezoids between them.
    for k in range(min(int(counts.max()), 20), 0, -1):
        kept = sparse.csr_matrix(((counts.data >= k).astype(float), counts.indices, counts.indptr), counts.shape)
        hits = kept.T @ onehot
        total = np.asarray(kept.sum(axis=0)).ravel()[:, None]
        new_tpr, new_fpr = hits / positives, (total - hits) / negatives
        area += (new_fpr - fpr) * (new_tpr + tpr) / 2
        tpr, fpr = new_tpr, new_fpr
    area += (1 - fpr) * (1 + tpr) / 2
    both = np.maximum(area, 1 - area)
    return float(both.max()), str(grams[int(both.max(axis=1).argmax())])


def weigh(train: list[str], test: list[str]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """TF-IDF of word 1-2-grams, sublinear, fitted on the training texts."""
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=5, token_pattern=TOKENS, dtype=np.float32
    )
    return vectorizer.fit_transform(train), vectorizer.transform(test)


def linear_auroc(
    x: sparse.csr_matrix, y: np.ndarray, x_test: sparse.csr_matrix, y_test: np.ndarray, classes: int
) -> float:
    """Test AUROC of a logistic regression on given features."""
    # The solver's tolerance is on the gradient of the mean loss, tiny from the start with TF-IDF weights: at the usual
    # 1e-4 it can stop before it has learned anything, and the baseline would look weaker than it is.
    model = LogisticRegression(C=3.0, max_iter=400, tol=1e-7).fit(x, y)
    p = np.zeros((len(y_test), classes))
    p[:, model.classes_] = model.predict_proba(x_test)
    return auroc(y_test, p)


def halves(who: np.ndarray, train: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to fit and to test on: about ``train`` rows (at most four fifths), patients kept apart."""
    order = np.lexsort((np.arange(len(who)), who))
    cut = min(train, int(len(who) * 0.8))
    while cut < len(who) and who[order[cut]] == who[order[cut - 1]]:
        cut += 1
    return order[:cut], order[cut:]


def judge(found: dict[str, Frame], train: int) -> dict[str, dict[str, Any]]:
    """Figures by task; tasks that read the same notes share the counting of words."""
    results: dict[str, dict[str, Any]] = {}
    for group in (("readmission",), tuple(t for t in TASKS if t != "readmission")):
        everyone: dict[str, tuple[str, int]] = {}
        for task in group:
            f = found[task]
            everyone.update(zip(f.encounters, zip(f.texts, f.who.tolist(), strict=True), strict=True))
        at = {e: i for i, e in enumerate(everyone)}
        texts = [t for t, _ in everyone.values()]
        fit, test = halves(np.array([w for _, w in everyone.values()]), train)
        x_fit, x_test = weigh([texts[i] for i in fit], [texts[i] for i in test])
        counts, grams = count_ngrams(texts)
        place_fit, place_test = {i: k for k, i in enumerate(fit.tolist())}, {i: k for k, i in enumerate(test.tolist())}
        for task in group:
            f, started = found[task], time.perf_counter()
            where = [at[e] for e in f.encounters]
            mine_fit = np.array([i for i, w in enumerate(where) if w in place_fit])
            mine_test = np.array([i for i, w in enumerate(where) if w in place_test])
            classes = f.p.shape[1]
            rows_fit, rows_test = [place_fit[where[i]] for i in mine_fit], [place_test[where[i]] for i in mine_test]
            tfidf = linear_auroc(x_fit[rows_fit], f.y[mine_fit], x_test[rows_test], f.y[mine_test], classes)
            gram, phrase = best_ngram(counts[where], grams, f.y, classes)
            here = auroc(f.y[mine_test], f.p[mine_test])
            low, high = bands.ORACLE_AUROC[task]
            r: dict[str, Any] = {
                "n": len(f.y),
                "shares": [round(float((f.y == c).mean()), 4) for c in range(classes)],
                "band": [low, high],
                "oracle_auroc": round(auroc(f.y, f.p), 4),
                "oracle_auroc_test": round(here, 4),
                "tfidf_auroc": round(tfidf, 4),
                "tfidf_gap": round(here - tfidf, 4),
                "tfidf_train": len(mine_fit),
                "tfidf_test": len(mine_test),
                "best_ngram": phrase,
                "best_ngram_auroc": round(gram, 4),
                "calibration_z": round(calibration_z(f.y, f.p), 2),
            }
            r["met"] = (
                low <= r["oracle_auroc"] <= high
                and r["tfidf_gap"] >= bands.TFIDF_GAP_AT_LEAST
                and (task == "comorbidity" or gram < bands.NGRAM_AUROC_BELOW)
            )
            results[task] = r
            print(task, json.dumps(r), f"{time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return results


def calibration_z(y: np.ndarray, p: np.ndarray, bins: int = 10) -> float:
    """The largest |z| of observed minus expected cases over tenths of each class's oracle probability."""
    worst = 0.0
    for c in range(p.shape[1]):
        for rows in np.array_split(np.argsort(p[:, c], kind="stable"), bins):
            spread = np.sqrt((p[rows, c] * (1 - p[rows, c])).sum())
            if spread > 1.5:  # fewer expected cases than that say nothing
                worst = max(worst, float(abs((y[rows] == c).sum() - p[rows, c].sum()) / spread))
    return worst


def measure(preset: str, patients: int, train: int, seed: int) -> dict[str, Any]:
    """Simulate and judge one preset; about ``train`` encounters train TF-IDF, the rest test."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sim"
        started = time.perf_counter()
        settings = SimulatorSettings.model_validate({"patients": patients, "preset": preset, "seed": seed})
        (records,) = simulate(out, settings)
        seconds = time.perf_counter() - started
        counts = json.loads((records / "manifest.json").read_text())["counts"]
        print(f"{preset}: {counts['encounters']} encounters in {seconds:.1f} s", file=sys.stderr, flush=True)
        return {
            "encounters": counts["encounters"],
            "notes": counts["notes"],
            "seconds": round(seconds, 2),
            "encounters_per_second": round(counts["encounters"] / seconds, 1),
            "peak_worker_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
            "tasks": judge(frames(out, records.name), train),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encounters", type=int, default=100_000, help="encounters that train TF-IDF")
    parser.add_argument("--preset", action="append", choices=list(bands.SHARES))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "simulate.json")
    options = parser.parse_args()
    presets = options.preset or list(bands.SHARES)
    figures: dict[str, Any] = {"simulator_version": SIMULATOR_VERSION}
    for preset in presets:
        # Stays a patient differ by preset; a quarter more than needed leaves a test set beside the training rows.
        patients = int(options.encounters * 1.25 / STAYS_A_PATIENT[preset])
        figures[preset] = measure(preset, patients, options.encounters, options.seed)
    rates = [figures[preset]["encounters_per_second"] for preset in presets]
    met = all(t["met"] for preset in presets for t in figures[preset]["tasks"].values()) and min(rates) >= AIM_RATE
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "name": "simulate", "ratio": None,
        "aim": f"oracle in its bands, no phrase at {bands.NGRAM_AUROC_BELOW}, TF-IDF {bands.TFIDF_GAP_AT_LEAST} below, "
               f"{AIM_RATE:.0f} encounters/s",
        "met": met, "figures": figures,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", "versions": versions(), "commit": commit,
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'met' if met else 'NOT met'}: {options.out}")


if __name__ == "__main__":
    main()
