"""The baselines that a sceptic asks for, each trained on exactly the train rows that the models get."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lang1.evaluation.examples import Asked
from lang1.evaluation.scorers.boosting import gradient_boosting
from lang1.evaluation.scorers.encode import LinearEncoder
from lang1.evaluation.scorers.encoder import encoder
from lang1.evaluation.scorers.linear import fit_logistic
from lang1.evaluation.scorers.structured import lace_and_kin
from lang1.evaluation.scorers.tfidf import tfidf_boosting, tfidf_logistic
from lang1.evaluation.scorers.trained import Trained, trainable
from lang1.evaluation.settings import EvaluateSettings

METADATA_GRID = (0.03, 0.3, 3.0)


def prevalence(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Everybody gets the class shares of train: the floor, with an AUROC of 0.5 by construction."""
    trained = Trained("gives everybody the class shares of train")
    for rows in trainable(asked, trained, least_classes=1):
        shares = np.bincount(rows.train_labels, minlength=rows.n_classes) / rows.train.num_rows
        trained.probabilities[rows.task] = np.tile(shares, (rows.scored.num_rows, 1))
    return trained


def note_length(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Logistic regression on the logarithm of the note's length alone, bent at train quantiles."""

    def length(examples: pa.Table) -> pa.Table:
        words = asked.benchmark.metadata(examples)["note_words"]
        return pa.table({"log_words": pc.ln(pc.add(words.cast(pa.float64()), 1.0))})

    return _logistic(
        asked, "logistic regression on the logarithm of the note's length in words, bent at train quantiles", length
    )


def metadata(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Logistic regression on what registration knows: age, sex, payer, department, admission type; no text."""

    def registration(examples: pa.Table) -> pa.Table:
        return asked.benchmark.metadata(examples).drop_columns(["example_id", "note_words"])

    return _logistic(
        asked,
        "logistic regression on registration data: categories one-hot, numbers bent at train quantiles",
        registration,
    )


def payer(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Logistic regression on the payer at registration alone: what a denial model must beat to have read the note."""

    def registered(examples: pa.Table) -> pa.Table:
        return asked.benchmark.metadata(examples).select(["payer"])

    return _logistic(asked, "logistic regression on the payer as known at registration, one-hot", registered)


def _logistic(asked: Asked, about: str, inputs: Callable[[pa.Table], pa.Table]) -> Trained:
    trained = Trained(about)
    for rows in trainable(asked, trained):
        train = inputs(rows.train)
        encoder = LinearEncoder(train)
        fitted = fit_logistic(
            encoder.encode(train),
            rows.train_labels,
            encoder.encode(inputs(rows.val)),
            rows.val_labels,
            rows.n_classes,
            METADATA_GRID,
        )
        trained.probabilities[rows.task] = fitted.probabilities(encoder.encode(inputs(rows.scored)))
        trained.chosen[rows.task] = fitted.told()
    return trained


BASELINES: dict[str, Callable[[Asked, EvaluateSettings], Trained]] = {
    "prevalence": prevalence,
    "note-length": note_length,
    "metadata": metadata,
    "payer": payer,
    "tfidf-lr": tfidf_logistic,
    "tfidf-gbm": tfidf_boosting,
    "gbm-structured": gradient_boosting,
    "lace-and-kin": lace_and_kin,
    "encoder": encoder,
}
