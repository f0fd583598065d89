"""A causal model as a function of one embedding: its bits against plain transformers, and its manners."""

import json

import pytest
import torch
from oracles.cache_name import ATTENTION
from transformers import DynamicCache

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.boundary import FirstChange
from stabilitykit.measurements.determinism import BatchInvariance, RunToRun
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import adopt, load
from stabilitykit.subjects.tiny import tiny
from stabilitykit.subjects.weights import weight_digest

IDS = [(7 * i + 3) % 258 for i in range(12)]
FAMILIES = ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "mixtral"]


@pytest.fixture(scope="module")
def llama():
    return load("tiny:llama")


def embeddings(loaded, X, ids=IDS):
    """(B, T, H): the prompt in every row with the last embedding replaced by X's row."""
    E = loaded.model.get_input_embeddings()(torch.tensor([ids])).repeat(len(X), 1, 1)
    E[:, -1] = X
    return E


@torch.no_grad()
def plain(loaded, X, path, ids=IDS):
    E = embeddings(loaded, X, ids)
    base = loaded.model.base_model
    if path == "prefill":
        return base(inputs_embeds=E, use_cache=False).last_hidden_state[:, -1]
    cache = DynamicCache(config=loaded.model.config)
    if len(ids) > 1:
        base(inputs_embeds=E[:, :-1], **{ATTENTION: cache}, use_cache=True)
    return base(inputs_embeds=E[:, -1:], **{ATTENTION: cache}, use_cache=True).last_hidden_state[:, -1]


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bits_are_those_of_plain_transformers(family, path):
    loaded = load(f"tiny:{family}")
    subject = CausalLMSubject(loaded, IDS, path=path)
    x = loaded.model.get_input_embeddings()(torch.tensor(IDS[-1:]))
    assert bits_equal(subject.x0, x[0])
    for row in (x, 1.5 * x, x.roll(1, 1)):
        assert bits_equal(subject.evaluate(row), plain(loaded, row, path)), family
    assert bits_equal(subject.baseline, plain(loaded, x, path))


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_batch_is_one_plain_batch_of_that_shape(llama, path):
    subject = CausalLMSubject(llama, IDS, path=path, batch=5)
    X = torch.stack([(1 + 0.1 * i) * subject.x0 for i in range(5)])
    assert bits_equal(subject.evaluate(X), plain(llama, X, path))
    assert subject.baseline.shape == (5, 64)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_rows_that_do_not_fill_a_batch_are_padded_with_x0(llama, path, monkeypatch):
    subject = CausalLMSubject(llama, IDS, path=path, batch=4)
    X = torch.stack([(1 + 0.1 * i) * subject.x0 for i in range(6)])
    rest = torch.cat([X[4:], subject.x0.expand(2, -1)])
    wanted = torch.cat([plain(llama, X[:4], path), plain(llama, rest, path)[:2]])
    before = subject.counter.forwards
    given, evaluate = [], subject.evaluate
    monkeypatch.setattr(subject, "evaluate", lambda rows: given.append(rows) or evaluate(rows))
    assert bits_equal(subject(X), wanted)
    assert subject.counter.forwards - before == 8
    assert torch.equal(given[1], rest)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_one_token_prompt_has_an_empty_prefix(family, batch):
    loaded = load(f"tiny:{family}")
    subject = CausalLMSubject(loaded, [65], path="decode", batch=batch)
    X = subject.copies(batch) * 1.25
    assert bits_equal(subject.evaluate(X), plain(loaded, X, "decode", [65]))
    assert subject.proofs.cache_shared is None
    assert subject.screens


@pytest.mark.parametrize(
    ("path", "ids", "cached", "past"),
    [("prefill", IDS, False, None), ("decode", IDS, True, 11), ("decode", [65], True, None)],
)
def test_the_model_is_called_as_generation_calls_it(llama, path, ids, cached, past):
    subject = CausalLMSubject(llama, ids, path=path)
    calls = []
    handle = llama.model.model.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(kwargs), with_kwargs=True)
    subject.evaluate(subject.copies(1))
    handle.remove()
    (call,) = calls
    cache = call.get(ATTENTION)
    assert call["use_cache"] is cached
    assert (cache.get_seq_length() if cache else None) == (past + 1 if past else None)
    assert call["inputs_embeds"].shape[1] == (12 if path == "prefill" else 1)


