"""Requests that a process which stays answers one after the other."""

import os
from pathlib import Path

import pytest

from stabilitykit.errors import InvalidError, TimedOutError, UnsupportedError
from stabilitykit.subjects import launch
from stabilitykit.subjects.standing import Processes, standing


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Ask the oracle within one set of processes, which are ended with the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    processes = Processes()

    def asking(what, environ=None, timeout=60.0, fresh=False):
        with standing(processes):
            return launch.ask("oracles.answering", tmp_path, {"ask": what}, environ or {}, timeout, fresh=fresh)

    yield asking
    processes.close()


def test_one_process_answers_all_that_need_no_fresh_one(ask, monkeypatch):
    first = ask("process")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "the next one")
    again, fresh = ask("process"), ask("process", fresh=True)
    assert first["process"] == again["process"]
    assert len({first["process"], fresh["process"], os.getpid()}) == 3


def test_other_variables_are_another_process(ask):
    first, other = ask("process"), ask("process", {"OMP_NUM_THREADS": "3"})
    assert other["threads"] == "3"
    assert first["process"] != other["process"]
    assert ask("process")["process"] == first["process"]


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [("die", UnsupportedError, "died by SIGKILL"), ("raise", InvalidError, "could not answer: nan at 3")],
)
def test_one_that_fails_says_why_and_the_next_request_has_another(ask, what, kind, said):
    first = ask("process")
    with pytest.raises(kind, match=said):
        ask(what)
    assert ask("process")["process"] != first["process"]


def test_one_that_takes_too_long_is_ended(ask):
    first = ask("process")["process"]
    with pytest.raises(TimedOutError, match=r"did not answer within 0\.5 s"):
        ask("sleep", timeout=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert ask("process")["process"] != first


def test_one_that_died_while_nobody_asked_is_replaced(ask):
    first = ask("process")["process"]
    os.kill(first, 9)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert ask("process")["process"] != first


def test_all_end_with_the_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    processes = Processes()
    with standing(processes):
        held = launch.ask("oracles.answering", tmp_path, {"ask": "process"}, {}, 60.0, fresh=False)["process"]
    os.kill(held, 0)
    processes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(held, 0)
