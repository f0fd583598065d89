"""Small real recordings."""

import pytest

import stabilitykit as sk


@pytest.fixture(scope="session")
def tiny():
    return sk.load("tiny")


@pytest.fixture(scope="session")
def recording(tiny):
    """Two prompts of three tokens, at blocks, with the vectors of blocks."""
    prompts = [sk.Prompt("one", "answerable"), sk.Prompt("two!", "false premise")]
    return sk.record(tiny, prompts, 3, level="block", states="blocks")


@pytest.fixture
def folder(recording, tmp_path):
    return sk.write_recording(recording, tmp_path / "recording")
