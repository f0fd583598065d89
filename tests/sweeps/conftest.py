"""A small sweep of a tiny model, measured once by a single run: what every way of sharing it out must give."""

import pytest
from oracles.small_sweep import asked

import stabilitykit as sk
from stabilitykit.subjects.noise import threads


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """The folder of a single run, merged."""
    folder = tmp_path_factory.mktemp("single")
    sk.run_shard(sk.plan(asked(), folder), folder)
    sk.merge(folder)
    return folder


@pytest.fixture
def same(single):
    """Fail unless a folder's merged files have the bytes of the single run's."""

    def check(folder):
        for name in ("table.csv", "readings.csv", "arrays.npz", "environments.json", "plan.json"):
            assert (folder / name).read_bytes() == (single / name).read_bytes(), name

    return check
