"""A benchmark as tasks of lm-evaluation-harness, for those who want a model's numbers from a harness of their own.

Notes are cut when the tasks are written, with the model's own tokenizer, since the harness would cut a long prompt at
its start or its end, question and all. The harness tokenizes note and question as one text; where a cut note would then
split otherwise than in this package's scorer, it is cut a few tokens shorter, which is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lang1.common.artefact import Folder, Manifest, new_folder, read_json
from lang1.common.errors import ArtefactError
from lang1.evaluation.examples import Asked, Group, asked
from lang1.evaluation.predict_benchmark import note_limits
from lang1.evaluation.settings import EvaluateSettings
from lang1.remede.benchmark import Benchmark
from lang1.text.clean import clean_note
from lang1.text.questions import letters
from lang1.text.shared_note import encode_chart
from lang1.text.tokenizer import Tokenizer
from lang1.text.truncate import cut_text, keep

KIND = "lm-eval"
# Tokens by which a note is cut shorter at most, to split as it does in this package's scorer.
SHORTER = 24


def export_lm_eval(benchmark: Path, model: Path, out: Path, settings: EvaluateSettings) -> Path:
    """Write ``lang1_TASK[_SPLIT].yaml`` and ``data/TASK.SPLIT.jsonl`` for ``lm_eval --include_path OUT``.

    The headline split's task has no split in its name; the group ``lang1`` holds all of them. Paths in the YAML files
    are absolute: write the folder again rather than move it.

    Args:
        benchmark: benchmark folder.
        model: the model that will be asked, a folder of this package, exported or from elsewhere: its tokenizer cuts
            the notes, and its manifest says at which budget where ``note_budget`` is not set.
        out: folder to write.
        settings: tasks, splits, limit, note budget and truncation.

    Raises:
        ArtefactError: a folder that is missing or in the way.
        SettingsError: an unknown task or split.
    """
    chosen = asked(Benchmark.open(benchmark), settings)
    tokenizer = Tokenizer.load(model)
    made = model / "manifest.json"
    folder = Folder(model, Manifest.model_validate(read_json(made))) if made.is_file() else None
    budget, truncation = note_limits(folder, settings)
    tokenizer.letter_ids(max(chosen.n_options().values()))
    out = Path(out)
    with new_folder(out, KIND, inputs={"benchmark": chosen.benchmark.folder}, settings=settings) as draft:
        names = []
        (draft.path / "data").mkdir()
        found: Counter[str] = Counter()
        texts = _texts(chosen, tokenizer, budget, truncation, found)
        streams: dict[str, Any] = {}
        try:
            for task, split, line in texts:
                file = f"{task}.{split}.jsonl"
                if file not in streams:
                    streams[file] = (draft.path / "data" / file).open("w", encoding="utf-8")
                    name = f"lang1_{task}" + ("" if split == chosen.benchmark.headline_split else f"_{split}")
                    names.append(name)
                    _write_task(draft.path / f"{name}.yaml", name, out.resolve() / "data" / file)
                streams[file].write(json.dumps(line, ensure_ascii=False) + "\n")
        finally:
            for stream in streams.values():
                stream.close()
        group = {"group": "lang1", "task": sorted(names)}
        (draft.path / "lang1.yaml").write_text(yaml.safe_dump(group, sort_keys=False), encoding="utf-8")
        draft.counts.update(examples=chosen.examples.num_rows, tasks=len(names), **found)
        draft.extra.update(
            format="lm-evaluation-harness 0.4", note_budget=budget, truncation=truncation, tasks=sorted(names)
        )
    return out


def _texts(
    chosen: Asked, tokenizer: Tokenizer, budget: int, truncation: str, found: Counter[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Task, split and line of each example, ordered by note."""
    columns = (chosen.examples[name].to_pylist() for name in ("example_id", "split", "label"))
    about = {example: (split, label) for example, split, label in zip(*columns, strict=True)}
    questions = {task: (text, tokenizer.encode(text)) for task, text in chosen.questions().items()}
    names = {task: letters(count) for task, count in chosen.n_options().items()}
    for group in chosen.groups():
        ways = _Ways(group, tokenizer, budget, truncation)
        for item in group.items:
            question, asked_ids = questions[item.task]
            for shorter in range(min(SHORTER, budget) if ways.cut else 1):
                text, ids = ways.of(shorter)
                if tokenizer.encode(text + question) == [*ids, *asked_ids]:
                    found["notes_cut_shorter"] += shorter > 0
                    break
            else:
                text, _ = ways.of(0)
                found["notes_that_split_otherwise"] += 1
            split, label = about[item.example_id]
            line = {"example_id": item.example_id, "text": text + question, "choices": names[item.task], "label": label}
            yield item.task, split, line


class _Ways:
    """A note at its budget, or some tokens shorter, as text and as the tokens of this package's scorer."""

    def __init__(self, group: Group, tokenizer: Tokenizer, budget: int, truncation: str) -> None:
        self.group, self.tokenizer, self.budget, self.truncation = group, tokenizer, budget, truncation
        if group.chart is None:
            self.text = clean_note(group.text)
            encoded = tokenizer.inner.encode(self.text, add_special_tokens=False)
            self.ids, self.spans = encoded.ids, encoded.offsets
            self.cut = len(self.ids) > budget
        else:
            self.cut = encode_chart(group.chart, tokenizer, budget, truncation)[1] > 0

    def of(self, shorter: int) -> tuple[str, list[int]]:
        """The note with a budget of so many tokens less."""
        budget = self.budget - shorter
        if self.group.chart is not None:
            ids = encode_chart(self.group.chart, self.tokenizer, budget, self.truncation)[0].tolist()
            return self.tokenizer.decode(ids), ids
        starts = [start for start, _ in self.spans]
        kept = keep(len(self.ids), budget, self.truncation, self.text, starts)
        return cut_text(self.text, self.spans, budget, self.truncation)[0], [self.ids[i] for i in kept]


def _write_task(file: Path, name: str, data: Path) -> None:
    if any(character in str(data) for character in "*?["):
        raise ArtefactError(f"{data}: the harness reads such names as patterns; choose another folder.")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "brier_score", "aggregation": "brier_score", "higher_is_better": False},
        ],
        "metadata": {"version": 1.0},
    }
    file.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
