"""The command line: verbs, help, and one clear line with exit code 2 for what a user can mend."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lang1.cli.main import VERBS

TABLES = Path(__file__).parent / "data" / "tables"


def lang1(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lang1.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on standard error that says these words, exit code 2, no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("lang1: ")]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_verbs_are_listed_in_the_order_of_the_flow() -> None:
    text = lang1("--help").stdout
    places = [text.index(f"\u2502 {verb} ") for verb in VERBS]
    assert places == sorted(places)


@pytest.mark.parametrize("verb", [*VERBS, "ingest tables", "ingest labelled", "ingest diabetes-130", "remede build"])
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = lang1(*verb.split(), "--help")
    assert result.returncode == 0 and "Example:" in result.stdout


def test_doctor_names_versions_devices_and_extras() -> None:
    text = lang1("doctor").stdout
    for word in ("torch", "CPU:", "GPU", "extra generalist"):
        assert word in text


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("records") / "r"
    result = lang1("simulate", str(out), "--patients", "60", "--preset", "high-acuity")
    assert result.returncode == 0, result.stderr
    return out / "riverside"


def copied(tmp_path: Path) -> Path:
    shutil.copytree(TABLES, tmp_path / "t")
    return next((tmp_path / "t").glob("*.yaml"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{old!r} is not in {file.name}"
    file.write_text(text.replace(old, new, 1))


def test_tables_are_taken(tmp_path: Path) -> None:
    result = lang1("ingest", "tables", str(tmp_path / "r"), "--map", str(copied(tmp_path)))
    assert result.returncode == 0, result.stderr
    assert "Done" in result.stderr


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    mapping = copied(tmp_path)
    spec = yaml.safe_load(mapping.read_text())
    spec["tables"]["encounters"]["columns"]["admit_time"] = "ADMIT_DATETIMEX"
    mapping.write_text(yaml.safe_dump(spec))
    refused(lang1("ingest", "tables", str(tmp_path / "r"), "--map", str(mapping)), "ADMIT_DATETIMEX", "encounters")
    assert not (tmp_path / "r").exists()


def test_unknown_task(records: Path, tmp_path: Path) -> None:
    refused(lang1("remede", "build", str(records), str(tmp_path / "b"), "tasks=[sepsis]"), "sepsis", "readmission")


def test_unknown_setting(records: Path, tmp_path: Path) -> None:
    refused(lang1("remede", "build", str(records), str(tmp_path / "b"), "polcy=time-only"), "polcy", "policy")
    refused(lang1("demo", "--out", str(tmp_path / "d"), "finetuned.epoch=2"), "finetuned", "epoch", "epochs")


def test_wrong_kind_missing_folder_and_unknown_data(records: Path, tmp_path: Path) -> None:
    refused(lang1("pretrain", str(records), str(records), str(tmp_path / "m")), "records folder", "corpus")
    refused(lang1("remede", "build", str(tmp_path / "none"), str(tmp_path / "b")), "does not exist")
    refused(lang1("demo", "--data", "mimic"), "mimic", "diabetes-130")
    refused(lang1("demo", "--full"), "full")


def test_a_folder_is_not_overwritten(records: Path) -> None:
    refused(lang1("simulate", str(records.parent), "--patients", "60"), "exists already")


def test_usage_errors_are_one_line(tmp_path: Path) -> None:
    refused(lang1("remede", "build"), "records")
    refused(lang1("ingest", "tables"), "--map")
    refused(lang1("corpus", "--bogus"), "--bogus")


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_corrupt_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    from lang1.common.artefact import new_folder
    from lang1.model.config import preset
    from lang1.model.llama import Llama
    from lang1.model.store import save_model
    from lang1.text.questions import render_question
    from lang1.text.tokenizer_training import train_tokenizer

    question = render_question("mortality", ["No", "Yes"])
    tokenizer = train_tokenizer(["an old man with chest pain"] * 50, 600, required=[question])
    model = Llama(preset("lang1-micro", vocab_size=tokenizer.vocab_size, hidden_size=32, layers=1))
    model.initialise(1)
    with new_folder(tmp_path / "m", "model") as draft:
        save_model(draft.path, model, tokenizer)
        draft.extra.update({"stage": "finetuned", "tasks": ["mortality"]})
    weights = tmp_path / "m" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2] if damage == "cut" else b"\0" * 64 + data[64:])
    refused(lang1("export", str(tmp_path / "m"), str(tmp_path / "hf")), "model.safetensors")
