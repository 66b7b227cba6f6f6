"""The structured peers of clinical practice: LACE for readmission and its kin for the other tasks, boosted."""

from __future__ import annotations

import numpy as np

from lang1.evaluation.examples import Asked
from lang1.evaluation.scorers.encode import TreeEncoder
from lang1.evaluation.scorers.history import COLUMNS, OF_RULE, history
from lang1.evaluation.scorers.searched import search
from lang1.evaluation.scorers.trained import Trained, trainable
from lang1.evaluation.settings import EvaluateSettings


def lace_and_kin(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Gradient boosting on the few structured fields that clinicians' own scores use, settings by random search.

    Which columns a task gets is said by ``history.OF_RULE`` (all of them for a task of the site's own); columns that
    the records leave empty in train are dropped and named. Validation takes no part: the search splits train.
    """
    trained = Trained(
        "gradient boosting on LACE and its kin as known at prediction time, random search over 3 folds of train"
    )
    records = asked.benchmark.records
    for rows in trainable(asked, trained):
        names = list(OF_RULE.get(asked.benchmark.cards[rows.task].rule_name, COLUMNS))
        with records.connect() as connection:
            train, scored = (
                history(connection, part, records.time_basis).select(names) for part in (rows.train, rows.scored)
            )
        empty = [name for name in names if train[name].null_count == train.num_rows]
        names = [name for name in names if name not in empty]
        if not names:
            trained.left_out[f"{rows.task}: the records hold none of its structured fields"] = rows.scored.num_rows
            continue
        encoder = TreeEncoder(train.select(names))
        found = search(
            encoder.encode(train.select(names)),
            rows.train_labels,
            np.asarray(rows.train["subject_id"].to_numpy(zero_copy_only=False)),
            rows.n_classes,
            encoder.categorical,
            settings.seed,
        )
        trained.probabilities[rows.task] = found.probabilities(encoder.encode(scored.select(names)))
        missing = f"; empty in these records: {', '.join(empty)}" if empty else ""
        trained.chosen[rows.task] = f"{', '.join(names)}{missing}; {found.told}"
    return trained
