"""The log of operations: what is in it, whom it watches, and what damaged files are told."""

import json

import pytest
import torch
from torch import nn
from torch.utils._debug_mode import DebugMode
from torch.utils._python_dispatch import TorchDispatchMode

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnreadableError, UsageError
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.generation import Text
from stabilitykit.traces.operation_log import Operand, Operation
from stabilitykit.traces.operations import OperationLog, caught_at, operations_at
from stabilitykit.traces.watch import ModuleWatch, OperationWatch

IDS = [72, 101, 108, 108, 111]


@pytest.fixture(scope="module")
def tiny():
    return sk.load("tiny")


def watched(model, x):
    with torch.no_grad(), OperationWatch(model) as watch:
        model(x)
    return watch.entries


class Inline(nn.Module):
    """Each kind of operation that a log can get wrong."""

    def __init__(self, body):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def entries(body, x=None):
    x = torch.tensor([[1.0, -2.0, 3.0]]) if x is None else x
    return watched(Inline(body), x)


def short(tensor):
    return digest(tensor)[:32]


def test_an_operation_has_its_address_its_operands_and_its_arguments():
    x = torch.tensor([[1.0, -2.0, 3.0]])
    (product,) = entries(lambda self, x: x @ self.weight.T, x)
    assert str(product.place) == "/aten.mm.default#0"
    left, right = product.inputs
    assert (left.digest, left.dtype, left.shape, left.weight) == (short(x), "float32", (1, 3), "")
    weight = Inline(None).weight
    assert (right.digest, right.shape, right.stride, right.weight) == (short(weight), (3, 2), (1, 3), "weight")
    assert product.outputs[0].digest == short(x @ weight.T)
    assert json.loads(product.arguments) == [[{"tensor": 0}, {"tensor": 1}], {}]
    (mean,) = entries(lambda self, x: x.mean(-1, keepdim=True, dtype=torch.float64), x)
    assert json.loads(mean.arguments) == [[{"tensor": 0}, [-1], True], {"dtype": {"dtype": "float64"}}]


def test_a_part_of_a_weight_is_digested_by_itself():
    (part,) = entries(lambda self, x: self.weight[1] * 2)
    assert (part.inputs[0].weight, part.inputs[0].digest) == ("weight", short(Inline(None).weight[1]))
    (whole,) = entries(lambda self, x: self.weight.reshape(6) * 2)
    assert whole.inputs[0].digest == short(Inline(None).weight.reshape(6))


def test_in_place_operations_are_digested_before_and_after():
    def body(self, x):
        y = x + 1
        y.mul_(2)
        y[0, 1:].neg_()
        return y + 0

    x = torch.tensor([[1.0, -2.0, 3.0]])
    plus, times, minus, last = entries(body, x)
    assert times.inputs[0].digest == plus.outputs[0].digest == short(x + 1)
    assert times.outputs[0].digest == short((x + 1) * 2)
    assert (minus.inputs[0].digest, minus.outputs[0].digest) == (
        short(torch.tensor([-2.0, 8])),
        short(torch.tensor([2.0, -8])),
    )
    assert last.inputs[0].digest == short(torch.tensor([[4.0, 2.0, -8.0]]))
    assert [one.inputs[0].source for one in (plus, times, minus, last)] == [None, 0, 1, 2]


def test_an_output_that_is_given_in_is_what_came_out_and_is_not_read():
    def body(self, x):
        out = torch.zeros(1, 3)
        torch.mul(x, 2, out=out)
        return out

    *_, product = entries(body)
    assert [one.digest for one in product.inputs] == [short(torch.tensor([[1.0, -2.0, 3.0]])), ""]
    assert [one.digest for one in product.outputs] == [short(torch.tensor([[2.0, -4.0, 6.0]]))]


