"""What a device has free, against what the system and torch state; and which errors say that nothing is."""

import gc
import os
import weakref

import pytest
import torch

from stabilitykit.numerics import memory


def test_the_kibibytes_that_linux_has_available_are_counted_in_bytes(tmp_path, monkeypatch):
    stated = tmp_path / "meminfo"
    stated.write_text("MemTotal:       32000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000003 kB\n")
    monkeypatch.setattr(memory, "_LINUX", stated)
    assert memory.free_bytes() == memory.free_bytes("cpu") == 2_000_003 * 1024


def test_a_cuda_device_has_free_what_torch_states_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(str(device)[-1]) + 1_000, 80_000))
    assert memory.free_bytes("cuda:1") == 1_001
    assert memory.free_bytes(torch.device("cuda:0")) == 1_000


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA: tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("out of range"), False),
        (ValueError(""), False),
    ],
)
def test_an_error_says_that_memory_ran_out_by_its_class_or_by_its_words(error, says_so):
    assert memory.ran_out(error) is says_so


def test_where_linux_states_nothing_the_free_pages_are_counted_in_bytes(tmp_path, monkeypatch):
    stated = {"SC_AVPHYS_PAGES": 3_000, "SC_PAGE_SIZE": 16_384}
    monkeypatch.setattr(memory, "_LINUX", tmp_path / "nothing")
    monkeypatch.setattr(memory.os, "sysconf_names", dict.fromkeys(stated, 1), raising=False)
    monkeypatch.setattr(memory.os, "sysconf", stated.get, raising=False)
    assert memory.free_bytes() == 3_000 * 16_384
    monkeypatch.setattr(memory.os, "sysconf_names", {})
    assert memory.free_bytes() is None


@pytest.mark.parametrize("there", [True, False])
def test_what_a_device_keeps_is_given_back_where_there_is_one(there, monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    memory.release()
    assert emptied == [True] * there


def test_elsewhere_the_pages_are_counted_that_the_system_has_free(tmp_path, monkeypatch):
    """Where it does not say, nothing is known, and nothing is refused."""
    monkeypatch.setattr(memory, "_LINUX", tmp_path / "meminfo")
    stated = {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf_names", dict.fromkeys(stated, 1), raising=False)
    monkeypatch.setattr(os, "sysconf", stated.__getitem__, raising=False)
    assert memory.free_bytes() == 7 * 4096
    monkeypatch.setattr(os, "sysconf_names", {}, raising=False)
    assert memory.free_bytes() is None
    memory.require(2**60, "this", "take less")


@pytest.mark.parametrize("there", [True, False])
def test_what_a_cuda_device_keeps_is_given_back_where_there_is_one(there, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append("cuda"))
    memory.release()
    assert given == ["cuda"] * there


def test_what_holds_itself_and_is_not_used_any_more_is_given_back():
    class Holder:
        def __init__(self):
            self.itself, self.numbers = self, torch.zeros(8)

    gc.disable()  # so that no other collection comes first
    try:
        numbers = weakref.ref(Holder().numbers)
        assert numbers() is not None
        memory.release()
        assert numbers() is None
    finally:
        gc.enable()
