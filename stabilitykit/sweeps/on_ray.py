"""A sweep on a Ray cluster: actors hold the model, one a GPU, and the process that started it keeps what they find."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stabilitykit.errors import StabilityError, UnreadableError, UsageError
from stabilitykit.measurements.progress import bar
from stabilitykit.results.record import Record
from stabilitykit.sweeps import unit_files
from stabilitykit.sweeps.bench import Bench
from stabilitykit.sweeps.plan import Plan, Unit, write_plan
from stabilitykit.sweeps.shard import Done, Left, remaining

if TYPE_CHECKING:
    from collections.abc import Callable


def run_on_ray(plan: Plan, folder: str | Path, shard: str = "1/1", *, device: str = "cpu", mixed: bool = False) -> Done:
    """As `run_shard`, with the units shared out among the actors of a Ray cluster, who need no common folder.

    It is the cluster that this process or RAY_ADDRESS names, or else one of this machine alone. There is an actor a GPU
    where the cluster has any, else one for each so many cores as this process has threads. All have its number of
    threads. An actor that dies takes its unit along, which the next call measures.
    """
    ray = _connected()
    folder, units = Path(folder), plan.shard(shard)
    write_plan(plan, folder)
    left = remaining(folder, plan, units, mixed=mixed)
    make, count = _actors(ray, plan, device)
    with bar(len(left.units), "sweep", "unit") as progress:
        crowd = _Crowd(ray, folder, left, [make() for _ in range(min(count, len(left.units)))], progress.update)
        crowd.run()
    lost = len(left.units) - crowd.measured
    return Done(len(units), len(units) - len(left.units), crowd.measured, left.damaged, lost, crowd.why)


class _Crowd:
    """Actors, each at one unit, and what they find, written down here."""

    def __init__(self, ray: Any, folder: Path, left: Left, actors: list[Any], seen: Callable[[], object]) -> None:
        self.ray, self.folder, self.setting, self.seen = ray, folder, left.setting, seen
        self.coming = deque(left.units)
        self.busy: dict[Any, tuple[Any, Unit]] = {}
        self.measured, self.why = 0, ""
        for actor in actors:
            self._next(actor)

    def run(self) -> None:
        """Go on until nothing is left or no actor is."""
        try:
            while self.busy:
                (ended, *_), _ = self.ray.wait(list(self.busy), num_returns=1)
                actor, unit = self.busy.pop(ended)
                if self._kept(ended, unit):
                    self._next(actor)
        finally:
            for actor, _ in self.busy.values():
                self.ray.kill(actor)

    def _next(self, actor: Any) -> None:
        if self.coming:
            unit = self.coming.popleft()
            self.busy[actor.measure.remote(unit.number)] = (actor, unit)

    def _kept(self, ended: Any, unit: Unit) -> bool:
        """Write down what an actor found; False where it has died, and `why` has the last line of what Ray says."""
        try:
            record = Record.from_dict(json.loads(self.ray.get(ended)))
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StabilityError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:  # its node, its process or its memory is gone
            self.why = str(error).strip().rsplit("\n", 1)[-1].strip()
            return False
        if record.result:
            self.setting.admit(unit, record.result.environment, now=True)
        unit_files.write(self.folder, record)
        self.measured += 1
        self.seen()
        return True


class _Worker:
    """A bench in a process of its own; what it is told and what it says is JSON."""

    def __init__(self, planned: str, device: str, threads: int) -> None:
        torch.set_num_threads(threads)  # this process is ours alone
        self.bench = Bench(Plan.from_dict(json.loads(planned), "the sweep"), device)

    def measure(self, number: int) -> str:
        """Return the record of the unit of that number."""
        return json.dumps(self.bench.measure(self.bench.plan.units[number]).to_dict(), allow_nan=False)


def _actors(ray: Any, plan: Plan, device: str) -> tuple[Callable[[], Any], int]:
    """Return what makes an actor, and how many the cluster can have."""
    threads, has = torch.get_num_threads(), ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    takes = {"num_gpus": 1} if gpus else {"num_cpus": threads}
    count = gpus or int(has.get("CPU", 0)) // threads
    if not count:
        raise UsageError(
            f"the Ray cluster has {has.get('CPU', 0):g} cores and no GPU, and an actor takes {threads}, as many as "
            "this process has threads; set OMP_NUM_THREADS to less"
        )
    made = ray.remote(**takes)(_Worker)
    planned = json.dumps(plan.to_dict())
    return lambda: made.remote(planned, device, threads), count


def _connected() -> Any:
    """Return Ray, connected to a cluster; UnreadableError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a measurement tells nobody that it ran
    try:
        import ray
    except ImportError:
        raise UnreadableError("ray is not installed; pip install 'stabilitykit[ray]'") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    return ray
