"""Files: where they lie, how one is replaced, and what many that do so at once leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from oracles.kept import ELSEWHERE, made

from stabilitykit.baselines import store
from stabilitykit.baselines.store import place, read, write
from stabilitykit.errors import IncomparableError, UnreadableError

UPDATER = Path(__file__).parents[1] / "oracles" / "updater.py"
UPDATERS, ROUNDS = 20, 50


@pytest.mark.parametrize(
    ("named", "lies"),
    [
        ("main", ".stability/main.jsonl"),
        ("cpu.v2", ".stability/cpu.v2.jsonl"),
        ("main.jsonl", "main.jsonl"),
        ("./main", "main"),
        ("ci/main.txt", "ci/main.txt"),
        ("/else/where", "/else/where"),
    ],
)
def test_a_name_lies_in_the_folder_and_a_path_where_it_says(named, lies):
    assert place(named, Path("/root")) == Path("/root") / lies


def test_what_is_not_there_is_an_empty_baseline(tmp_path):
    found = read(tmp_path / "none.jsonl")
    assert (found.exists, found.entries, found.of("toy[a]")) == (False, {}, [])


def test_entries_of_several_environments_lie_side_by_side(tmp_path):
    path = tmp_path / "deep" / "main.jsonl"
    written = write(read(path), [made(), made(setting=ELSEWHERE), made("toy[b]")])
    assert read(path) == written
    assert len(read(path).of("toy[a]")) == 2


def test_nothing_is_written_where_nothing_changed(tmp_path):
    path = tmp_path / "main.jsonl"
    write(read(path), [made()])
    os.utime(path, (1, 1))
    write(read(path), [made()])
    assert path.stat().st_mtime == 1
    write(read(path), [made(radius=1.0)])
    assert path.stat().st_mtime > 1


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "main.jsonl"
    early = read(path)
    write(early, [made()])
    content = path.read_bytes()
    with pytest.raises(IncomparableError, match="has changed since this run began, so it was not written"):
        write(early, [made(radius=1.0)])
    assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(IncomparableError, match="has changed since"):
        write(store.Baseline(path, "1" * 64), [made()])
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "main.jsonl"
    former = write(read(path), [made()])
    content = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(former, [made(radius=1.0)])
    assert path.read_bytes() == content
    assert [name.name for name in tmp_path.iterdir() if name.suffix != ".lock"] == ["main.jsonl"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
        (b"\x80\x04\x95", "is not UTF-8 (byte 0)"),
        (b"", "line 1: this is no line of a baseline"),
        (b"PK\x03\x04", "line 1: this is no line of a baseline"),
    ],
)
def test_what_is_no_baseline_is_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "main.jsonl"
    path.write_bytes(content)
    with pytest.raises(UnreadableError) as caught:
        read(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_beyond_all_measure_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UnreadableError, match="cannot be read: Is a directory"):
        read(tmp_path)
    path = tmp_path / "main.jsonl"
    path.write_text("x" * 11)
    monkeypatch.setattr(store, "LARGEST", 10)
    with pytest.raises(UnreadableError, match="has more than 10 bytes"):
        read(path)


def test_reading_and_writing_need_no_torch():
    code = "import sys, stabilitykit.baselines.store; print(*({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "\n"


def test_twenty_updaters_have_one_winner_a_round_and_never_a_damaged_file(tmp_path):
    path = tmp_path / "main.jsonl"
    command = [sys.executable, str(UPDATER), str(path)]
    updaters = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(UPDATERS)
    ]

    def all_do(what):
        for updater in updaters:
            updater.stdin.write(f"{what}\n")
            updater.stdin.flush()
        return [updater.stdout.readline().strip() for updater in updaters]

    try:
        wins = dict.fromkeys(range(UPDATERS), None)
        for number in range(ROUNDS):
            assert all_do("read") == ["read"] * UPDATERS
            told = all_do("write")
            assert told.count("won") == 1
            assert sum(one.startswith("lost: ") and "has changed since" in one for one in told) == UPDATERS - 1
            wins[told.index("won")] = float(2 * number + 1)
            held = {entry.check: entry.readings["round"].value for entry in read(path).entries.values()}
            assert held == {f"by[{winner}]": last for winner, last in wins.items() if last is not None}
        for updater in updaters:
            updater.stdin.close()
        assert {updater.stdout.read().strip() for updater in updaters} == {"False"}, "an updater imported torch"
    finally:
        for updater in updaters:
            updater.kill()
            updater.wait()
            updater.stdout.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == [".main.jsonl.lock", "main.jsonl"]
