"""What a measurement assumes where nothing is said: a baseline belongs to the digest of its parameters, so it stays."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

from stabilitykit import measurements
from stabilitykit.measurements.base import Measurement

TABLE = Path(__file__).parent / "defaults.json"
PLACES = list(pkgutil.iter_modules(measurements.__path__))


def numbers(value):
    return isinstance(value, int | float) or (isinstance(value, tuple) and bool(value) and all(map(numbers, value)))


def found():
    """Every default that is a number, a flag or a tuple of them, by what it is given to."""
    defaults = {}
    for info in PLACES:
        module = importlib.import_module(f"stabilitykit.measurements.{info.name}")
        for name, one in vars(module).items():
            if getattr(one, "__module__", "") == module.__name__ and callable(one) and not name.startswith("_"):
                given = inspect.signature(one).parameters.items()
                own = {parameter: way.default for parameter, way in given if numbers(way.default)}
                defaults |= {f"{info.name}.{name}": json.dumps(own)} if own else {}
    return defaults


def test_a_default_stays():
    table = {name: json.dumps(own) for name, own in json.loads(TABLE.read_text(encoding="utf-8")).items()}
    now = found()
    assert {name: now.get(name) for name in table} == table


def test_what_fails_a_run_by_itself_stays():
    """Such a check fails a test where bits differ, with no limit given."""
    modules = [importlib.import_module(f"{measurements.__name__}.{info.name}") for info in PLACES]
    kinds = {one for module in modules for one in vars(module).values() if inspect.isclass(one)}
    gates = {kind.__name__ for kind in kinds if issubclass(kind, Measurement) and kind.gate}
    bits = {"Fate", "Landscape", "OperatorProbe", "Rotation", "RunToRun", "Staircase", "WeightExport", "Zoom"}
    assert gates == bits
