"""Bisection of logs: the planted operation is found, every time, and what is not local is not called so."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import stabilitykit as sk
from stabilitykit.errors import IncomparableError
from stabilitykit.numerics.bits import nudge
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.generation import Text
from stabilitykit.traces.bisect import bisect
from stabilitykit.traces.classify import classify
from stabilitykit.traces.operation_log import Operand, Operation, OperationLog
from stabilitykit.traces.operations import operations_at

IDS = [72, 101, 108, 108, 111]


class Nudged(TorchDispatchMode):
    """Moves one element of what one operation gives by one unit in the last place, in one forward of each decoding.

    It is told by how many operations of that name came before in the forward, and knows nothing of logs or modules.
    """

    def __init__(self, name, number, element=0, forwards=(0,), of=1):
        super().__init__()
        self.name, self.number, self.element, self.forwards, self.of = name, number, element, forwards, of
        self.count, self.forward = 0, -1

    def __enter__(self):
        self.count, self.forward = 0, self.forward + 1
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if str(func) == self.name:
            if self.count == self.number and self.forward % self.of in self.forwards:
                target = result[0] if isinstance(result, tuple) else result
                step = torch.zeros(target.numel(), dtype=torch.int64)
                step[self.element % target.numel()] = 1
                target.copy_(nudge(target, step.view(target.shape)))
            self.count += 1
        return result


@pytest.fixture
def logged(monkeypatch):
    """Log a step of a model, with what is planted in the forwards of its text, and nowhere else."""
    call = Text._call

    def log(loaded, mode=None, step=0, generated=()):
        def planted(self, *given):
            with mode or nullcontext():
                return call(self, *given)

        monkeypatch.setattr(Text, "_call", planted)
        return operations_at(loaded, IDS, generated, step)

    return log


def candidates(log):
    """The operations that give floating-point numbers: name, number of the name, place.

    Without clones, of which the digest of a tensor that is not contiguous makes some more.
    """
    counts, found = Counter(), []
    for one in log.entries:
        if one.outputs[0].dtype == "float32" and one.operation != "aten.clone.default":
            found.append((one.operation, counts[one.operation], one.place))
        counts[one.operation] += 1
    return found


def of_module(log, module):
    return next(one for one in candidates(log) if one[2].module == module)


@pytest.mark.parametrize(("spec", "draws"), [("tiny", 50), ("tiny:gpt2", 20), ("tiny:mixtral", 20)])
def test_a_nudge_of_one_ulp_in_any_operation_is_found_there(spec, draws, logged):
    loaded = sk.load(spec)
    plain = logged(loaded)
    random = np.random.Generator(np.random.PCG64(7))
    chosen = random.choice(len(candidates(plain)), size=draws, replace=False)
    for index, element in zip(chosen, random.integers(0, 1 << 20, size=draws), strict=True):
        name, number, place = candidates(plain)[index]
        found = bisect(plain, logged(loaded, Nudged(name, number, int(element))))
        assert (found.verdict, found.kind, found.a.place, found.b.place) == ("differs", "local", place, place)
        assert str(place) in found.sentence


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:mixtral"])
def test_a_clean_twin_has_no_first_operation(spec, logged):
    loaded = sk.load(spec)
    plain = logged(loaded)
    for twin in (logged(loaded), logged(sk.load(spec)), logged(loaded, Nudged("aten.mm.default", 10**9))):
        found = bisect(plain, twin)
        assert (found.verdict, found.kind, found.a, found.cause) == ("pass", "", None, None)
        assert found.sentence == f"All {len(plain.entries)} operations of step 0 gave the same bits."


def test_what_follows_is_inherited_and_counted(logged):
    loaded = sk.load("tiny")
    plain = logged(loaded)
    name, number, place = of_module(plain, "model.layers.1.mlp.down_proj")
    nudged = logged(loaded, Nudged(name, number))
    found = bisect(plain, nudged)
    brute = [
        x.place
        for x, y in zip(plain.entries, nudged.entries, strict=True)
        if [one.digest for one in x.outputs] != [one.digest for one in y.outputs]
    ]
    assert brute[0] == place
    assert found.later == len(brute) - 1 > 10
    assert found.local == {"aten.mm.default": 1}
    assert found.cause.name == "matmul kernel"
    assert f"number {plain.entries.index(found.a) + 1} of {len(plain.entries)}" in found.sentence
    assert found.sentence.endswith("later operations gave other bits too, none of them locally.")


def test_a_difference_of_an_earlier_step_is_inherited_from_the_cache(logged):
    """Planted in the prompt's forward, the first difference of step 2 is where its keys are read."""
    loaded = sk.load("tiny")
    plain = logged(loaded, step=2, generated=(1, 2))
    name, number, place = of_module(plain, "model.layers.1.self_attn.k_proj")
    earlier = bisect(plain, logged(loaded, Nudged(name, number, of=3, forwards=(0,)), step=2, generated=(1, 2)))
    assert (earlier.kind, earlier.cause, earlier.local) == ("inherited", None, {})
    assert str(earlier.a.place) == "model.layers.1.self_attn/aten.cat.default#2"
    assert "was there before this forward, as the cache of earlier steps is" in earlier.sentence
    late = bisect(plain, logged(loaded, Nudged(name, number, of=3, forwards=(2,)), step=2, generated=(1, 2)))
    assert (late.kind, late.a.place) == ("local", place)


