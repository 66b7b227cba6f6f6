"""Artefact folders and settings: what every room relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lang1.common.artefact import (
    MANIFEST,
    content_fingerprint,
    new_folder,
    open_folder,
    partial_path,
)
from lang1.common.errors import ArtefactError, Lang1Error, SettingsError
from lang1.common.identity import patient_hash, read_patient_hashes, unit_hash, write_patient_hashes
from lang1.common.settings import Settings, load_settings


class Inner(Settings):
    rate: float = 1.0


class Outer(Settings):
    name: str
    inner: Inner = Inner()


def test_a_folder_appears_only_when_complete(tmp_path: Path) -> None:
    out = tmp_path / "thing"
    with new_folder(out, "records") as draft:
        (draft.path / "a.txt").write_text("x")
        assert not out.exists()
        draft.leave_out("too short", 3)
    folder = open_folder(out, "records")
    assert folder.manifest.left_out == {"too short": 3}
    assert not partial_path(out).exists()


def test_an_error_leaves_nothing_unless_the_step_resumes(tmp_path: Path) -> None:
    with pytest.raises(ValueError), new_folder(tmp_path / "a", "records") as draft:
        (draft.path / "half").write_text("x")
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError), new_folder(tmp_path / "b", "model", resume=True) as draft:
        (draft.path / "half").write_text("x")
        raise ValueError
    with new_folder(tmp_path / "b", "model", resume=True) as draft:
        assert (draft.path / "half").read_text() == "x"


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_is_there(tmp_path: Path) -> None:
    again = (
        "import sys; from pathlib import Path; from lang1.common.artefact import new_folder\n"
        "with new_folder(Path(sys.argv[1]), 'model', resume=True): pass"
    )
    command = [sys.executable, "-c", again, str(tmp_path / "out")]
    with new_folder(tmp_path / "out", "model", resume=True) as draft:
        (draft.path / "work").write_text("mine")
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode and "out: another run is writing it now" in second.stderr.splitlines()[-1]
        assert (draft.path / "work").read_text() == "mine"
    assert open_folder(tmp_path / "out", "model").path.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_fingerprint_sees_content_and_names_but_not_logs(tmp_path: Path) -> None:
    for name, content, log in (("a", "1", "fast"), ("b", "1", "slow"), ("c", "2", "fast")):
        with new_folder(tmp_path / name, "records") as draft:
            (draft.path / "file").write_text(content)
            (draft.path / "metrics.jsonl").write_text(log)
    prints = {n: open_folder(tmp_path / n, "records").fingerprint for n in "abc"}
    assert prints["a"] == prints["b"] != prints["c"]
    (tmp_path / "a" / "file").rename(tmp_path / "a" / "other")
    assert content_fingerprint(tmp_path / "a") != prints["a"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.rename(p.parent / "gone"), "does not exist"),
        (lambda p: (p / MANIFEST).unlink(), "holds no manifest.json"),
        (lambda p: (p / MANIFEST).write_text("{"), "not valid JSON"),
        (lambda p: (p / MANIFEST).write_text("{}"), "not a manifest"),
        (lambda p: _set_kind(p, "corpus"), "is a corpus folder; expected a records folder"),
    ],
)
def test_damaged_folders_are_named(tmp_path: Path, damage: object, words: str) -> None:
    with new_folder(tmp_path / "r", "records"):
        pass
    damage(tmp_path / "r")  # type: ignore[operator]
    with pytest.raises(ArtefactError, match=words) as caught:
        open_folder(tmp_path / "r", "records")
    assert "\n" not in str(caught.value)


def _set_kind(path: Path, kind: str) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**manifest, "kind": kind}))


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    with new_folder(tmp_path / "r", "records"):
        pass
    with pytest.raises(ArtefactError, match="exists already"), new_folder(tmp_path / "r", "records"):
        pass


def test_settings_layers_and_yaml_floats(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: file\ninner: {rate: 2}\n")
    assert load_settings(Outer, file, ["inner.rate=1e-3"]).inner.rate == 1e-3
    assert load_settings(Outer, None, ["name=x"]).inner.rate == 1.0


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("name: x\ninner: {rat: 2}", [], "unknown setting 'inner.rat'; did you mean 'rate'"),
        ("name: x", ["inner.rate=fast"], "'inner.rate'"),
        ("name: [", [], "line"),
        ("- a", [], "expected settings"),
        ("{}", [], "'name' is missing"),
        ("name: x", ["rate"], "expected section.field=value"),
        ("name: x", ["name.first=1"], "is a single value"),
    ],
)
def test_bad_settings_name_file_and_field(tmp_path: Path, text: str, overrides: list[str], words: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        load_settings(Outer, file, overrides)
    assert "\n" not in str(caught.value)


def test_patient_hashes(tmp_path: Path) -> None:
    assert write_patient_hashes(tmp_path, ["b", "a", "b"]) == 2
    hashes = read_patient_hashes(tmp_path)
    assert list(hashes) == sorted({patient_hash("a"), patient_hash("b")})
    assert all(0 <= h < 2**63 for h in hashes)
    draws = [unit_hash(str(i), "salt") for i in range(2000)]
    assert 0.47 < sum(draws) / len(draws) < 0.53
    assert unit_hash("1", "salt") != unit_hash("1", "other")


def test_errors_are_one_line() -> None:
    assert str(Lang1Error("two\nlines  here")) == "two lines here"
