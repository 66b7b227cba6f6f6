"""Names in the reader's words: models, splits, metrics, and the glossary."""

from __future__ import annotations

from dataclasses import dataclass

# Baselines that every evaluation asks for: how they are called, short name for plots, marker, what they are.
BASELINES: dict[str, tuple[str, str, str, str]] = {
    "tfidf-lr": (
        "TF-IDF + logistic regression",
        "TF-IDF + LR",
        "square",
        "counts the words of the same note; the classic, cheap and strong text baseline",
    ),
    "tfidf-gbm": (
        "TF-IDF + gradient boosting",
        "TF-IDF + boosting",
        "square",
        "boosted trees on the words of the same note that tell the classes apart best",
    ),
    "gbm-structured": (
        "Gradient boosting on structured fields",
        "Gradient boosting",
        "diamond",
        "boosted trees on the structured fields known at prediction time; the strong peer without text",
    ),
    "lace-and-kin": (
        "LACE and its kin",
        "LACE and kin",
        "diamond",
        "boosted trees on the few structured fields of clinicians’ own scores, as known when the question was asked",
    ),
    "encoder": (
        "Small encoder, finetuned",
        "Encoder",
        "square",
        "a BERT-type encoder finetuned on the same labelled notes",
    ),
    "metadata": (
        "Metadata only",
        "Metadata only",
        "triangle",
        "payer, age and department, no text: what registration alone gives away",
    ),
    "payer": (
        "Payer only",
        "Payer only",
        "cross",
        "the payer at registration and nothing else: a denial model that read the note must do better",
    ),
    "note-length": (
        "Note length only",
        "Note length only",
        "wedge",
        "knows only how long the note is: a check that length is not the answer",
    ),
    "prevalence": (
        "Prevalence",
        "Prevalence",
        "bar",
        "gives everybody the training rate: the floor, with an AUROC of 0.5 by construction",
    ),
}
_ALIASES = {
    "tfidf": "tfidf-lr",
    "tf-idf": "tfidf-lr",
    "tfidf-logreg": "tfidf-lr",
    "tf-idf-lr": "tfidf-lr",
    "gbm": "gbm-structured",
    "gradient-boosting": "gbm-structured",
    "hist-gbm": "gbm-structured",
    "structured-gbm": "gbm-structured",
    "length": "note-length",
    "notelength": "note-length",
    "metadata-only": "metadata",
    "payer-only": "payer",
}


def baseline(model: str) -> tuple[str, str, str, str] | None:
    """Names, marker and meaning of a baseline known by (a spelling of) its name; None for others."""
    key = model.lower().replace("_", "-").replace(" ", "-")
    return BASELINES.get(_ALIASES.get(key, key))


def baseline_rank(model: str) -> int:
    """The order of baselines in tables: the strong peers first, the checks after them."""
    known = baseline(model)
    order = list(BASELINES.values())
    return order.index(known) if known is not None else 2


def is_check(model: str) -> bool:
    """Whether a baseline is there as a check (metadata, payer, note length, prevalence) and not as a peer."""
    return baseline(model) in [BASELINES[name] for name in ("metadata", "payer", "note-length", "prevalence")]


REGIME_WORDS = {
    "zero-shot": "zero-shot",
    "few-shot": "few-shot",
    "finetuned": "finetuned",
    "joint": "finetuned jointly",
    "baseline": "baseline",
    "oracle": "oracle",
}

SPLIT_WORDS = {
    "train": ("Train", "what the models were finetuned on"),
    "val": ("Validation", "same period as training; used for early stopping"),
    "test": ("Test, same period", "other patients, same period as training"),
    "test_older": ("Test, after training", "the period right after training"),
    "test_newest": ("Test, newest", "the newest period: closest to use tomorrow"),
    "held_out_site": ("Test, unseen site", "facilities that the models have not seen: closest to use elsewhere"),
}
SPLIT_ORDER = ("train", "val", "test", "test_older", "test_newest", "held_out_site")


def split_title(split: str | None) -> str:
    """A split's name in words; unknown ones as they are written."""
    return SPLIT_WORDS[split][0] if split in SPLIT_WORDS else (split or "all rows").replace("_", " ")


def split_rank(split: str) -> tuple[int, str]:
    """Splits in order of time, unknown ones last."""
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


@dataclass(frozen=True)
class MetricWords:
    """How a metric is called, printed and read; ``better`` is higher, lower, or none (a target value)."""

    title: str
    digits: int = 3
    better: str = "higher"


