"""A corpus folder and a benchmark made by hand, small enough to train on in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from lang1.common.artefact import Folder, new_folder, open_folder
from lang1.common.identity import patient_hash, write_patient_hashes
from lang1.model.config import ModelSettings
from lang1.text.questions import render_question
from lang1.text.tokenizer_training import train_tokenizer

SHAPE = ModelSettings(
    name="tiny", hidden_size=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate_size=48, context=128
)
OPTIONS = {"mortality": ["no", "yes"], "length_of_stay": ["short", "middle", "long"]}
QUESTIONS = {task: render_question("generic", options) for task, options in OPTIONS.items()}
WORDS = ["stable", "fever", "cough", "clear", "edema", "renal", "140", "mg", "afebrile", "pain"]


def note(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, int(rng.integers(6, 20))))


def write_corpus(out: Path, documents: int = 80) -> Path:
    """A corpus folder in the layout of docs/architecture.md, with one source."""
    rng = np.random.default_rng(0)
    texts = [note(rng) for _ in range(documents)]
    tokenizer = train_tokenizer(texts, 400, required=[*QUESTIONS.values(), "\nAnswer: A B C"])
    with new_folder(out, "corpus") as draft:
        tokenizer.save(draft.path / "tokenizer")
        source = draft.path / "notes"
        source.mkdir()
        counts = {}
        for prefix, some in (("", texts[10:]), ("val-", texts[:10])):
            encoded = [[*tokenizer.encode(t), tokenizer.eot_id] for t in some]
            np.concatenate(encoded).astype("<u2").tofile(source / f"{prefix}tokens-00000.bin")
            np.save(source / f"{prefix}ends-00000.npy", np.cumsum([len(e) for e in encoded]).astype(np.uint64))
            counts[prefix] = sum(len(e) for e in encoded)
        write_patient_hashes(draft.path, ["p1", "p2"])
        draft.extra = {
            "sources": {
                "notes": {"tokens": counts[""], "documents": documents, "val_tokens": counts["val-"], "weight": 1.0}
            },
            "dtype": "uint16",
            "vocab_size": tokenizer.vocab_size,
            "cut": None,
        }
    return out


@dataclass
class One:
    example_id: str
    task: str
    label: int


@dataclass
class Group:
    note_id: str
    text: str
    items: list[One] = field(default_factory=list)


class World:
    """Stands in for a benchmark: mortality shows in some words, length of stay in others."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.cards = {task: SimpleNamespace(options=options) for task, options in OPTIONS.items()}
        self.pretraining_cut = None

    @classmethod
    def open(cls, path: Path) -> World:
        return cls(open_folder(path, "benchmark"))

    def questions(self) -> dict[str, str]:
        return QUESTIONS

    def note_groups(self, split: str, tasks: Sequence[str]) -> list[Group]:
        rng = np.random.default_rng({"train": 1, "val": 2}[split])
        groups = []
        for number in range(60):
            words = note(rng).split()
            labels = {"mortality": int(rng.random() < 0.3), "length_of_stay": int(rng.integers(0, 3))}
            words[::2] = [["stable", "fever"][labels["mortality"]]] * len(words[::2])
            words[1::4] = [["clear", "edema", "renal"][labels["length_of_stay"]]] * len(words[1::4])
            text = " ".join(words)
            items = [One(f"{t}:{split}{number}", t, labels[t]) for t in tasks]
            groups.append(Group(f"{split}{number}", text, items))
        return groups

    def examples(self, tasks: Sequence[str], splits: Sequence[str]) -> pa.Table:
        return pa.table({"subject_id": pa.array([patient_hash("p3")], pa.int64())})


def write_benchmark(out: Path) -> Path:
    with new_folder(out, "benchmark") as draft:
        write_patient_hashes(draft.path, ["held-out"])
    return out
