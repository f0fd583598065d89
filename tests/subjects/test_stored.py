"""Weights in files and in memory, one tensor at a time: the same names and bits, and no damage taken in silence."""

import json

import pytest
import torch
from safetensors.torch import save_file

import stabilitykit as sk

A = {"layers.0.w": torch.arange(6.0).reshape(2, 3), "layers.0.n": torch.ones(3, dtype=torch.bfloat16)}
B = {"layers.1.w": torch.full((2, 3), -0.0), "ids": torch.arange(4)}
INDEX = "model.safetensors.index.json"


def shards(folder, index=None):
    save_file(A, folder / "model-1.safetensors")
    save_file(B, folder / "model-2.safetensors")
    placed = {**dict.fromkeys(A, "model-1.safetensors"), **dict.fromkeys(B, "model-2.safetensors")}
    (folder / INDEX).write_text(json.dumps({"weight_map": placed | (index or {})}))
    return folder


def test_shards_are_one_checkpoint(tmp_path):
    found = sk.Checkpoint(shards(tmp_path))
    assert list(found.entries) == sorted({**A, **B})
    assert all(sk.bits_equal(found[name], tensor) for name, tensor in {**A, **B}.items())
    assert found.entries["layers.0.n"].dtype == "bfloat16"
    assert found.entries["layers.0.n"].floating
    assert found.entries["ids"].dtype == "i64"
    assert not found.entries["ids"].floating
    assert found.entries["layers.0.w"].size == 6
    assert found.describe()["parameters"] == 19
    assert found.describe()["dtype"] == "float32"
    (tmp_path / INDEX).unlink()
    assert sk.Checkpoint(tmp_path).describe() == found.describe()


def test_the_digest_sees_a_bit_and_a_name(tmp_path):
    before = sk.Checkpoint(shards(tmp_path)).digest
    save_file(B | {"layers.1.w": torch.zeros(2, 3)}, tmp_path / "model-2.safetensors")
    assert sk.Checkpoint(tmp_path).digest != before
    (tmp_path / INDEX).unlink()
    shards(tmp_path)
    assert sk.Checkpoint(tmp_path).digest == before
    (tmp_path / INDEX).unlink()
    save_file({"layers.1.x": B["layers.1.w"], "ids": B["ids"]}, tmp_path / "model-2.safetensors")
    assert sk.Checkpoint(tmp_path).digest != before


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_saved_model_is_the_model_in_memory(tmp_path, family):
    loaded = sk.load(f"tiny:{family}")
    loaded.model.save_pretrained(tmp_path)
    saved, held = sk.Checkpoint(tmp_path), sk.Checkpoint.of(loaded)
    assert set(saved.entries) == set(held.entries)
    assert all(sk.bits_equal(saved[name], held[name]) for name in held.entries)
    assert all(saved.entries[n].shape == held.entries[n].shape for n in held.entries)
    assert saved.config.num_hidden_layers == loaded.model.config.num_hidden_layers
    assert held.describe()["model_digest"] == loaded.digest


def test_tied_weights_stand_once():
    """Under the embedding's name, where the sorted names would begin with the head's."""
    held = sk.Checkpoint.of(sk.load("tiny", load_args={"tie_word_embeddings": True}))
    assert "model.embed_tokens.weight" in held.entries
    assert "lm_head.weight" not in held.entries


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"layers.9.w": "model-1.safetensors"}, "names 'layers.9.w', which no file holds"),
        ({"layers.0.w": "model-2.safetensors"}, "which model.safetensors.index.json does not place there"),
        ({"layers.0.w": "model-3.safetensors"}, "names 'model-3.safetensors', which is missing"),
        ({"layers.0.w": "../model-1.safetensors"}, "not a .safetensors file beside it"),
        ({"layers.0.w": "/etc/passwd"}, "not a .safetensors file beside it"),
        ({"layers.0.w": "model-1.bin"}, "not a .safetensors file beside it"),
        ({"layers.0.w": 3}, "not a .safetensors file beside it"),
        ({"layers.0.w": ["model-1.safetensors"]}, "cannot read"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, index, said):
    with pytest.raises(sk.UnreadableError, match=said):
        sk.Checkpoint(shards(tmp_path, index))


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": []}', '{"weight_map": 3}', "{}", "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (shards(tmp_path) / INDEX).write_text(text)
    with pytest.raises(sk.UnreadableError, match="cannot read"):
        sk.Checkpoint(tmp_path)


def test_a_tensor_that_the_index_leaves_out_is_refused(tmp_path):
    shards(tmp_path)
    save_file({**B, "more": torch.zeros(1)}, tmp_path / "model-2.safetensors")
    with pytest.raises(sk.UnreadableError, match="holds 'more', which"):
        sk.Checkpoint(tmp_path)


def test_two_files_with_one_name_are_refused(tmp_path):
    save_file(A, tmp_path / "a.safetensors")
    save_file(A, tmp_path / "b.safetensors")
    with pytest.raises(sk.UnreadableError, match=r"b.safetensors holds 'layers.0.n', and so does .*a.safetensors"):
        sk.Checkpoint(tmp_path)


def test_damaged_and_missing_files_are_named(tmp_path):
    for where, said in ((tmp_path / "no", "is not a folder"), (tmp_path, "holds no .safetensors weights")):
        with pytest.raises(sk.UnreadableError, match=said):
            sk.Checkpoint(where)
    save_file(A, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for content in (b"", whole[:20], whole[:-8], whole.replace(b"layers.0.n", b"layers.0.w")):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(sk.UnreadableError, match=r"a\.safetensors"):
            sk.Checkpoint(tmp_path)


def test_a_file_that_vanishes_is_named(tmp_path):
    found = sk.Checkpoint(shards(tmp_path))
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(sk.UnreadableError, match=r"model-1\.safetensors cannot be read"):
        found["layers.0.w"]
    with pytest.raises(KeyError):
        found["other"]


def test_a_configuration_is_needed_for_heads_alone(tmp_path):
    found = sk.Checkpoint(shards(tmp_path))
    with pytest.raises(sk.UnreadableError, match=r"has no config\.json"):
        _ = found.config
    for text, said in (("{}", "cannot read the configuration"), ('{"model_type": "made_up"}', "cannot read")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(sk.UnreadableError, match=said):
            _ = sk.Checkpoint(tmp_path).config
