"""The same corpus from a Slurm job array (its body run here by a stand-in for sbatch) and from Ray."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_corpus_restart import content, settings, site, whole

from lang1.common.artefact import partial_path, read_json, write_json
from lang1.common.errors import ArtefactError, SettingsError
from lang1.corpus.build import build_corpus
from lang1.corpus.run import main
from lang1.corpus.tasks import Plan

__all__ = ["site", "whole"]

# Runs a job at once, each rank of an array in turn, and says its number as `sbatch --parsable` does on a cluster.
SBATCH = """#!/bin/bash
echo "$@" >> "$(dirname "$0")/calls"
script="${@: -1}"
array=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for rank in $(seq 0 "${array:-0}"); do SLURM_ARRAY_TASK_ID=$rank bash "$script" || exit 1; done
echo "$RANDOM;cluster"
"""


def test_slurm_jobs_make_the_same_corpus(
    site: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    launch = {"how": "slurm", "ranks": 3, "submit": True, "setup": [f"export SEEN={tmp_path}"], "sbatch": ["--mem=2G"]}
    chosen = settings(site, launch=launch, unit_bytes=9000)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    script = build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    assert script.name == "submit.sh"
    assert content(tmp_path / "corpus") == content(whole)
    assert not partial_path(tmp_path / "corpus").exists()
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    names = [Path(call.split()[-1]).name for call in calls]
    assert names == ["0-decontaminate-combine.sbatch", "1-encode.sbatch", "finish.sbatch"]
    assert "--dependency" not in calls[0] and all(re.search(r"--dependency=afterok:\d+ ", call) for call in calls[1:])


def test_slurm_scripts_are_shown_and_not_submitted(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(site, launch={"how": "slurm", "ranks": 2, "setup": ["module load python"]}, unit_bytes=9000)
    script = build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    assert not (tmp_path / "corpus").exists()
    body = (script.parent / "1-encode.sbatch").read_text()
    assert "#SBATCH --array=0-1\n" in body and "#SBATCH --cpus-per-task=1\n" in body and "module load python\n" in body
    assert "-m lang1.corpus.run" in body and "--rank $SLURM_ARRAY_TASK_ID --of 2" in body
    assert subprocess.run(["bash", "-n", str(script.parent / "1-encode.sbatch")], check=False).returncode == 0
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(SettingsError, match="can submit to Slurm"):
        again = chosen.model_copy(update={"launch": chosen.launch.model_copy(update={"submit": True})})
        build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", again)
    for arguments, word in (
        (["--rank", "2", "--of", "2"], "ranks go from 0 to 1"),
        (["--stage", "x"], "no such stage"),
    ):
        capsys.readouterr()
        assert main([str(script.parent / "plan.json"), *arguments]) == 2
        assert word in " ".join(capsys.readouterr().err.split())


def test_a_machine_with_other_versions_is_refused(site: Path, tmp_path: Path) -> None:
    chosen = settings(site, launch={"how": "slurm"})
    script = build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    file = script.parent / "plan.json"
    plan = Plan.load(file)
    write_json(file, {**read_json(file), "versions": {**plan.versions, "tokenizers": "0.1"}})
    with pytest.raises(ArtefactError, match=r"made with tokenizers 0\.1"):
        Plan.load(file)


def test_ray_makes_the_same_corpus(site: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    chosen = settings(site, launch={"how": "ray"}, unit_bytes=9000)
    build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", chosen)
    assert content(tmp_path / "corpus") == content(whole)


def test_without_ray_the_error_says_what_to_install(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'lang1\[ray\]'"):
        build_corpus([site / "records"], site / "benchmark", tmp_path / "corpus", settings(site, launch={"how": "ray"}))
