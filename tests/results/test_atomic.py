"""Files are whole or absent, a refusal says which and how large, and no litter stays for ever."""

import os
import time

import pytest

from stabilitykit.errors import UnwritableError
from stabilitykit.results.atomic import TEMPORARY, atomic_write, remove_stale


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_said_with_path_and_bytes_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    atomic_write(path, "before")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(UnwritableError) as caught:
        atomic_write(path, "ü" * 5)
    said = f"{path} was not written (10 bytes): No space left on device; what was there before is unchanged"
    assert (str(caught.value), caught.value.exit_code) == (said, 3)
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_not_there_is_said_too(tmp_path):
    with pytest.raises(UnwritableError, match=r"none/a\.txt was not written \(1 bytes\): No such file"):
        atomic_write(tmp_path / "none" / "a.txt", "x")


def test_an_interrupt_is_no_error_of_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_after_an_hour_and_nothing_else(tmp_path):
    names = {"old": f".1{TEMPORARY}", "new": f".2{TEMPORARY}", "theirs": f"3{TEMPORARY}", "below": f"x/.4{TEMPORARY}"}
    (tmp_path / "x").mkdir()
    for name in names.values():
        (tmp_path / name).touch()
        if name != names["new"]:
            os.utime(tmp_path / name, (time.time() - 3700,) * 2)
    remove_stale(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {names["new"], names["theirs"], names["below"]}