@pytest.mark.parametrize("write", ["copy", "index"])
def test_memory_that_nobody_wrote_has_no_bits(write):
    """Filled with other garbage, the log is the same; a view of it would have been another one."""

    def body(garbage):
        def run(self, x):
            y = torch.empty_like(x)
            y.data.view(torch.int32).numpy().fill(garbage)
            if write == "copy":
                return y.copy_(x)
            y[0, torch.tensor([2, 0, 1])] = x[0]
            return y

        return run

    first, second = entries(body(1)), entries(body(2))
    assert [(one.inputs[0].bits, one.outputs[0].bits) for one in first] == [
        (one.inputs[0].bits, one.outputs[0].bits) for one in second
    ]
    assert first[-1].inputs[0].digest == ""


def test_views_are_left_out_and_counted():
    def body(self, x):
        return x.view(3, 1).t()[:, 1:].unsqueeze(0).expand(2, 1, 2) + torch.empty(2, 1, 2).zero_()

    model, x = Inline(body), torch.ones(1, 3)
    with torch.no_grad(), OperationWatch(model) as watch:
        model(x)
    assert [one.operation for one in watch.entries] == ["aten.zero_.default", "aten.add.Tensor"]
    assert watch.left_out == {"views": 5, "uninitialised": 1}


def test_numbers_that_leave_torch_are_outputs_too():
    *_, item = entries(lambda self, x: x * x.sum().item())[:-1]
    assert item.operation == "aten._local_scalar_dense.default"
    assert item.outputs[0].dtype == "python"
    *_, other = entries(lambda self, x: x * x.sum().item(), torch.ones(1, 3))[:-1]
    assert item.outputs[0].digest != other.outputs[0].digest


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:mixtral", "tiny:gemma3n", "tiny:mamba", "tiny:gpt_oss"])
def test_every_step_has_the_logits_of_the_generation(spec):
    loaded = sk.load(spec)
    text = Text(loaded, IDS, 3)
    rows = list(text.greedy())
    for step, row in enumerate(rows):
        log = operations_at(loaded, IDS, text.generated, step)
        assert (log.level, log.note) == ("op", "")
        assert log.output == short(row)
        assert len({one.place for one in log.entries}) == len(log.entries)
        again = operations_at(loaded, IDS, text.generated, step)
        assert [one.outputs for one in log.entries] == [one.outputs for one in again.entries]
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in loaded.model.modules())


def test_what_comes_from_outside_of_the_forward_is_the_token_and_the_cache(tiny):
    log = operations_at(tiny, IDS, [1, 2], 2)
    outside = {one.operation for one in log.entries if any(x.source is None and not x.weight for x in one.inputs)}
    assert outside == {"aten.embedding.default", "aten.cat.default"}
    assert log.generated == (1, 2)
    assert operations_at(tiny, IDS, [1, 2], 0).generated == ()


def test_the_log_agrees_with_a_dense_evaluation(tiny):
    """The oracle computes the down projection of the last block from its own hook, not through the log."""
    kept = {}
    module = tiny.model.model.layers[2].mlp.down_proj
    hook = module.register_forward_hook(lambda _m, x, y: kept.update(x=x[0].clone(), y=y.clone()))
    with torch.no_grad():
        tiny.model(input_ids=torch.tensor([IDS]), use_cache=True, logits_to_keep=1)
    hook.remove()
    log = operations_at(tiny, IDS, [], 0)
    (product,) = [one for one in log.entries if one.module == "model.layers.2.mlp.down_proj"]
    assert product.inputs[0].digest == short(kept["x"][0])
    assert product.outputs[0].digest == short(kept["y"][0])
    assert product.inputs[1].weight == "model.layers.2.mlp.down_proj.weight"


def test_modules_are_logged_on_demand(tiny):
    log = operations_at(tiny, IDS, [1], 1, level="module")
    assert log.level == "module"
    assert [str(one.place) for one in log.entries if one.module.endswith("layers.0.mlp")] == [
        "model.layers.0.mlp/LlamaMLP#0"
    ]
    norm = next(one for one in log.entries if one.module == "model.norm")
    assert [one.weight for one in norm.inputs] == ["", "model.norm.weight"]
    assert log.output == operations_at(tiny, IDS, [1], 1).output


