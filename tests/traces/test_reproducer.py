"""One operation alone: what a folder holds, what it says, and that nothing else is believed."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import IncomparableError, UnsupportedError
from stabilitykit.numerics.bits import bits_equal, nudge
from stabilitykit.numerics.digest import digest
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.noise import threads
from stabilitykit.traces import operation_reproducer as script
from stabilitykit.traces.arguments import encoded
from stabilitykit.traces.bisect import bisect
from stabilitykit.traces.classify import Cause
from stabilitykit.traces.live import Taken, live, operands
from stabilitykit.traces.operations import operations_at
from stabilitykit.traces.replay import Replay, replay
from stabilitykit.traces.reproducer import Side, write_reproducer
from stabilitykit.traces.watch import OperationWatch

IDS = [72, 101, 108, 108, 111]
PRODUCT = Place("model.layers.1.mlp.down_proj", "aten.mm.default", 0)


class Body(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4) / 7)

    def forward(self, x):
        return self.body(self, x)


def taken(body, name, x=None):
    """The tensors of one operation of a body, as a fresh process would hand them over."""
    x = torch.arange(8.0).reshape(2, 4) / 3 if x is None else x
    with torch.no_grad(), OperationWatch(Body(body), Place("", name, 0)) as watch:
        watch._model(x)
    caught = watch.caught
    tensors = {f"input.{i}": one.contiguous() for i, one in enumerate(caught.inputs)}
    tensors |= {f"output.{i}": one.contiguous() for i, one in enumerate(caught.outputs)}
    return Taken(caught.entry, tensors, caught.changed, ("cpu",) * len(caught.inputs))


def other(entry):
    """A side that gave other bits, which no setting gives."""
    return replace(entry, outputs=tuple(one._replace(digest="0" * 32) for one in entry.outputs))


def written(tmp_path, one, b=None):
    return write_reproducer(tmp_path, one, Side(one.entry), b or Side(other(one.entry)))


def call(path, *arguments, environ=None):
    command = [sys.executable, "-I", str(path), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **(environ or {})}, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


OPERATIONS = {
    "aten.mm.default": lambda self, x: x @ self.weight.T,
    "aten.addmm.default": lambda self, x: torch.addmm(torch.ones(3), x, self.weight.T, beta=0.5),
    "aten.mean.dim": lambda self, x: x.mean(-1, keepdim=True, dtype=torch.float64),
    "aten.cat.default": lambda self, x: torch.cat([x[:, 1:3], x[:, :2]], dim=-1),
    "aten._to_copy.default": lambda self, x: x.to(torch.bfloat16),
    "aten.clamp.default": lambda self, x: x.clamp(float("-inf"), 1.5),
    "aten.add_.Tensor": lambda self, x: x.clone().t().add_(1, alpha=2),
    "aten.sum.default": lambda self, x: x[:, :1].expand(2, 4).sum(),
    "aten.topk.default": lambda self, x: x.topk(2)[0],
    "aten.mul.out": lambda self, x: torch.mul(x, 3, out=torch.zeros(2, 4)),
    "aten._local_scalar_dense.default": lambda self, x: x * x[0, 3].item(),
    "aten.var_mean.correction": lambda self, x: torch.var_mean(x, 0, correction=1)[0],
    "aten.index.Tensor": lambda self, x: x[torch.tensor([1, 0]), 1:],
    "aten.copy_.default": lambda self, x: torch.empty(4, 2).t().copy_(x),
    "aten._foreach_add_.Scalar": lambda self, x: torch._foreach_add_([x[0], x[1]], 2.0),
    "aten.full_like.default": lambda self, x: torch.full_like(x, 2.5, memory_format=torch.preserve_format),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_alone_gives_the_bits_it_gave_in_its_forward(name, tmp_path):
    """The oracle of each is the log itself, whose digests other tests hold against plain computations."""
    one = taken(OPERATIONS[name], name)
    path = written(tmp_path, one)
    tensors, found = script.read(path.with_name("operands.safetensors"))
    outputs = script.run(tensors, found, "a", 1)
    assert [script.digest(out) for out in outputs] == [out.digest for out in one.entry.outputs]


@pytest.mark.parametrize("address", [0, 4, 8, 60])
@pytest.mark.parametrize("stride", [(4, 1), (1, 2), (0, 1), (9, 2)])
def test_operands_lie_where_they_lay(address, stride):
    values = torch.arange(8.0).reshape(2, 4)
    if stride[0] == 0:
        values = values[:1].expand(2, 4).contiguous()
    laid = script.laid(values, stride, address)
    assert laid.stride() == stride
    assert laid.data_ptr() % 64 == address
    assert bits_equal(laid, values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_the_digest_of_the_script_is_that_of_the_kit(dtype):
    x = torch.tensor([[0, 1, 0], [3, 0, 5]]).to(dtype).t()
    assert script.digest(x) == digest(x)[:32]


def test_the_script_tells_the_two_sides_apart(tmp_path):
    one = taken(OPERATIONS["aten.mm.default"], "aten.mm.default")
    path = written(tmp_path, one)
    head = path.read_text().splitlines()
    assert head[0] == "# Passes:  OMP_NUM_THREADS=1 python reproduce.py a"
    assert head[1] == "# Exits 1: OMP_NUM_THREADS=1 python reproduce.py b"
    status, said, problems = call(path)
    assert (status, problems) == (0, "")
    assert said.splitlines()[-1] == "passes: these are A's bits"
    # B's file: the same operands, and A's output moved by one ULP in one element.
    moved = dict(one.tensors, **{"output.0": nudge(one.tensors["output.0"], torch.tensor([[0, 0, 1], [0, 0, 0]]))})
    claimed = replace(one.entry, outputs=(one.entry.outputs[0]._replace(digest=digest(moved["output.0"])[:32]),))
    planted = write_reproducer(tmp_path / "b", Taken(claimed, moved, (), one.devices), Side(claimed), Side(one.entry))
    status, said, problems = call(planted, "b")
    assert (status, problems) == (1, "")
    differing = int(one.tensors["output.0"].view(torch.int32)[0, 2]) ^ int(moved["output.0"].view(torch.int32)[0, 2])
    assert f"1 of 6 elements differ from A's, {differing.bit_count()} bits in all" in said
    assert "the farthest: element 2 is " in said
    assert said.splitlines()[-1] == "fails: these are B's bits"


def test_a_zero_of_the_other_sign_is_a_bit(capsys):
    script.tell_difference(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert "1 of 2 elements differ from A's, 1 bits in all" in capsys.readouterr().out


def test_neither_side_and_no_file_are_said(tmp_path):
    one = taken(OPERATIONS["aten.mm.default"], "aten.mm.default")
    wrong = other(one.entry)
    path = write_reproducer(tmp_path, replace(one, entry=wrong), Side(wrong), Side(wrong))
    status, said, _ = call(path)
    assert (status, said.splitlines()[-1]) == (1, "fails: these are neither A's bits nor B's")
    path.with_name("operands.safetensors").write_bytes(b"\x80\x04damaged")
    status, said, problems = call(path)
    assert (status, problems) == (3, "")
    assert said.startswith("The operation cannot be run: ")


def test_what_no_file_holds_is_not_called(tmp_path):
    one = taken(
        lambda self, x: x.normal_(generator=torch.Generator().manual_seed(1)), "aten.normal_.default", torch.zeros(2, 4)
    )
    assert json.loads(one.entry.arguments)[1] == {"generator": {"other": "Generator"}}
    status, said, _ = call(written(tmp_path, one))
    assert status == 3
    assert "ValueError: an argument is a Generator, which no file holds" in said


def test_arguments_are_told_by_name():
    given = encoded(
        [torch.zeros(1), [torch.ones(1), 2], float("nan"), 1 + 2j],
        {"a": torch.float16, "b": torch.device("cpu"), "c": torch.strided, "d": torch.channels_last, "e": {"f": True}},
    )
    assert given == [
        [{"tensor": 0}, [{"tensor": 1}, 2], {"float": "nan"}, {"complex": "(1+2j)"}],
        {
            "a": {"dtype": "float16"},
            "b": {"device": "cpu"},
            "c": {"layout": "strided"},
            "d": {"memory_format": "channels_last"},
            "e": {"mapping": {"f": True}},
        },
    ]
    back = script.decoded(json.loads(json.dumps(given[1]["d"])), [])
    assert back is torch.channels_last
    assert script.decoded({"complex": "(1+2j)"}, []) == 1 + 2j


def test_tensors_of_another_side_are_refused(tmp_path):
    one = taken(OPERATIONS["aten.mm.default"], "aten.mm.default")
    inputs = (one.entry.inputs[0]._replace(digest="1" * 32), one.entry.inputs[1])
    for a, b, side in (
        (one.entry, replace(one.entry, inputs=inputs), "B"),
        (replace(one.entry, inputs=inputs), one.entry, "A"),
        (other(one.entry), one.entry, "A"),
    ):
        with pytest.raises(IncomparableError, match=f"are not those of side {side}; take them under the setting"):
            write_reproducer(tmp_path, one, Side(a), Side(b))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_fresh_process_gives_the_same_log_and_the_same_tensors(tmp_path):
    """The clean twin of a live setting: nothing set, nothing differs, and the operation alone agrees as well."""
    loaded = sk.load("tiny")
    log = operations_at(loaded, IDS, [1], 1)
    (there,) = live([log], loaded)
    assert bisect(log, there).verdict == "pass"
    one = operands(log, PRODUCT, loaded)
    assert one.devices == ("cpu", "cpu")
    assert one.entry.outputs == next(x for x in log.entries if x.place == PRODUCT).outputs
    found = replay(written(tmp_path, one).parent, Side(one.entry), Side(one.entry))
    assert found.a == found.b == found.expected_a
    assert (found.confirmed, found.cause) == (False, "")
    assert found.sentence.endswith("it gave the same bits under both settings: not reproduced.")
    with pytest.raises(UnsupportedError, match=r"nowhere/aten\.mm\.default#0 is not asked for in a fresh process"):
        operands(log, Place("nowhere", "aten.mm.default", 0), loaded)


def test_other_weights_in_the_fresh_process_are_incomparable():
    loaded = sk.load("tiny")
    log = operations_at(loaded, IDS, [], 0)
    with pytest.raises(IncomparableError, match="a fresh process loads other weights under the name 'tiny:gpt2'"):
        live([log], {"spec": "tiny:gpt2", "digest": loaded.digest})


def test_what_a_replay_says():
    found = Replay(("1",), ("2",), ("1",), ("2",))
    assert (found.confirmed, found.cause) == (True, "")
    assert found.refine(Cause("matmul kernel", "why")) == Cause("matmul kernel", "why")
    proved = replace(found, cause="alignment")
    assert "B's alignment alone make the difference" in proved.sentence
    assert proved.refine(Cause("matmul kernel", "why")).name == "alignment"
    assert proved.refine(Cause("matmul kernel", "why")).proved
    drifted = replace(found, expected_b=("3",))
    assert not drifted.confirmed
    assert drifted.sentence.endswith("but side B gave others than in the forward.")


@pytest.mark.long
def test_addresses_alone_are_found_to_be_the_cause(tmp_path):
    """One row by weights at another address takes another kernel here; where it does not, nothing is claimed."""
    x = torch.arange(576.0).sin()[None]
    weight = (torch.arange(576.0 * 96) / 10).cos().reshape(96, 576)
    body = Body(lambda self, x: x @ self.weight.T)
    sides = []
    for address in (0, 4):
        body.weight = nn.Parameter(script.laid(weight, (576, 1), address))
        with torch.no_grad(), OperationWatch(body, Place("", "aten.mm.default", 0)) as watch:
            body(x)
        sides.append(watch.caught)
    a, b = (Side(one.entry) for one in sides)
    tensors = {f"input.{i}": one.contiguous() for i, one in enumerate(sides[0].inputs)}
    tensors["output.0"] = sides[0].outputs[0]
    path = write_reproducer(tmp_path, Taken(sides[0].entry, tensors, (), ("cpu", "cpu")), a, b)
    found = replay(path.parent, a, b)
    if a.entry.outputs[0].digest == b.entry.outputs[0].digest:
        assert (found.cause, found.confirmed) == ("", False)
    else:
        assert (found.cause, found.confirmed) == ("alignment", True)


def test_the_file_has_checked_names_and_what_it_is_about(tmp_path):
    one = taken(OPERATIONS["aten.mm.default"], "aten.mm.default")
    path = write_reproducer(tmp_path, one, Side(one.entry, 2, {"A B": "c d"}), Side(other(one.entry)), {"model": "m"})
    assert path.read_text().startswith("# Passes:  OMP_NUM_THREADS=2 A B='c d' python reproduce.py a\n")
    with safe_open(path.with_name("operands.safetensors"), framework="pt") as file:
        assert sorted(file.keys()) == ["input.0", "input.1", "output.0"]
        found = json.loads(file.metadata()["found"])
    assert (found["model"], found["operation"], found["sides"]["a"]["threads"]) == ("m", "aten.mm.default", 2)


def test_threads_alone_are_found_to_be_the_cause(tmp_path):
    """A long sum is split among threads, and so is its rounding."""
    x = torch.arange(100_000.0).sin()
    sides = []
    for count in (1, 2):
        with threads(count):
            sides.append(taken(lambda self, x: x.sum(), "aten.sum.default", x))
    a, b = (Side(one.entry, count) for one, count in zip(sides, (1, 2), strict=True))
    path = write_reproducer(tmp_path, sides[0], a, b)
    assert path.read_text().splitlines()[1] == "# Exits 1: OMP_NUM_THREADS=2 python reproduce.py b"
    found = replay(path.parent, a, b)
    differ = a.entry.outputs[0].digest != b.entry.outputs[0].digest
    assert (found.cause, found.confirmed) == (("threads", True) if differ else ("", False))
