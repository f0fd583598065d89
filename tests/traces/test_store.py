"""Folders of recordings: read back exactly, and refused wherever anything is not what was written."""

import json
import os
import random
import struct

import numpy as np
import pytest
import torch
from oracles.crafted import manifest, seal, swap
from safetensors.torch import load, save

import stabilitykit as sk
from stabilitykit.errors import IncomparableError, StabilityError, UnreadableError, UsageError
from stabilitykit.traces.manifest import NAME

DIGESTS = "digests.safetensors"


def test_a_recording_is_read_back_as_it_was(recording, folder):
    again = sk.read_recording(folder)
    for name in ("model", "device", "probe", "mode", "level", "stages", "observer", "seconds", "words"):
        assert getattr(again, name) == getattr(recording, name)
    assert again.environment == recording.environment
    for one, other in zip(recording.generations, again.generations, strict=True):
        assert (one.kind, one.text, one.ids) == (other.kind, other.text, other.ids)
        for name in ("tokens", "predicted", "top_ids", "normaliser", "digests"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert sk.bits_equal(one.top_logits, other.top_logits)
        assert one.states.keys() == other.states.keys()
        assert all(sk.bits_equal(one.states[name], other.states[name]) for name in one.states)


def test_bf16_states_are_kept_in_their_own_bits(tmp_path):
    loaded = sk.load("tiny", dtype="bfloat16")
    made = sk.record(loaded, ["x"], 2, level="block", states="norm")
    again = sk.read_recording(sk.write_recording(made, tmp_path / "bf16"))
    assert again.generations[0].states["post_norm"].dtype == torch.bfloat16
    assert sk.bits_equal(again.generations[0].states["post_norm"], made.generations[0].states["post_norm"])


def test_writing_again_replaces_a_recording_and_leaves_nothing_of_it(tiny, folder):
    sk.write_recording(sk.record(tiny, ["other"], 2, level="block"), folder)
    assert sorted(path.name for path in folder.iterdir()) == [DIGESTS, NAME]
    assert sk.read_recording(folder).generations[0].text == "other"


def test_a_folder_with_other_things_in_it_is_left_alone(recording, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds 'thesis\.txt', which is no part of a recording"):
        sk.write_recording(recording, tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        sk.write_recording(recording, tmp_path / "thesis.txt")


def test_a_crash_while_writing_leaves_no_recording(recording, folder, monkeypatch):
    import stabilitykit.traces.store as store

    def dies(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "atomic_write", dies)
    with pytest.raises(KeyboardInterrupt):
        sk.write_recording(recording, folder)
    with pytest.raises(UnreadableError, match=f"holds no {NAME}"):
        sk.read_recording(folder)


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_flipped_bits_are_all_detected(folder, count):
    draw = random.Random(0)
    files = sorted(folder.iterdir())
    weights = [path.stat().st_size for path in files]
    whole = {path: path.read_bytes() for path in files}
    for number in range(count):
        path = draw.choices(files, weights)[0] if number % 2 else draw.choice(files)
        content = bytearray(whole[path])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        with pytest.raises(StabilityError):
            sk.read_recording(folder)
        path.write_bytes(whole[path])
    sk.read_recording(folder)


def test_of_a_damaged_file_the_tensor_is_named(folder):
    path = folder / DIGESTS
    tensors = load(path.read_bytes())
    tensors["p001.normaliser"][1] += 1
    path.write_bytes(save(tensors))
    with pytest.raises(UnreadableError, match=r"digests\.safetensors is damaged: tensor p001\.normaliser is not what"):
        sk.read_recording(folder)


def refused(folder, *words):
    with pytest.raises(UnreadableError) as caught:
        sk.read_recording(folder)
    message = str(caught.value)
    assert str(folder) in message
    for word in words:
        assert word in message
    assert "\n" not in message


def paths(data, prefix=()):
    """Every field of a manifest, the first of each list standing for the others."""
    for name, value in data.items():
        yield (*prefix, name)
        if name in ("model", "observer", "seconds"):
            yield from paths(value, (*prefix, name))
        if name in ("stages", "prompts"):
            yield from paths(value[0], (*prefix, name, 0))


FIELDS = [
    *["schema", "kit", "model", "device", "environment", "probe", "mode", "level", "states", "observer", "seconds"],
    *["stages", "words", "prompts", "files", "seal"],
    *[f"model.{name}" for name in ("spec", "architecture", "dtype", "digests", "config", "tokenizer")],
    *["observer.steps", "seconds.plain", "seconds.recorded"],
    *[f"stages.0.{name}" for name in ("name", "module", "before", "block", "part")],
    *[f"prompts.0.{name}" for name in ("kind", "text", "ids")],
]


def parent(data, field):
    *way, last = field.split(".")
    for name in way:
        data = data[int(name) if name.isdigit() else name]
    return data, last


def test_the_list_of_fields_is_the_manifests(folder):
    assert sorted(FIELDS) == sorted(".".join(map(str, path)) for path in paths(manifest(folder)))


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(folder, field):
    data = manifest(folder)
    holder, name = parent(data, field)
    del holder[name]
    if field == "seal":
        (folder / NAME).write_text(json.dumps(data))
    else:
        seal(folder, data)
    refused(
        folder, NAME, f"field {field.replace('.0.', '[0].')}".rsplit(".", 1)[0] if "." in field else field, "missing"
    )


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "seal"])
def test_a_field_of_another_kind_is_named_with_what_it_should_be(folder, field):
    data = manifest(folder)
    holder, name = parent(data, field)
    holder[name] = [[True]] if field not in ("stages", "prompts") else []
    seal(folder, data)
    refused(folder, NAME, name, "not")


def rewritten(change):
    def apply(folder):
        data = manifest(folder)
        change(data)
        seal(folder, data)

    return apply


def raw(content):
    return lambda folder: (folder / NAME).write_bytes(content)


def edited(old, new):
    def apply(folder):
        path = folder / NAME
        text = path.read_bytes()
        assert old in text
        path.write_bytes(text.replace(old, new, 1))

    return apply


def listed(name):
    """A file of this name that the manifest lists."""

    def change(data):
        data["files"][name] = {"bytes": 0, "sha256": "0" * 64, "tensors": {}}

    return rewritten(change)


MANIFESTS = {
    "empty": (raw(b""), "cannot be read"),
    "not JSON": (raw(b"{"), "cannot be read"),
    "a list": (raw(b"[]"), "not a manifest"),
    "a number": (raw(b"7"), "not a manifest"),
    "no fields": (raw(b"{}"), "schema"),
    "bad UTF-8": (raw(b'{"a": "\xff"}'), "cannot be read"),
    "BOM": (edited(b"{", b"\xef\xbb\xbf{"), "cannot be read"),
    "NaN": (edited(b'"schema": 1', b'"schema": NaN'), "NaN is not a number"),
    "infinite": (edited(b'"schema": 1', b'"schema": Infinity'), "Infinity"),
    "a field twice": (edited(b'"schema": 1', b'"schema": 1, "schema": 1'), "'schema' stands twice"),
    "deeply nested": (raw(b'{"a":' * 100_000), "cannot be read"),
    "another spacing": (edited(b"\n ", b"\n  "), "not as it was written"),
    "CRLF": (lambda folder: raw((folder / NAME).read_bytes().replace(b"\n", b"\r\n"))(folder), "not as it was written"),
    "merge markers": (raw(b"<<<<<<< ours\n{}\n"), "cannot be read"),
    "an extra field": (rewritten(lambda data: data.update(extra=1)), "'extra' is not one"),
    "schema 0": (rewritten(lambda data: data.update(schema=-1)), "schema"),
    "schema true": (rewritten(lambda data: data.update(schema=True)), "schema"),
    "schema text": (rewritten(lambda data: data.update(schema="1")), "schema"),
    "an unsealed change": (edited(b'"device": "cpu"', b'"device": "gpu"'), "seal"),
    "no own digest": (rewritten(lambda data: data["model"].update(dtype="float64")), "model.digests"),
    "a stage twice": (rewritten(lambda data: data["stages"].append(dict(data["stages"][0]))), "names a stage twice"),
    "a stage too many": (
        rewritten(lambda data: data["stages"].append({**data["stages"][0], "name": "x"})),
        "p000.digests",
    ),
    "a prompt too many": (rewritten(lambda data: data["prompts"].append(dict(data["prompts"][0]))), "p002"),
    "a prompt too few": (rewritten(lambda data: data["prompts"].pop()), "p001"),
    "a negative token": (rewritten(lambda data: data["prompts"][0]["ids"].append(-1)), "ids"),
    "a fractional token": (rewritten(lambda data: data["prompts"][0]["ids"].append(1.5)), "ids"),
    "no digests file": (rewritten(lambda data: data["files"].pop(DIGESTS)), "digests.safetensors"),
    "a symbolic link": (
        lambda folder: (
            (folder / DIGESTS).rename(folder.parent / "elsewhere"),
            (folder / DIGESTS).symlink_to(folder.parent / "elsewhere"),
        ),
        DIGESTS,
    ),
    "a folder for a file": (lambda folder: ((folder / DIGESTS).unlink(), (folder / DIGESTS).mkdir()), DIGESTS),
    "a missing file": (lambda folder: (folder / DIGESTS).unlink(), "missing"),
    "a shorter file": (lambda folder: (folder / DIGESTS).write_bytes((folder / DIGESTS).read_bytes()[:-1]), "bytes"),
    "a longer file": (lambda folder: (folder / DIGESTS).write_bytes((folder / DIGESTS).read_bytes() + b"x"), "bytes"),
    "another size promised": (rewritten(lambda data: data["files"][DIGESTS].update(bytes=1 << 52)), "bytes"),
    **{
        f"a file named {name!r}": (listed(name), "files")
        for name in (
            "../digests.safetensors",
            "/etc/passwd",
            "C:\\digests.safetensors",
            "a/b.safetensors",
            "DIGESTS.SAFETENSORS",
            "digests.safetensors\0",
            "states-p0.safetensors",
            "states-p000.safetensors.exe",
            "states-p000.pkl",
            "operations-p000-s0.json\n",
            "",
            ".",
        )
    },
    "a states file that is not there": (listed("states-p009.safetensors"), "states-p009.safetensors"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_malformed_manifest_is_refused(folder, case):
    change, reason = MANIFESTS[case]
    change(folder)
    refused(folder, reason)


def test_a_newer_schema_names_the_version_that_wrote_it(folder):
    rewritten(lambda data: data.update(schema=2, kit="9.1"))(folder)
    with pytest.raises(IncomparableError, match=r"schema is 2, this version reads up to 1; .*'9\.1'"):
        sk.read_recording(folder)


def header(text, data=b""):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FILES = {
    "empty": b"",
    "three bytes": b"abc",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "header of 101 MB": struct.pack("<Q", 101 << 20) + b"{}",
    "header of 0": struct.pack("<Q", 0),
    "not JSON": header(b"{nope}"),
    "a list": header([1]),
    "bad UTF-8": header(b'{"\xff": 1}'),
    "truncated data": header({"a": ONE}, b"12"),
    "trailing data": header({"a": ONE}, b"12345"),
    "offset beyond": header({"a": {**ONE, "data_offsets": [0, 400]}}, b"1234"),
    "negative offset": header({"a": {**ONE, "data_offsets": [-4, 0]}}, b"1234"),
    "reversed offsets": header({"a": {**ONE, "data_offsets": [4, 0]}}, b"1234"),
    "overlap": header({"a": ONE, "b": ONE}, b"1234"),
    "hole": header({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, b"123456789012"),
    "unknown dtype": header({"a": {**ONE, "dtype": "F31"}}, b"1234"),
    "shape mismatch": header({"a": {**ONE, "shape": [2]}}, b"1234"),
    "shape overflow": header({"a": {**ONE, "shape": [1 << 62, 1 << 62]}}, b"1234"),
    "negative dimension": header({"a": {**ONE, "shape": [-1]}}, b"1234"),
    "fractional dimension": header({"a": {**ONE, "shape": [1.5]}}, b"1234"),
    "no shape": header({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"),
    "metadata of another kind": header({"__metadata__": {"a": 1}, "a": ONE}, b"1234"),
    "deeply nested": header(b'{"a":' * 100_000),
    "a pickle": b"\x80\x04\x95\x00\x00\x00\x00",
    "a zip": b"PK\x03\x04" + bytes(40),
    "a tensor twice": header(b'{"a": %b, "a": %b}' % ((json.dumps(ONE).encode(),) * 2), b"1234"),
    "10,001 tensors": header(
        {f"t{k}": {"dtype": "U8", "shape": [1], "data_offsets": [k, k + 1]} for k in range(10_001)}, bytes(10_001)
    ),
    "no tensors": header({}),
    "other tensors": save({"a": torch.zeros(1)}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_with_the_right_checksum_is_refused(folder, case):
    swap(folder, DIGESTS, FILES[case])
    refused(folder, DIGESTS)


def changed(name, make):
    def apply(tensors):
        tensors[name] = make(tensors[name])

    return apply


TENSORS = {
    "a path for a name": (lambda t: t.update({"../x": torch.zeros(1)}), "'../x'"),
    "a script for a name": (lambda t: t.update({"<script>\0": torch.zeros(1)}), "<script>"),
    "a name of 10 kB": (lambda t: t.update({"x" * 10_000: torch.zeros(1)}), "is not one of a recording"),
    "tokens missing": (lambda t: t.pop("p000.tokens"), "'p000.tokens' is missing"),
    "digests missing": (lambda t: t.pop("p001.digests"), "'p001.digests' is missing"),
    "tokens of floats": (changed("p000.tokens", torch.Tensor.float), "p000.tokens is float32"),
    "tokens of 32 bits": (changed("p000.tokens", torch.Tensor.int), "p000.tokens is int32"),
    "a matrix of tokens": (changed("p000.tokens", lambda t: t[None]), "p000.tokens"),
    "no dimension": (changed("p000.tokens", lambda t: t[0].clone()), "p000.tokens"),
    "negative tokens": (changed("p000.tokens", torch.neg), "negative token"),
    "too few predictions": (changed("p000.predicted", lambda t: t[1:].clone()), "p000.predicted"),
    "too few digests": (changed("p000.digests", lambda t: t[1:].clone()), "p000.digests"),
    "digests of 15 bytes": (changed("p000.digests", lambda t: t[..., 1:].clone()), "p000.digests"),
    "other logits than ids": (changed("p000.top_logits", lambda t: t[:, 1:].clone()), "p000.top_logits"),
    "integer logits": (changed("p000.top_logits", torch.Tensor.long), "p000.top_logits is int64"),
    "a NaN logit": (changed("p000.top_logits", lambda t: t * float("nan")), "not finite"),
    "an infinite sum": (changed("p000.normaliser", lambda t: t + float("inf")), "not finite"),
    "a sum of 32 bits": (changed("p000.normaliser", torch.Tensor.float), "p000.normaliser is float32"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_not_those_of_a_recording_are_refused(folder, case):
    change, reason = TENSORS[case]
    tensors = load((folder / DIGESTS).read_bytes())
    change(tensors)
    swap(folder, DIGESTS, save(tensors))
    refused(folder, DIGESTS, reason)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("s00099", torch.zeros(3, 4)),
        ("s0", torch.zeros(3, 4)),
        ("../s00000", torch.zeros(3, 4)),
        ("s00000", torch.zeros(2, 4)),
        ("s00000", torch.zeros(3)),
        ("s00000", torch.zeros(3, 4, dtype=torch.int64)),
    ],
)
def test_states_that_are_not_those_of_a_stage_are_refused(folder, name, tensor):
    swap(folder, "states-p000.safetensors", save({name: tensor}))
    refused(folder, "states-p000.safetensors", name)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UnreadableError, match=f"holds no {NAME}"):
        sk.read_recording(tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="a superuser may read everything")
def test_a_file_without_permission_is_refused(folder):
    (folder / DIGESTS).chmod(0)
    refused(folder, DIGESTS)
