"""Baseline entries made by hand: no model, no run."""

from stabilitykit.baselines.entry import Course, Entry, Kept, Setting

HERE = Setting({"torch": "2.13.0", "threads": 1}, {"python": "3.11", "kit": "0.1.0"})
ELSEWHERE = Setting({"torch": "2.13.0", "threads": 2}, {"python": "3.11", "kit": "0.1.0"})
MODEL = {"name": "toy", "hidden_size": 3}
ASKED = {"measurement": "Toy", "parameters": {"angles": 3}, "prompt": "one"}


def made(check="toy[a]", setting=HERE, weights="w" * 64, asked=ASKED, model=MODEL, **values):
    """Make an entry: `made(radius=1.0)` differs from its twin `made()` in the radius alone."""
    kept = {
        "radius": Kept(values.get("radius", 2.0), "input", "higher"),
        "max_ulp": Kept(values.get("max_ulp", 4.0), "ULP", "lower"),
        "cells": Kept(values.get("cells", 7.0), "inputs", "neither"),
    }
    more = {name: values[name] for name in ("courses", "named", "bits") if name in values}
    return Entry(check, asked, model, weights, setting, values.get("readings", kept), **more)


def course(direction="Direction(a)", digest="d" * 8, **readings):
    return Course(direction, {"kind": "axis", "data": [0, 1], "dim": 3}, digest, readings or {"radius": 1.5})
