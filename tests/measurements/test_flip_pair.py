"""The smallest flip: one ULP of one coordinate, seen again by a fresh process that has no stabilitykit in it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import stabilitykit as sk
from stabilitykit.measurements.flip_reproducer import tell_step
from stabilitykit.numerics.bits import bits_equal, ulp_distance

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    loaded = sk.load("tiny")
    folder = tmp_path_factory.mktemp("model")
    loaded.model.save_pretrained(folder)
    return loaded, folder


def run(script, *arguments, cwd):
    command = [sys.executable, "-I", str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def is_minimal(pair):
    """Checked by plain forwards of the subject's own, not by the search."""
    assert ulp_distance(pair.low, pair.high).sort(descending=True).values[:2].tolist() == [1, 0]
    assert int(ulp_distance(pair.low, pair.high)[pair.coordinate]) == 1
    for x, token, logits in zip((pair.low, pair.high), pair.tokens, pair.logits, strict=True):
        z = pair.subject.at(x).baseline[0]
        assert int(z.argmax()) == token
        assert tuple(z[list(pair.tokens)].double().tolist()) == logits
    assert pair.tokens[0] != pair.tokens[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_plane_flips_between_neighbours(dtype):
    """Two logits whose order is that of two coordinates: brute force over the neighbours agrees that it is a flip."""
    W = torch.tensor([[1.0, 0.25, 0.5], [0.25, 1.0, -0.5], [-4.0, -4.0, 0.0]], dtype=dtype)
    subject = sk.FunctionSubject(lambda X: X @ W.T, torch.tensor([1.0, 0.75, 0.1], dtype=dtype))
    is_minimal(sk.flip_pair(subject))


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 1), ("decode", 8)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_flips_between_neighbours(path, batch, dtype):
    """On both paths, alone and in a batch, in two dtypes."""
    subject = sk.CausalLMSubject(sk.load("tiny", dtype=dtype), PROMPT, path=path, batch=batch, site="logits")
    is_minimal(sk.flip_pair(subject))


def test_a_pair_gives_the_logits_of_both_sides_by_forwards_of_its_own():
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT, batch=2, site="logits")
    pair = sk.flip_pair(subject)
    before = subject.counter.forwards
    outputs = pair.outputs()
    assert subject.counter.forwards - before == 2 * subject.batch
    assert bits_equal(outputs, torch.cat([subject.at(x).baseline[:1] for x in (pair.low, pair.high)]))
    assert tuple(outputs.argmax(dim=1).tolist()) == pair.tokens


def test_what_never_flips_is_refused():
    """Both tokens tie, and a bump keeps the first one ahead everywhere else."""
    subject = sk.FunctionSubject(
        lambda X: torch.cat([X * 0 + 1, 1 - (X - 1) ** 2], 1), torch.tensor([2.0]), name="bump"
    )
    with pytest.raises(sk.UnsupportedError, match=r"no other token|gradient|do not tie"):
        sk.flip_pair(subject)


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 8)])
def test_a_fresh_process_sees_the_flip(tiny, tmp_path, path, batch):
    """Two files, no stabilitykit: both tokens, the coordinate in decimal and bits, exit 0."""
    loaded, folder = tiny
    pair = sk.flip_pair(sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch))
    script = pair.save(tmp_path / "flip", model=str(folder))
    assert sorted(file.name for file in script.parent.iterdir()) == ["flip.py", "flip.safetensors"]
    assert "stabilitykit" not in script.read_text()
    done = run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[-1] == "reproduced"
    assert f"coordinate {pair.coordinate}: {pair.sides[0]} and {pair.sides[1]}" in said
    for side, token in zip(("low ", "high"), pair.tokens, strict=True):
        assert any(line.startswith(f"{side}: token {token} ") and "the same logits" in line for line in said)


def test_every_differing_coordinate_is_told_in_decimal_and_in_bits(capsys):
    low = torch.tensor([1.0, -1.0, 0.5], dtype=torch.bfloat16)
    high = torch.tensor([1.0, -1.0078125, 0.50390625], dtype=torch.bfloat16)
    tell_step(low, high)
    assert capsys.readouterr().out.splitlines() == [
        "coordinate 1: -1.0 (0xbf80) and -1.0078125 (0xbf81)",
        "coordinate 2: 0.5 (0x3f00) and 0.50390625 (0x3f01)",
    ]


