"""A model whose parts are placed one by one: the same bits, the map in the environment, and clear refusals."""

from types import SimpleNamespace

import pytest
import torch

import stabilitykit as sk
from stabilitykit.errors import UsageError
from stabilitykit.subjects import environment as fields
from stabilitykit.subjects.environment import environment, numeric_key
from stabilitykit.subjects.hardware import device_map_of, device_named, devices_of, kind_of, visible
from stabilitykit.subjects.models import adopt
from stabilitykit.subjects.replica import in_fresh_process, named

PARTS = ("model.embed_tokens", *(f"model.layers.{k}" for k in range(3)), "model.norm", "model.rotary_emb", "lm_head")
PROMPT = [1, 5, 9, 33]


@pytest.fixture(scope="module")
def plain():
    return sk.load("tiny")


@pytest.fixture(scope="module")
def placed(plain):
    """The same weights, with accelerate's hooks on every module, as a map over several cards has them."""
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.dispatch_model(sk.load("tiny").model, dict.fromkeys(PARTS, "cpu"), force_hooks=True)
    assert all(hasattr(module, "_hf_hook") for module in model.model.layers)
    return adopt(model, plain.tokenizer)


@pytest.mark.parametrize("path", ["prefill", "decode"])
def test_a_map_with_hooks_is_the_plain_model_bit_for_bit(plain, placed, path):
    one, other = (sk.CausalLMSubject(loaded, PROMPT, path=path, batch=2) for loaded in (plain, placed))
    assert placed.digest == plain.digest
    assert sk.bits_equal(one.baseline, other.baseline)
    tangent = torch.eye(64)[:2]
    assert sk.bits_equal(one.jvp(tangent), other.jvp(tangent))
    assert sk.bits_equal(one.vjp(tangent), other.vjp(tangent))


@pytest.mark.parametrize(
    "measurement",
    [
        sk.FirstChange(direction="v1"),
        sk.LayerProfile(direction="v1"),
        sk.SubmoduleProfile(direction="v1"),
        sk.CacheInvariance(),
    ],
    ids=lambda one: type(one).__name__,
)
def test_measurements_find_the_same_in_it(plain, placed, measurement):
    found = [
        sk.measure(measurement, sk.CausalLMSubject(one, PROMPT), progress=False).readings for one in (plain, placed)
    ]
    assert [repr(reading.value) for reading in found[0].values()] == [repr(one.value) for one in found[1].values()]


def test_recordings_of_it_are_the_plain_ones(plain, placed):
    one, other = (sk.record(loaded, ["ab"], 3) for loaded in (plain, placed))
    assert sk.measure(sk.TraceComparison(one, distinct=True), other, progress=False).verdict == "not-distinct"
    assert other.device == "cpu"


def test_the_environment_says_what_lies_where(plain, placed):
    told = environment(placed)
    assert told["device_map"] == f"cpu: {' '.join(PARTS)}"
    assert environment(plain)["device_map"] is None
    assert numeric_key(told) == numeric_key(environment(plain))


def test_a_fresh_process_loads_it_in_the_same_places(placed, tmp_path):
    asked = named(placed, tmp_path)
    assert asked["load_args"] == {"device_map": dict.fromkeys(PARTS, "cpu")}
    assert "device" not in asked
    subject = sk.CausalLMSubject(placed, PROMPT)
    (output,) = in_fresh_process([subject]).outputs
    assert sk.bits_equal(output, subject.baseline[0])


def test_of_several_cards_every_name_is_in_the_environment(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    weights = [SimpleNamespace(device=torch.device(name)) for name in ("cuda:0", "cpu", "cuda:2", "cuda:0")]
    spread = SimpleNamespace(model=SimpleNamespace(parameters=lambda: weights, hf_device_map={"a": 2, "": "cpu"}))
    assert [str(one) for one in devices_of(spread.model)] == ["cuda:0", "cpu", "cuda:2"]
    assert fields._device_types(spread) == "cuda cpu"
    assert fields._device_map(spread) == "cuda:2: a; cpu: all"
    assert device_map_of(spread.model) == {"a": "cuda:2", "": "cpu"}
    assert fields._of_gpu(lambda index: f"GPU-{index}")(spread) == "GPU-0, GPU-2"
    assert fields._of_gpu(lambda _: "NVIDIA H200")(spread) == "NVIDIA H200"
    assert fields._of_gpu(lambda _: 132)(spread) == 132


@pytest.fixture
def folder(plain, tmp_path):
    plain.model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_map_is_loaded_and_what_is_offloaded_is_refused(plain, folder, tmp_path):
    pytest.importorskip("accelerate")
    assert sk.load(str(folder), load_args={"device_map": dict.fromkeys(PARTS, "cpu")}).digest == plain.digest
    away = {**dict.fromkeys(PARTS, "cpu"), "model.layers.1": "disk"}
    with pytest.raises(UsageError, match=r"on the meta device .* without offloading to disk or CPU"):
        sk.load(str(folder), load_args={"device_map": away, "offload_folder": str(tmp_path / "away")})


def test_two_words_on_where_weights_go_are_one_too_many(folder, monkeypatch):
    monkeypatch.setattr("stabilitykit.subjects.models.device_named", lambda name: torch.device(name))
    with pytest.raises(UsageError, match="'cuda:1' and load argument device_map both say where weights go"):
        sk.load(str(folder), device="cuda:1", load_args={"device_map": "auto"})
    with pytest.raises(UsageError, match="a tiny model is built in one place"):
        sk.load("tiny", load_args={"device_map": "auto"})


def test_kinds_of_devices():
    assert kind_of("cpu") == "cpu"
    assert visible("cpu") == ("cpu",)
    assert device_named("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' is not available to this torch"):
            visible("cuda")
