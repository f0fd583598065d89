"""Recordings that must not be read: what is done to the manifest, the file or its tensors, and what is said of it."""

import json
import struct

import torch
from oracles.crafted import manifest, seal
from safetensors.torch import save

from stabilitykit.traces.manifest import NAME

DIGESTS = "digests.safetensors"


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
