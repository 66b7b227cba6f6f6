"""Tasks for lm-evaluation-harness: what the harness tokenizes is what this package's scorer reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from evaluation_toy import make_benchmark, make_records

from lang1.common.artefact import new_folder
from lang1.common.errors import ArtefactError
from lang1.evaluation.examples import asked
from lang1.evaluation.export_lm_eval import export_lm_eval
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.text.clean import clean_note
from lang1.text.tokenizer import Tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.text.truncate import truncate

BUDGET = 14


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("harness")
    return make_benchmark(make_records(place / "records", patients=60), place / "benchmark")


@pytest.fixture(scope="module")
def model(bench: Benchmark) -> Path:
    out = bench.folder.path.parent / "model"
    notes = bench.texts(bench.examples(splits=["train"])["note_id"].to_pylist())
    questions = list(bench.questions().values())
    tokenizer = train_tokenizer([*notes.values(), *questions], 500, required=[*questions, " A B C D"])
    with new_folder(out, "model") as draft:
        tokenizer.save(draft.path)
        draft.extra = {"note_budget": BUDGET, "truncation": "head"}
    return out


@pytest.mark.parametrize("policy", [None, "tail", "head+tail"])
def test_the_harness_reads_the_same_tokens(bench: Benchmark, model: Path, tmp_path: Path, policy: str | None) -> None:
    settings = EvaluateSettings(limit=15, truncation=policy)
    export_lm_eval(bench.folder.path, model, tmp_path / "tasks", settings)
    manifest = json.loads((tmp_path / "tasks/manifest.json").read_text())
    assert manifest["extra"]["note_budget"] == BUDGET  # as the model was finetuned
    tokenizer = Tokenizer.load(model)
    chosen = asked(bench, settings)
    notes = {i.example_id: clean_note(g.text) for g in chosen.groups() for i in g.items}
    labels = dict(zip(chosen.examples["example_id"].to_pylist(), chosen.examples["label"].to_pylist(), strict=True))
    group = yaml.safe_load((tmp_path / "tasks/lang1.yaml").read_text())
    seen: set[str] = set()
    shorter = otherwise = 0
    for name in group["task"]:
        task = yaml.safe_load((tmp_path / f"tasks/{name}.yaml").read_text())
        assert (task["output_type"], task["doc_to_text"], task["target_delimiter"]) == ("multiple_choice", "text", " ")
        for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines():
            row = json.loads(line)
            example = row["example_id"]
            seen.add(example)
            assert row["label"] == labels[example] and name.startswith(f"lang1_{example.split(':')[0]}")
            question = chosen.questions()[example.split(":")[0]]
            assert row["text"].endswith(question)
            ids = tokenizer.inner.encode(notes[example], add_special_tokens=False).ids
            asked_ids = tokenizer.encode(question)
            joined = tokenizer.encode(row["text"])
            kept = truncate(np.array(ids), BUDGET, policy or "head")[0].tolist()
            if joined != [*kept, *asked_ids]:
                cuts = [truncate(np.array(ids), BUDGET - n, policy or "head")[0].tolist() for n in range(1, BUDGET)]
                found = any(joined == [*cut, *asked_ids] for cut in cuts)
                shorter, otherwise = shorter + found, otherwise + (not found)
            # The answer is one token more, as the scorer reads it.
            for place, letter in enumerate(row["choices"]):
                answer = tokenizer.letter_ids(len(row["choices"]))[place]
                assert tokenizer.encode(f"{row['text']} {letter}") == [*joined, answer]
    assert seen == set(labels)
    assert manifest["counts"].get("notes_cut_shorter", 0) == shorter
    assert manifest["counts"].get("notes_that_split_otherwise", 0) == otherwise == 0


def test_names_that_the_harness_reads_as_patterns_are_refused(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="patterns"):
        export_lm_eval(bench.folder.path, model, tmp_path / "tasks[1]", EvaluateSettings(limit=2))
