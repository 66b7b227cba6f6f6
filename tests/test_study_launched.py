"""Training steps of a study that run as several processes or as Slurm jobs: the same command line, the same folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import lang1.study.runner as runner
from lang1.common.errors import InputError, SettingsError
from lang1.common.settings import load_settings
from lang1.study.launched import elsewhere
from lang1.study.runner import StudyFailed, run_study
from lang1.study.spec import StudySpec
from lang1.study.steps import STEP_KINDS
from lang1.training.settings import FinetuneSettings, PretrainSettings

# sbatch runs the job in the background and names it; squeue knows it while it runs; srun is that of one task.
SBATCH = """#!/bin/bash
script="${@: -1}"
export SLURM_JOB_ID=$$ SLURM_JOB_NODELIST=here SLURM_NTASKS=1 SLURM_RESTART_COUNT=0
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
bash "$script" >> "$output" 2>&1 &
echo $! > "$FAKE/pid"
echo "77;cluster"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
SLURM_PROCID=0 SLURM_LOCALID=0 exec "$@"
"""
SQUEUE = """#!/bin/bash
echo "$@" >> "$FAKE/asked"
kill -0 $(cat "$FAKE/pid") 2>/dev/null && { echo RUNNING; exit 0; }
echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1
"""
SCONTROL = "#!/bin/bash\necho 127.0.0.1\n"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, body in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        (fake / name).write_text(body)
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)
    return fake


# Stands in for `python -m lang1.cli.main VERB A B OUT …`: says what it was asked, and makes the folder or fails.
PYTHON = """#!/bin/bash
shift 2
echo "$@" >> "$FAKE/commands"
echo "training $1"
if [ -e "$FAKE/fail" ]; then echo "out of memory"; exit 1; fi
while [ -e "$FAKE/hold" ]; do sleep 0.02; done
out="$4"
mkdir -p "$out"
echo '{"kind": "model", "lang1_version": "1", "fingerprint": "f"}' > "$out/manifest.json"
"""


def study(tmp_path: Path, cluster: Path, **launch: Any) -> StudySpec:
    """Two trainings that need nothing of each other, and a third that needs the first."""
    python = cluster / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    for name in ("corpus", "benchmark"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "manifest.json").write_text(
            f'{{"kind": "{name}", "lang1_version": "1", "fingerprint": "f"}}'
        )
    how = {"how": "slurm", "submit": True, "python": str(python), **launch}
    settings = {"launch": how, "tokens": 4096, "optimizer": {"lr": 0.01}}
    bench = str(tmp_path / "benchmark")
    steps = {
        "one": {"step": "pretrain", "from": {"corpus": str(tmp_path / "corpus"), "benchmark": bench}},
        "tuned": {"step": "finetune", "from": {"model": "one", "benchmark": bench}, "settings": {"launch": how}},
        "two": {"step": "pretrain", "from": {"corpus": str(tmp_path / "corpus"), "benchmark": bench}},
    }
    for name, seed in (("one", 1), ("two", 2)):
        steps[name]["settings"] = {**settings, "seed": seed}
    return StudySpec.model_validate({"steps": steps})


def test_jobs_are_waited_for_and_those_that_need_nothing_of_each_other_wait_together(
    tmp_path: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    done = run_study(study(tmp_path, cluster), STEP_KINDS, out)
    assert sorted(done) == ["one", "tuned", "two"]
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.index("[2/3] two …") < said.index("[3/3] tuned …")  # `two` was submitted while `one` ran
    commands = (cluster / "commands").read_text().splitlines()
    file = out / ".state" / "one.yaml"
    there = f"{tmp_path}/corpus {tmp_path}/benchmark {out}/one --config {file}"
    assert f"pretrain {there}" in commands
    given = load_settings(PretrainSettings, file)
    assert (given.tokens, given.seed, given.optimizer.lr) == (4096, 1, 0.01)
    assert given.model_fields_set == {"tokens", "optimizer", "seed"}  # what was not set stays the verb's own to fill
    assert not (out / ".state" / "one.job").exists()
    run_study(study(tmp_path, cluster), STEP_KINDS, out)
    assert len((cluster / "commands").read_text().splitlines()) == 3


def test_a_job_that_fails_is_named_with_what_it_said(tmp_path: Path, cluster: Path) -> None:
    (cluster / "fail").touch()
    with pytest.raises(StudyFailed, match=r"step 'one': job 77 ended without its folder.*out of memory") as caught:
        run_study(study(tmp_path, cluster), STEP_KINDS, tmp_path / "out", keep_going=True)
    assert "step 'two': job 77" in str(caught.value) and "1 that need them left out" in str(caught.value)
    (cluster / "fail").unlink()
    assert len(run_study(study(tmp_path, cluster), STEP_KINDS, tmp_path / "out")) == 3


def test_a_job_that_still_runs_is_not_submitted_again(
    tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cluster / "hold").touch()
    spec = study(tmp_path, cluster)
    spec = spec.model_copy(update={"steps": {"one": spec.steps["one"]}})

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        run_study(spec, STEP_KINDS, tmp_path / "out", keep_going=True)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: (cluster / "hold").unlink(missing_ok=True))
    run_study(spec, STEP_KINDS, tmp_path / "out")
    assert len((cluster / "commands").read_text().splitlines()) == 1


def test_without_submitting_the_script_is_there_and_the_study_says_what_to_do(tmp_path: Path, cluster: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"step 'one': .*one\.sbatch is written and not submitted: set launch\.submit"
    ):
        run_study(study(tmp_path, cluster, submit=False), STEP_KINDS, tmp_path / "out")
    script = (tmp_path / "out" / "one.sbatch").read_text()
    assert f"-m lang1.cli.main pretrain {tmp_path}/corpus" in script and "--config" in script
    assert not (cluster / "commands").exists()


def test_several_processes_of_this_machine(tmp_path: Path, cluster: Path) -> None:
    spec = study(tmp_path, cluster, how="local", submit=False, processes=2)
    run_study(spec, STEP_KINDS, tmp_path / "out")
    assert len((cluster / "commands").read_text().splitlines()) == 6  # two processes a step
    (cluster / "fail").touch()
    with pytest.raises(InputError, match=r"step 'one': `lang1 pretrain .* ended with status 1"):
        run_study(spec, STEP_KINDS, tmp_path / "again")


def test_one_process_here_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert not elsewhere(PretrainSettings())
    assert elsewhere(FinetuneSettings.model_validate({"launch": {"processes": 2}}))
    assert elsewhere(FinetuneSettings.model_validate({"launch": {"how": "ray"}}))
    monkeypatch.setenv("RANK", "0")
    assert not elsewhere(FinetuneSettings.model_validate({"launch": {"processes": 2}}))
