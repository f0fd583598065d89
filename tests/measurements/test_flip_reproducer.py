"""Parts of the script that reproduces a flip, in this process: what it tells and runs, and which weights it takes."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.measurements import flip_reproducer
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.noise import threads


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        (torch.bfloat16, ("0x3f80", "0x3f81")),
        (torch.float32, ("0x3f800000", "0x3f800001")),
        (torch.float64, ("0x3ff0000000000000", "0x3ff0000000000001")),
    ],
)
def test_the_step_is_told_in_decimal_and_in_the_bits_of_its_dtype(dtype, bits, capsys):
    low = torch.tensor([0.5, 1.0], dtype=dtype)
    high = torch.tensor([0.5, 1.0 + torch.finfo(dtype).eps], dtype=dtype)
    flip_reproducer.tell_step(low, high)
    assert capsys.readouterr().out == f"coordinate 1: 1.0 ({bits[0]}) and {float(high[1])!r} ({bits[1]})\n"


def test_a_model_with_other_weights_is_not_taken_for_the_one_that_flipped(tmp_path):
    loaded = sk.load("tiny")
    loaded.model.save_pretrained(tmp_path)
    weights = flip_reproducer.weight_digest(loaded.model)
    found = {"dtype": "float32", "attention": loaded.model.config._attn_implementation, "weights": weights}
    assert flip_reproducer.weight_digest(flip_reproducer.load(str(tmp_path), found)) == weights
    with pytest.raises(ValueError, match=rf"has other weights \({weights[:12]}, not 000000000000\)"):
        flip_reproducer.load(str(tmp_path), {**found, "weights": "0" * 64})


def test_every_weight_is_moved_to_an_address_divisible_by_64_wherever_it_lay(monkeypatch):
    """One at each address of 4032 bytes that a 16-bit number can have, in a file that is read in place."""
    stored = torch.arange(63 * 32).to(torch.bfloat16)
    model = nn.ParameterList([nn.Parameter(stored[k : k + 1], requires_grad=False) for k in range(len(stored))])
    lain = [weight.data_ptr() for weight in model]
    assert len({address % 4032 for address in lain}) == 63 * 32
    source = SimpleNamespace(from_pretrained=lambda *_, **how: model)
    monkeypatch.setattr(flip_reproducer.transformers, "AutoModelForCausalLM", source)
    weights = flip_reproducer.weight_digest(model)
    found = {"dtype": "bfloat16", "attention": "eager", "weights": weights}
    loaded = flip_reproducer.load("anywhere", found)
    assert {weight.data_ptr() % 64 for weight in loaded.parameters()} == {0}
    kept = [weight.data_ptr() == address for weight, address in zip(loaded, lain, strict=True)]
    assert kept == [address % 64 == 0 for address in lain]


def test_weights_are_told_by_their_names_and_not_by_the_order_in_which_a_model_has_them():
    ordered, other = torch.nn.Module(), torch.nn.Module()
    for model, names in ((ordered, "ab"), (other, "ba")):
        for name in names:
            model.register_parameter(name, torch.nn.Parameter(torch.tensor([float(ord(name))])))
    assert [name for name, _ in other.named_parameters()] == ["b", "a"]
    assert flip_reproducer.weight_digest(ordered) == flip_reproducer.weight_digest(other)
    other.a, other.b = other.b, other.a
    assert flip_reproducer.weight_digest(ordered) != flip_reproducer.weight_digest(other)


def test_it_ends_with_0_where_it_reproduces_and_with_1_where_not(tmp_path, monkeypatch, capsys):
    loaded = sk.load("tiny")
    loaded.model.save_pretrained(tmp_path / "model")
    pair = sk.flip_pair(sk.CausalLMSubject(loaded, [1, 2, 3]))
    script = pair.save(tmp_path / "flip", model=str(tmp_path / "model"))
    monkeypatch.setattr(flip_reproducer, "__file__", str(script))
    with threads(torch.get_num_threads()):
        assert flip_reproducer.main([]) == 0
        *_, low, high, step, last = capsys.readouterr().out.splitlines()
        assert last == "reproduced"
        assert step.startswith("coordinate ")
        for side, line, token in zip(("low ", "high"), (low, high), pair.tokens, strict=True):
            assert line.startswith(f"{side}: token {token} ")
            assert f" expected {token}; logits [" in line
            assert line.endswith("] (the same logits)")
        monkeypatch.setattr(flip_reproducer, "run", lambda *_: torch.zeros(len(loaded.tokenizer) + 1))
        assert flip_reproducer.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not reproduced"


@pytest.mark.parametrize("ids", [[1, 2, 3], [2]])
@pytest.mark.parametrize("path", ["decode", "prefill"])
def test_the_logits_are_those_of_the_subject_with_all_tokens_before_it(ids, path):
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, ids, path=path, batch=2, site="logits")
    found = {"batch": 2, "path": path, "cache": subject.anatomy.past}
    given, cached = subject.embeddings, []
    hook = loaded.model.base_model.register_forward_pre_hook(
        lambda _, rows, how: cached.append(how["use_cache"]), with_kwargs=True
    )
    with hook, threads(torch.get_num_threads()):
        logits = flip_reproducer.run(loaded.model, given[:-1], given[-1], found)
    assert bits_equal(logits, subject.baseline[0])
    assert set(cached) == {path == "decode"}


def test_a_model_that_cannot_be_loaded_ends_it_with_3(tmp_path, monkeypatch, capsys):
    loaded = sk.load("tiny")
    script = sk.flip_pair(sk.CausalLMSubject(loaded, [1, 2, 3])).save(tmp_path / "flip", model=str(tmp_path / "gone"))
    monkeypatch.setattr(flip_reproducer, "__file__", str(script))
    with threads(torch.get_num_threads()):
        assert flip_reproducer.main([]) == 3
    assert capsys.readouterr().out.startswith("The model cannot be loaded: ")
