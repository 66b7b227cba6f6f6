"""Starting a run as several processes: torchrun's environment in each, one signal each, the right exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from evaluation_toy import make_benchmark, make_records
from training_world import SHAPE, write_corpus

from lang1.common.errors import SettingsError
from lang1.training import launch as launching
from lang1.training.launch import LaunchSettings, launch, run_here, without_launch

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Stands for a process of a run: says who it is; is told to stop, "checkpoints" for a moment, and ends as lang1 does.
PROCESS = f"""
import json, os, signal, sys, time
folder, behaviour = sys.argv[-2:]
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(time.time()))
attempt = os.environ.get("SLURM_RESTART_COUNT", "0")
me = {{name: os.environ.get(name) for name in {NAMES}}} | {{"arguments": sys.argv[1:-2], "folder": os.getcwd()}}
with open(f"{{folder}}/{{attempt}}-{{me['RANK']}}.json", "w") as file:
    json.dump(me, file)
if behaviour == "fail" and me["RANK"] == "1":
    sys.exit("only I failed")
if behaviour == "stop" and attempt == "0":
    while not told:
        time.sleep(0.01)
    time.sleep(0.2)
    with open(f"{{folder}}/stopped-{{me['RANK']}}", "w") as file:
        file.write(str(len(told)))
    sys.exit(130)
"""
# A cluster of this machine: sbatch runs the script at once, again for as long as it puts itself in the queue; srun
# starts the tasks of one machine and, as before a time limit, sends them SIGTERM once they run; srun fails as the worst
# of them.
SBATCH = """#!/bin/bash
script="${@: -1}"
export SLURM_JOB_ID=4711 SLURM_JOB_NODELIST=here SLURM_RESTART_COUNT=0
SLURM_NTASKS=$(sed -n 's/^#SBATCH --ntasks-per-node=//p' "$script"); export SLURM_NTASKS
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
while true; do
  rm -f "$FAKE/requeued"
  bash "$script" >> "$output" 2>&1
  echo $? >> "$FAKE/statuses"
  [ -e "$FAKE/requeued" ] || break
  SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
done
echo "4711"
"""
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
tasks=()
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!)
done
if [ -n "$STOP_WHEN" ] && [ "$SLURM_RESTART_COUNT" = 0 ]; then
  until [ "$(ls $STOP_WHEN 2>/dev/null | wc -l)" -ge "$SLURM_NTASKS" ]; do
    kill -0 "${tasks[@]}" 2>/dev/null || break
    sleep 0.05
  done
  kill -TERM "${tasks[@]}"
fi
worst=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; [ "$code" -gt "$worst" ] && worst=$code; done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
case "$1" in
  show) echo "127.0.0.1"; echo "elsewhere" ;;
  requeue) echo "$2" > "$FAKE/requeued" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands on the path; returns where they leave their marks."""
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, body in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (fake / name).write_text(body)
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    monkeypatch.delenv("RANK", raising=False)
    return fake


def process(tmp_path: Path, behaviour: str = "end") -> list[str]:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    (tmp_path / "said").mkdir(exist_ok=True)
    return [sys.executable, str(script), "pretrain", str(tmp_path / "said"), behaviour]


def said(tmp_path: Path, attempt: int = 0) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((tmp_path / "said").glob(f"{attempt}-*.json"))]


def test_a_command_line_loses_only_where_it_is_launched() -> None:
    line = ["pretrain", "c", "--launch", "slurm", "m", "--submit", "launch.nodes=2", "--launch=ray", "-c", "x.yaml"]
    assert without_launch(line) == ["pretrain", "c", "m", "launch.nodes=2", "-c", "x.yaml"]


def test_a_process_that_was_started_does_the_work_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert launch(LaunchSettings(), "pretrain", tmp_path / "m", []) is None
    with pytest.raises(SettingsError, match="several machines need"):
        launch(LaunchSettings(nodes=2), "pretrain", tmp_path / "m", [])
    monkeypatch.setenv("RANK", "0")
    assert launch(LaunchSettings(how="slurm", nodes=2), "pretrain", tmp_path / "m", []) is None


def test_processes_here_get_the_environment_of_torchrun(tmp_path: Path) -> None:
    assert run_here(3, process(tmp_path)) == 0
    found = said(tmp_path)
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in found] == [("0", "0"), ("1", "1"), ("2", "2")]
    assert {(one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"], one["MASTER_ADDR"]) for one in found} == {
        ("3", "3", "127.0.0.1")
    }
    assert len({one["MASTER_PORT"] for one in found}) == 1 and found[0]["arguments"] == ["pretrain"]


def test_one_that_fails_ends_the_others_and_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launching, "PATIENCE", 0.5)
    waiting = tmp_path / "waits.py"
    end = tmp_path / "ended by itself"
    waiting.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit('only I failed')\n"
        f"time.sleep(60); open({str(end)!r}, 'w')\n"
    )
    assert run_here(2, [sys.executable, str(waiting)]) == 1
    assert not end.exists()
    assert "process 1 of 2 failed: only I failed" in " ".join(capsys.readouterr().err.split())