def test_an_observer_that_changes_bits_is_refused_and_modules_are_logged(tiny, monkeypatch):
    enter = OperationWatch.__enter__

    def disturbing(self):
        self._held.enter_context(Disturbed())
        return enter(self)

    class Disturbed(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            return result.nextafter(torch.tensor(9.0)) if str(func) == "aten.mm.default" else result

    monkeypatch.setattr(OperationWatch, "__enter__", disturbing)
    log = operations_at(tiny, IDS, [], 0)
    assert log.level == "module"
    assert log.note == ("operations could not be followed (that changes the bits of the logits), so modules were")
    monkeypatch.undo()
    assert log.output == operations_at(tiny, IDS, [], 0).output
    enter = ModuleWatch.__enter__
    monkeypatch.setattr(ModuleWatch, "__enter__", disturbing)
    with pytest.raises(InvalidError, match="even hooks on its modules change the bits of step 0"):
        operations_at(tiny, IDS, [], 0, level="module")


def test_a_mode_that_cannot_run_is_said(tiny, monkeypatch):
    def refusing(self, func, args, kwargs):
        raise NotImplementedError("no rule for flex_attention\nand more")

    monkeypatch.setattr(OperationWatch, "_saw", refusing)
    log = operations_at(tiny, IDS, [], 0)
    assert (log.level, log.note) == (
        "module",
        "operations could not be followed (NotImplementedError: no rule for flex_attention), so modules were",
    )


def test_a_model_that_does_not_repeat_itself_is_no_device(monkeypatch):
    loaded = sk.load("tiny")
    norm, calls = loaded.model.model.norm, []

    def drifting(_module, _inputs, output):
        calls.append(1)
        return output * (1 + len(calls) * 2.0**-20)

    with (
        norm.register_forward_hook(drifting),
        pytest.raises(InvalidError, match="gives other bits when it is repeated"),
    ):
        operations_at(loaded, IDS, [], 0)


def test_steps_and_levels_that_do_not_exist_are_refused(tiny):
    for step in (-1, 2):
        with pytest.raises(UsageError, match=f"step {step} has no forward: 1 tokens were generated"):
            operations_at(tiny, IDS, [1], step)
    with pytest.raises(UsageError, match="level 'kernel' of a log is not one of op, module"):
        operations_at(tiny, IDS, [], 0, level="kernel")


def test_the_tensors_of_one_operation_are_those_of_the_log(tiny):
    log = operations_at(tiny, IDS, [1], 1)
    place = Place("model.layers.1.mlp.up_proj", "aten.mm.default", 0)
    caught = caught_at(tiny, IDS, [1], 1, place)
    (entry,) = [one for one in log.entries if one.place == place]
    assert caught.entry.outputs == entry.outputs
    assert short(caught.inputs[0]) == entry.inputs[0].digest
    assert short(caught.inputs[1].T.contiguous()) == entry.inputs[1].digest
    assert short(caught.outputs[0]) == entry.outputs[0].digest
    assert caught_at(tiny, IDS, [1], 1, Place("nowhere", "aten.mm.default", 0)) is None


def test_the_file_is_the_log(tiny):
    log = operations_at(tiny, IDS, [1], 1)
    assert OperationLog.from_plain(json.loads(json.dumps(log.to_plain(), allow_nan=False)), "x") == log


def small():
    one = Operand("0" * 32, "float32", (1, 2), (2, 1), 4, "w")
    entry = Operation(Place("m", "aten.mm.default", 0), (one, one), (one._replace(source=0),), "[[], {}]")
    return OperationLog((1, 2), (), 0, (entry,), "f" * 32).to_plain()


def put(value, *path):
    plain = small()
    target = plain
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return plain


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        ([], "log.json is no object"),
        (None, "log.json is no object"),
        (put(2, "schema"), "log.json: schema is 2, and this version reads 1; record again, or update"),
        (put(..., "output"), "log.json: output is missing"),
        (put("F" * 32, "output"), "log.json: output 'FFF"),
        (put("0" * 31, "output"), "log.json: output '000"),
        (put("kernel", "level"), "log.json: level 'kernel' is not of the form op|module"),
        (put([], "ids"), "log.json: step is 0, with 0 tokens"),
        (put([1, True], "ids"), r"log.json: ids\[1\] is no whole number from 0"),
        (put(1, "step"), "log.json: step is 1, with 2 tokens of a prompt and 0 generated"),
        (put(0, "threads"), "log.json: threads is no whole number from 1"),
        (put([1], "left_out"), "log.json: left_out is no object"),
        (put({"views": -1}, "left_out"), "log.json: left_out.views is no whole number"),
        (put({}, "entries"), "log.json: entries is no list"),
        (put(7, "entries", 0), r"log.json: entries\[0\] is no object"),
        (put("os.system('x')", "entries", 0, "operation"), r"log.json: entries\[0\].operation \"os.system"),
        (put(-1, "entries", 0, "occurrence"), r"log.json: entries\[0\].occurrence is no whole number"),
        (put(7, "entries", 0, "module"), r"log.json: entries\[0\].module is no text"),
        (put("zz", "entries", 0, "inputs", 1, "digest"), r"log.json: entries\[0\].inputs\[1\].digest 'zz'"),
        (put([2], "entries", 0, "inputs", 1, "stride"), r"inputs\[1\].stride has 1 numbers, and the shape 2"),
        (put([2, -1], "entries", 0, "inputs", 1, "shape"), r"inputs\[1\].shape\[1\] is no whole number"),
        (put([2, 1.0], "entries", 0, "inputs", 1, "shape"), r"inputs\[1\].shape\[1\] is no whole number"),
        (put(64, "entries", 0, "inputs", 1, "address"), r"inputs\[1\].address is no whole number from 0 to 63"),
        (put(1, "entries", 0, "inputs", 1, "source"), r"inputs\[1\].source is no whole number from 0 to 0"),
        (put("float 32", "entries", 0, "inputs", 1, "dtype"), r"inputs\[1\].dtype 'float 32'"),
    ],
)
def test_a_damaged_file_is_refused_by_file_field_and_reason(plain, says):
    with pytest.raises(UnreadableError, match=says):
        OperationLog.from_plain(plain, "log.json")


@pytest.mark.parametrize("hashed", ["norm", "hash_tensor"])
@pytest.mark.parametrize("change", [lambda w: w.flip(0), torch.neg], ids=["permuted", "negated"])
def test_torchs_own_hashes_of_operations_are_blind_where_ours_are_not(change, hashed):
    """DebugMode's are an L1 norm and an exclusive or, both blind to the order and the signs of what they hash."""
    models = [Inline(lambda self, x: x @ self.weight.T) for _ in range(2)]
    models[1].weight.data = change(models[1].weight.data).contiguous()
    x = torch.tensor([[1.0, -2.0, 3.0]])
    assert not torch.equal(models[0](x), models[1](x))
    logs = []
    for model in models:
        with torch.no_grad(), DebugMode() as mode, DebugMode.log_tensor_hashes(hashed, hash_inputs=True):
            model(x)
        logs.append(mode.logs)
    assert any("hash" in (call.log or {}) for call in logs[0])
    assert DebugMode.check_hash_mismatches(*logs, compare_inputs=True) == []
    (ours,), (theirs,) = (watched(model, x) for model in models)
    assert ours.outputs[0].digest != theirs.outputs[0].digest
    assert ours.inputs[1].digest != theirs.inputs[1].digest