def test_another_weight_is_no_finding_about_a_kernel(logged):
    loaded, other = sk.load("tiny"), sk.load("tiny")
    weight = other.model.model.layers[2].mlp.up_proj.weight
    weight.data[3, 4] = nudge(weight.data[3, 4], 1)
    found = bisect(logged(loaded), logged(other))
    assert (found.kind, found.cause) == ("inputs", None)
    assert found.a.module == "model.layers.2.mlp.up_proj"
    assert "its weights are not the same (float32 [64, 128] model.layers.2.mlp.up_proj.weight)" in found.sentence


def test_other_attention_is_different_operations(logged):
    fused, eager = sk.load("tiny"), sk.load("tiny", attention="eager")
    found = bisect(logged(fused), logged(eager))
    assert found.kind == "different-operations"
    assert found.compared > 50
    assert "The sides run different operations: " in found.sentence
    assert found.a is None or found.b is None


def entry(name, *inputs, gives="1", module="m", number=0, arguments="[]", source=None, weight=""):
    operand = Operand(gives * 32, "float32", (2,), (1,))
    read = tuple(Operand(one * 32, "float32", (2,), (1,), 0, weight, source) for one in inputs)
    return Operation(Place(module, name, number), read, (operand,), arguments)


def log(*entries, output="e", **given):
    return OperationLog((1, 2), (), 0, entries, output * 32, **given)


X, Y, Z = (
    entry("aten.mm.default", "0"),
    entry("aten.exp.default", "1", gives="2"),
    entry("aten.add.Tensor", "2", gives="3"),
)
OTHER_X = replace(X, outputs=(X.outputs[0]._replace(digest="a" * 32),))


@pytest.mark.parametrize(
    ("a", "b", "kind", "at"),
    [
        (log(X, Y, Z), log(X, Z), "different-operations", (Y, None)),
        (log(X, Z), log(X, Y, Z), "different-operations", (None, Y)),
        (log(X, Y), log(X, Y, Z), "different-operations", (None, Z)),
        (log(X, Y, Z), log(OTHER_X, Z), "local", (X, OTHER_X)),
        (log(X, Y), log(Y, OTHER_X), "local", (X, OTHER_X)),
        (log(X), log(replace(X, arguments="[1]")), "different-operations", (X, replace(X, arguments="[1]"))),
    ],
    ids=["only A", "only B", "at the end", "before", "other order", "other arguments"],
)
def test_inserted_operations_do_not_stop_the_alignment(a, b, kind, at):
    found = bisect(a, b)
    assert (found.kind, (found.a, found.b)) == (kind, at)


def test_another_dtype_is_another_question():
    wide = replace(X, inputs=(X.inputs[0]._replace(dtype="bfloat16"),))
    found = bisect(log(X), log(wide))
    assert found.kind == "different-operations"
    assert "(float32 [2]) [] in A, (bfloat16 [2]) [] in B" in found.sentence


def test_bits_that_changed_where_nothing_is_logged_are_said_to():
    x = replace(Y, inputs=(Y.inputs[0]._replace(source=0),))
    changed = replace(x, inputs=(x.inputs[0]._replace(digest="b" * 32),), outputs=OTHER_X.outputs)
    found = bisect(log(X, x), log(X, changed))
    assert found.kind == "inherited"
    assert (
        "m/aten.mm.default#0, which wrote it last, gave the same: what wrote it since is not logged" in found.sentence
    )
    unseen = bisect(log(X), log(X, output="f"))
    assert (unseen.verdict, unseen.kind) == ("differs", "unseen")
    assert "something computes where it cannot be followed" in unseen.sentence


def test_an_operation_whose_inputs_differ_and_whose_outputs_do_not_is_passed_over():
    """Rounding swallows a difference: what counts is the bits that go on."""
    swallowed = replace(Y, inputs=(Y.inputs[0]._replace(digest="c" * 32),))
    assert bisect(log(X, Y), log(X, swallowed)).verdict == "pass"


