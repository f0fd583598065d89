"""Every option, declared once: the command line, the ini file, `stabilitykit run` and the help texts derive from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import stabilitykit
from stabilitykit import load_args
from stabilitykit.errors import UsageError
from stabilitykit.profile import PROFILES, Profile
from stabilitykit.prompts import DEFAULT_PROMPTS, read_prompts
from stabilitykit.traces import LEVELS, STATES
from stabilitykit.typed import DTYPES, devices, dtypes, one_of, seconds, text, whole

if TYPE_CHECKING:
    from stabilitykit.baselines.tolerance import Tolerance
    from stabilitykit.results.known import Known
    from stabilitykit.results.limit import Limit

COMMAND = "STABILITYKIT_COMMAND"
"""Environment variable in which `stabilitykit run` tells the report what was typed."""

BAD_INPUT = 64
"""Added to the exit code of the bad input that `stabilitykit run` met; pytest's own codes are below."""

_PATHS = ("report", "replay", "record", "against", "save", "baseline")
_ASIDE = {"budget", "record", "save", "update", "report", "suite", "resume", "dry_run", "progress", "device", "place"}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--stability-NAME` for pytest, `stability_NAME` in an ini file, `--NAME` for `stabilitykit run`."""

    name: str
    help: str
    metavar: str = ""
    default: str = ""
    kind: Literal["text", "list", "number", "flag"] = "text"

    @property
    def key(self) -> str:
        """The ini name, which is also the name of the attribute that pytest keeps the raw value in."""
        return f"stability_{self.name.replace('-', '_')}"

    @property
    def explained(self) -> str:
        """The help text with the default in it."""
        return f"{self.help} (default: {self.default})" if self.default else self.help


OPTIONS = (
    Option("model", "model under test: smollm2, tiny, a hub id, a folder, a .gguf file", "SPEC", "smollm2", "list"),
    Option("dtype", f"comma-separated list of {', '.join(DTYPES)}", "LIST", "float32"),
    Option("device", "cpu, cuda, cuda:N, mps, xpu, xpu:N, or a comma-separated list for pytest -n auto", "LIST", "cpu"),
    Option("prompts", "UTF-8 file of prompts, one a line; blank lines and # comments are skipped", "FILE"),
    Option("profile", f"how much to measure: {', '.join(PROFILES)}", "NAME", "quick"),
    Option("report", "write the report into this folder; the suite's default is reports", "DIR"),
    Option("limit", "gate, such as 'batch_invariance.max_ulp<=4' (glob on check ids)", "EXPR", kind="list"),
    Option("known", "file of known differences, CHECK REASON a line: such a check is shown and fails no test", "FILE"),
    Option(
        "budget", "begin no test after this many seconds; the most telling come first, the rest is listed", "SECONDS"
    ),
    Option("strict", "hold every measurement to its ideal: a difference fails the test", kind="flag"),
    Option("attention", "attention implementation to load the model with, such as eager or sdpa", "NAME"),
    Option("experts", "experts implementation to load the model with, such as eager", "NAME"),
    Option("load-arg", "argument for the model's loader, VALUE read as JSON if it is", "KEY=VALUE", kind="list"),
    Option("tokens", "tokens to generate of each prompt, where a generation is recorded or compared", "N"),
    Option("record", "keep the recorded generation in this folder, to compare it on another machine", "DIR"),
    Option("record-level", "how closely to record: block, module, op (operations of one step too)", "NAME", "module"),
    Option("record-states", "whose vectors to keep beside digests: none, norm, blocks, all", "NAME", "none"),
    Option("record-step", "the step whose operations are recorded at level op; 0 reads the prompt", "N", "0", "number"),
    Option("against", "compare with the recording in this folder, made on another device or before a change", "DIR"),
    Option("seed", "seed of everything drawn at random", "N", "0", "number"),
    Option("suite", "run the installed suite stability_tests; without other arguments, run it alone", kind="flag"),
    Option("replay", "try the worst directions recorded in this report folder before any are drawn", "DIR"),
    Option("save", "keep what this run measures as a baseline: .stability/NAME.jsonl, or a PATH", "NAME"),
    Option("baseline", "hold what is measured to this baseline: .stability/NAME.jsonl, or a PATH", "NAME"),
    Option("compare-fail", "how much worse is no failure: 'first_change.radius: 5%', x1.5, 4ulp", "EXPR", kind="list"),
    Option("update", "write to the baseline: new (what it lacks) or all (also what moved, which then passes)", "MODE"),
    Option("require-baseline", "a check that the baseline has no comparable entry for fails", kind="flag"),
    Option(
        "resume", "go on with the run that was stopped in the report folder; measure only what it lacks", kind="flag"
    ),
    Option("dry-run", "state what each check would cost, and measure nothing", kind="flag"),
    Option("progress", "draw progress bars also where no terminal is seen", kind="flag"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run was asked to do, checked; see `OPTIONS` for what each field means.

    `devices` are all that were named. `device` is the one that this process measures on, on the controller of several
    workers the first; `place` is its name in test ids, where each worker runs all tests on a device of its own.
    """

    models: tuple[str, ...] = ("smollm2",)
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    place: str = ""
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    profile: Profile = PROFILES["quick"]
    report: Path | None = None
    limits: tuple[Limit, ...] = ()
    known: tuple[Known, ...] = ()
    budget: float | None = None
    strict: bool = False
    attention: str | None = None
    experts: str | None = None
    load_args: tuple[tuple[str, Any], ...] = ()
    tokens: int | None = None
    record: Path | None = None
    record_level: str = "module"
    record_states: str = "none"
    record_step: int = 0
    against: Path | None = None
    seed: int = 0
    suite: bool = False
    replay: Path | None = None
    save: Path | None = None
    baseline: Path | None = None
    compare_fail: tuple[Tolerance, ...] = ()
    update: str = ""
    require_baseline: bool = False
    resume: bool = False
    dry_run: bool = False
    progress: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-plain values, for the report and for cache keys."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **plain,
            "models": list(self.models),
            "dtypes": list(self.dtypes),
            "devices": list(self.devices),
            "prompts": list(self.prompts),
            "profile": self.profile.name,
            **{name: None if plain[name] is None else str(plain[name]) for name in _PATHS},
            "limits": [str(limit) for limit in self.limits],
            "known": [str(one) for one in self.known],
            "compare_fail": [str(rule) for rule in self.compare_fail],
            "load_args": dict(self.load_args),
        }

    def identity(self, replayed: str = "") -> dict[str, Any]:
        """Return what decides what is measured and how it is judged, JSON-plain: equal for runs that may be joined.

        `replayed` is the id of the run whose directions are tried again.
        """
        plain = self.to_dict()
        chosen = {name: plain[name] for name in plain if name not in _ASIDE}
        return {**chosen, "replayed": replayed, "stabilitykit": stabilitykit.__version__}


def resolve(given: Callable[[Option], Any], configured: Callable[[Option], Any], base: Path) -> Settings:
    """Return the settings: command line over ini file over default; UsageError for a value that cannot be meant.

    `given` and `configured` return an option's raw value from the two sources, None (or an empty list) where it was
    not set. Relative paths are of the working directory on the command line and of `base` in the ini file.
    """
    raw: dict[str, Any] = {}
    roots: dict[str, Path] = {}
    for option in OPTIONS:
        value, root = given(option), Path.cwd()
        if value in (None, []):
            value, root = configured(option), base
        raw[option.name] = _default(option) if value in (None, [], "") else value
        roots[option.name] = root
    named = devices(raw["device"])
    report = raw["report"] or ("reports" if raw["suite"] else "")
    return Settings(
        models=tuple(text("model", spec) for spec in raw["model"]),
        dtypes=dtypes(raw["dtype"]),
        device=named[0],
        devices=named,
        prompts=read_prompts(roots["prompts"] / raw["prompts"]) if raw["prompts"] else DEFAULT_PROMPTS,
        profile=_profile(raw["profile"]),
        report=roots["report"] / report if report else None,
        limits=_limits(raw["limit"]),
        known=_known(roots["known"] / raw["known"]) if raw["known"] else (),
        budget=seconds("budget", raw["budget"]) if raw["budget"] else None,
        strict=bool(raw["strict"]),
        attention=raw["attention"] or None,
        experts=raw["experts"] or None,
        load_args=load_args.parsed(raw["load-arg"]),
        tokens=whole("tokens", raw["tokens"], 1) if raw["tokens"] else None,
        record=roots["record"] / raw["record"] if raw["record"] else None,
        record_level=one_of("record-level", raw["record-level"], LEVELS),
        record_states=one_of("record-states", raw["record-states"], STATES),
        record_step=whole("record-step", raw["record-step"], 0),
        against=_recording(roots["against"], raw["against"]),
        seed=whole("seed", raw["seed"], 0),
        suite=bool(raw["suite"]),
        replay=_folder("replay", roots["replay"], raw["replay"]),
        **_baselines(raw, roots),
        resume=_resume(raw["resume"], report),
        dry_run=bool(raw["dry-run"]),
        progress=bool(raw["progress"]),
    )


def _default(option: Option) -> Any:
    if option.kind == "list":
        return [option.default] if option.default else []
    return option.default


def _profile(value: str) -> Profile:
    if value not in PROFILES:
        raise UsageError(f"profile {value!r} is none of {', '.join(PROFILES)}")
    return PROFILES[value]


def _folder(name: str, root: Path, value: str) -> Path | None:
    if value and not _there(lambda: (root / value / "run.json").is_file()):
        raise UsageError(f"{name} {value!r} holds no run.json; name a folder that a run wrote its report into")
    return root / value if value else None


def _recording(root: Path, value: str) -> Path | None:
    """Return the folder of a recording, or of several, each in a folder of its own."""
    folder = root / value
    if value and not _there(lambda: any(folder.glob("manifest.json")) or any(folder.glob("*/manifest.json"))):
        raise UsageError(f"against {value!r} holds no manifest.json; name a folder that a run recorded into")
    return folder if value else None


def _there(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _resume(value: Any, report: str) -> bool:
    if value and not report:
        raise UsageError("resume goes on with the run of a report folder; name it with report")
    return bool(value)


def _baselines(raw: Mapping[str, Any], roots: Mapping[str, Path]) -> dict[str, Any]:
    if not any(raw[name] for name in ("save", "baseline", "compare-fail", "update", "require-baseline")):
        return {}
    from stabilitykit.baselines.asked import asked  # as for limits

    return asked(raw, roots)


def _known(path: Path) -> tuple[Known, ...]:
    from stabilitykit.results.known import read_known  # as for limits

    return read_known(path)


def _limits(expressions: list[str]) -> tuple[Limit, ...]:
    if not expressions:
        return ()
    from stabilitykit.results.limit import Limit  # brings in numpy, which a run without limits may never need

    return tuple(Limit.parse(expression) for expression in expressions)


def arguments(given: Mapping[str, Any]) -> list[str]:
    """Return raw values as pytest arguments, to repeat a run: what was given, in the order of `OPTIONS`."""
    found: list[str] = []
    for option in OPTIONS:
        value = given.get(option.name)
        if value is True:
            found.append(f"--stability-{option.name}")
        elif value not in (None, False, []):
            values = value if isinstance(value, list) else [value]
            found += [f"--stability-{option.name}={one}" for one in values]
    return found