def test_decode_really_uses_the_prefix(llama):
    """Twin of the one-token prompt: the same last token after another prefix is another function."""
    one = CausalLMSubject(llama, [65], path="decode")
    after = CausalLMSubject(llama, [66, 65], path="decode")
    assert bits_equal(one.x0, after.x0)
    assert not bits_equal(one.baseline, after.baseline)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_the_first_blocks_give_the_state_that_a_plain_hook_sees(llama, path):
    subject = CausalLMSubject(llama, IDS, path=path, batch=2)
    X = torch.stack([subject.x0, 2 * subject.x0])
    seen = {}
    layers = llama.model.model.layers
    handles = [
        layers[k].register_forward_hook(lambda _m, _a, out, k=k: seen.__setitem__(k, out)) for k in range(len(layers))
    ]
    plain(llama, X, path)
    for handle in handles:
        handle.remove()
    for blocks in (1, 2, 3):
        state = subject.first_blocks(X, blocks)
        assert state.shape == (2, 12 if path == "prefill" else 1, 64)
        assert bits_equal(state, seen[blocks - 1])
    assert bits_equal(subject.baseline_state, subject.first_blocks(subject.copies(2)))


def test_a_stopped_forward_runs_no_later_block(llama):
    subject = CausalLMSubject(llama, IDS)
    ran = []
    handle = llama.model.model.layers[1].register_forward_hook(lambda *_: ran.append(1))
    subject.first_blocks(subject.copies(1), 1)
    assert not ran
    subject.first_blocks(subject.copies(1), 2)
    handle.remove()
    assert ran == [1]


@pytest.mark.parametrize("blocks", [0, 4, -1])
def test_blocks_that_are_not_there_cannot_be_run(llama, blocks):
    subject = CausalLMSubject(llama, IDS)
    with pytest.raises(UsageError, match=f"blocks={blocks}: this model has 3 blocks"):
        subject.first_blocks(subject.copies(1), blocks)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_replaced_block_output_is_what_the_rest_of_the_model_reads(llama, path):
    subject = CausalLMSubject(llama, IDS, path=path)
    state = subject.first_blocks(1.5 * subject.copies(1), 2)
    replaced = subject.replacing_block(subject.copies(1), 1, state)
    assert not bits_equal(replaced, subject.baseline)
    if path == "prefill":  # nothing else has seen x, so the output is that of the other input
        assert bits_equal(replaced, subject.evaluate(1.5 * subject.copies(1)))


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_products_leave_no_trace_in_later_bits(llama, path):
    """Forward products run under another attention kernel: a prefix built there must not stay."""
    untouched, subject = (CausalLMSubject(llama, IDS, path=path) for _ in range(2))
    subject.jvp(torch.eye(3, 64))
    subject.vjp(torch.eye(4, 64))
    for rows in (1, 3, 4):
        X = subject.copies(rows)
        assert bits_equal(subject.evaluate(X), untouched.evaluate(X)), rows


def test_the_counter_counts_rows_and_is_shared_by_other_batch_shapes(llama):
    subject = CausalLMSubject(llama, IDS)
    assert vars(subject.counter) == {"forwards": 0, "screened": 0, "backwards": 0, "tangents": 0, "calls": 0}
    wide = subject.with_batch(4)
    wide.evaluate(wide.copies(4))
    subject.first_blocks(subject.copies(1))
    subject.jvp(torch.eye(2, 64))
    subject.vjp(torch.eye(3, 64))
    assert vars(subject.counter) == {"forwards": 4, "screened": 1, "backwards": 3, "tangents": 2, "calls": 2}
    assert wide.counter is subject.counter


