"""Settings of a corpus: which text, how it is cleaned, how it is tokenized, in which shares it is mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from lang1.common.settings import Settings
from lang1.corpus.filters import FILTERS, resolve_filters
from lang1.text.tokenizer_training import MIN_VOCAB, Digits

NOTES = "notes"


class Cleaning(Settings):
    """How documents are cleaned, and which are left out.

    The first three steps are those that every note gets wherever a model reads one (``text/clean.py``). One that is
    switched off leaves the text as it is and counts the documents that it would have changed; the model then meets
    in training what it will not meet afterwards.
    """

    drop_malformed: bool = True
    normalise_punctuation: bool = True
    collapse_space: bool = True
    min_words: int = Field(default=10, ge=0)  # documents with fewer words are left out (the paper's rule)
    # Documents that hold one of these are left out: marks of a failed export, not text (the paper's rule).
    placeholders: tuple[str, ...] = ("<NA>",)
    # Drop characters outside ASCII, as the paper does. It becomes part of the tokenizer, so that a model meets the
    # same form in training and afterwards. Off: µ, °, ≥ and names carry meaning.
    ascii_only: bool = False


class GeneralSource(Settings):
    """Text that is not a health system's: a file, or a folder of JSON Lines, Parquet or plain text files."""

    path: Path | None = None  # None: the text that ships with Lang1
    text_field: str = "text"


class Launch(Settings):
    """Where the work runs. Nothing here changes a byte of the corpus, and nothing of it is recorded there."""

    how: Literal["local", "slurm", "ray"] = "local"
    # Slurm: ranks of the job array, each one core. They share the work out among themselves; any number will do.
    ranks: int = Field(default=64, ge=1)
    submit: bool = False  # Slurm: submit the jobs; false writes the scripts and shows them
    sbatch: tuple[str, ...] = ("--mem=4G", "--time=12:00:00")  # Slurm: more lines "#SBATCH ..." of every job
    setup: tuple[str, ...] = ()  # Slurm: shell lines before each job's command, e.g. "source /shared/venv/bin/activate"
    ray_address: str | None = None  # Ray: an existing cluster, e.g. "auto"; None starts one on this machine


class CorpusSettings(Settings):
    """How a corpus is made."""

    vocab_size: int = Field(default=8192, ge=MIN_VOCAB)  # 32,000 for models of 100M parameters and more
    digits: Digits = "single"
    tokenizer: Path | None = None  # take this tokenizer.json (or the folder that holds it) instead of training one
    end_of_text: str | None = (
        None  # the token of `tokenizer` that closes a document; None: a known name, or its config's
    )
    tokenizer_sample_bytes: int = Field(
        default=50_000_000, ge=1
    )  # text to train the tokenizer on, all sources together
    note_types: tuple[str, ...] | None = None  # None: all
    # A patient's notes in time order as one document, each under a line that says its day, type and department
    # (longitudinal pretraining), instead of a document a note.
    longitudinal: bool = False
    general: dict[str, GeneralSource] = {"general": GeneralSource()}
    # Shares of training tokens by source: "notes" and the names in `general`; they are divided by their sum. Empty:
    # one half notes, one half general text (the paper's mixture), the general sources alike.
    weights: dict[str, float] = {}
    val_share: float = Field(default=0.001, ge=0, lt=0.5)  # held out for validation loss, whole patients; at least one
    cleaning: Cleaning = Cleaning()
    shard_tokens: int = Field(default=1 << 30, ge=1)  # tokens a file
    # Take records without a benchmark, or records that the benchmark was not made from. Nothing then keeps the
    # patients of a benchmark made later out of the corpus; judging a model on it is refused if they overlap.
    allow_unguarded: bool = False
    # What a document passes besides the cleaning, by name (docs/corpus.md): true, false or the filter's settings. They
    # run in a fixed order, whatever the order here; a filter that is not named is on or off as is its default.
    filters: dict[str, bool | dict[str, Any]] = Field(default={}, validate_default=True)
    workers: int | None = Field(default=None, ge=1, exclude=True)  # processes on this machine; None: as many as cores
    unit_bytes: int = Field(default=32 << 20, ge=1, exclude=True)  # text that is finished or not as a whole, about
    launch: Launch = Field(default=Launch(), exclude=True)

    @field_validator("filters")
    @classmethod
    def _whole(cls, asked: dict[str, bool | dict[str, Any]]) -> dict[str, bool | dict[str, Any]]:
        """Every filter with all of its settings, so that the manifest says which were on."""
        chosen = resolve_filters(asked)
        return {name: chosen[name].model_dump(mode="json") if name in chosen else False for name in FILTERS}