def test_a_fresh_process_casts_as_the_kit_does(tmp_path):
    """In bfloat16 the weights are cast and the angles of rotary embeddings are not: other logits would come out."""
    loaded = sk.load("tiny", dtype="bfloat16")
    loaded.model.save_pretrained(tmp_path / "model")
    pair = sk.flip_pair(sk.CausalLMSubject(loaded, PROMPT, path="decode"))
    done = run(pair.save(tmp_path / "flip", model=str(tmp_path / "model")), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same logits") == 2


def test_the_reproducer_can_fail(tiny, tmp_path):
    """Exit 1 where the inputs are no flip, 3 where the model is missing or has other weights."""
    loaded, folder = tiny
    pair = sk.flip_pair(sk.CausalLMSubject(loaded, PROMPT))
    script = pair.save(tmp_path / "flip", model=str(folder))
    missing = run(script, tmp_path / "nowhere", cwd=tmp_path)
    assert missing.returncode == 3
    assert "cannot be loaded" in missing.stdout
    loaded.model.lm_head.weight[0, 0] += 1e-3
    try:
        loaded.model.save_pretrained(tmp_path / "other")
    finally:
        loaded.model.lm_head.weight[0, 0] -= 1e-3
    other = run(script, tmp_path / "other", cwd=tmp_path)
    assert other.returncode == 3
    assert "other weights" in other.stdout
    stored = script.with_suffix(".safetensors")
    tensors = load_file(stored)
    with safe_open(stored, framework="pt") as file:
        metadata = file.metadata()
    save_file({**tensors, "high": tensors["low"].clone()}, stored, metadata=metadata)
    same = run(script, cwd=tmp_path)
    assert same.returncode == 1
    assert same.stdout.splitlines()[-1] == "not reproduced"


def test_what_is_written_is_enough(tiny, tmp_path):
    """Into a folder made for it: both inputs to the bit, the prefix, the ids, and what the bits depend on."""
    loaded, folder = tiny
    subject = sk.CausalLMSubject(loaded, PROMPT, path="decode")
    pair = sk.flip_pair(subject)
    stored = pair.save(tmp_path / "new" / "inside", model=str(folder)).with_suffix(".safetensors")
    tensors = load_file(stored)
    assert bits_equal(tensors["low"], pair.low)
    assert bits_equal(tensors["high"], pair.high)
    assert bits_equal(tensors["prefix"], subject.embeddings[:-1])
    with safe_open(stored, framework="pt") as file:
        text = file.metadata()["found"]
    found = json.loads(text)
    assert text == json.dumps(found, sort_keys=True)  # the same bytes for the same pair
    assert found["token_ids"] == subject.ids
    assert (found["path"], found["batch"], found["dtype"]) == ("decode", 1, "float32")
    assert found["threads"] == torch.get_num_threads()
    assert found["model_digest"] == loaded.digest


def test_where_one_token_leads_everywhere_it_is_named():
    """Tokens 0 and 1 tie, far below token 2: nothing else is ever the next token."""
    below = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 1], 1), torch.tensor([2.0]))
    above = sk.FunctionSubject(lambda X: torch.cat([X, X * 0 + 1, X * 0 + 1e9], 1), torch.tensor([2.0]), name="above")
    with pytest.raises(sk.UnsupportedError, match=r"above: no other token than 2 comes within .* of the tie"):
        sk.flip_pair(above, tie=sk.tie_point(below))


def test_a_model_without_a_place_is_not_written(tiny, tmp_path):
    """A model that lives in memory needs to be told where it can be loaded from; a function cannot be written."""
    loaded, _ = tiny
    pair = sk.flip_pair(sk.CausalLMSubject(loaded, PROMPT))
    with pytest.raises(sk.UnsupportedError, match="save_pretrained"):
        pair.save(tmp_path)
    function = sk.flip_pair(sk.FunctionSubject(lambda X: torch.stack([X[:, 0], X[:, 1]], 1), torch.tensor([1.0, 0.5])))
    with pytest.raises(sk.UnsupportedError, match="no causal model"):
        function.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
@pytest.mark.parametrize(
    ("dtype", "prompt"),
    [
        pytest.param("float32", "def add(a, b):\n    return", marks=pytest.mark.long),
        ("bfloat16", "The capital of France is"),
    ],
)
def test_smollm2_flips_by_one_ulp_in_a_fresh_process(tmp_path, dtype, prompt):
    """A tie within 2 ULP, and a next token that changes with the last bit of one of 576 numbers: twenty in ties.md."""
    subject = sk.CausalLMSubject(sk.load("smollm2", dtype=dtype), prompt, path="decode", site="logits")
    assert sk.tie_point(subject).gap_ulp <= 2
    pair = sk.flip_pair(subject)
    is_minimal(pair)
    done = run(pair.save(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
