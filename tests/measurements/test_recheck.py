"""Certificates hold: every one is checked again by brute force, in another process, without the kit."""

import copy
import json
import math
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.measure import measure
from stabilitykit.numerics.lattice import Lattice
from stabilitykit.subjects import smollm2
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load

pytestmark = pytest.mark.model

PROMPT = "The capital of France is"
RECHECK = Path(__file__).with_name("recheck.py")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take minutes; their number decides bits, so it stays fixed."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ambient)


@pytest.fixture(scope="module")
def loaded():
    return load("smollm2")


def directions_for(subject, count):
    """Random directions that leave the exact zeros of the embedding alone, so that every input can be listed."""
    directions = torch.randn(count, 576, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    directions[:, subject.x0 == 0] = 0
    return directions


def recheck(folder, *claims):
    """Verdicts of the other process, which runs on as many threads as this one: bits depend on them."""
    arguments = []
    for index, (data, rows) in enumerate(claims):
        file = folder / f"{index}.json"
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        arguments += [str(file), ",".join(map(str, rows))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(RECHECK), str(smollm2.converted_folder()), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_row(data, index, **changes):
    tampered = copy.deepcopy(data)
    tampered["rows"][index].update(changes)
    return tampered


def forged(data, index, lattice):
    """Claims that look like certificates and are none, with the sentence that must reject each."""
    row = data["rows"][index]
    cells = list(islice(lattice.cells(), row["cells"] + 1))
    before, after = cells[row["cells"] - 2], cells[row["cells"]]

    def at(cell, count):
        pair = {"s_last_same": cell.last_same, "s_first_changed": cell.first_changed, "radius": cell.last_same}
        return with_row(data, index, **pair, cells=count)

    lower = math.nextafter(row["s_last_same"], 0)
    y0 = bytearray.fromhex(data["arrays"]["y0"]["hex"])
    y0[3] ^= 0x20  # the last bit that a float32 has, of the first element
    other_y0 = copy.deepcopy(data)
    other_y0["arrays"]["y0"]["hex"] = y0.hex()
    return [
        (at(after, row["cells"] + 1), f"distinct input {row['cells']} differs already"),
        (at(before, row["cells"] - 1), "the output does not differ beyond the boundary"),
        (with_row(data, index, cells=row["cells"] + 1), f"{row['cells']} distinct inputs, not {row['cells'] + 1}"),
        (with_row(data, index, s_last_same=lower, radius=lower), "the pair is not adjacent"),
        (
            with_row(data, index, s_last_same=lower, radius=lower, s_first_changed=row["s_last_same"]),
            "the input is the same on both sides",
        ),
        (with_row(data, index, exact=False), "the row claims no exact boundary"),
        (other_y0, "the baseline has other bits"),
    ]


@pytest.mark.long
def test_certificates_on_a_whole_prompt(loaded, tmp_path):
    subject = CausalLMSubject(loaded, PROMPT)
    subject.noise_floor()
    directions = directions_for(subject, 20)
    result = measure(FirstChange(direction=directions), subject)
    assert all(row["exact"] and not row["censored"] for row in result.rows)
    assert result.execution.forwards <= 1.3 * 20
    assert result.execution.screened > 20
    index = next(index for index, row in enumerate(result.rows) if row["cells"] >= 3)
    false = forged(json.loads(result.to_json()), index, Lattice(subject.x0, directions[index]))
    answers = recheck(tmp_path, (result.to_json(), range(20)), *((data, [index]) for data, _ in false))
    assert answers[:20] == [""] * 20
    assert answers[20:] == [sentence for _, sentence in false]


@pytest.mark.long
def test_certificates_in_a_batch_of_decode_steps(loaded, tmp_path):
    subject = CausalLMSubject(loaded, PROMPT, path="decode", batch=64)
    assert subject.proofs.lanes_independent
    subject.noise_floor()
    assert subject.baseline.shape[0] == 64  # one batch, whatever the number of directions
    result = measure(FirstChange(direction=directions_for(subject, 256)), subject)
    assert all(row["exact"] and not row["censored"] for row in result.rows)
    assert result.execution.forwards <= 1.3 * 256
    sample = random.Random(0).sample(range(256), 16)
    assert len({result.rows[index]["slot"] for index in sample}) > 8
    assert recheck(tmp_path, (result.to_json(), sample)) == [""] * 16
