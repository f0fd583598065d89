"""Singular defects of a model with a planted one, of a twin without, and of SmolLM2, against dense algebra."""

import math

import numpy as np
import pytest
import torch
from oracles.defective import BLOCKS, DECAYS, EXPLODES, READ, STEP, TRIGGERS, WRITTEN, defective

import stabilitykit as sk
from stabilitykit.measurements.high_norms import high_norms
from stabilitykit.measurements.layer_directions import eigenpair, one_token, rayleigh
from stabilitykit.measurements.pathways import trained_ids
from stabilitykit.numerics.acute import acute_angle
from stabilitykit.numerics.integer_grid import on_grid
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.prompts import DEFAULT_PROMPTS
from stabilitykit.subjects.residual_block import ResidualBlocks
from stabilitykit.subjects.tiny import tiny

TEXTS = ("ab,cd", "efg.h", "ijk")


def part(result, name):
    return [row for row in result.rows if row["part"] == name]


@pytest.fixture(scope="module")
def model():
    return defective()


@pytest.fixture(scope="module")
def result(model):
    return sk.measure(sk.SingularDefects(TEXTS, tokens=258, eigenpairs=True), model, progress=False)


def test_the_planted_blocks_are_found_with_their_roles(result):
    roles = [row["role"] for row in part(result, "layer")]
    assert roles == ["explosion" if k == EXPLODES else "decay" if k == DECAYS else "" for k in range(BLOCKS)]
    assert result.readings["explosion_block"].value == EXPLODES
    assert result.readings["decay_block"].value == DECAYS


def test_the_planted_direction_is_theirs_and_that_of_the_exploding_block_alone(result):
    direction = result.arrays["direction"]
    assert abs(direction[WRITTEN]) > 0.999
    layers = part(result, "layer")
    written = torch.eye(64, dtype=torch.float64)[WRITTEN]
    assert acute_angle(torch.from_numpy(direction), written) < 2
    assert layers[EXPLODES]["angle"] < 10 > layers[DECAYS]["angle"]
    assert all(row["angle"] > 85 for row in layers if not row["role"])
    assert result.readings["other_angle"].value > 85
    assert result.readings["dominant_coordinate"].value == WRITTEN


def test_exactly_the_planted_tokens_explode_wherever_they_are(result):
    for way in ("initial", "second", "unattended"):
        exploding = {row["token_id"] for row in part(result, "pathway") if row[f"explodes_{way}"]}
        assert exploding == TRIGGERS, way
        assert result.readings[f"{way}_share"].value == len(TRIGGERS) / 258
    long = {(row["prompt"], row["position"]) for row in part(result, "token") if row["long"]}
    assert long == {("ab,cd", 2), ("efg.h", 3)}


def test_norms_of_the_ways_are_those_of_the_recurrence_written_out(result, model):
    """Alone with zeros for attention, and alone and second with it, from the model's own modules."""
    rows, body = part(result, "pathway"), model.model.model
    ids = torch.tensor([[row["token_id"]] for row in rows])
    with torch.no_grad():
        x = body.embed_tokens(ids[:, 0])
        for block in body.layers[: EXPLODES + 1]:
            before = x
            x = x + block.mlp(block.post_attention_layernorm(x))
        behind = torch.cat([torch.full_like(ids, ord("I")), ids], dim=1)
        places = {
            way: body(input_ids=given, output_hidden_states=True, use_cache=False).hidden_states[EXPLODES + 1][:, -1]
            for way, given in (("initial", ids), ("second", behind))
        }
    for way, state in {"unattended": x, **places}.items():
        assert [row[f"norm_{way}"] for row in rows] == pytest.approx(state.norm(dim=1).tolist(), rel=1e-5), way
    assert not torch.allclose(x, places["initial"], rtol=1e-3)
    read = (before[:, READ] / before.square().mean(dim=1).sqrt()).tolist()
    assert [row["coefficient_unattended"] for row in rows] == pytest.approx(read, rel=1e-3, abs=1e-3)