def test_a_signal_reaches_each_process_once_and_they_are_waited_for(tmp_path: Path) -> None:
    code = (
        f"import sys; from lang1.training.launch import run_here; sys.exit(run_here(2, {process(tmp_path, 'stop')!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    while len(said_files := list((tmp_path / "said").glob("0-*.json"))) < 2:
        assert parent.poll() is None, said_files
        time.sleep(0.05)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(60) == 130
    assert [(tmp_path / "said" / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]


def slurm(tmp_path: Path, behaviour: str, **settings: Any) -> str:
    """Launch the stand-in through the fake Slurm; returns the script."""
    from lang1.training.launch_slurm import write_slurm

    out = tmp_path / "runs" / "model"
    asked = LaunchSettings(how="slurm", submit=True, processes=2, **settings)
    assert write_slurm(asked, "pretrain", out, process(tmp_path, behaviour)) == 0
    return (tmp_path / "runs" / "model.sbatch").read_text()


def test_a_slurm_script_says_what_was_asked_and_is_valid_shell(
    tmp_path: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = LaunchSettings(
        how="slurm",
        processes=8,
        nodes=4,
        gpus=True,
        cpus=6,
        partition="gpu",
        account="icu",
        time="02:00:00",
        sbatch=("--mem=0",),
        setup=("module load cuda",),
        wrapper="apptainer exec /a.sif",
        python="python3",
    )
    assert launch(settings, "finetune", tmp_path / "it's", ["finetune", "m", "b", "it's", "--launch", "slurm"]) == 0
    script = tmp_path / "it's.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    for option in (
        "job-name=lang1-finetune-it-s",
        "nodes=4",
        "ntasks-per-node=8",
        "cpus-per-task=6",
        "time=02:00:00",
        "signal=TERM@300",
        "requeue",
        "gpus-per-node=8",
        "partition=gpu",
        "account=icu",
        "mem=0",
    ):
        assert f"#SBATCH --{option}\n" in text
    assert "\nmodule load cuda\n" in text
    assert "exec apptainer exec /a.sif python3 -m lang1.cli.main finetune m b" in text
    assert "--launch" not in text
    assert not (cluster / "statuses").exists()  # only written
    assert "sbatch" in capsys.readouterr().err


def test_a_job_that_is_stopped_enters_the_queue_again_until_it_is_finished(
    tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_WHEN", str(tmp_path / "said" / "0-*.json"))
    slurm(tmp_path, "stop")
    assert (cluster / "statuses").read_text().split() == ["0", "0"]
    for attempt in (0, 1):
        found = said(tmp_path, attempt)
        assert [(one["RANK"], one["LOCAL_RANK"], one["WORLD_SIZE"]) for one in found] == [
            ("0", "0", "2"),
            ("1", "1", "2"),
        ]
        assert {one["MASTER_ADDR"] for one in found} == {"127.0.0.1"}
        assert {one["MASTER_PORT"] for one in found} == {str(20000 + 4711)}
        assert {one["folder"] for one in found} == {str(Path.cwd())}
    assert "in the queue again" in (tmp_path / "runs" / "model.log").read_text()


def test_a_job_that_fails_or_was_requeued_enough_does_not(
    tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm(tmp_path, "fail")
    assert (cluster / "statuses").read_text().split() == ["1"]
    assert "only I failed" in (tmp_path / "runs" / "model.log.1").read_text()
    monkeypatch.setenv("STOP_WHEN", str(tmp_path / "said" / "0-*.json"))
    for file in (cluster / "statuses", *(tmp_path / "said").glob("*")):
        file.unlink()
    slurm(tmp_path, "stop", requeues=0)
    assert (cluster / "statuses").read_text().split() == ["130"]


def test_without_slurm_the_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="could not be submitted") as caught:
        slurm(tmp_path, "end")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_training_of_two_processes_goes_through_slurm_to_its_end(
    tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line itself: submitted, told to stop after some steps, in the queue again, finished."""
    write_corpus(tmp_path / "corpus")
    make_benchmark(make_records(tmp_path / "records", patients=40), tmp_path / "benchmark")
    settings = {
        "model": {key: value for key, value in SHAPE.model_dump().items() if key != "vocab_size"},
        "tokens": 24 * 128,
        "sequence_length": 64,
        "sequences_per_step": 2,
        "checkpoint_every": 4,
        "keep_last": 9,
        "device": "cpu",
        "threads": 1,
        "allow_overlap": True,
        "launch": {"processes": 2},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    monkeypatch.setenv("STOP_WHEN", str(tmp_path / ".m.partial" / "checkpoints" / "step-*"))
    command = [sys.executable, "-m", "lang1.cli.main", "pretrain", "corpus", "benchmark", "m", "-c", "run.yaml"]
    asked = [*command, "--launch", "slurm", "--submit"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    log = (tmp_path / "m.log").read_text()
    assert done.returncode == 0 and "Submitted" in done.stderr, done.stderr
    assert (cluster / "statuses").read_text().split() == ["0", "0"], log
    records = [json.loads(line) for line in (tmp_path / "m" / "metrics.jsonl").open()]
    starts = [record["step"] for record in records if record["kind"] == "start"]
    assert starts[0] == 0 and len(starts) == 2 and 0 < starts[1] < 24
    assert records[-1]["step"] == 24 and (tmp_path / "m" / "model.safetensors").exists()
    assert log.count("in the queue again") == 1


def test_ray_starts_the_processes_and_tells_how_they_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from lang1.training.launch_ray import run_on_ray

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert run_on_ray(LaunchSettings(how="ray", processes=2), process(tmp_path)) == 0
    found = said(tmp_path)
    assert [(one["RANK"], one["LOCAL_RANK"], one["LOCAL_WORLD_SIZE"]) for one in found] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert len({(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in found}) == 1
    assert run_on_ray(LaunchSettings(how="ray", processes=2), process(tmp_path, "fail")) == 1
    with pytest.raises(SettingsError, match="no room"):
        run_on_ray(LaunchSettings(how="ray", processes=64), process(tmp_path))
