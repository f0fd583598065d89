"""The fingerprint of a model's long tokens: the same for kin, another for strangers, none for a random model."""

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracles.defective import WRITTEN, defective

import stabilitykit as sk
from stabilitykit.measurements.signature_file import FORMAT, VERSION
from stabilitykit.prompts import DEFAULT_PROMPTS
from stabilitykit.subjects.tiny import tiny

TEXTS = ("ab,cd", "efg.h", "ij\nk", "lm,")


def noisy(share):
    """Return the planted model with Gaussian noise of a share of each tensor's standard deviation."""
    loaded = defective()
    generator = np.random.Generator(np.random.PCG64(3))
    for weight in loaded.model.parameters():
        drawn = torch.from_numpy(generator.standard_normal(tuple(weight.shape)))
        weight.data += (share * weight.double().std(correction=0) * drawn).to(weight.dtype)
    return sk.adopt(loaded.model, loaded.tokenizer, spec="noisy")


def elsewhere():
    """Return the planted model with its residual stream's coordinates in another order: a stranger's defect."""
    loaded = defective()
    body = loaded.model.model
    order = torch.arange(64).roll(5)
    body.embed_tokens.weight.data = body.embed_tokens.weight.data[:, order].contiguous()
    for block in body.layers:
        attention, feed = block.self_attn, block.mlp
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj, feed.gate_proj, feed.up_proj):
            reader.weight.data = reader.weight.data[:, order].contiguous()
        for writer in (attention.o_proj, feed.down_proj):
            writer.weight.data = writer.weight.data[order].contiguous()
    return sk.adopt(loaded.model, loaded.tokenizer, spec="stranger")


@pytest.fixture(scope="module")
def model():
    return defective()


def angle(model, **how):
    return sk.measure(sk.Signature(TEXTS, **how), model, progress=False).readings["angle"].value


def test_itself_is_at_no_angle_and_kin_is_near(model):
    assert angle(model, against=model) == 0
    found = sk.measure(sk.Signature(TEXTS, against=noisy(0.01)), model, progress=False)
    assert 0 < found.readings["angle"].value < 1
    assert "the same defect" in found.sentence
    assert found.readings["dominant_coordinate"].value == WRITTEN
    assert found.subject["against"] == "noisy"


def test_a_stranger_is_far_in_both_directions_and_a_rotation_turns_the_vector_with_it(model):
    stranger = elsewhere()
    assert angle(model, against=stranger) > 60
    assert angle(model, against=stranger) == pytest.approx(angle(stranger, against=model), abs=1e-9)
    mine, theirs = (sk.measure(sk.Signature(TEXTS), one, progress=False) for one in (model, stranger))
    turned = mine.arrays["direction"][torch.arange(64).roll(5).numpy()]
    assert np.allclose(np.abs(turned), np.abs(theirs.arrays["direction"]), atol=1e-6)


def test_a_former_result_stands_for_its_model(model):
    former = sk.Result.from_dict(sk.measure(sk.Signature(TEXTS), noisy(0.1), progress=False).to_dict())
    assert angle(model, against=former) == angle(model, against=noisy(0.1)) > 0


def test_other_texts_hardly_turn_it_and_a_sentence_says_by_how_much(model):
    found = sk.measure(sk.Signature(TEXTS), model, progress=False)
    assert 0 < found.readings["corpus_angle"].value < 5
    assert "angle" not in found.readings
    assert "other texts turn them by" in found.sentence
    halves = [sk.measure(sk.Signature(TEXTS[k::2], tau=22.0), model, progress=False) for k in (0, 1)]
    both = sk.measure(sk.Signature(TEXTS, tau=22.0), model, progress=False)
    between = sk.measure(sk.Signature(TEXTS[::2], halves[1], tau=22.0), model, progress=False).readings["angle"].value
    assert both.readings["corpus_angle"].value == pytest.approx(between, rel=1e-6)


def test_models_share_a_defect_up_to_20_degrees(model):
    """The sentence of any two models, at the angle itself and at the next float beyond it."""
    asked = sk.Signature(TEXTS, against=model)
    values = {"dominant_share": 0.75, "dominant_coordinate": 3, "shared_coordinates": 12}
    same, apart = (asked._said({**values, "angle": angle}) for angle in (20.0, math.nextafter(20.0, 21.0)))
    assert same.endswith(
        ", 20 degrees from those of defective: the same defect (12 of the 20 largest coordinates are shared)."
    )
    assert apart == same.replace("the same defect", "not the same defect")


