"""The public prediction schema: one row an example, for models, baselines and the simulator's oracle alike."""

from __future__ import annotations

import pyarrow as pa

REGIMES = ("zero-shot", "few-shot", "finetuned", "joint", "baseline", "oracle")

# One row an example. `probabilities` has one entry per class, in the order of the task's options, and sums to 1.
PREDICTIONS = pa.schema(
    [
        pa.field("example_id", pa.string(), nullable=False),  # "<task>:<encounter_id>"
        pa.field("task", pa.string(), nullable=False),
        pa.field("encounter_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.int64(), nullable=False),  # identity.patient_hash(patient_id)
        pa.field("prediction_time", pa.timestamp("us")),
        pa.field("model", pa.string(), nullable=False),
        pa.field("regime", pa.string(), nullable=False),  # one of REGIMES
        pa.field("probabilities", pa.list_(pa.float64()), nullable=False),
        # Of models that answer in words: share of next-token probability on the option letters; null elsewhere.
        pa.field("option_mass", pa.float64()),
        # Note tokens (or characters, for other tokenizers' models) cut off to fit the budget; null elsewhere.
        pa.field("truncated", pa.int64()),
    ]
)


def example_id(task: str, encounter_id: str) -> str:
    """The id of the example that asks ``task`` of ``encounter_id``."""
    return f"{task}:{encounter_id}"
