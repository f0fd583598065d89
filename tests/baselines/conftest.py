"""Entries made by hand: no model, no run."""

from __future__ import annotations

import pytest

from stabilitykit.baselines.entry import Course, Entry, Kept, Setting

HERE = Setting({"torch": "2.13.0", "threads": 1}, {"python": "3.11", "kit": "0.1.0"})
ELSEWHERE = Setting({"torch": "2.13.0", "threads": 2}, {"python": "3.11", "kit": "0.1.0"})
MODEL = {"name": "toy", "hidden_size": 3}
ASKED = {"measurement": "Toy", "parameters": {"angles": 3}, "prompt": "one"}


@pytest.fixture
def entry():
    """Make an entry: `entry(radius=2.0)`; what is not named is as in the twin."""

    def make(check="toy[a]", setting=HERE, weights="w" * 64, asked=ASKED, model=MODEL, readings=None, **values):
        kept = {
            "radius": Kept(values.get("radius", 2.0), "input", "higher"),
            "max_ulp": Kept(values.get("max_ulp", 4.0), "ULP", "lower"),
            "cells": Kept(values.get("cells", 7.0), "inputs", "neither"),
        }
        courses = values.get("courses", ())
        return Entry(
            check,
            asked,
            model,
            weights,
            setting,
            kept if readings is None else readings,
            courses,
            values.get("bits", {}),
        )

    return make


@pytest.fixture
def elsewhere():
    return ELSEWHERE


@pytest.fixture
def course():
    def make(direction="Direction(a)", digest="d" * 8, **readings):
        return Course(direction, {"kind": "axis", "data": [0, 1], "dim": 3}, digest, readings or {"radius": 1.5})

    return make
