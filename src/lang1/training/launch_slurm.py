"""A training run as a Slurm job that puts itself in the queue again until it is finished."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from lang1.common.launching import submit, write_job
from lang1.common.progress import say
from lang1.training.launch import LaunchSettings

# The exit status of `lang1` after SIGTERM, with a checkpoint written; and where it came before lang1 had begun. After
# `scancel` the script itself has ended: Slurm then sends SIGTERM to it as well.
STOPPED = (130, 143)


def write_slurm(settings: LaunchSettings, verb: str, out: Path, command: Sequence[str]) -> int:
    """Write ``OUT.sbatch`` beside the folder that is trained, and submit it where the settings say so.

    Returns:
        0.

    Raises:
        SettingsError: it could not be submitted.
    """
    script, log = write_script(settings, verb, out, command)
    if settings.submit:
        say(f"Submitted: {script} ({submit(['sbatch', '--parsable'], script)}). Its log is {log}.")
    else:
        say(f"Written: {script}. Start it with: sbatch {shlex.quote(str(script))}")
    return 0


def write_script(settings: LaunchSettings, verb: str, out: Path, command: Sequence[str]) -> tuple[Path, Path]:
    """Write ``OUT.sbatch`` beside the folder that is trained; returns it, and where its log will be.

    The job runs ``processes`` tasks on each of ``nodes`` machines. ``warn_seconds`` before its time is over, and when
    it is preempted, Slurm sends SIGTERM to the tasks: the run checkpoints and ends, and the job puts itself in the
    queue again, to go on where it was. A job that fails does not.
    """
    out = out.resolve()
    script = out.with_name(f"{out.name}.sbatch")
    log = out.with_name(f"{out.name}.log")
    options = [
        f"--job-name=lang1-{verb}-{re.sub(r'[^A-Za-z0-9._-]', '-', out.name)}",
        f"--nodes={settings.nodes}",
        f"--ntasks-per-node={settings.processes}",
        f"--cpus-per-task={settings.cpus}",
        f"--time={settings.time}",
        f"--signal=TERM@{settings.warn_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={shlex.quote(str(log))}",
        *([f"--gpus-per-node={settings.processes}"] if settings.gpus else []),
        *([f"--partition={settings.partition}"] if settings.partition else []),
        *([f"--account={settings.account}"] if settings.account else []),
        *settings.sbatch,
    ]
    write_job(script, options, [*settings.setup, *_body(settings, command, log)])
    return script, log


def _body(settings: LaunchSettings, command: Sequence[str], log: Path) -> list[str]:
    wrapped = " ".join([*([settings.wrapper] if settings.wrapper else []), shlex.join(command)])
    # In single quotes: what differs between tasks is read in each of them.
    task = "\n".join(
        [
            "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID",
            f"export LOCAL_WORLD_SIZE={settings.processes}",
            'if [ "$RANK" -ne 0 ]; then exec >> "$LANG1_LOG.$RANK" 2>&1; fi',
            f"exec {wrapped}",
        ]
    )
    return [
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "export MASTER_ADDR",
        "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        f"export LANG1_LOG={shlex.quote(str(log))}",
        # When one task ends, the others have two minutes: to finish a checkpoint, or to fail with it.
        f"srun --wait=120 --cpus-per-task={settings.cpus} bash -c {shlex.quote(task)}",
        "status=$?",
        'case "$status" in ' + "|".join(map(str, STOPPED)) + ") stopped=yes ;; *) stopped=no ;; esac",
        f'if [ "$stopped" = yes ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {settings.requeues} ]; then',
        '  echo "Stopped before the end; in the queue again."',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "  exit 0",
        "fi",
        'exit "$status"',
    ]