def test_another_batch_shape_keeps_everything_else(llama):
    subject = CausalLMSubject(llama, IDS, path="decode", site="block:1", allow_noise=True)
    wide = subject.with_batch(3)
    assert (wide.batch, wide.path, wide.site, wide.ids, wide.allow_noise) == (3, "decode", "block:1", IDS, True)
    assert wide.loaded is subject.loaded
    assert wide.anatomy is subject.anatomy


def test_relatives_are_the_prompt_at_every_length_on_both_paths(llama):
    subject = CausalLMSubject(llama, [1, 2, 3], path="decode", batch=4)
    found = [(one.path, one.ids, one.batch) for one in subject.relatives((1, 2, 5))]
    cuts = [[1], [1, 2], [1, 2, 3, 1, 2]]
    assert found == [(path, ids, 1) for path in ("prefill", "decode") for ids in cuts]


def test_relatives_are_proved_once_and_belong_to_one_input(llama, monkeypatch):
    subject = CausalLMSubject(llama, [1, 2, 3])
    first = list(subject.relatives((1, 2)))
    monkeypatch.setattr(CausalLMSubject, "forward", None)
    assert all(one is other for one, other in zip(first, subject.relatives((1, 2)), strict=True))
    monkeypatch.undo()
    there = subject.at(subject.x0 + 1)
    assert all(not torch.equal(one.x0, other.x0) for one, other in zip(first, there.relatives((1, 2)), strict=True))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_neighbours_are_embeddings_of_other_tokens_as_the_model_makes_them(family):
    loaded = load(f"tiny:{family}")
    subject = CausalLMSubject(loaded, IDS)
    rows = subject.neighbours(20, seed=3)
    table = {tuple(row.tolist()) for row in loaded.model.get_input_embeddings()(torch.arange(258))}
    assert all(tuple(row.tolist()) in table for row in rows)
    assert len({tuple(row.tolist()) for row in rows}) > 10
    assert bits_equal(rows, subject.neighbours(20, seed=3))
    assert not bits_equal(rows, subject.neighbours(20, seed=4))


def test_the_description_is_plain_and_says_what_decides_the_bits(llama):
    subject = CausalLMSubject(llama, "abc", path="decode", batch=2)
    described = json.loads(json.dumps(subject.describe()))
    assert described == CausalLMSubject(llama, "abc", path="decode", batch=2).describe()
    wanted = {
        "name": "tiny:llama",
        "model": "tiny:llama",
        "model_digest": llama.digest,
        "architecture": "LlamaForCausalLM",
        "layers": 3,
        "attention": "sdpa",
        "experts": None,
        "prompt": "abc",
        "token_ids": [97, 98, 99],
        "site": "post_norm",
        "path": "decode",
        "batch": 2,
        "dtype": "float32",
        "device": "cpu",
        "hidden_size": 64,
    }
    assert {name: described[name] for name in wanted} == wanted
    assert described["proofs"]["cache_shared"] is True


def test_wrong_arguments_are_refused(llama):
    with pytest.raises(UsageError, match="path 'cached' is not one of prefill, decode"):
        CausalLMSubject(llama, IDS, path="cached")
    with pytest.raises(UsageError, match="batch=0 runs nothing"):
        CausalLMSubject(llama, IDS, batch=0)


def test_a_model_without_a_cache_cannot_decode_and_has_one_path():
    """Planted: the base model keeps its cache to itself."""

    def forget(_module, _args, output):
        output[ATTENTION] = None
        return output

    loaded = load("tiny:llama")
    loaded.model.base_model.register_forward_hook(forget)
    with pytest.raises(UnsupportedError, match=r"LlamaForCausalLM\) keeps no cache; use path='prefill'"):
        CausalLMSubject(loaded, IDS, path="decode")
    subject = CausalLMSubject(loaded, IDS)
    assert subject.paths == ("prefill",)
    assert {one.path for one in subject.relatives((1, 2))} == {"prefill"}
    assert not any(name.startswith("path") for name, _ in subject.equivalents())
    measured = BatchInvariance(sizes=(2,), lengths=(1, 3))
    result = measured.measure(subject)
    assert {row["path"] for row in result.rows} == {"prefill"}
    assert result.execution.forwards == measured.cost(subject).forwards