def test_shared_coordinates_are_counted_by_hand(model):
    stranger = elsewhere()
    found = sk.measure(sk.Signature(TEXTS, against=stranger), model, progress=False)
    tops = []
    for one in (model, stranger):
        direction = sk.measure(sk.Signature(TEXTS), one, progress=False).arrays["direction"]
        tops.append(set(np.argsort(-np.abs(direction))[:20].tolist()))
    assert found.readings["shared_coordinates"].value == len(tops[0] & tops[1]) < 20
    assert {row["side"] for row in found.rows} == {"this", "other"}


def test_a_random_model_has_no_signature_on_either_side(model):
    random = sk.adopt(tiny("llama", num_hidden_layers=6), model.tokenizer)
    with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
        angle(random)
    with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
        angle(model, against=random)


def test_another_hidden_size_and_another_result_are_refused(model):
    former = sk.measure(sk.Signature(TEXTS), model, progress=False)
    shorter = sk.Result.from_dict({**former.to_dict(), "arrays": {}})
    with pytest.raises(sk.UsageError, match="no array `direction`"):
        sk.Signature(TEXTS, shorter)
    object.__setattr__(shorter, "arrays", {"direction": np.ones(63)})
    with pytest.raises(sk.IncomparableError, match="64 and 63 coordinates"):
        angle(model, against=shorter)


def test_a_file_gives_the_signature_back_bit_for_bit(model, tmp_path):
    result = sk.measure(sk.Signature(TEXTS), model, progress=False)
    sk.write_signature(result, tmp_path / "signature.json")
    known = sk.read_signature(tmp_path / "signature.json")
    assert known.direction.tobytes() == result.arrays["direction"].tobytes()
    assert (known.model, known.hidden_size, known.layers) == ("defective", 64, 6)
    assert known.weights == model.describe()["model_digest"]
    assert (known.tau, known.coherence) == tuple(result.readings[name].value for name in ("tau", "coherence"))
    assert angle(model, against=known) == 0
    found = sk.measure(sk.Signature(TEXTS, against=known), elsewhere(), progress=False)
    assert found.readings["angle"].value > 60
    assert found.subject["against"] == "defective"
    assert str(known) == "signature of defective"
    other = sk.measure(sk.Signature(TEXTS[:2]), model, progress=False)
    assert other.subject["corpus"] != known.corpus == result.subject["corpus"]


def test_a_file_may_tell_of_a_single_layer_and_a_single_long_vector(tmp_path):
    one = base64.b64encode(np.ones(1).tobytes()).decode()
    about = {"model": "m", "weights": "w", "corpus": "c", "hidden_size": 1, "layers": 1, "long_vectors": 1}
    text = json.dumps({"format": FORMAT, "version": VERSION, **about, "tau": 1.0, "coherence": None, "direction": one})
    (tmp_path / "signature.json").write_text(text)
    known = sk.read_signature(tmp_path / "signature.json")
    assert (known.hidden_size, known.layers, known.long_vectors) == (1, 1, 1)


def test_a_size_is_at_most_the_largest_float(model, tmp_path):
    path, largest = tmp_path / "signature.json", np.finfo(np.float64).max
    sk.write_signature(sk.measure(sk.Signature(TEXTS), model, progress=False), path)
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "tau": float(largest)}))
    assert sk.read_signature(path).tau == largest
    path.write_text(json.dumps({**about, "tau": 2 * int(largest)}))
    with pytest.raises(sk.UnreadableError, match="tau is no size"):
        sk.read_signature(path)


def test_what_could_not_be_read_back_is_not_written(model, tmp_path):
    """JSON has no infinity."""
    result = sk.measure(sk.Signature(TEXTS), model, progress=False)
    endless = replace(result.readings["tau"], value=math.inf)
    with pytest.raises(ValueError, match="not JSON compliant"):
        sk.write_signature(replace(result, readings={**result.readings, "tau": endless}), tmp_path / "signature.json")
    assert not list(tmp_path.iterdir())


