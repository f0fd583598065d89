"""What a device has free, against what the system and torch state; and which errors say that nothing is."""

import gc
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