def test_other_tokens_say_nothing_about_operations():
    other = replace(log(X), ids=(1, 3))
    found = bisect(log(X), other)
    assert (found.verdict, found.kind, found.a) == ("differs", "inputs", None)
    assert found.sentence.startswith("The two sides read different tokens: the prompt differs in token 1.")
    longer = replace(log(X), ids=(1, 2, 3))
    assert "differs in length, 2 and 3 tokens" in bisect(log(X), longer).sentence


def test_levels_are_not_mixed_and_a_fall_back_is_told():
    with pytest.raises(IncomparableError, match="one log is of level 'op' and the other of 'module'"):
        bisect(log(X), log(X, level="module"))
    assert bisect(log(X, level="module", note="why"), log(X, level="module")).notes == ("A: why",)


def test_a_module_is_named_where_modules_were_logged():
    loaded = sk.load("tiny")
    module = loaded.model.model.layers[1].mlp.act_fn
    plain = operations_at(loaded, IDS, [], 0, level="module")
    with module.register_forward_hook(lambda _m, _x, y: nudge(y, 1), prepend=True):
        other = operations_at(loaded, IDS, [], 0, level="module")
    found = bisect(plain, other)
    assert (found.kind, found.level) == ("local", "module")
    assert str(found.a.place) == "model.layers.1.mlp.act_fn/SiLUActivation#0"
    assert found.cause.name == "elementwise library"


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("aten.mm.default", "matmul kernel"),
        ("aten.addmm.default", "matmul kernel"),
        ("aten.bmm.default", "matmul kernel"),
        ("aten._int_mm.default", "matmul kernel"),
        ("aten._grouped_mm.default", "matmul kernel"),
        ("aten.convolution.default", "matmul kernel"),
        ("mkldnn._linear_pointwise.default", "matmul kernel"),
        ("Linear", "matmul kernel"),
        ("aten.sum.dim_IntList", "reduction order"),
        ("aten.mean.dim", "reduction order"),
        ("aten._softmax.default", "reduction order"),
        ("aten.native_layer_norm.default", "reduction order"),
        ("aten._fused_rms_norm.default", "reduction order"),
        ("aten.linalg_vector_norm.default", "reduction order"),
        ("aten.cumsum.default", "reduction order"),
        ("LlamaRMSNorm", "reduction order"),
        ("aten.silu.default", "elementwise library"),
        ("aten.exp.default", "elementwise library"),
        ("aten.gelu.default", "elementwise library"),
        ("aten.mul.Tensor", "elementwise library"),
        ("aten._to_copy.default", "elementwise library"),
        ("aten._scaled_dot_product_flash_attention_for_cpu.default", "attention kernel"),
        ("aten._efficient_attention_forward.default", "attention kernel"),
        ("LlamaAttention", "attention kernel"),
        ("aten.normal_.default", "random numbers"),
        ("aten.native_dropout.default", "random numbers"),
        ("aten.multinomial.default", "random numbers"),
        ("aten.cat.default", "data movement"),
        ("aten.index_put_.default", "data movement"),
        ("aten.amax.default", "data movement"),
        ("mine.strange.default", "unclassified"),
        ("LlamaDecoderLayer", "unclassified"),
    ],
)
def test_operations_have_their_class(operation, name):
    one = entry(operation, "0")
    assert classify(one, one).name == name


def test_what_ieee_rounds_correctly_has_no_library():
    assert "IEEE 754" in classify(Z, Z).meaning
    assert "IEEE 754" not in classify(Y, Y).meaning


def test_threads_and_addresses_are_suspected_where_they_differ():
    moved = replace(X, inputs=(X.inputs[0]._replace(address=4),))
    strided = replace(X, inputs=(X.inputs[0]._replace(stride=(2,)),))
    assert classify(X, X).suspects == ()
    assert classify(X, moved).suspects == classify(X, strided).suspects == ("alignment",)
    assert classify(X, moved, (1, 2)).suspects == ("threads", "alignment")
    found = bisect(log(X, threads=1), log(replace(moved, outputs=OTHER_X.outputs), threads=2))
    assert "The sides differ there in threads and alignment as well." in found.sentence


def test_the_answer_is_plain():
    plain = json.loads(json.dumps(bisect(log(X), log(OTHER_X)).to_dict(), allow_nan=False))
    assert (plain["verdict"], plain["kind"], plain["number"]) == ("differs", "local", 1)
    assert plain["a"] == X.to_plain()
    assert plain["cause"]["name"] == "matmul kernel"
    assert json.loads(json.dumps(bisect(log(X), log(X)).to_dict()))["a"] is None
