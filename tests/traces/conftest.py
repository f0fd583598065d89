"""Small real recordings, and how to seal a folder again after it was tampered with."""

import hashlib
import json

import pytest

import stabilitykit as sk
from stabilitykit.traces.manifest import NAME, sealed


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


def manifest(folder):
    return json.loads((folder / NAME).read_text())


def seal(folder, data):
    """Write a manifest as an attacker would: with a right digest over wrong content."""
    data.pop("seal", None)
    (folder / NAME).write_text(sealed(data))


def swap(folder, name, content):
    """Replace a file's content and make the manifest promise it."""
    (folder / name).write_bytes(content)
    data = manifest(folder)
    data["files"][name]["bytes"] = len(content)
    data["files"][name]["sha256"] = hashlib.sha256(content).hexdigest()
    seal(folder, data)
