"""Scorers on a toy benchmark: what baselines learn, that all answer the same examples, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_toy import TASKS, make_benchmark, make_records, write_guesses

from lang1.common.artefact import Folder, new_folder
from lang1.common.errors import ArtefactError, InputError, Lang1Error, SettingsError
from lang1.common.identity import write_patient_hashes
from lang1.common.settings import load_settings
from lang1.evaluation.examples import asked, labels_of
from lang1.evaluation.predict_benchmark import (
    evaluate_baseline,
    evaluate_generalist,
    evaluate_model,
    import_predictions,
)
from lang1.evaluation.predict_notes import predict
from lang1.evaluation.predictions import FILE, open_predictions, place_of, probability_matrix
from lang1.evaluation.scorers.baselines import BASELINES
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import task_auroc
from lang1.model.config import preset
from lang1.model.llama import Llama
from lang1.model.store import save_model
from lang1.remede.benchmark import Benchmark
from lang1.text.tokenizer_training import train_tokenizer

SETTINGS = EvaluateSettings(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    place = tmp_path_factory.mktemp("toy")
    return make_benchmark(make_records(place / "records"), place / "benchmark")


@pytest.fixture(scope="module")
def model(bench: Benchmark) -> Path:
    """A model folder with random weights, as if finetuned on all tasks."""
    out = bench.folder.path.parent / "model"
    notes = bench.texts(bench.examples(splits=["train"])["note_id"].to_pylist())
    questions = bench.questions()
    tokenizer = train_tokenizer([*notes.values(), *questions.values()], 700, required=[*questions.values(), " A B C D"])
    with new_folder(out, "model", inputs={"benchmark": bench.folder}, settings={"seed": 7}) as draft:
        shape = preset("lang1-micro", vocab_size=tokenizer.vocab_size)
        network = Llama(shape, torch.float32)
        network.initialise(3)
        with torch.no_grad():  # larger weights, so that answers differ between notes
            for parameter in network.parameters():
                parameter.mul_(4)
        save_model(draft.path, network, tokenizer)
        patients = bench.examples(splits=["train"])["patient_id"].to_pylist()
        write_patient_hashes(draft.path, patients)
        (draft.path / "metrics.jsonl").write_text(
            '{"kind": "train", "step": 1, "tokens": 100, "loss": 2.5, "seconds": 0.1}\n'
            '{"kind": "val", "step": 1, "tokens": 100, "score": 0.6}\n'
            '{"kind": "train", "step": 2, "tokens": 200, "loss": null}\n{"kind": "tr'
        )
        draft.extra = {
            "stage": "finetuned",
            "name": "lang1-micro",
            "parameters": 1000,
            "tasks": list(TASKS),
            "note_budget": 24,
            "truncation": "head",
            "cost": {"tokens": 200, "seconds": 1.0, "device": "cpu"},
        }
    return out


def area(folder: Path, bench: Benchmark, task: str, split: str = "test") -> float:
    found = open_predictions(folder).table
    examples = bench.examples([task], [split])
    ids = examples["example_id"].to_pylist()
    rows = found.take(place_of(found, ids))
    table = probability_matrix(rows["probabilities"], len(bench.cards[task].options), ids, "test")
    return task_auroc(labels_of(examples), table)


# The slower ones have tests of their own (test_evaluation_structured.py, test_evaluation_encoder.py).
QUICK = [name for name in BASELINES if name not in ("tfidf-gbm", "lace-and-kin", "encoder")]


@pytest.mark.parametrize("name", QUICK)
def test_baselines_answer_every_example_and_learn_what_they_may(name: str, bench: Benchmark, tmp_path: Path) -> None:
    evaluate_baseline(name, bench.folder.path, tmp_path / "one", SETTINGS)
    found = open_predictions(tmp_path / "one")
    assert (found.model, found.regime) == (name, "baseline")
    wanted = set(bench.examples(splits=["test"])["example_id"].to_pylist())
    assert set(found.table["example_id"].to_pylist()) == wanted
    assert found.table["option_mass"].null_count == found.table.num_rows
    areas = {task: area(tmp_path / "one", bench, task) for task in TASKS}
    if name == "prevalence":
        assert all(a == 0.5 for a in areas.values())
        shares = (
            np.bincount(labels_of(bench.examples(["mortality"], ["train"])))
            / bench.examples(["mortality"], ["train"]).num_rows
        )
        row = place_of(found.table, [next(e for e in sorted(wanted) if e.startswith("mortality"))])[0]
        assert found.table["probabilities"][row].as_py() == pytest.approx(shares)
    if name == "note-length":  # length says nothing here
        assert all(abs(a - 0.5) < 0.1 for a in areas.values())
    if name == "metadata":  # the payer acts on readmission only
        assert areas["readmission"] > 0.54 and abs(areas["mortality"] - 0.5) < 0.1
    if name in ("tfidf-lr", "gbm-structured"):  # one word, or the blood pressure, tells the frail
        assert areas["mortality"] > 0.62 and areas["readmission"] > 0.62 and areas["length_of_stay"] > 0.6
    evaluate_baseline(name, bench.folder.path, tmp_path / "again", SETTINGS)
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "again" / FILE).read_bytes()


def test_own_model_and_generalist_agree_on_the_same_weights(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    settings = SETTINGS.model_copy(update={"limit": 20, "note_budget": 16, "tokens_per_batch": 2048})
    evaluate_model(model, bench.folder.path, tmp_path / "own", settings, regime="joint")
    evaluate_generalist(model, bench.folder.path, tmp_path / "hf", settings)
    own, other = open_predictions(tmp_path / "own"), open_predictions(tmp_path / "hf")
    assert (own.model, own.regime, other.regime) == ("lang1-micro", "joint", "zero-shot")
    assert own.table["example_id"] == other.table["example_id"]
    assert own.table.num_rows == 20 * len(TASKS)
    ours, theirs = (np.concatenate(t["probabilities"].to_pylist()) for t in (own.table, other.table))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert np.ptp(ours) > 0.01
    mass, mass_hf = (np.array(t["option_mass"].to_pylist()) for t in (own.table, other.table))
    assert mass == pytest.approx(mass_hf, abs=1e-4) and (mass > 0).all() and (mass <= 1).all()
    assert own.table["truncated"] == other.table["truncated"] and max(own.table["truncated"].to_pylist()) > 0
    assert own.folder.manifest.extra["seen_subjects"] == {"test": 0}
    assert own.folder.manifest.extra["note_budget"] == 16


def test_note_budget_comes_from_the_model_unless_set(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"limit": 3})
    evaluate_model(model, bench.folder.path, tmp_path / "own", settings, regime="joint", name="mine")
    extra = open_predictions(tmp_path / "own").folder.manifest.extra
    assert (extra["note_budget"], extra["model"], extra["training_seed"]) == (24, "mine", 7)


def test_limit_takes_the_same_patients_for_every_task(bench: Benchmark) -> None:
    few = asked(bench, SETTINGS.model_copy(update={"limit": 10}))
    patients = {task: set(few.of(task)["patient_id"].to_pylist()) for task in TASKS}
    assert patients["mortality"] == patients["length_of_stay"] == patients["readmission"]
    more = asked(bench, SETTINGS.model_copy(update={"limit": 50}))
    assert set(few.examples["example_id"].to_pylist()) < set(more.examples["example_id"].to_pylist())
    assert sum(len(group.items) for group in more.groups()) == more.examples.num_rows
    assert {item.label for group in more.groups() for item in group.items} == {0}  # scorers are not told


def test_predictions_made_elsewhere_are_matched_and_checked(bench: Benchmark, tmp_path: Path) -> None:
    made = write_guesses(tmp_path / "oracle", bench, "oracle", "oracle", 2.0)
    import_predictions(made, bench.folder.path, tmp_path / "whole", SETTINGS)
    whole = open_predictions(tmp_path / "whole")
    assert (whole.model, whole.regime) == ("oracle", "oracle")
    table = pq.read_table(made / FILE)
    assert area(tmp_path / "whole", bench, "mortality") == area(made, bench, "mortality")

    def refused(changed: pa.Table, match: str, **changes: object) -> None:
        file = tmp_path / "changed.parquet"
        pq.write_table(changed, file)
        with pytest.raises(InputError, match=match):
            out = tmp_path / "refused"
            import_predictions(file, bench.folder.path, out, SETTINGS.model_copy(update=changes))
        assert not (tmp_path / "refused").exists()

    def with_first(values: list[float]) -> pa.Table:
        rows = table["probabilities"].to_pylist()
        rows[0] = values
        return table.set_column(7, "probabilities", pa.array(rows, pa.list_(pa.float64())))

    first = table["example_id"][0].as_py()
    refused(table.slice(1), rf"1 of {table.num_rows} examples are missing, first {first}")
    refused(pa.concat_tables([table, table.slice(0, 1)]), f"{first} stands there 2 times")
    refused(table.drop_columns(["probabilities"]), "column 'probabilities' is missing")
    refused(with_first([0.5, 0.4]), f"{first} sum to 0.9")
    refused(with_first([0.5, 0.25, 0.25]), f"{first} has 3 probabilities, its task has 2 classes")
    refused(with_first([float("nan"), 1.0]), f"{first} has a probability that is NaN")
    refused(with_first([1.5, -0.5]), "outside 0 to 1")
    refused(table.slice(0, 0), "none of its examples", allow_missing=True)
    allowed = SETTINGS.model_copy(update={"allow_missing": True})
    pq.write_table(table.slice(1), tmp_path / "less.parquet")
    import_predictions(tmp_path / "less.parquet", bench.folder.path, tmp_path / "less", allowed, "peer", "zero-shot")
    assert open_predictions(tmp_path / "less").folder.manifest.left_out == {"examples without a prediction": 1}
    with pytest.raises(ArtefactError, match="missing"):
        import_predictions(tmp_path / "nothing.parquet", bench.folder.path, tmp_path / "x", SETTINGS)
    with pytest.raises(ArtefactError, match="Parquet"):
        (tmp_path / "bad.parquet").write_text("no")
        import_predictions(tmp_path / "bad.parquet", bench.folder.path, tmp_path / "x", SETTINGS)


def test_unknown_names_are_refused(bench: Benchmark, tmp_path: Path) -> None:
    path = bench.folder.path
    with pytest.raises(SettingsError, match="unknown baseline 'xgboost'"):
        evaluate_baseline("xgboost", path, tmp_path / "x", SETTINGS)
    with pytest.raises(SettingsError, match="unknown task 'sepsis'"):
        evaluate_baseline("prevalence", path, tmp_path / "x", SETTINGS.model_copy(update={"tasks": ["sepsis"]}))
    with pytest.raises(SettingsError, match="split 'test_newest' has no examples"):
        evaluate_baseline("prevalence", path, tmp_path / "x", SETTINGS.model_copy(update={"splits": ["test_newest"]}))
    with pytest.raises(SettingsError, match="regime"):
        import_predictions(tmp_path, path, tmp_path / "x", SETTINGS, "a", "lucky")
    with pytest.raises(SettingsError, match="200 resamples are too few"):
        load_settings(EvaluateSettings, overrides=["resamples=200"])
    assert load_settings(EvaluateSettings, overrides=["resamples=200", "fast=true"]).resamples == 200


def test_new_notes_get_probabilities(bench: Benchmark, model: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text('note_id,text\n007,"Frail, cachexia.\nSecond line."\n008,Robust today.\n')
    out = predict(model, notes, tmp_path / "out.parquet", settings=SETTINGS)
    table = pq.read_table(out)
    assert table.num_rows == 2 * (2 + 2 + 4) and set(table["note_id"].to_pylist()) == {"007", "008"}
    sums = table.group_by(["note_id", "task"]).aggregate([("probability", "sum")])["probability_sum"].to_pylist()
    assert sums == pytest.approx([1.0] * 6)
    assert table["option"].to_pylist()[:2] == ["No", "Yes"]
    # A note gets the same answer as when the benchmark asks it.
    example = bench.examples(["mortality"], ["test"]).slice(0, 1)
    text = bench.texts(example["note_id"].to_pylist())[example["note_id"][0].as_py()]
    pq.write_table(
        pa.table({"note_id": ["a", "b"], "text": [text, text], "note_type": ["history_and_physical", "nursing"]}),
        tmp_path / "typed.parquet",
    )
    again = pq.read_table(predict(model, tmp_path / "typed.parquet", tmp_path / "typed-out.parquet", settings=SETTINGS))
    assert set(again["task"].to_pylist()) == {"mortality", "length_of_stay"} and set(again["note_id"].to_pylist()) == {
        "a"
    }
    evaluate_model(
        model, bench.folder.path, tmp_path / "own", SETTINGS.model_copy(update={"tasks": ["mortality"]}), regime="joint"
    )
    own = open_predictions(tmp_path / "own").table
    expected = own["probabilities"][int(place_of(own, example["example_id"].to_pylist())[0])].as_py()
    found = [r["probability"] for r in again.to_pylist() if r["task"] == "mortality"]
    assert found == pytest.approx(expected, abs=1e-4)
    (tmp_path / "notes.jsonl").write_text('{"note_id": "a", "text": "x"}\n')
    csv = predict(model, tmp_path / "notes.jsonl", tmp_path / "out.csv", tasks=["mortality"], settings=SETTINGS)
    assert csv.read_text().splitlines()[0].replace('"', "") == "note_id,task,option,probability,option_mass,truncated"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("id,text\n1,a\n", "column 'note_id' is missing"),
        ("note_id,text\n", "no notes"),
        ("note_id,text\n1,a\n2,\n", "row 2: text is empty"),
        ("note_id,text\n1,a\n1,b\n", "note_id '1' stands there 2 times"),
        ("note_id,text\n1,a,b,c\n", "cannot be read as csv"),
    ],
)
def test_bad_notes_are_refused_in_one_line(content: str, match: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text(content)
    with pytest.raises(InputError, match=match) as refused:
        predict(model, tmp_path / "notes.csv", tmp_path / "out.csv", settings=SETTINGS)
    assert "\n" not in str(refused.value)


def test_predict_refuses_what_it_cannot_do(model: Path, bench: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("note_id,text\n1,a\n")
    for arguments, match in (
        ((model, tmp_path / "none.csv", tmp_path / "o.csv"), "does not exist"),
        ((model, tmp_path / "notes.csv", tmp_path / "o.xlsx"), "choose such a name"),
        ((model, tmp_path / "notes.csv", tmp_path / "notes.csv"), "exists already"),
        ((bench.folder.path, tmp_path / "notes.csv", tmp_path / "o.csv"), "expected a model folder"),
        ((model, tmp_path / "notes.csv", tmp_path / "o.csv", ["sepsis"]), "unknown task 'sepsis'"),
    ):
        with pytest.raises(Lang1Error, match=match):
            predict(*arguments, settings=SETTINGS)


def test_existing_output_is_refused_before_any_work(
    bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Folder:
        raise AssertionError("scored before looking at the place")

    monkeypatch.setitem(BASELINES, "prevalence", never)
    (tmp_path / "there").mkdir()
    with pytest.raises(ArtefactError, match="exists already"):
        evaluate_baseline("prevalence", bench.folder.path, tmp_path / "there", SETTINGS)