def test_v1_reads_the_planted_coordinate_on_one_side_only(result, model):
    first, *rest = part(result, "right vector")
    assert first["output_plus"] == pytest.approx(STEP, rel=0.01)
    assert first["output_minus"] < STEP / 100
    assert max(max(row["output_plus"], row["output_minus"]) for row in rest) < STEP / 50
    triggered = [row for row in part(result, "pathway") if row["token_id"] in TRIGGERS]
    others = [row for row in part(result, "pathway") if row["token_id"] not in TRIGGERS]
    assert min(row["coefficient_initial"] for row in triggered) > 5
    assert max(abs(row["coefficient_initial"]) for row in others) < 1e-3
    block = ResidualBlocks(model).block(EXPLODES)
    v1 = torch.linalg.svd(block.fed().dense())[2][0]
    assert abs(float(v1[READ])) > 0.999


class Reading(torch.nn.Module):
    """A norm that reads its input without what lies along v."""

    def __init__(self, norm, v):
        super().__init__()
        self.norm, self.v = norm, v

    def forward(self, x):
        return self.norm(x - torch.einsum("bth,h,k->btk", x, self.v, self.v))


def test_without_v1_nothing_explodes_and_the_twin_by_hand_says_the_same(result, model):
    """The planted model with another norm in the exploding block; without v_2, the control, it explodes as before."""
    _, _, Vt = torch.linalg.svd(ResidualBlocks(model).block(EXPLODES).fed().dense())
    ids = [list(text.encode()) for text in TEXTS]
    kl, longest, same = [], [], []
    for v in Vt[:2].float():
        twin = defective().model
        block = twin.model.layers[EXPLODES]
        block.post_attention_layernorm = Reading(block.post_attention_layernorm, v)
        states = []  # the last of transformers' hidden states is behind the final norm
        for layer in twin.model.layers:
            layer.register_forward_hook(lambda _module, _given, state, kept=states: kept.append(state))
        with torch.no_grad():
            plain = torch.cat([model.model(torch.tensor([one])).logits[0] for one in ids])
            left = torch.cat([twin(torch.tensor([one])).logits[0] for one in ids])
        p, q = (logits.double().softmax(dim=1) for logits in (plain, left))
        kl.append(float(torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")))
        same.append(float((plain.argmax(dim=1) == left.argmax(dim=1)).double().mean()))
        longest.append(max(float(state.norm(dim=2).max()) for state in states))
    readings = {name: reading.value for name, reading in result.readings.items()}
    assert readings["projected_kl"] == pytest.approx(kl[0], rel=1e-4)
    assert readings["other_projected_kl"] == pytest.approx(kl[1], rel=1e-3, abs=1e-12)
    assert readings["projected_agreement"] == same[0] < 1
    assert readings["projected_norm"] == pytest.approx(longest[0], rel=1e-5)
    assert longest[0] < readings["tau"] < longest[1] / 10
    assert kl[0] > 10 * kl[1]


def test_readings_sum_up_the_rows_as_by_hand(result):
    vectors = part(result, "right vector")
    outputs = sorted(row[name] for row in vectors for name in ("output_plus", "output_minus"))
    assert result.readings["v1_over_third"].value == vectors[0]["output_plus"] / outputs[-3]
    angles = [row["angle"] for row in part(result, "layer")]
    assert result.readings["explosion_rank"].value == 1 + sorted(angles).index(angles[EXPLODES]) == 2
    assert result.readings["long_vectors"].value == (result.arrays["norms"] > result.readings["tau"].value).sum()


def test_the_decay_is_negative_by_weights_and_in_truth(result):
    decay, explosion = part(result, "layer")[DECAYS], part(result, "layer")[EXPLODES]
    assert decay["rayleigh"] < -1
    assert decay["step"] == pytest.approx(-0.8 * STEP, rel=0.01)
    assert decay["step_cosine"] < -0.99
    assert explosion["step"] > 300
    assert explosion["step_cosine"] > 0.99
    assert decay["eigen_real"] == pytest.approx(decay["rayleigh"], rel=0.01)  # well-conditioned here
    assert decay["eigen_condition"] == pytest.approx(1, rel=1e-3)


def test_a_twin_without_decay_has_none(result):
    twin = sk.measure(sk.SingularDefects(TEXTS, tokens=4), defective(decay=False), progress=False)
    assert math.isnan(twin.readings["decay_block"].value)
    assert "No later block lets them decay" in twin.sentence
    assert part(twin, "layer")[DECAYS]["angle"] > 85


def test_a_random_model_is_unsupported_as_a_planted_one_is_without_its_triggers(model):
    """The negative controls: no long tokens, no claim."""
    random = sk.adopt(tiny("llama", num_hidden_layers=BLOCKS), sk.load("tiny").tokenizer)
    for loaded, texts in ((random, TEXTS), (model, ("abcd", "efgh"))):
        with pytest.raises(sk.UnsupportedError, match="no high-norm tokens"):
            sk.measure(sk.SingularDefects(texts, tokens=4), loaded, progress=False)


def test_layers_are_those_of_dense_algebra(result, model):
    """First vector, singular values and Rayleigh quotients from the dense L; norms from transformers' own states."""
    blocks, u = ResidualBlocks(model), torch.from_numpy(result.arrays["direction"])
    one = torch.eye(64, dtype=torch.float64)
    for row in part(result, "layer"):
        block = blocks.block(row["block"])
        A = block.attention.output @ block.attention.value @ torch.diag(block.norms[0].gain)
        F = block.fed().dense()
        U, sigma, _ = torch.linalg.svd((one + F) @ (one + A))
        assert (row["s1"], row["s2"]) == pytest.approx(sigma[:2].tolist(), rel=1e-4)
        assert row["s1_feed_forward"] == pytest.approx(float(torch.linalg.matrix_norm(F, 2)), rel=1e-4)
        assert row["rayleigh"] == pytest.approx(float(u @ (A + F) @ u), rel=1e-9, abs=1e-12)
        assert row["rayleigh_cross"] == pytest.approx(float(u @ F @ A @ u), rel=1e-9, abs=1e-12)
        assert row["angle"] == pytest.approx(acute_angle(U[:, 0], u), abs=row["direction_bound_deg"] + 1e-6)
        assert row["defined"] == (float(sigma[0] / sigma[1]) > 1.3)


def test_norms_and_growth_are_those_of_the_states(result, model):
    ids = torch.tensor([list(TEXTS[0].encode())])
    with torch.no_grad():
        states = model.model.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    norms = torch.stack([state[0].double().norm(dim=1) for state in states[:-1]], dim=1)
    assert np.allclose(result.arrays["norms"][:5, :-1], norms.numpy(), rtol=1e-6)
    growth = (result.arrays["norms"][:, EXPLODES + 1] / result.arrays["norms"][:, EXPLODES])[[2, 8]]
    assert part(result, "layer")[EXPLODES]["growth"] == pytest.approx(growth.min(), rel=1e-12)  # torch's median of two


def test_spacing_is_that_of_the_largest_coordinate(result, model):
    row = part(result, "layer")[EXPLODES]
    blocks = ResidualBlocks(model)
    states = torch.cat([blocks.states(torch.tensor([list(text.encode())]))[EXPLODES + 1] for text in TEXTS])
    assert row["largest"] == float(states.abs().max())
    median = float(np.median(np.sort(result.arrays["norms"][:, EXPLODES + 1])))
    exponent = math.floor(math.log2(row["largest"]))
    assert row["ulp_over_median"] == pytest.approx(2.0 ** (exponent - 23) / median, rel=0.01)
    assert row["ulp_over_median_bfloat16"] == pytest.approx(2.0 ** (exponent - 7) / median, rel=0.01)


def test_down_projections_to_keep_are_those_that_lose_the_ordinary_tokens(result, model):
    rows = part(result, "down projection")
    assert {row["block"] for row in rows if row["keep"]} == {EXPLODES, DECAYS}
    assert rows[EXPLODES]["error"] > 0.5 > 0.1 > max(row["error"] for row in rows if not row["keep"])
    assert rows[EXPLODES]["error_of_long"] < 0.05
    given = []
    taken = model.model.model.layers[EXPLODES].mlp.down_proj.register_forward_pre_hook(
        lambda _, x: given.append(x[0][0])
    )
    with torch.no_grad():
        for text in TEXTS:
            model.model.model(input_ids=torch.tensor([list(text.encode())]), use_cache=False)
    taken.remove()
    X = torch.cat(given).double()
    ordinary = torch.ones(len(X), dtype=torch.bool)
    ordinary[[2, 8]] = False
    assert rows[EXPLODES]["zeroed"] == float((on_grid(X)[ordinary] == 0).double().mean()) > 0.4 > rows[1]["zeroed"]


def test_tau_is_the_middle_of_the_widest_gap_of_the_upper_half():
    """Norms 1, 100 | 110, 120, 900, 1000: the wide gap below the median does not count."""
    states = torch.zeros(6, 1, 4, dtype=torch.float64)
    states[:, 0, 0] = torch.tensor([100.0, 1.0, 120.0, 110.0, 1000.0, 900.0])
    found = high_norms(states, [[1, 2, 3], [4, 5, 6]])
    assert found.tau == pytest.approx(math.sqrt(120 * 900))
    assert found.tracks.tolist() == [False] * 4 + [True] * 2
    assert found.prompt.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.position.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(sk.UnsupportedError, match="8 times the median"):
        high_norms(states[:, :, :], [[1, 2, 3], [4, 5, 6]], tau=990.0 * 2)


def lengths(*tokens):
    """Return streams along one coordinate with these norms, of one token in a prompt of its own."""
    states = torch.tensor(tokens, dtype=torch.float64)[:, :, None]
    return high_norms(states, [[0]] * len(tokens))


def test_what_all_tokens_do_is_no_explosion_and_what_comes_before_one_no_decay():
    """Block 0 makes all tokens 20 times longer, block 1 shortens the long one, 2 explodes it, 3 and 4 let it decay."""
    long, other = [2, 40, 4, 4000, 1600, 900], [2.0, 40, 41, 42, 43, 44]
    found = lengths(long, other, other, other)
    assert list(found.roles().items()) == [(2, "explosion"), (3, "decay"), (4, "decay")]
    assert found.main() == (2, 3)
    found = lengths([2, 40, 400, 40, 40_000, 20_000], other, other, other)
    assert list(found.roles().items()) == [(3, "explosion"), (1, "explosion"), (4, "decay"), (2, "decay")]
    assert found.main() == (3, 4)


def test_the_direction_is_the_plain_mean_of_the_long_vectors():
    states = torch.ones(5, 1, 2, dtype=torch.float64)
    states[3, 0], states[4, 0] = torch.tensor([300.0, 0.0]), torch.tensor([0.0, 100.0])
    found = high_norms(states, [[0, 1, 2, 3, 4]])
    expected = torch.tensor([3.0, 1.0], dtype=torch.float64) / math.sqrt(10)
    assert torch.allclose(found.direction, expected, rtol=1e-12)
    assert found.coherence == pytest.approx(90)


def test_the_eigenpair_is_the_nearest_one_and_a_non_normal_one_is_ill_conditioned():
    none = LinearMap.of_matrix(torch.zeros(3, 3))
    R = torch.tensor([[-2.0, 0.0, 0.0], [0.0, 1.0, 1e4], [0.0, 0.0, 1.5]], dtype=torch.float64)
    first, second = torch.eye(3, dtype=torch.float64)[:2]
    found = eigenpair(none, LinearMap.of_matrix(R), first)
    assert found["eigen_real"] == pytest.approx(-2)
    assert found["eigen_angle"] == pytest.approx(0, abs=1e-9)
    assert found["eigen_condition"] == pytest.approx(1)
    assert eigenpair(none, LinearMap.of_matrix(R), second)["eigen_condition"] > 1e3
    assert rayleigh(none, LinearMap.of_matrix(R), first) == {"rayleigh": -2, "rayleigh_cross": 0}


def test_one_token_is_the_product_with_its_adjoint():
    A, F = (torch.randn(4, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (1, 2))
    L = one_token(LinearMap.of_matrix(A), LinearMap.of_matrix(F))
    one = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(L.dense(), (one + F) @ (one + A), rtol=1e-12)
    assert torch.allclose(L.apply(one).T, (one + F) @ (one + A), rtol=1e-12)


def test_untrained_tokens_are_never_drawn():
    embedding = torch.ones(20, 4)
    embedding[5:9] = 1e-3
    trained = set(range(20)) - {5, 6, 7, 8}
    assert set(trained_ids(embedding, 99, 0).tolist()) == trained
    drawn = trained_ids(embedding, 10, 0).tolist()
    assert len(set(drawn)) == 10
    assert set(drawn) <= trained
    assert drawn == trained_ids(embedding, 10, 0).tolist() == sorted(drawn)
    assert drawn != trained_ids(embedding, 10, 1).tolist()


def test_permuting_units_changes_no_angle(result, model):
    """Units of the feed-forward layer in another order are the same layer."""
    twin = defective()
    order = torch.arange(128).flip(0)
    for block in twin.model.model.layers:
        feed = block.mlp
        for matrix in (feed.gate_proj, feed.up_proj):
            matrix.weight.data = matrix.weight.data[order].contiguous()
        feed.down_proj.weight.data = feed.down_proj.weight.data[:, order].contiguous()
    again = sk.measure(sk.SingularDefects(TEXTS, tokens=4), sk.adopt(twin.model, twin.tokenizer), progress=False)
    for one, other in zip(part(result, "layer"), part(again, "layer"), strict=True):
        assert one["s1"] == pytest.approx(other["s1"], rel=1e-5)
        assert one["rayleigh"] == pytest.approx(other["rayleigh"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"prompts": "abc"}, {"prompts": ()}, {"tokens": 0}, {"mode": "x"}, {"tau": -1.0}])
def test_what_asks_nothing_is_refused(wrong):
    with pytest.raises(sk.UsageError):
        sk.SingularDefects(**{"prompts": TEXTS, **wrong})


def test_a_model_of_another_build_is_unsupported_after_its_norms_were_read():
    loaded = sk.load("tiny:olmo2")
    with pytest.raises(sk.UnsupportedError):
        sk.measure(sk.SingularDefects(TEXTS, tau=1e-3), loaded, progress=False)


def test_the_stated_cost_is_what_it_takes_but_for_tokens_that_need_no_confirming(model, result):
    stated = sk.SingularDefects(TEXTS, tokens=258).cost(model)
    confirmed = sum(row["explodes_unattended"] for row in part(result, "pathway"))
    assert result.execution.screened == stated.screened
    assert result.execution.forwards == stated.forwards - 258 + confirmed
    assert 0 < confirmed < 258


def test_tokens_that_explode_without_attention_are_confirmed_in_the_whole_model(result, model):
    for row in part(result, "pathway"):
        if not row["explodes_unattended"]:
            assert math.isnan(row["whole_model_max"])
            continue
        states = ResidualBlocks(model).states(torch.tensor([[ord("I"), row["token_id"]]]))
        assert row["whole_model_max"] == float(states[1:, -1].norm(dim=1).max())
        assert row["whole_model_max"] > result.readings["tau"].value


def test_coordinates_stand_beside_the_outliers_of_the_head():
    """Planted: the written coordinate's column of the head is long as well; in the twin it is not."""
    for longer in (1.0, 40.0):
        loaded = defective()
        loaded.model.lm_head.weight.data[:, WRITTEN] *= longer
        found = sk.measure(sk.SingularDefects(TEXTS, tokens=4), loaded, progress=False)
        columns = sk.measure(sk.BasisVectors(), loaded, progress=False)
        out = {row["component"] for row in part(columns, "basis") if row["outlier"]}
        rows = part(found, "coordinate")
        assert len(rows) == 20
        assert rows[0]["coordinate"] == WRITTEN
        assert {row["coordinate"] for row in rows if row["outlier"]} == out & {row["coordinate"] for row in rows}
        assert found.readings["shared_outliers"].value == (longer > 1)
        assert found.readings["shared_chance"].value == pytest.approx(20 / 64 if longer > 1 else 1)
        z = {row["component"]: row["robust_z"] for row in part(columns, "basis")}
        assert [row["robust_z"] for row in rows] == pytest.approx([z[row["coordinate"]] for row in rows], rel=1e-6)


def rotated(loaded, Q):
    """Return the model in another orthonormal basis of its residual stream: gains are 1, so it computes the same."""
    body = loaded.model.model
    with torch.no_grad():
        body.embed_tokens.weight[:] = (body.embed_tokens.weight.double() @ Q.T).float()
        for block in body.layers:
            attention, feed = block.self_attn, block.mlp
            for reader in (attention.q_proj, attention.k_proj, attention.v_proj, feed.gate_proj, feed.up_proj):
                reader.weight[:] = (reader.weight.double() @ Q.T).float()
            for writer in (attention.o_proj, feed.down_proj):
                writer.weight[:] = (Q @ writer.weight.double()).float()
    return sk.adopt(loaded.model, loaded.tokenizer)


def test_a_rotation_of_the_residual_stream_rotates_the_direction_and_leaves_the_angles(result):
    drawn = np.random.Generator(np.random.PCG64(2)).standard_normal((64, 64))
    Q = torch.linalg.qr(torch.from_numpy(drawn)).Q
    turned = sk.measure(sk.SingularDefects(TEXTS, tokens=4), rotated(defective(), Q), progress=False)
    expected = Q @ torch.from_numpy(result.arrays["direction"])
    assert acute_angle(torch.from_numpy(turned.arrays["direction"]), expected) < 1e-3
    for one, other in zip(part(result, "layer"), part(turned, "layer"), strict=True):
        assert other["s1"] == pytest.approx(one["s1"], rel=1e-4)
        assert other["rayleigh"] == pytest.approx(one["rayleigh"], rel=1e-3, abs=1e-5)
        if one["defined"]:
            assert other["angle"] == pytest.approx(one["angle"], abs=0.01)


def test_a_down_projection_times_four_is_four_times_the_map():
    plain, scaled = defective(), defective()
    scaled.model.model.layers[1].mlp.down_proj.weight.data *= 4
    maps = [ResidualBlocks(sk.adopt(one.model)).block(1).fed().dense() for one in (plain, scaled)]
    assert torch.equal(4 * maps[0], maps[1])


@pytest.fixture(scope="module")
def smollm2():
    return sk.measure(sk.SingularDefects(DEFAULT_PROMPTS, tokens=128), sk.load("smollm2"), progress=False)


@pytest.mark.model
def test_smollm2_has_the_angles_and_norms_of_the_specification(smollm2):
    """Blocks 2, 11 and 28 (3, 12 and 29 counted from 1): 22.6, 6.0 and 8.7 degrees; 28 from 1 has none."""
    layers = part(smollm2, "layer")
    known = {2: (22.6, 384, 2.6), 11: (6.0, 1420, 7.1), 28: (8.7, 22_330, 18.9), 27: (82.4, 12_245, 11.3)}
    for block, (angle, s1, ratio) in known.items():
        assert layers[block]["angle"] == pytest.approx(angle, abs=1)
        assert layers[block]["s1"] == pytest.approx(s1, rel=0.01)
        assert layers[block]["s1_over_s2"] == pytest.approx(ratio, rel=0.02)
    found = {name: reading.value for name, reading in smollm2.readings.items()}
    assert (found["explosion_block"], found["decay_block"], found["explosion_rank"]) == (11, 28, 1)
    assert found["other_angle"] > 40
    assert layers[11]["norm_behind"] == pytest.approx(22_700, rel=0.01)
    assert layers[28]["norm_behind"] == pytest.approx(8_420, rel=0.01)
    assert found["decay_step"] == pytest.approx(-14_232, rel=0.01)
    assert layers[28]["step_cosine"] == pytest.approx(-0.988, abs=0.002)
    assert found["decay_rayleigh"] == pytest.approx(-280, rel=0.02)
    assert layers[28]["rayleigh_cross"] > 900
    assert found["dominant_coordinate"] == 507
    assert found["coherence"] < 10


@pytest.mark.model
def test_smollm2_explodes_at_the_start_and_along_v1(smollm2):
    found = {name: reading.value for name, reading in smollm2.readings.items()}
    assert found["v1_output"] == pytest.approx(67_100, rel=0.01)
    first, *rest = part(smollm2, "right vector")
    assert first["output_minus"] == pytest.approx(877, rel=0.02)
    assert max(max(row["output_plus"], row["output_minus"]) for row in rest) == pytest.approx(2_241, rel=0.02)
    assert found["projected_norm"] < 2_000  # 22,700 as it is; the specification has 1,033, on other texts
    assert found["projected_kl"] == pytest.approx(4.9, abs=0.4)
    assert found["projected_agreement"] < 0.1
    assert found["other_projected_kl"] < found["projected_kl"] / 20
    assert found["initial_share"] >= 0.99
    assert found["random_share"] >= 0.99
    assert found["second_share"] <= 0.1
    kept = {row["block"] for row in part(smollm2, "down projection") if row["keep"]}
    assert {2, 11, 28, 29} <= kept
    assert found["kept_error"] > 4 * found["other_error"]


@pytest.mark.model
def test_without_attention_the_same_tokens_explode_as_by_hand(smollm2):
    """A tenth of the vocabulary, by the recurrence written out; specification 3 has a hundredth."""
    rows = part(smollm2, "pathway")
    body = sk.load("smollm2").model.model
    with torch.no_grad():
        x = body.embed_tokens(torch.tensor([row["token_id"] for row in rows]))
        for block in body.layers[:12]:
            x = x + block.mlp(block.post_attention_layernorm(x))
    norms = x.norm(dim=1).tolist()
    assert [row["norm_unattended"] for row in rows] == pytest.approx(norms, rel=1e-3)
    assert 0.05 < smollm2.readings["unattended_share"].value < 0.25
