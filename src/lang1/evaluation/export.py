"""Predictions in the schema of ``meds-evaluation``, so that its command line can score them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError
from lang1.evaluation.predictions import open_predictions, place_of, probability_matrix
from lang1.remede.benchmark import Benchmark
from lang1.remede.export import BOOLEAN_LABELS, KIND, SPLIT_NAMES, parts, timed, write

# ``PredictionSchema`` of meds-evaluation 0.0.6. Its reader asks for the column of decided values too; it is null, since
# no threshold is declared.
PREDICTIONS = pa.schema(
    [
        *BOOLEAN_LABELS,
        pa.field("predicted_boolean_value", pa.bool_()),
        pa.field("predicted_boolean_probability", pa.float32()),
    ]
)


def export_predictions_meds(predictions: Path, benchmark: Path, out: Path) -> Path:
    """Write predictions and labels for ``meds-evaluation-cli``, one file a task and split.

    ``SPLIT/TASK.parquet`` for a binary task; ``SPLIT/TASK.class_N.parquet`` for each class of another, that class
    against the rest, since the schema knows two classes only. Probabilities are float32, as the schema says.

    Args:
        predictions: predictions folder of one model.
        benchmark: the benchmark that it answers.
        out: folder to write.

    Raises:
        ArtefactError: a folder that is damaged or in the way, or predictions of another benchmark.
        InputError: an example without a prediction time, or probabilities that do not fit its task.
    """
    opened, answered = Benchmark.open(benchmark), open_predictions(predictions)
    made_for = answered.folder.manifest.inputs.get("benchmark")
    if made_for is None or made_for.fingerprint != opened.folder.fingerprint:
        raise ArtefactError(
            f"{predictions} was not made for {benchmark}; export it with its own benchmark"
            f"{f' ({made_for.path})' if made_for is not None else ''}, or predict again."
        )
    ids = answered.table["example_id"]
    examples = opened.examples()
    asked = examples.filter(pc.is_in(examples["example_id"], ids.combine_chunks()))
    with new_folder(out, KIND, inputs={"benchmark": opened.folder, "predictions": answered.folder}) as draft:
        rows: dict[str, dict[str, int]] = {}
        for (task, split), part in parts(timed(opened, asked), opened):
            card, name = opened.cards[task], SPLIT_NAMES[split]
            names = part["example_id"].to_pylist()
            found = answered.table.take(pa.array(place_of(answered.table, names)))
            table = probability_matrix(found["probabilities"], card.classes, names, str(predictions))
            truth = np.asarray(part["label"].to_numpy(zero_copy_only=False))
            for label in range(card.classes) if card.kind == "multiclass" else (1,):
                columns = [
                    part["subject_id"],
                    part["prediction_time"],
                    pa.array(truth == label),
                    pa.nulls(part.num_rows, pa.bool_()),
                    pa.array(table[:, label].astype(np.float32)),
                ]
                one = f"{task}.class_{label}" if card.kind == "multiclass" else task
                write(draft.path / name / f"{one}.parquet", pa.table(columns, schema=PREDICTIONS))
            rows.setdefault(task, {})[name] = part.num_rows
        draft.leave_out("predictions of no example of the benchmark", answered.table.num_rows - asked.num_rows)
        draft.counts["predictions"] = rows
        draft.extra.update(format="meds-evaluation 0.0", model=answered.model, regime=answered.regime)
    return Path(out)
