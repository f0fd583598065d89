"""Draws: all kinds, shrinking to the simplest, printed as calls, and never the user's own Hypothesis profile."""

import subprocess
import sys

import pytest
import torch
from hypothesis import find, given, settings, target

from stabilitykit import strategies
from stabilitykit.errors import UsageError
from stabilitykit.strategies import Direction

DIM = 16
BASIS = torch.stack([Direction("gaussian", (seed,), DIM).expand() for seed in (1, 2)])
QUIET = settings(database=None, max_examples=2000)


@pytest.mark.parametrize("basis", [None, BASIS])
def test_every_draw_expands_to_a_unit_vector(basis):
    seen = set()

    @strategies.settings_for("standard", 1)
    @given(direction=strategies.directions(DIM, basis))
    def expands(direction):
        seen.add(direction.kind)
        assert abs(direction.expand(basis).norm() - 1) < 1e-15

    expands()
    assert seen == {"axis", "sparse", "sign", "gaussian"} | (set() if basis is None else {"subspace"})


@pytest.mark.parametrize(
    ("wanted", "simplest"),
    [
        (lambda d: True, Direction("axis", (0, 1), DIM)),
        (lambda d: d.expand(BASIS).min() == -1, Direction("axis", (0, -1), DIM)),
        (lambda d: abs(d.expand(BASIS) @ BASIS[0]) > 0.999, Direction("subspace", (1,), DIM)),
        (lambda d: (d.expand(BASIS) > 0.2).all(), Direction("sign", (0,), DIM)),
    ],
)
def test_a_finding_shrinks_to_the_simplest_recipe(wanted, simplest):
    found = find(strategies.directions(DIM, BASIS), wanted, settings=QUIET)
    assert found == simplest


@pytest.mark.parametrize("dim", [1, 2, DIM])
def test_no_direction_is_an_axis_by_another_name(dim):
    """A finding would shrink to either of the two, by chance: it did so in 9 of 150 searches."""
    seen = set()

    @strategies.settings_for("standard", 1)
    @given(direction=strategies.directions(dim))
    def draws(direction):
        seen.add(direction.kind)
        assert direction.kind != "sparse" or len(direction.data) > 1

    draws()
    assert ("sparse" in seen) == (dim > 1)


def test_a_failure_prints_a_call(capsys):
    @strategies.settings_for("quick")
    @given(direction=strategies.directions(DIM))
    def fails(direction):
        raise ValueError("always")

    with pytest.raises(ValueError, match="always") as caught:
        fails()
    assert "Direction(kind='axis', data=(0, 1), dim=16)" in "\n".join(caught.value.__notes__)


def drawn(number):
    found = []

    @strategies.settings_for("quick", number)
    @given(direction=strategies.directions(DIM))
    def collects(direction):
        found.append(direction)
        target(float(direction.expand()[0]))

    collects()
    return found


def test_a_seed_fixes_the_draws_and_another_changes_them():
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_the_profiles_counts_are_kept():
    assert len(drawn(0)) == 10


def test_ambient_profiles_are_neither_read_nor_changed():
    """In continuous integration Hypothesis loads a profile of its own, which would leak into ours."""
    program = (
        "from hypothesis import settings\nbefore = settings.default\n"
        "from stabilitykit import strategies\n"
        "def test(): pass\n"
        "made = strategies.settings_for('quick')(test)._hypothesis_internal_use_settings\n"
        "print(repr(made), before is settings.default)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout
        for environment in ({"CI": "true", "GITHUB_ACTIONS": "true"}, {})
    }
    assert len(outputs) == 1
    assert outputs.pop().strip().endswith("True")


def test_an_unknown_profile_is_refused():
    with pytest.raises(UsageError, match="none of quick, standard, paper"):
        strategies.settings_for("slow")


def test_recipes_need_no_hypothesis():
    program = "import sys; from stabilitykit.strategies import gaussians; print('hypothesis' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