METRICS: dict[str, MetricWords] = {
    "auroc": MetricWords("AUROC"),
    "auroc_class": MetricWords("AUROC by class"),
    "auprc": MetricWords("AUPRC"),
    "prevalence": MetricWords("Prevalence", better=""),
    "brier": MetricWords("Brier", better="lower"),
    "scaled_brier": MetricWords("Scaled Brier"),
    "log_loss": MetricWords("Log loss", better="lower"),
    "e_avg": MetricWords("Eavg", better="lower"),
    "e_90": MetricWords("E90", better="lower"),
    "e_max": MetricWords("Emax", better="lower"),
    "auroc_weighted": MetricWords("AUROC, classes weighed"),
    "auroc_patients": MetricWords("AUROC, patients alike"),
    "auprc_patients": MetricWords("AUPRC, patients alike"),
    "brier_patients": MetricWords("Brier, patients alike", better="lower"),
    "stated_minus_observed": MetricWords("Stated minus observed", better=""),
    "ece": MetricWords("ECE", better="lower"),
    "calibration_in_the_large": MetricWords("Calibration in the large", better=""),
    "calibration_slope": MetricWords("Calibration slope", 2, better=""),
    "attained_share": MetricWords("Attained share"),
    "option_mass": MetricWords("Option mass"),
}


def metric_words(metric: str) -> MetricWords:
    """A metric's words; unknown metrics keep their name and three decimals."""
    return METRICS.get(metric, MetricWords(metric.replace("_", " "), better=""))


NOTE_TYPES = {
    "history_and_physical": "admission note (H&P)",
    "discharge_summary": "discharge note",
    "progress": "progress note",
    "emergency": "emergency note",
}

TIME_BASIS = {
    "calendar": "true calendar dates",
    "shifted": "dates shifted per patient",
    "within_stay": "times known within a stay only",
    "ordinal": "order of stays known, no dates",
    "none": "no order or dates",
}

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "AUROC",
        "Take one patient who had the outcome and one who did not: how often does the model give the first the higher "
        "risk? 0.5 is guessing, 1 is perfect. It judges the order of patients, not whether the risks are the right "
        "size. With more than two classes it is the mean over “this class against the rest”.",
    ),
    (
        "Interval",
        "The range in brackets is a 95 % interval: the test patients are drawn again with replacement many times and "
        "the figure is taken anew. A wide interval means few patients or few outcomes. It says nothing about other "
        "hospitals or other years.",
    ),
    (
        "Corrected p",
        "Who asks twenty questions gets one “significant” answer by luck. Holm’s correction bounds the chance of any "
        "such answer in a family of claims; Benjamini and Hochberg’s, for exploration, bounds the share of them.",
    ),
    (
        "Paired difference",
        "Both models are scored on the same patients in each redraw, so that luck in who was drawn cancels out. If the "
        "interval of the difference lies above 0 the first model is called ahead, below 0 behind, and if it holds 0 "
        "undecided: these data do not decide it. The words follow the interval of each difference by itself; the "
        "corrected p-value beside it allows for how many were asked.",
    ),
    (
        "Oracle",
        "On simulated records the true risk of each patient, given what is written in the note, is known. The oracle "
        "states that risk. No model that reads the same note can be expected to rank better. Real data has no oracle.",
    ),
    (
        "Attained share",
        "How much of the way from guessing to the oracle a model goes: (AUROC − 0.5) / (oracle’s AUROC − 0.5).",
    ),
    (
        "Zero-shot",
        "The model answers the question without having been trained on labelled examples of it.",
    ),
    (
        "Finetuned, jointly",
        "The model was trained further on labelled examples; jointly means that one model learned all tasks at once.",
    ),
    (
        "AUPRC and prevalence",
        "Precision averaged over recall. Its floor is the prevalence (how often the outcome occurs), so it must be "
        "read beside it: 0.10 is poor at a prevalence of 10 % and good at 1 %.",
    ),
    (
        "Brier, log loss",
        "Mean error of the stated risks, squared or logarithmic. Lower is better; both punish false certainty.",
    ),
    (
        "Calibration",
        "Of patients given a risk of 20 %, do 20 % have the outcome? ECE is the mean gap (0 is best); calibration in "
        "the large tells whether risks are too high or too low overall; a slope of 1 is right, below 1 too extreme.",
    ),
    (
        "Scaled Brier, Eavg",
        "Scaled Brier: 1 is perfect, 0 no better than stating the overall rate. Eavg, E90, Emax: mean, 90th percentile "
        "and largest gap between the stated risk and a smooth curve of what happened.",
    ),
    (
        "Sensitivity, PPV, alerts",
        "If the encounters with the highest stated risks raise an alert: the share of outcomes that were alerted, the "
        "share of alerts that were right, and how many alerts that makes.",
    ),
    (
        "Net benefit",
        "What acting on the risks is worth against acting on nobody, in outcomes found per encounter, false alerts "
        "paid for at the odds of the risk from which on one would act. A model is of use where its curve lies above "
        "both nobody (0) and everybody.",
    ),
    (
        "Option mass",
        "How much of the language model’s next-word probability falls on the lettered answers. Near 1: it answers the "
        "question that was asked. Near 0: the figures rest on a thin remainder.",
    ),
    (
        "Attrition",
        "The rules by which rows became eligible, one after the other, and how many remained after each.",
    ),
    (
        "Split",
        "Which part of the data a row belongs to. Models learn on train, stop by validation, and are judged on test.",
    ),
)
