"""Two files of tensors: every kind of difference is told apart, hostile files are refused, and 1 is the exit status."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stabilitykit.cli.compare import lines
from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.traces.tensor_files import compare

BASE = torch.tensor([1.5, -2.25, 0.0, 3.0])


def files(tmp_path, left, right):
    for name, tensors in (("a", left), ("b", right)):
        # The writer refuses tensors that share memory.
        save_file({key: value.clone() for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def pair(tmp_path, left, right):
    (one,) = compare(*files(tmp_path, {"x": left}, {"x": right}))
    return one


def changed(place, value):
    other = BASE.clone()
    other[place] = value
    return other


def nans(*payloads):
    return torch.tensor([0x7FC00000 + payload for payload in payloads], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equal_files_are_equal_and_one_ulp_is_found_where_it_is(tmp_path, dtype):
    x = BASE.to(dtype)
    assert pair(tmp_path, x, x.clone()).verdict == "pass"
    up = x.clone()
    up[1] = torch.nextafter(up[1], up.new_tensor(0.0))
    one = pair(tmp_path, x, up)
    assert (one.verdict, one.differing, one.difference.max_ulp) == ("differs", 1, 1)
    assert one.difference.worst.index == (1,)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (changed(2, -0.0), "signed_zeros"),
        (changed(3, float("nan")), "nan_mismatch"),
        (BASE.flip(0), "differing_values"),
        (-BASE, "differing_values"),
    ],
    ids=["zero", "nan", "permuted", "negated"],
)
def test_what_a_value_comparison_misses_or_mixes_up_is_told_apart(tmp_path, other, kind):
    assert getattr(pair(tmp_path, BASE, other).difference, kind) > 0


def test_a_nan_equals_its_own_payload_only(tmp_path):
    assert pair(tmp_path, nans(1, 2), nans(1, 2)).verdict == "pass"
    assert pair(tmp_path, nans(1, 2), nans(1, 3)).difference.nan_payload == 1


def test_the_first_place_is_told_where_there_is_no_worst(tmp_path):
    """A number that became NaN has no size, and neither has a complex zero of the other sign."""
    one = pair(tmp_path, BASE.reshape(2, 2), changed(2, float("nan")).reshape(2, 2))
    assert (one.differing, one.first, one.difference.worst) == (1, (1, 0), None)
    assert lines([one])[0].endswith("1 NaNs against numbers; the first at [1, 0]")
    one = pair(tmp_path, torch.tensor([1j, 0j]), torch.tensor([1j, complex(0.0, -0.0)]))
    assert (one.verdict, one.differing, one.first) == ("differs", 1, (1,))
    assert lines([one])[0].endswith("complex64 [2]: 1 of 2 elements differ, the first at [1]")


def test_structure_is_a_difference_of_its_own(tmp_path):
    left = {"both": BASE, "shape": BASE, "dtype": BASE, "left": BASE, "count": torch.tensor([1, 2, 3])}
    right = {"both": BASE, "shape": BASE.reshape(2, 2), "dtype": BASE.double(), "right": BASE}
    right["count"] = torch.tensor([1, 5, 3])
    found = {one.name: one for one in compare(*files(tmp_path, left, right))}
    assert sorted(found) == ["both", "count", "dtype", "left", "right", "shape"]
    assert found["both"].verdict == "pass"
    assert found["shape"].structure == "float32 [4] against float32 [2, 2]"
    assert found["dtype"].structure == "float32 [4] against float64 [4]"
    assert found["left"].structure.startswith("missing from ")
    assert found["left"].structure.endswith("b.safetensors")
    assert found["right"].structure.endswith("a.safetensors")
    assert (found["count"].differing, found["count"].difference) == (1, None)
    said = lines(list(found.values()))
    assert said[-1] == "5 of 6 tensors differ."
    assert any("int64 [3]: 1 of 3 elements differ" in line for line in said)


def test_numpy_files_hold_one_array_and_never_objects(tmp_path):
    np.save(tmp_path / "a.npy", BASE.numpy())
    np.save(tmp_path / "b.npy", (BASE * 2).numpy())
    (one,) = compare(tmp_path / "a.npy", tmp_path / "b.npy")
    assert (one.name, one.differing) == ("array", 3)
    np.save(tmp_path / "evil.npy", np.array([{"code": 1}], dtype=object))
    with pytest.raises(UnreadableError, match=r"evil\.npy cannot be read"):
        compare(tmp_path / "a.npy", tmp_path / "evil.npy")


def header(content, data=b""):
    text = content.encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"\x80\x04pickle", "cannot be read"),
        (header("[]"), "cannot be read"),
        (header('{"x":' + ENTRY + "}"), "cannot be read"),
        (header('{"x":' + ENTRY + "}", b"\0" * 8), "cannot be read"),
        (header('{"x":' + ENTRY.replace("[1]", "[2]") + "}", b"\0" * 4), "cannot be read"),
        (header('{"x":' + ENTRY + ',"x":' + ENTRY + "}", b"\0" * 4), "names the tensor 'x' twice"),
        (header('{"' + "[" * 10 + '":' + "[" * 100_000 + "}"), "cannot be read"),
        (header('{"x":' + ENTRY.replace("F32", "BF16\u202e") + "}", b"\0" * 4), r"BF16\\u202e"),
    ],
    ids=["empty", "pickle", "list", "truncated", "trailing", "shape", "double", "deep", "overridden"],
)
def test_a_damaged_or_hostile_file_is_refused_by_name(tmp_path, content, says):
    (tmp_path / "bad.safetensors").write_bytes(content)
    save_file({"x": BASE}, tmp_path / "a.safetensors")
    with pytest.raises(UnreadableError, match=says) as caught:
        compare(tmp_path / "a.safetensors", tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)
    assert str(caught.value).isprintable()


def test_other_formats_and_missing_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"not a \.safetensors or a \.npy file; other formats are never read"):
        compare(tmp_path / "a.pt", tmp_path / "b.pt")
    with pytest.raises(UnreadableError, match=r"a\.npy cannot be read"):
        compare(tmp_path / "a.npy", tmp_path / "b.npy")


def test_a_hostile_name_is_text(tmp_path):
    name = "../../etc/\x1b[31m\u202ex"
    said = lines(compare(*files(tmp_path, {name: BASE}, {name: -BASE})))
    assert said[0].startswith(r"../../etc/\x1b[31m\u202ex ")


def test_the_farthest_tensors_come_first_and_long_lists_end(tmp_path):
    left = {f"t{i:02d}": BASE for i in range(50)}
    right = {name: BASE * (1 + i * 2.0**-20) for i, name in enumerate(left)}
    said = lines(compare(*files(tmp_path, left, right)))
    assert said[0].startswith("t49")
    assert said[-2] == "... and 9 more; --json has them all"
    assert said[-1] == "49 of 50 tensors differ."


def test_the_command_answers_with_its_exit_status(tmp_path):
    left, right = files(tmp_path, {"x": BASE, "y": BASE}, {"x": BASE, "y": changed(0, 2.0)})

    def command(*words):
        line = [sys.executable, "-m", "stabilitykit", "compare", *map(str, words)]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    assert command(left, left)[:2] == (0, "All 2 tensors are the same, bit for bit.\n")
    status, out, _ = command(left, right)
    assert status == 1
    assert "y " in out
    assert "float32 [4]: 1 of 4 elements differ" in out
    assert "worst at [0]: 1.5 (0x3fc00000) against 2 (0x40000000)" in out
    assert [one["verdict"] for one in json.loads(command("--json", left, right)[1])] == ["pass", "differs"]
    assert command(left, tmp_path / "none.safetensors")[0] == 3
    assert command(left, tmp_path / "none.pt")[0] == 2
