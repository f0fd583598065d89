"""`stabilitykit sweep QUESTION`: ask it thousands of times, in parts on any number of machines, and merge them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stabilitykit.cli import files
from stabilitykit.cli.one_model import option
from stabilitykit.errors import UsageError
from stabilitykit.load_args import parsed
from stabilitykit.settings import Settings, resolve
from stabilitykit.typed import one_of, whole

if TYPE_CHECKING:
    from stabilitykit.sweeps.asked import Sweep
    from stabilitykit.sweeps.merge import Merged
    from stabilitykit.sweeps.plan import Plan, Unit
    from stabilitykit.sweeps.shard import Done

HELP = "measure along thousands of directions, in parts on many machines; what is measured is never measured again"
_SHARED = ("model", "dtype", "device", "prompts", "attention", "experts", "load-arg", "seed")
_ENGINES = ("here", "ray")
_COUNTS = {"unit": 256, "batch": 64}
_WIDTH, _REASON = 40, 160


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("question", metavar="QUESTION", help="boundary, regimes, ...; or merge, to put parts together")
    parser.add_argument("folder", metavar="DIR", nargs="?", help="for merge: the folder that holds the parts")
    for name in _SHARED:
        shared = option(name)
        action = "append" if shared.kind == "list" else "store"
        parser.add_argument(
            f"--{name}",
            dest=shared.key,
            action=action,
            metavar=shared.metavar,
            help=shared.explained.split(", or a comma")[0],
        )
    families = "gaussian:N, sign:N, singular:N, singular:all, fan:N, separated by commas"
    parser.add_argument("--directions", metavar="LIST", default="", help=families)
    parser.add_argument("--parameter", metavar="KEY=VALUE", action="append", help="field of the measurement, JSON")
    parser.add_argument("--path", metavar="NAME", default="decode", help="prefill or decode (default: decode)")
    parser.add_argument("--batch", metavar="N", default=_COUNTS["batch"], help="rows run at once (default: 64)")
    parser.add_argument("--site", metavar="NAME", default="post_norm", help="where to read (default: post_norm)")
    parser.add_argument(
        "--unit", metavar="N", default=_COUNTS["unit"], help="directions measured as one piece (default: 256)"
    )
    parser.add_argument("--out", metavar="DIR", help="folder of the plan, the parts and the merged tables")
    parser.add_argument("--shard", metavar="i/N", default="1/1", help="measure part i of N only, i from 1")
    parser.add_argument("--engine", metavar="NAME", default="here", help="here, or ray: actors of a cluster")
    parser.add_argument("--plan", action="store_true", help="list units, parts, cost and ids; measure nothing")
    parser.add_argument("--mixed", action="store_true", help="allow units of several numeric environments")


def run(given: argparse.Namespace, words: Sequence[str]) -> tuple[int, list[str]]:
    """Measure a part, or put the parts together; return the exit status and the lines to print."""
    if given.question == "merge":
        return _merged(given)
    if given.folder is not None:
        raise UsageError(f"sweep takes no argument {given.folder!r} after a question; name the folder with --out")
    if not (given.out or given.plan):
        raise UsageError("sweep keeps what it measures in a folder; name it with --out")
    one_of("engine", given.engine, _ENGINES)
    files.folder("out", given.out)
    settings = _settings(given)
    sweep = _sweep(given, settings)
    from stabilitykit.sweeps.plan import part, plan

    part(given.shard)
    if given.plan:
        return 0, _planned(plan(sweep, device=settings.device), given, settings)
    # Where Ray is told what to do there may be no such device.
    made = plan(sweep, given.out, device=None if given.engine == "ray" else settings.device)
    units = made.shard(given.shard)
    done = _measured(made, given, settings)
    return _ended(made, units, done, given)


def _settings(given: argparse.Namespace) -> Settings:
    asked = {name: getattr(given, option(name).key) for name in _SHARED}
    settings = resolve(lambda one: asked.get(one.name), lambda _: None, Path.cwd())
    if len(settings.devices) > 1:
        raise UsageError(f"sweep measures on one device, not {', '.join(settings.devices)}; start a part on each")
    return settings


def _sweep(given: argparse.Namespace, settings: Settings) -> Sweep:
    from stabilitykit.sweeps.asked import Sweep

    return Sweep(
        question=given.question,
        models=tuple(dict.fromkeys(settings.models)),
        dtypes=settings.dtypes,
        prompts=settings.prompts,
        directions=tuple(filter(None, map(str.strip, given.directions.split(",")))),
        parameters=dict(parsed(given.parameter or [], "parameter")),
        path=given.path,
        site=given.site,
        **{name: whole(name, getattr(given, name), 1) for name in _COUNTS},
        seed=settings.seed,
        attention=settings.attention,
        experts=settings.experts,
        load_args=dict(settings.load_args),
    )


def _measured(made: Plan, given: argparse.Namespace, settings: Settings) -> Done:
    from stabilitykit.measurements.progress import progress_to, terminal
    from stabilitykit.sweeps import on_ray, shard

    measure = on_ray.run_on_ray if given.engine == "ray" else shard.run_shard
    with progress_to(terminal()):
        return measure(made, given.out, given.shard, device=settings.device, mixed=given.mixed)


def _ended(made: Plan, units: Sequence[Unit], done: Done, given: argparse.Namespace) -> tuple[int, list[str]]:
    """Say what was done; where no other part is missing, merge."""
    from stabilitykit.report.text import shortened, shown
    from stabilitykit.sweeps.merge import is_whole, merge

    of = f"part {given.shard} of " if len(units) < len(made.units) else ""
    said = [f"{of}{len(made.units)} units: {done.measured} measured, {done.found} there already"]
    if done.damaged:
        said.append(f"{done.damaged} of the measured had a damaged file, which was replaced")
    if done.lost:
        why = shortened(shown(done.why), _REASON)
        said.append(f"{done.lost} units were lost with their workers ({why}); the same command measures them")
    if not is_whole(Path(given.out), made):
        return 3 if done.lost else 0, [*said, "other parts are missing; who measures the last one merges them all"]
    status, lines = _told(merge(given.out, mixed=given.mixed))
    return status, [*said, *lines]


def _merged(given: argparse.Namespace) -> tuple[int, list[str]]:
    from stabilitykit.sweeps.merge import merge

    if given.folder is None:
        raise UsageError("sweep merge puts the parts of a folder together; name it: stabilitykit sweep merge DIR")
    return _told(merge(given.folder, mixed=given.mixed))


def _told(merged: Merged) -> tuple[int, list[str]]:
    """Return status 1 where a unit has no answer, and what was merged."""
    from stabilitykit.report.text import shown
    from stabilitykit.sweeps.merge import ARRAYS, READINGS, TABLE, TIMINGS

    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in merged.verdicts.items())
    written = [f"written: {shown(merged.folder / name)}" for name in (TABLE, READINGS, ARRAYS, TIMINGS)]
    unanswered = any(verdict in merged.verdicts for verdict in ("invalid", "unsupported"))
    return int(unanswered), [f"{merged.units:,} units ({verdicts}), {merged.rows:,} rows", *written]


def _planned(made: Plan, given: argparse.Namespace, settings: Settings) -> list[str]:
    """Return a line a unit, what all of them cost, and how many a part has."""
    from stabilitykit.report.text import aligned, shortened, shown
    from stabilitykit.sweeps.bench import cost_of

    units = made.shard(given.shard)
    cells = [
        [str(u.number), u.id, shown(u.weights.model), u.weights.dtype, shortened(shown(u.prompt), _WIDTH), u.directions]
        for u in units
    ]
    titles = ["unit", "id", "model", "dtype", "prompt", "directions"]
    of = f" of {len(made.units):,}" if len(units) < len(made.units) else ""
    return [*aligned([titles, *cells]), f"{len(units):,} units{of}: {cost_of(made, units, settings.device)}"]
