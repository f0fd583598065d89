"""`stabilitykit baseline`: exit codes, what is printed, and what a prune leaves; `--help` of each action."""

from dataclasses import replace
from pathlib import Path

import pytest
from oracles.kept import ELSEWHERE, HERE, made

from stabilitykit import cli
from stabilitykit.baselines.store import read, write


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two baselines, `main` of two environments and `now` of one, in which one reading is worse and one check new."""
    monkeypatch.chdir(tmp_path)
    write(read(Path(".stability/main.jsonl")), [made(), made(setting=ELSEWHERE), made("gone[b]")])
    now = [made(radius=1.0, weights="v" * 64), made("added[c]")]
    write(read(Path(".stability/now.jsonl")), now)
    return tmp_path


def run(capsys, *words):
    try:
        status = cli.main(["baseline", *words])
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr()
    return status, told.out, told.err


def test_list_says_what_each_is_of(files, capsys):
    status, out, _ = run(capsys, "list")
    assert status == 0
    assert out.splitlines() == [
        "baseline  checks  environments  models",
        "main      2       2             toy",
        "now       2       1             toy",
    ]
    assert run(capsys, "list", "none")[1] == "none holds no baseline; stabilitykit run --save NAME writes one\n"


def test_show_prints_readings_and_where_they_were_measured(files, capsys):
    status, out, _ = run(capsys, "show", "main", "toy")
    lines = out.splitlines()
    assert status == 0
    assert "gone" not in out
    here, there = HERE.numeric, ELSEWHERE.numeric
    assert set(lines[:2]) == {f"environment {key}: threads {n}, torch 2.13.0" for key, n in ((here, 1), (there, 2))}
    row = next(line.split() for line in lines if here in line and "radius" in line and "toy" in line)
    assert row == ["toy[a]", here, "radius", "2", "0x1.0000000000000p+1", "input"]


def test_diff_exits_1_where_the_second_has_drifted(files, capsys):
    status, out, _ = run(capsys, "diff", "main", "now")
    assert status == 1
    assert f"toy[a]: drifted. Changed since: weights was {'w' * 12}, is {'v' * 12}." in out
    assert ["worse", "radius", "1.0", "2.0", "exact", "-50", "%", "input"] in [
        line.split() for line in out.splitlines()
    ]
    assert "added[c]: .stability/main.jsonl has no entry for this check" in out
    assert "only in .stability/main.jsonl: gone[b]" in out
    assert out.splitlines()[-1] == "2 entries of .stability/now.jsonl: 1 drifted, 1 new"
    status, out, _ = run(capsys, "diff", "main", "now", "--compare-fail", "toy.radius: x2")
    assert status == 0
    status, out, _ = run(capsys, "diff", "main", "main")
    assert (status, out) == (0, "3 entries of .stability/main.jsonl: 3 same\n")


def test_prune_removes_what_is_named_and_nothing_else(files, capsys):
    status, out, _ = run(capsys, "prune", "main", "toy", "--environment", ELSEWHERE.numeric)
    assert (status, out.splitlines()[-1]) == (0, "1 of 3 entries removed from .stability/main.jsonl")
    assert {key.check for key in read(files / ".stability/main.jsonl").entries} == {"toy[a]", "gone[b]"}
    run(capsys, "prune", "main", "gone*")
    assert {key.check for key in read(files / ".stability/main.jsonl").entries} == {"toy[a]"}


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("show", "none"), 3, "there is no baseline .stability/none.jsonl; stabilitykit run --save none writes it"),
        (("show", "main", "nothing"), 2, ".stability/main.jsonl has no check 'nothing'; see baseline show"),
        (("prune", "main"), 2, "the following arguments are required: CHECK"),
        (("prune", "main", "toy", "--environment", "x"), 2, "has no such entry in the environment x"),
        (("diff", "main", "now", "--compare-fail", "x"), 2, "compare-fail 'x' is not CHECK.METRIC: TOLERANCE"),
        (("show", "bad.jsonl"), 3, "bad.jsonl, line 1: this is no line of a baseline of stabilitykit"),
        ((), 2, "the following arguments are required: ACTION"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(files, capsys, words, status, sentence):
    (files / "bad.jsonl").write_text("x\n")
    found, out, error = run(capsys, *words)
    assert (found, out) == (status, "")
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("action", ["list", "show", "diff", "prune"])
def test_help_of_each_action(capsys, action):
    status, out, _ = run(capsys, action, "--help")
    assert status == 0
    assert f"usage: stabilitykit baseline {action}" in out


def test_hostile_text_is_escaped(files, capsys):
    path = Path(".stability/now.jsonl")
    found = read(path)
    write(found, [replace(one, check="\x1b[2Jtoy") for one in list(found.entries.values())[:1]])
    assert "\x1b" not in run(capsys, "show", "now")[1]


@pytest.mark.parametrize("option", ["--baseline", "--save"])
def test_run_refuses_an_unreadable_one_before_it_starts(files, capsys, option):
    (files / "bad.jsonl").write_text("x\n")
    assert cli.main(["run", option, "bad.jsonl"]) == 3
    assert "bad.jsonl, line 1: this is no line of a baseline" in capsys.readouterr().err
