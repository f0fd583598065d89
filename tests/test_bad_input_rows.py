"""Every row of the zoo in `bad_inputs.py` names a test that exists; those that no other file has are here."""

import ast
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_inputs import ROWS

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnreadableError, UnsupportedError, UsageError
from stabilitykit.plugin import collector
from stabilitykit.subjects.tiny import byte_tokenizer, tiny
from stabilitykit.traces import tensor_files

ROOT = Path(__file__).parents[1]


def test_every_row_has_a_test_that_is_there():
    assert list(ROWS) == list(range(1, 54))
    for what, test in ROWS.values():
        path, name = test.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, what


def test_a_file_of_the_other_byte_order_is_refused(tmp_path):
    for name, order in (("big", ">f4"), ("little", "<f4")):
        np.save(tmp_path / f"{name}.npy", np.arange(4, dtype=order))
    with pytest.raises(UnreadableError, match="byte order"):
        tensor_files.compare(tmp_path / "big.npy", tmp_path / "little.npy")


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_prompt_beyond_learned_positions_is_refused(family):
    """Without that it would be an index error of the embedding, in the words of an unknown token."""
    with pytest.raises(UsageError, match="the prompt has 513 tokens, the model's context 512"):
        sk.CausalLMSubject(sk.load(f"tiny:{family}"), [1] * 513)


def test_a_word_without_a_row_is_refused_and_others_are_read():
    loaded = sk.adopt(tiny("llama", vocab_size=100, bos_token_id=0, eos_token_id=1, pad_token_id=1), byte_tokenizer())
    assert sk.CausalLMSubject(loaded, "ABC").ids == [65, 66, 67]
    with pytest.raises(UsageError, match="token 122 at position 1 is not an id from 0 to 99"):
        sk.CausalLMSubject(loaded, "Az")


def test_integer_weights_are_left_out_of_statistics_and_have_no_spectra():
    model = tiny("llama")
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight = torch.nn.Parameter(torch.zeros(64, 64, dtype=torch.int8), requires_grad=False)
    weights = sk.Checkpoint.of(sk.adopt(model))
    assert "1 tensors of other dtypes are left out" in sk.measure(sk.WeightStatistics(), weights).sentence
    with pytest.raises(sk.UnsupportedError, match=r"layers\.0\.self_attn\.q_proj\.weight' is int8"):
        sk.measure(sk.HeadSpectra(), weights)


def test_a_model_in_train_mode_is_taken_out_of_it():
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    loaded = sk.adopt(model)
    assert not any(module.training for module in model.modules())
    assert sk.CausalLMSubject(loaded, [1, 2, 3]).proofs.repeatable
    model.train()
    with pytest.raises(InvalidError, match="is not repeatable"):
        sk.CausalLMSubject(loaded, [1, 2, 3])


def test_a_device_without_memory_is_no_failure_of_the_model():
    """It is invalid once not even one row fits: 8, 4, 2 and 1 are asked."""

    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore words")

    subject = sk.FunctionSubject(full, torch.ones(4), batch=8)
    with pytest.raises(
        InvalidError, match=r"RunToRun ran out of the device's memory \(CUDA out of memory\. Tried to"
    ) as no:
        sk.measure(sk.RunToRun(runs=1), subject)
    assert subject.counter.calls == 4
    assert "\n" not in str(no.value)


def test_the_time_of_a_report_can_be_fixed(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert collector._now() == "1970-01-02T00:00:00+00:00"


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_defaults_of_the_user_change_no_bit():
    """Derivatives, which there are none of in inference mode, are refused there."""

    def found():
        subject = sk.CausalLMSubject(sk.load("tiny"), [5, 7, 11])
        first = sk.measure(sk.FirstChange(direction=torch.ones(64, dtype=torch.float64)), subject)
        return subject, {name: reading.value for name, reading in first.readings.items()}

    subject, plain = found()
    gradient = subject.vjp(subject.baseline)
    with default_dtype(torch.float64):
        there, readings = found()
        assert readings == plain
        assert torch.equal(there.vjp(there.baseline), gradient)
    with torch.inference_mode():
        there, readings = found()
        assert readings == plain
        with pytest.raises(UnsupportedError, match="has no reverse derivative"):
            there.vjp(there.baseline)
