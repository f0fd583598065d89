"""Folders of recordings: read back exactly, and refused wherever anything is not what was written."""

import json
import os
import random

import numpy as np
import pytest
import torch
from oracles.crafted import manifest, seal, swap
from oracles.malformed import DIGESTS, FILES, MANIFESTS, TENSORS, rewritten
from safetensors.torch import load, save

import stabilitykit as sk
from stabilitykit.errors import IncomparableError, StabilityError, UnreadableError, UsageError
from stabilitykit.results.atomic import TEMPORARY
from stabilitykit.traces.manifest import NAME


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


def test_what_a_killed_process_left_of_a_recording_does_not_stand_in_the_way(recording, tmp_path):
    part = tmp_path / f".ab{TEMPORARY}"
    part.write_bytes(b"half of it")
    os.utime(part, (1, 1))
    sk.read_recording(sk.write_recording(recording, tmp_path))
    assert not part.exists()


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


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_malformed_manifest_is_refused(folder, case):
    change, reason = MANIFESTS[case]
    change(folder)
    refused(folder, reason)


def test_a_newer_schema_names_the_version_that_wrote_it(folder):
    rewritten(lambda data: data.update(schema=2, kit="9.1"))(folder)
    with pytest.raises(IncomparableError, match=r"schema is 2, this version reads up to 1; .*'9\.1'"):
        sk.read_recording(folder)


@pytest.mark.parametrize("case", FILES)
def test_a_malformed_file_with_the_right_checksum_is_refused(folder, case):
    swap(folder, DIGESTS, FILES[case])
    refused(folder, DIGESTS)


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