@pytest.mark.parametrize("ids", [IDS, [65]])
@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 1), ("decode", 3)])
def test_a_model_that_writes_into_its_input_reaches_nothing_of_the_callers(path, batch, ids):
    """Planted: embeddings are doubled in place, as some models scale them; the oracle's table is twice as large."""
    loaded, doubled = load("tiny:llama"), load("tiny:llama")
    doubled.model.get_input_embeddings().weight.data.mul_(2)
    wanted = CausalLMSubject(doubled, ids, path=path, batch=batch)
    base = loaded.model.model
    forward = base.forward

    def doubling(input_ids=None, inputs_embeds=None, **options):
        if inputs_embeds is None:
            inputs_embeds = base.get_input_embeddings()(input_ids)
        inputs_embeds *= 2
        return forward(inputs_embeds=inputs_embeds, **options)

    base.forward = doubling
    subject = CausalLMSubject(loaded, ids, path=path, batch=batch)
    X = 0.75 * subject.copies(batch)
    kept = X.clone()
    for _ in range(2):
        assert bits_equal(subject.evaluate(X), wanted.evaluate(0.75 * wanted.copies(batch)))
        assert bits_equal(subject.baseline, wanted.baseline)
        subject._prefixes.clear()
    assert bits_equal(X, kept)
    assert bits_equal(subject.vjp(torch.eye(batch, 64)), 2 * wanted.vjp(torch.eye(batch, 64)))


# --- manners: nothing of the user's is left changed


def everything_of(model):
    return {
        "config": model.config.to_dict(),
        "kernels": (model.config._attn_implementation, getattr(model.config, "_experts_implementation", None)),
        "training": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "weights": weight_digest(model),
        "addresses": [p.data_ptr() for p in model.parameters()],
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": torch.get_num_threads(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "random": torch.random.get_rng_state().tolist(),
    }


def measure_everything(loaded, path):
    subject = CausalLMSubject(loaded, IDS, path=path, batch=3)
    subject.screens  # noqa: B018 - its proof runs forwards
    for measurement in (
        RunToRun(runs=2),
        BatchInvariance(sizes=(2,), lengths=(1, 3)),
        FirstChange(direction=torch.eye(2, 64), max_cells=20),
        SingularSpectrum(k=2),
    ):
        measurement.measure(subject)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt2"])
def test_measuring_changes_nothing_of_the_users(family, path, grad):
    loaded = load(f"tiny:{family}")
    handle = loaded.model.get_output_embeddings().register_forward_hook(lambda *_: None)
    with torch.set_grad_enabled(grad):
        before = everything_of(loaded.model)
        measure_everything(loaded, path)
        assert everything_of(loaded.model) == before
    handle.remove()


@pytest.mark.parametrize("path", ["prefill", "decode"])
@pytest.mark.parametrize("after", range(0, 60, 4))
def test_an_error_at_any_forward_changes_nothing_either(path, after):
    """A hook fails at the n-th forward: in the proofs, in a product, in a stopped or in a whole forward."""
    loaded = load("tiny:mixtral")
    left = [after]

    def fail(*_):
        left[0] -= 1
        if left[0] < 0:
            raise KeyError("planted")

    handle = loaded.model.model.layers[1].register_forward_hook(fail)
    before = everything_of(loaded.model)
    with pytest.raises(KeyError, match="planted"):
        measure_everything(loaded, path)
    assert everything_of(loaded.model) == before
    handle.remove()


def test_an_output_that_is_no_number_is_not_measured():
    loaded = adopt(tiny("llama"))
    subject = CausalLMSubject(loaded, IDS)
    with pytest.raises(InvalidError, match=r"output \d+ of row 0 is nan; nothing is measured"):
        subject(torch.full((1, 64), float("nan")))
