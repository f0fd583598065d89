"""Against a server that others wrote: `transformers serve` with SmolLM2, held against our own greedy generation."""

import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import stabilitykit as sk
from stabilitykit.endpoints.endpoint import Request
from stabilitykit.subjects.smollm2 import converted_folder

PROMPT, TOKENS = "The capital of France is", 4

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model():
    return sk.load("smollm2")


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        converted_folder(),
        "--device=cpu",
        f"--port={port}",
    ]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        server = subprocess.Popen([*command, "--host=127.0.0.1"], stdout=file, stderr=file, env=environment)
    try:
        for _ in range(600):
            assert server.poll() is None, log.read_text()
            if answers(port):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def test_it_says_what_the_model_says_and_the_same_again(model, url):
    asked = sk.ServedDeterminism((PROMPT,), TOKENS, 2, (2,))
    endpoint = sk.Endpoint(url)
    result = sk.measure(asked, endpoint, progress=False)
    assert result.verdict == "measured", result.sentence
    (text,) = [row for row in result.rows if row["part"] == "text"]
    ids = model.tokenizer(PROMPT, return_tensors="pt").input_ids
    own = model.model.generate(ids, max_new_tokens=TOKENS, do_sample=False)[0, ids.shape[1] :]
    assert text["completion"] == model.tokenizer.decode(own, skip_special_tokens=True)
    assert (text["alone"], text["under_load"]) == (2, 2)
    # This server takes a request for logprobs and gives none, and draws nothing unless its model's settings say so.
    assert result.subject["logprobs"] is False
    assert math.isnan(result.readings["seed_honoured"].value)
    assert result.execution.calls == asked.cost(endpoint).calls


def test_chat_works_too(url):
    reply = sk.Endpoint(url, api="chat").ask(Request("Say hello.", 4))
    assert reply.answer is not None, reply.error
    assert reply.answer.text
