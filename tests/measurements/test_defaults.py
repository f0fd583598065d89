"""What a measurement assumes where nothing is said: a baseline belongs to the digest of its parameters, so it stays."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

from stabilitykit import measurements

TABLE = Path(__file__).parent / "defaults.json"


def numbers(value):
    return isinstance(value, int | float) or (isinstance(value, tuple) and bool(value) and all(map(numbers, value)))


def found():
    """Every default that is a number, a flag or a tuple of them, by what it is given to."""
    defaults = {}
    for info in pkgutil.iter_modules(measurements.__path__):
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
