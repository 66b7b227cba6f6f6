"""A whole study, made up: every kind of figure and table, long names, gaps, failed steps, twelve analyses, cases.

Its numbers are drawn at random and mean nothing; nothing of it leaves the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TASKS = [
    "30-day readmission",
    "In-hospital death",
    "Length of stay",
    "Comorbidity (Charlson index)",
    "Insurance denial",
]
IDS = ["readmission", "mortality", "length_of_stay", "comorbidity", "denial"]
OPTIONS = [
    ["No", "Yes"],
    ["No", "Yes"],
    ["0 to 2 days", "3 days", "4 or 5 days", "more than 5 days"],
    ["0", "1 to 2", "3 to 4", "5 to 7", "above 7"],
    ["No", "Yes"],
]
MODELS = [
    ("Lang1-8M on clinical and general text, finetuned jointly", "specialist", 0.27),
    ("Lang1-8M on clinical and general text, zero-shot", "self", 0.05),
    ("SmolLM2-135M-Instruct, finetuned jointly on the same notes", "generalist", 0.22),
    ("SmolLM2-135M-Instruct, zero-shot", "generalist", 0.02),
    ("Gradient boosting on structured fields", "baseline", 0.2),
    ("Oracle", "oracle", 0.33),
]
PAPER = [0.766, 0.959, 0.860, 0.772, 0.903]


class Draw:
    """Numbers of a fixed seed."""

    def __init__(self, seed: int = 7) -> None:
        self.rng = np.random.default_rng(seed)

    def value(self, centre: float, width: float = 0.03, **more: Any) -> dict[str, Any]:
        value = float(np.clip(centre + self.rng.normal(0, 0.01), 0, 1))
        half = width * float(self.rng.uniform(0.7, 1.3))
        return {"value": value, "low": value - half, "high": min(value + half, 1.0), "n": 1558, "seeds": 3, **more}

    def point(self, x: float | str, centre: float, width: float = 0.03, label: str = "") -> dict[str, Any]:
        found = self.value(centre, width)
        return {"x": x, "y": found["value"], "low": found["low"], "high": found["high"], "label": label}


def axis(label: str, scale: str = "linear", names: list[str] | None = None) -> dict[str, Any]:
    return {"label": label, "scale": scale, "names": names or []}


def series(name: str, role: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "role": role, "points": points}


def _main(d: Draw, id_: str, title: str, models: list[Any]) -> dict[str, Any]:
    columns = [{"key": "model", "label": "Model"}]
    columns += [
        {"key": i, "label": t, "kind": "auroc", "help": f"AUROC of {t}"} for i, t in zip(IDS, TASKS, strict=True)
    ]
    rows = []
    for name, role, skill in models:
        row: dict[str, Any] = {"model": name}
        for k, i in enumerate(IDS):
            more = {"paper": PAPER[k]} if role == "specialist" else {}
            row[i] = d.value(0.5 + skill + 0.03 * k, **more, n=1500 + 10 * k, events=None if k in (2, 3) else 260 - k)
        rows.append(row)
    rows[-1][IDS[2]] = {"value": None, "note": "no oracle of several classes"}
    rows[1][IDS[4]] = None
    bars = [series(n, r, [d.point(t, 0.5 + s + 0.03 * k) for k, t in enumerate(TASKS)]) for n, r, s in models[:4]] + [
        series("Lang1-1B in the paper", "paper", [{"x": t, "y": p} for t, p in zip(TASKS, PAPER, strict=True)])
    ]
    bars[1]["points"][4]["y"] = None
    return {
        "id": id_,
        "title": title,
        "question": "How well does each model rank patients on each task, on the newest test period?",
        "sentence": "Lang1-8M finetuned jointly has the highest AUROC on 4 of 5 tasks (0.770 to 0.889); "
        "on insurance denial the interval of its lead over the generalist holds 0.",
        "verdict": "mixed",
        "caveats": [
            "The paper’s models are up to 7B parameters and read 80 B tokens of another hospital’s notes.",
            "One hospital, one period.",
        ],
        "paper": "Finetuned, Lang1-1B gains 3.64 to 6.75 points over finetuned generalists up to 70× larger (table 3).",
        "tables": [
            {
                "id": "main",
                "title": "AUROC by model and task",
                "columns": columns,
                "rows": rows,
                "note": "Newest test split.",
            }
        ],
        "figures": [
            {
                "id": "bars",
                "kind": "bars",
                "title": "AUROC by task",
                "x": axis("Task", "names", TASKS),
                "y": axis("AUROC"),
                "series": bars,
                "lines": {"chance": 0.5},
                "note": "Bars start at chance.",
            },
        ],
    }


def _transfer(d: Draw) -> dict[str, Any]:
    rows = [*TASKS, "All five tasks jointly"]
    cells = [d.point(t, 0.85 if t == r or r == rows[-1] else 0.58, label=r) for r in rows for t in TASKS]
    cells[3]["y"] = None
    paper = [{"x": t, "y": PAPER[k], "label": rows[k]} for k, t in enumerate(TASKS)]
    gaps = [d.point(t, 0.02 if t != r else -0.03, 0.04, r) for r in TASKS for t in TASKS]
    for g in gaps:
        g["y"] -= 0.02
        g["low"] -= 0.02
        g["high"] -= 0.02
    return {
        "id": "transfer",
        "title": "Does finetuning on one task help another?",
        "question": "What does a model that learned one task know of the others?",
        "sentence": "A model finetuned on one task alone is above guessing on 11 of 20 other tasks; "
        "the joint model is within 0.010 of the best single one on 4 of 5.",
        "verdict": "clear",
        "paper": "Transfer is asymmetric: readmission and mortality help each other most (figure 4).",
        "figures": [
            {
                "id": "matrix",
                "kind": "matrix",
                "title": "AUROC by task learned and task asked",
                "x": axis("Asked", "names", TASKS),
                "y": axis("Learned", "names"),
                "series": [series("AUROC", "specialist", cells), series("paper", "paper", paper)],
            },
            {
                "id": "gaps",
                "kind": "matrix",
                "title": "Difference from the model that learned nothing",
                "x": axis("Asked", "names"),
                "y": axis("Learned"),
                "series": [series("difference", "specialist", gaps)],
                "note": "Above 0: learning the row’s task helped.",
            },
        ],
        "tables": [
            {
                "id": "m",
                "title": "Transfer in numbers",
                "columns": [
                    {"key": "a", "label": "Learned"},
                    {"key": "b", "label": "Asked"},
                    {"key": "v", "label": "AUROC", "kind": "auroc"},
                    {"key": "d", "label": "Against no finetuning", "kind": "difference"},
                ],
                "rows": [
                    {
                        "a": r,
                        "b": t,
                        "v": d.value(0.7, events=200),
                        "d": {
                            "value": 0.04 * (k - 1),
                            "low": 0.04 * (k - 1) - 0.03,
                            "high": 0.04 * (k - 1) + 0.03,
                            "p": 0.0004 if k else 0.21,
                            "p_adjusted": 0.03,
                            "n": 1558,
                            "seeds": 3,
                        },
                    }
                    for r in TASKS
                    for k, t in enumerate(TASKS)
                ],
            },
        ],
    }


def _lines(d: Draw) -> list[dict[str, Any]]:
    sizes = [100, 300, 1000, 3000, 10000]
    efficiency = [
        series(
            "Lang1-8M", "specialist", [d.point(n, 0.62 + 0.06 * k, 0.04 - 0.005 * k) for k, n in enumerate([0, *sizes])]
        ),
        series(
            "SmolLM2-135M-Instruct",
            "generalist",
            [d.point(n, 0.55 + 0.06 * k, 0.04 - 0.005 * k) for k, n in enumerate([0, *sizes])],
        ),
        series("Gradient boosting", "baseline", [d.point(n, 0.6 + 0.04 * k, 0.03) for k, n in enumerate(sizes)]),
        series("Lang1-1B in the paper", "paper", [{"x": n, "y": 0.7 + 0.015 * k} for k, n in enumerate(sizes)]),
    ]
    tokens = [1e6, 3e6, 1e7, 3e7, 1e8]
    trajectory = [
        series(t, "self", [d.point(n, 0.5 + 0.01 * k * (j + 1), 0.02) for k, n in enumerate(tokens)])
        for j, t in enumerate(TASKS)
    ]
    trajectory[2]["points"][2] |= {"y": None, "low": None, "high": None}
    periods = ["validation", "test, same period", "test, after training", "test, newest"]
    by_period = [
        series(n, r, [d.point(p, 0.8 - 0.01 * k - 0.03 * j, 0.03) for k, p in enumerate(periods)])
        for j, (n, r, _) in enumerate(MODELS[:4])
    ]
    many = [
        series(
            f"{size} parameters, {mix}",
            "specialist",
            [d.point(n, 0.6 + 0.02 * k + 0.02 * j) for k, n in enumerate(tokens)],
        )
        for j, (size, mix) in enumerate(
            (s, m) for s in ("2M", "8M", "30M", "100M") for m in ("clinical notes", "clinical notes and general text")
        )
    ]
    scatter = [
        series(
            "Zero-shot",
            "generalist",
            [
                d.point(float(v), 0.5 + 0.02 * k, 0.02, label)
                for k, (v, label) in enumerate(
                    [(12.5, "SmolLM2-135M"), (11.9, "Pythia-160M"), (9.1, "Qwen2.5-0.5B"), (8.9, "Llama-3.2-1B")]
                )
            ],
        ),
        series(
            "Own models",
            "specialist",
            [
                d.point(float(v), 0.7 + 0.04 * k, 0.02, label)
                for k, (v, label) in enumerate([(4.1, "Lang1-2M"), (3.2, "Lang1-8M"), (3.1, "Lang1-8M clinical")])
            ],
        ),
    ]
    return [
        _simple(
            "efficiency",
            "Does pretraining make finetuning cheaper?",
            [
                {
                    "id": "e",
                    "kind": "lines",
                    "title": "30-day readmission: AUROC by finetuning notes",
                    "x": axis("Notes it was finetuned on", "log"),
                    "y": axis("AUROC"),
                    "series": efficiency,
                    "lines": {"chance": 0.5, "oracle": 0.86},
                    "note": "0: not finetuned.",
                },
                {
                    "id": "e2",
                    "kind": "lines",
                    "title": "In-hospital death: AUROC by finetuning notes",
                    "x": axis("Notes it was finetuned on", "log"),
                    "y": axis("AUROC"),
                    "series": efficiency[:2],
                    "lines": {"chance": 0.5},
                },
            ],
            "clear",
        ),
        _simple(
            "trajectory",
            "What does more pretraining give?",
            [
                {
                    "id": "t",
                    "kind": "lines",
                    "title": "Zero-shot AUROC along pretraining",
                    "x": axis("Pretraining tokens", "log"),
                    "y": axis("AUROC"),
                    "series": trajectory,
                    "lines": {"chance": 0.5},
                }
            ],
            "undecided",
        ),
        _simple(
            "periods",
            "Does it hold as time goes on?",
            [
                {
                    "id": "p",
                    "kind": "lines",
                    "title": "AUROC by period",
                    "x": axis("Period", "names", periods),
                    "y": axis("AUROC"),
                    "series": by_period,
                }
            ],
            "mixed",
        ),
        _simple(
            "mixture",
            "Which text and how much of it?",
            [
                {
                    "id": "x",
                    "kind": "lines",
                    "title": "AUROC by tokens, size and mixture",
                    "x": axis("Pretraining tokens", "log"),
                    "y": axis("Mean AUROC of five tasks"),
                    "series": many,
                }
            ],
            "none",
        ),
        _simple(
            "perplexity",
            "Does a lower perplexity mean a better ranking?",
            [
                {
                    "id": "s",
                    "kind": "scatter",
                    "title": "AUROC against perplexity of the right answer",
                    "x": axis("Perplexity of the answer"),
                    "y": axis("Mean AUROC"),
                    "series": scatter,
                    "lines": {"chance": 0.5},
                }
            ],
            "clear",
        ),
    ]


def _simple(id_: str, title: str, figures: list[dict[str, Any]], verdict: str) -> dict[str, Any]:
    return {
        "id": id_,
        "title": title,
        "question": f"{title.rstrip('?')}, on this hospital’s data?",
        "sentence": "Made up for a test: the specialist reaches 0.750 with 1,000 notes, the generalist with "
        "3,000; intervals are apart at every size but the smallest.",
        "verdict": verdict,
        "figures": figures,
        "caveats": ["Sizes are nested: each holds the smaller ones."],
    }


def _subgroups(d: Draw) -> dict[str, Any]:
    groups = [
        "female",
        "male",
        "age 18 to 44",
        "age 45 to 64",
        "age 65 and above",
        "Medicare",
        "Medicaid",
        "privately insured",
        "a payer with a remarkably long name that wraps",
    ]
    rows = [
        {
            "g": g,
            "v": d.value(0.8, 0.05, n=200 + 40 * k, events=20 + k),
            "a": {"value": 0.08 + 0.01 * k, "low": 0.05, "high": 0.2},
            "n": 200 + 40 * k,
        }
        for k, g in enumerate(groups)
    ]
    return {
        **_simple("subgroups", "Does it serve all groups alike?", [], "undecided"),
        "tables": [
            {
                "id": "g",
                "title": "By group",
                "columns": [
                    {"key": "g", "label": "Group"},
                    {"key": "v", "label": "AUROC", "kind": "auroc"},
                    {"key": "a", "label": "Alerts", "kind": "share"},
                    {"key": "n", "label": "Rows", "kind": "count"},
                ],
                "rows": rows,
            }
        ],
        "figures": [
            {
                "id": "f",
                "kind": "forest",
                "title": "Gap from the largest group",
                "x": axis("Group", "names", groups),
                "y": axis("Difference in AUROC"),
                "series": [
                    series(
                        "gap",
                        "specialist",
                        [
                            {"x": g, "y": 0.01 * (k - 4), "low": 0.01 * (k - 4) - 0.04, "high": 0.01 * (k - 4) + 0.04}
                            for k, g in enumerate(groups)
                        ],
                    )
                ],
                "lines": {"no difference": 0.0},
            },
            {
                "id": "f2",
                "kind": "forest",
                "title": "Two models by group",
                "x": axis("Group", "names", groups[:4]),
                "y": axis("AUROC"),
                "series": [series(n, r, [d.point(g, 0.5 + s) for g in groups[:4]]) for n, r, s in MODELS[:3]],
                "lines": {"chance": 0.5, "oracle of the whole": 0.85},
            },
        ],
    }


def _cost(d: Draw) -> dict[str, Any]:
    rows = [
        {"o": "Rules and gradient boosting", "t": {"value": 12.5, "low": 8.0, "high": 19.0}, "y": 310.0, "p": 2.5e5},
        {
            "o": "Specialist from scratch",
            "t": {"value": 181_250.0, "low": 120_000.0, "high": 260_000.0, "paper": 180_000.0},
            "y": {"value": 5200.0, "low": 3000.0, "high": 9000.0},
            "p": 8e6,
        },
        {"o": "Zero-shot API", "t": None, "y": {"value": None, "note": "no price in the settings"}, "p": "not told"},
    ]
    return {
        **_simple(
            "cost",
            "What does it cost, and what is it worth?",
            [
                {
                    "id": "c",
                    "kind": "bars",
                    "title": "Yearly cost by option",
                    "x": axis("Option", "names"),
                    "y": axis("US dollars a year"),
                    "series": [
                        series(
                            "cost",
                            "specialist",
                            [
                                {"x": r["o"], "y": v, "low": v * 0.6, "high": v * 1.5}
                                for r, v in zip(rows, (310.0, 5200.0, 9100.0), strict=True)
                            ],
                        )
                    ],
                },
            ],
            "none",
        ),
        "tables": [
            {
                "id": "c",
                "title": "Cost by option",
                "unit": "$",
                "columns": [
                    {"key": "o", "label": "Option"},
                    {"key": "t", "label": "Training", "kind": "money"},
                    {"key": "y", "label": "A year", "kind": "money"},
                    {"key": "p", "label": "Parameters", "kind": "number"},
                ],
                "rows": rows,
            }
        ],
    }


def _cases(d: Draw) -> list[dict[str, Any]]:
    note = (
        "HISTORY AND PHYSICAL\n\nChief complaint: shortness of breath for 3 days.\n"
        "History: 71-year-old with CHF (EF 30 %), COPD, DM2, three stays in the last year.\n"
        "Medication: furosemide, carvedilol, metformin.\n"
        "Exam: BP 96/54, HR 112, SpO2 88 % on room air; crackles to the mid-zones.\n"
        "Labs: Na 129, creatinine 2.1, BNP 2,400.\n\n"
        "Assessment: decompensated heart failure. Lives alone; declines a nursing home.\n"
    )
    made = []
    for k, (task, options) in enumerate(zip(IDS, OPTIONS, strict=True)):
        for j, why in enumerate(("sure and right", "sure and wrong", "models disagree", "near the middle")):
            answers = []
            for name, role, _ in MODELS:
                p = d.rng.dirichlet(np.ones(len(options)))
                answers.append({"model": name, "role": role, "probabilities": [float(x) for x in p]})
            made.append(
                {
                    "example_id": f"{task}:e{j}",
                    "system": "riverside",
                    "task": task,
                    "note": note * (1 + 2 * (j == 1)),
                    "question": f"Question about {TASKS[k]}?",
                    "options": options,
                    "label": (j + k) % len(options),
                    "answers": answers,
                    "why": why,
                }
            )
    return made


def make_study() -> dict[str, Any]:
    """The content of a ``study.json``."""
    d = Draw()
    analyses = [
        _main(d, "zero-shot", "What do models know untaught?", [MODELS[1], MODELS[3], MODELS[5]]),
        _main(d, "finetuned", "Finetuned, which is best?", MODELS),
        _transfer(d),
        *_lines(d),
        _subgroups(d),
        _cost(d),
        {**_simple("external", "Does it hold at another hospital?", [], "undecided")},
        {
            **_simple("empty", "An analysis with nothing but a sentence", [], "none"),
            "caveats": [],
            "sentence": "No cell could be judged.",
        },
    ]
    verdicts = ["holds", "holds", "does not hold", "undecided", "holds", "not examined"]
    claims = [
        "Zero-shot is poor on four of five tasks",
        "The finetuned specialist beats larger finetuned generalists",
        "The finetuned specialist beats far larger zero-shot models",
        "Joint finetuning transfers across tasks",
        "Skill transfers to another hospital",
        "Pretraining makes finetuning more data-efficient",
    ]
    where = ["zero-shot", "finetuned", "finetuned", "transfer", "external", "nowhere"]
    cells = []
    for design in ("grid", "efficiency"):
        for name, role, _ in MODELS[:4]:
            for seed in (0, 1, 2):
                cells.append(
                    {
                        "step": f"p-{name}-{seed}",
                        "label": name,
                        "role": role,
                        "regime": "joint",
                        "benchmark": "remede",
                        "tested_on": "riverside",
                        "trained_on": ["riverside"],
                        "pretrained_on": [],
                        "model": "8M",
                        "parameters": 8_400_000,
                        "corpus": "clinical",
                        "tokens": None,
                        "tasks": IDS if role == "specialist" else [],
                        "notes": 1000 if design == "efficiency" else None,
                        "seed": seed,
                        "design": design,
                        "variant": "",
                        "budget": None,
                    }
                )
    return {
        "lang1_study": 1,
        "title": "The study on a simulated hospital",
        "subtitle": "Specialists trained on its own notes, generalists, baselines and the best possible, side by side",
        "data": [
            {
                "name": "riverside",
                "real": False,
                "description": "lang1 simulator 2, seed 7",
                "licence": "CC0-1.0",
                "patients": 12000,
                "encounters": 24476,
                "notes": 64355,
                "time_basis": "calendar",
            },
            {
                "name": "lakeside",
                "real": False,
                "description": "lang1 simulator 2, seed 8: other payers, other habits of writing",
                "licence": "CC0-1.0",
                "patients": 9000,
                "encounters": 18000,
                "notes": 50000,
                "time_basis": "calendar",
            },
        ],
        "tasks": [
            {
                "task": i,
                "title": t,
                "question": f"Question about {t}?",
                "options": o,
                "note_type": "history_and_physical",
                "definition": f"1 if {t.lower()} comes to pass.",
                "headline_split": "test_newest",
            }
            for i, t, o in zip(IDS, TASKS, OPTIONS, strict=True)
        ],
        "claims": [
            {
                "id": f"c{k}",
                "claim": c,
                "verdict": v,
                "evidence": f"On {k} of 5 tasks the interval of the difference lies above 0 "
                "(+0.041, 95 % interval +0.012 to +0.070).",
                "analysis": w,
                "paper": "3.64 to 6.75 points" if k == 1 else "",
            }
            for k, (c, v, w) in enumerate(zip(claims, verdicts, where, strict=True))
        ],
        "analyses": analyses,
        "cases": _cases(d),
        "failed": ["finetune-30m-seed2: out of memory after step 1,204; its log: work/finetune-30m-seed2/train.log"],
        "warnings": ["One seed at 30M parameters: its intervals hold patients alone."],
        "settings": {
            "grid": {"sizes": ["2M", "8M"], "seeds": [0, 1, 2]},
            "evaluation": {"resamples": 200, "interval": "percentile"},
            "home": "riverside",
        },
        "fingerprints": {"remede": "ab" * 32, "corpus": "cd" * 32},
        "versions": {"lang1": "0.1.0", "python": "3.11.9", "torch": "2.12.0"},
        "design": cells,
    }
