"""A training run on a Ray cluster: Ray places and starts the processes, and has no part in what they do."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lang1.common.errors import SettingsError
from lang1.common.launching import ray_cluster
from lang1.common.progress import say
from lang1.training.launch import LAST_LINES, PATIENCE, LaunchSettings, environment, free_port

SECONDS_TO_PLACE = 600.0


class Seat:
    """One process of the run, in an actor of Ray's on the machine where it is to run."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def place(self) -> tuple[str, int, list[str]]:
        """The machine's address, a free port of it, and the GPUs that Ray gave to this actor."""
        ray: Any = importlib.import_module("ray")
        return ray.util.get_node_ip_address(), free_port(), [str(gpu) for gpu in ray.get_gpu_ids()]

    def run(self, command: Sequence[str], folder: str, given: Mapping[str, str]) -> tuple[int, str]:
        """Run the command to its end; returns its exit status and, of all but the first process, its last lines."""
        first = given["RANK"] == "0"
        streams = {} if first else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(command, cwd=folder, env={**os.environ, **given}, **streams)  # type: ignore[call-overload]
        said, _ = self._process.communicate()
        lines = (said or b"").decode(errors="replace").strip().splitlines()
        return self._process.returncode, "\n".join(lines[-LAST_LINES:])

    def tell(self, number: int) -> None:
        """Send a signal to the process, where it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def run_on_ray(settings: LaunchSettings, command: Sequence[str]) -> int:
    """Run a command as ``nodes`` times ``processes`` processes on a Ray cluster and wait for them.

    The machines must see the folders under the same paths and have the same environment. Ctrl-C and SIGTERM here stop
    the run with a checkpoint.

    Returns:
        0, or the exit status of the first process that failed.

    Raises:
        SettingsError: no Ray, no cluster, or it has no room for the processes.
    """
    size = settings.nodes * settings.processes
    wanted: dict[str, float] = {"CPU": settings.cpus * settings.processes}
    if settings.gpus:
        wanted["GPU"] = settings.processes
    with ray_cluster(settings.ray_address, show=True) as ray:
        util: Any = ray.util
        # One bundle a machine, so that as many processes share each as were asked for.
        strategy = "STRICT_SPREAD" if settings.nodes > 1 else "STRICT_PACK"
        group = util.placement_group([dict(wanted) for _ in range(settings.nodes)], strategy=strategy)
        if not group.wait(SECONDS_TO_PLACE if settings.ray_address else 30):
            util.remove_placement_group(group)
            raise SettingsError(
                f"launch: Ray has no room for {settings.nodes} machines with {wanted} each; in all it has "
                f"{ {name: most for name, most in ray.cluster_resources().items() if name in ('CPU', 'GPU')} }."
            )
        seats: list[Any] = []
        try:
            for rank in range(size):
                place = util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=rank // settings.processes
                )
                options: dict[str, Any] = {
                    "num_cpus": settings.cpus,
                    "num_gpus": int(settings.gpus),
                    "max_concurrency": 2,
                }
                seats.append(ray.remote(Seat).options(scheduling_strategy=place, **options).remote())
            return _run(ray, seats, settings.processes, command)
        finally:
            for seat in seats:
                ray.kill(seat)
            util.remove_placement_group(group)


def _run(ray: Any, seats: Sequence[Any], local_size: int, command: Sequence[str]) -> int:
    places: list[tuple[str, int, list[str]]] = ray.get([seat.place.remote() for seat in seats])
    address, port, _ = places[0]
    running: dict[Any, int] = {}
    for rank, seat in enumerate(seats):
        node = rank // local_size
        given = environment(rank, len(seats), rank % local_size, local_size, address, port)
        gpus = [gpu for _, _, mine in places[node * local_size : (node + 1) * local_size] for gpu in mine]
        if (
            gpus
        ):  # Ray shows each actor its own; as with torchrun, each sees its machine's and takes the one of its rank
            given["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        running[seat.run.remote(list(command), os.getcwd(), given)] = rank  # noqa: PTH109

    def hand_on(number: int, frame: object) -> None:
        say("Stopping; the run checkpoints first.")
        for seat in seats:
            seat.tell.remote(int(signal.SIGTERM))

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    status, deadline = 0, float("inf")
    tools = [signal.SIGTERM, signal.SIGKILL]
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=1.0)
            for one in done:
                rank = running.pop(one)
                code, said = ray.get(one)
                if code and not status:
                    status = code if code > 0 else 128 - code
                    print(said, file=sys.stderr, end="\n" if said else "")
                    deadline = time.monotonic() + PATIENCE
            if running and time.monotonic() > deadline:
                number = tools.pop(0) if len(tools) > 1 else tools[0]
                for other in running.values():
                    seats[other].tell.remote(int(number))
                deadline = time.monotonic() + PATIENCE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status
