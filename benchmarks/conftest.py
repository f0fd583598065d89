"""What the benchmarks share: one real model, and directions that are the same in every run."""

import sys
from pathlib import Path

import pytest
import torch

import stabilitykit as sk

sys.path.insert(0, str(Path(__file__).parent))

PROMPT = "The capital of France is"


@pytest.fixture(scope="session")
def model():
    return sk.load("smollm2")


@pytest.fixture(scope="session")
def prefill(model):
    return sk.CausalLMSubject(model, PROMPT)


@pytest.fixture(scope="session")
def decode(model):
    return sk.CausalLMSubject(model, PROMPT, path="decode", batch=64)


@pytest.fixture
def one_thread():
    """Processor time of several threads would count their waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
