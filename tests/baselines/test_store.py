"""Files: where they lie, how one is replaced, and what many that do so at once leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from oracles.kept import ELSEWHERE, made
from oracles.updaters import Updaters

from stabilitykit.baselines import store
from stabilitykit.baselines.store import place, read, write
from stabilitykit.errors import IncomparableError, UnreadableError
from stabilitykit.results.atomic import TEMPORARY


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


def test_what_a_killed_process_left_is_removed_by_a_later_write(tmp_path):
    part = tmp_path / f".ab{TEMPORARY}"
    part.touch()
    os.utime(part, (1, 1))
    write(read(tmp_path / "main.jsonl"), [made()])
    assert not part.exists()


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
    updaters = Updaters(tmp_path / "main.jsonl", 20)
    try:
        assert [updaters.round() for _ in range(50)] == [None] * 50
        assert set(updaters.end()) == {"False"}, "an updater imported torch"
    finally:
        updaters.kill()
    assert sorted(found.name for found in tmp_path.iterdir()) == [".main.jsonl.lock", "main.jsonl"]