def test_only_signatures_are_written(model, tmp_path):
    other = sk.measure(sk.BasisVectors(), model, progress=False)
    with pytest.raises(sk.UsageError, match="is no signature"):
        sk.write_signature(other, tmp_path / "signature.json")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("format", "another", "is no signature"),
        ("version", 2, "version 2; this kit reads 1"),
        ("model", 3, "model is no text"),
        ("corpus", None, "corpus is no text"),
        ("layers", True, "layers is no count"),
        ("layers", 0, "layers is no count"),
        ("hidden_size", 63, "direction has 64 numbers, hidden_size is 63"),
        ("tau", "1", "tau is no size"),
        ("tau", -1.0, "tau is no size"),
        ("coherence", True, "coherence is no size"),
        ("direction", "?", "no base64"),
        ("direction", 5, "no base64"),
        ("direction", "AAAAAAAA8D8=", "direction has 1 numbers"),
        ("direction", base64.b64encode(np.full(64, 1.0).tobytes()).decode(), "no unit vector"),
        ("direction", base64.b64encode(np.full(64, np.nan).tobytes()).decode(), "no unit vector"),
        ("direction", base64.b64encode(np.array([np.nan, 1.0] + [0.0] * 62).tobytes()).decode(), "no unit vector"),
    ],
)
def test_damaged_files_are_refused_with_what_is_wrong(model, tmp_path, field, value, said):
    path = tmp_path / "signature.json"
    sk.write_signature(sk.measure(sk.Signature(TEXTS), model, progress=False), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(sk.UnreadableError, match=said):
        sk.read_signature(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "signature.json"
    for content in (b"\xff", b"{", b"[1]", b"[" * 100_000, b" " * (2**24 + 1)):
        path.write_bytes(content)
        with pytest.raises(sk.UnreadableError, match="is no signature"):
            sk.read_signature(path)
    with pytest.raises(sk.UnreadableError, match="is no signature"):
        sk.read_signature(tmp_path / "none.json")


def test_a_file_is_read_up_to_16_mebibytes(tmp_path):
    """Room for a hidden size of more than a million; a byte more is not even looked at."""
    path = tmp_path / "signature.json"
    about = {"model": "m", "weights": "w", "corpus": "c", "hidden_size": 1, "layers": 1, "long_vectors": 1}
    one = base64.b64encode(np.ones(1).tobytes()).decode()
    text = json.dumps({"format": FORMAT, "version": VERSION, **about, "tau": 1.0, "coherence": None, "direction": one})
    path.write_text(text.ljust(2**24))
    assert sk.read_signature(path).model == "m"
    path.write_text(text.ljust(2**24 + 1))
    with pytest.raises(sk.UnreadableError, match="is no signature"):
        sk.read_signature(path)


@pytest.mark.parametrize("tau", [0, 0.0, -0.5, float("inf"), float("nan")])
def test_a_length_from_which_tokens_are_long_is_a_positive_number(tau):
    for kind in (sk.Signature, sk.SingularDefects):
        with pytest.raises(sk.UsageError, match=f"tau={tau!r} is no norm; give a positive number, or None"):
            kind(["a"], tau=tau)
        assert kind(["a"], tau=0.5).tau == 0.5
        assert kind(["a"], tau=None).tau is None


def test_a_version_that_is_not_known_is_told_in_at_most_60_characters(tmp_path):
    path = tmp_path / "signature.json"
    path.write_text(json.dumps({"format": FORMAT, "version": "x" * 99}))
    with pytest.raises(sk.UnreadableError, match=f"of version '{'x' * 59}; this kit reads {VERSION}$"):
        sk.read_signature(path)


@pytest.mark.model
def test_smollm2_keeps_its_signature_under_noise_and_a_random_twin_has_none():
    """Specification 3: 1 % noise of each weight turns it by 0.36 degrees, 10 % by 3.6."""
    loaded, angles = sk.load("smollm2"), []
    former = sk.measure(sk.Signature(DEFAULT_PROMPTS[:3]), loaded, progress=False)
    assert former.readings["dominant_coordinate"].value == 507
    assert former.readings["corpus_angle"].value < 5
    for share in (0.01, 0.1):
        twin = sk.load("smollm2").model
        generator = torch.Generator().manual_seed(1)
        for weight in twin.parameters():
            weight.data += share * weight.std() * torch.randn(weight.shape, generator=generator)
        found = sk.measure(sk.Signature(DEFAULT_PROMPTS[:3], former), sk.adopt(twin, loaded.tokenizer), progress=False)
        angles.append(found.readings["angle"].value)
    assert angles[0] < 1 < angles[1] < 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random = sk.adopt(type(loaded.model)(loaded.model.config), loaded.tokenizer)
    with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
        sk.measure(sk.Signature(DEFAULT_PROMPTS[:3], former), random, progress=False)
