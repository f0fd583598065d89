"""What each parameter of each measurement refuses, and in which sentence: written down, and has to stay.

    python tests/oracles/refused.py

gives every parameter each of VALUES, the others being as they are by default, and writes down what is refused. So a
bound that moves by one, and a refusal that falls away, are seen; was it meant, the table is written anew.
"""

import json
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parent / "refused.json"
NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 19, 20, 99, 100, 198, 199, 10**6, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5, math.inf, math.nan)
WORDS = ("", "v1", "-v2", "v0", "w", "rel", "noise", "logits", "all", "cpu-ref", "float32", "float8", "prompt")
OTHERS = (True, None, (), b"v1", {"a": 1}, [1, [2]])
LISTS = tuple((one,) for one in (*NUMBERS, *WORDS, None, True))
PAIRS = (
    (1, 2),
    (2, 1),
    (1, 1),
    (0, 1),
    (-1, 0),
    (0.5, 0.25),
    (1.5, 1),
    ("v1", "v2"),
    ("v1", "w"),
    ("", "v1"),
    (1, "v1"),
)
TRIPLES = ((1, 2, 3), (0.5, 1.5, 0.25), ("v1", "v2", "v3"))
VALUES = (*NUMBERS, *WORDS, *OTHERS, *LISTS, *PAIRS, *TRIPLES)

Refusals = dict[str, list[str]]
"""The values that a sentence is said to; in it, ## is the value."""


def refusals(kind: Any) -> dict[str, Refusals]:
    """Return what each parameter of a measurement says to which values."""
    return {one.name: _said(kind, one.name) for one in fields(kind)}


def _said(kind: Any, name: str) -> Refusals:
    import stabilitykit as sk

    needed = {"Zoom": {"of": sk.Landscape()}}
    said: Refusals = {}
    for value in VALUES:
        if sentence := refusal(kind, {**needed.get(kind.__name__, {}), name: value}):
            said.setdefault(sentence.replace(repr(value), "##"), []).append(repr(value))
    return said


def refusal(kind: Any, arguments: dict[str, Any]) -> str:
    """Return what is said to these arguments, with the kind of an error that is none of the kit's; empty if taken."""
    from stabilitykit.errors import UsageError

    try:
        kind(**arguments)
    except UsageError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def written(table: dict[str, dict[str, Refusals]]) -> str:
    """Return the table as JSON, a line a sentence."""

    def block(told: dict[str, str], depth: int) -> str:
        pad = " " * depth
        return "{\n" + ",\n".join(f"{pad} {json.dumps(name)}: {text}" for name, text in told.items()) + f"\n{pad}}}"

    def parameter(said: Refusals) -> str:
        return block({sentence: json.dumps(values) for sentence, values in said.items()}, 2) if said else "{}"

    kinds = {kind: block({name: parameter(said) for name, said in own.items()}, 1) for kind, own in table.items()}
    return block(kinds, 0) + "\n"


def main() -> None:
    """Write the table."""
    from oracles.kinds import kinds

    TABLE.write_text(written({kind.__name__: refusals(kind) for kind in kinds()}), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
