"""Long tokens at the bounds of what counts, a defect that points the other way, rounding to zero, what is run."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from oracles.defective import BLOCKS, EXPLODES, READ, defective

import stabilitykit as sk
from stabilitykit.measurements import defects, layer_directions
from stabilitykit.measurements.defects import WAYS, _values
from stabilitykit.measurements.down_projections import projection_row
from stabilitykit.measurements.high_norms import high_norms
from stabilitykit.measurements.layer_directions import layer_row
from stabilitykit.measurements.pathways import pathway_rows, right_vectors, trained_ids
from stabilitykit.numerics.integer_grid import on_grid
from stabilitykit.numerics.linear_map import LinearMap
from stabilitykit.subjects.residual_block import ResidualBlocks


class Three:
    """Three blocks, each its number."""

    loaded = SimpleNamespace(model=SimpleNamespace(dtype=torch.float32))

    def __len__(self):
        return 3

    def block(self, number):
        return number


@pytest.mark.parametrize(("norm", "there"), [(8.0, False), (8.5, True)])
def test_a_long_vector_is_more_than_8_times_the_median_of_its_layer(norm, there):
    states = torch.tensor([1.0, 1.0, norm], dtype=torch.float64)[:, None, None]
    if there:
        assert high_norms(states, [[1, 2, 3]], tau=4.0).tracks.tolist() == [False, False, True]
    else:
        with pytest.raises(sk.UnsupportedError, match="8 times the median"):
            high_norms(states, [[1, 2, 3]], tau=4.0)


def test_the_share_of_the_dominant_coordinate_has_no_sign():
    """The long token explodes in block 1, along minus the second coordinate."""
    states = torch.ones(4, 3, 2, dtype=torch.float64)
    states[0, 2] = torch.tensor([0.0, -1000.0])
    found = high_norms(states, [[1, 2, 3, 4]])
    assert found.main() == (1, None)
    layer = {"growth": 1.0, "angle": 60.0, "role": "", "ulp_over_median": 1.0}
    layers = [{**layer, "block": 0}, {**layer, "block": 1, "angle": 1.0, "role": "explosion"}]
    vectors = [{"output_plus": 3.0, "output_minus": 0.5}, {"output_plus": 0.25, "output_minus": 0.125}]
    projections = [{"error": 0.1, "keep": keep} for keep in (False, True)]
    values = _values(found, layers, vectors, [{f"explodes_{way}": True for way in WAYS}], projections)
    assert (values["dominant_coordinate"], values["dominant_share"]) == (1, 1.0)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_the_first_vector_points_to_the_side_with_the_larger_output(side):
    """A layer that stretches the first coordinate most, and gives only what lies on one side of it."""
    matrix = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    layer = SimpleNamespace(
        number=0, fed=lambda normed: LinearMap.of_matrix(matrix), fed_forward=lambda X: (side * X @ matrix.T).relu()
    )
    V, rows = right_vectors(layer, normed=True)
    assert V[0].tolist() == [side, 0.0]
    assert (rows[0]["output_plus"], rows[0]["output_minus"]) == (3.0, 0.0)


def test_eigenpairs_are_those_of_the_blocks_with_a_role_if_they_are_asked_for():
    blocks, states = ResidualBlocks(defective()), torch.ones(3, BLOCKS + 1, 64, dtype=torch.float64)
    states[2, EXPLODES + 1 :, 0] = 1000.0
    found, block = high_norms(states, [[1, 2, 3]]), blocks.block(EXPLODES)
    for role, eigen in (("explosion", True), ("explosion", False), ("", True)):
        row = layer_row(block, found, role, normed=True, dtype=torch.float32, eigen=eigen)
        assert ("eigen_real" in row) == (eigen and role == "explosion")


@pytest.mark.parametrize(
    ("s2", "residual", "degrees"), [(1.5, 0.25, 30), (1.5, 0.5, 90), (1.5, 0.75, 90), (1.5, 1.0, 90), (2.0, 1e-15, 90)]
)
def test_a_direction_is_at_most_at_a_right_angle_to_the_true_one(s2, residual, degrees, monkeypatch):
    """The sine of the angle is the residual over the gap of the singular values, and no more than 1."""
    u = torch.eye(64, dtype=torch.float64)[:2]
    made_up = SimpleNamespace(sigma=torch.tensor([2.0, s2]), residual=torch.tensor([residual, residual]), u=u)
    monkeypatch.setattr(layer_directions, "top", lambda *_, **__: made_up)
    states = torch.ones(3, BLOCKS + 1, 64, dtype=torch.float64)
    states[2, EXPLODES + 1 :, 0] = 1000.0
    found, block = high_norms(states, [[1, 2, 3]]), ResidualBlocks(defective()).block(EXPLODES)
    row = layer_row(block, found, "", normed=True, dtype=torch.float32)
    assert row["direction_bound_deg"] == pytest.approx(degrees)


@pytest.mark.parametrize(("tokens", "batches"), [(64, 1), (65, 2)])
def test_each_way_runs_every_token_once_in_batches_of_64(tokens, batches):
    """No token explodes beyond this tau, so none is confirmed in the whole model."""
    blocks = ResidualBlocks(defective())
    block, v1 = blocks.block(EXPLODES), torch.eye(64, dtype=torch.float64)[READ]
    counter = blocks.loaded.counter
    before = (counter.screened, counter.calls, counter.forwards)
    assert len(pathway_rows(blocks, block, v1, torch.arange(tokens), [66], 1e9, 0)) == tokens
    after = (counter.screened, counter.calls, counter.forwards)
    assert [now - then for now, then in zip(after, before, strict=True)] == [len(WAYS) * tokens, len(WAYS) * batches, 0]


def test_the_coefficient_of_a_token_is_its_own_also_behind_another():
    """<x, v> for any v, of the last token's state before the block's second norm, for x scaled to |x| = sqrt(H)."""
    model = defective()
    blocks = ResidualBlocks(model)
    block, v1 = blocks.block(EXPLODES), torch.linspace(-1, 2, 64, dtype=torch.float64)
    ids, read = torch.tensor([3, 5, 8]), []
    rows = pathway_rows(blocks, block, v1, ids, [66, 12], 1e9, 0)
    layer = model.model.model.layers[EXPLODES].post_attention_layernorm
    with layer.register_forward_pre_hook(lambda _, given: read.append(given[0][:, -1].double())), torch.no_grad():
        model.model.model(ids[:, None])
        model.model.model(torch.cat([torch.tensor([[66, 12]] * 3), ids[:, None]], dim=1))
    for way, x in zip(("initial", "second"), read, strict=True):
        wanted = x @ v1 / x.square().mean(dim=1).sqrt()
        assert [row[f"coefficient_{way}"] for row in rows] == pytest.approx(wanted.tolist(), rel=1e-5)


@pytest.mark.parametrize(("length", "trained"), [(0.101, True), (0.099, False)])
def test_a_token_is_trained_where_its_embedding_has_a_tenth_of_the_mean_length(length, trained):
    """The mean is 1: another one is longer by what the first lacks. They lie along different axes and signs."""
    embedding = torch.diag(torch.tensor([1.0, -length, 1.0, 2 - length]))
    assert trained_ids(embedding, 4, 0).tolist() == ([0, 1, 2, 3] if trained else [0, 2, 3])


def test_one_sampled_token_is_enough_and_none_is_not():
    assert sk.SingularDefects(["a"], tokens=1).tokens == 1
    with pytest.raises(sk.UsageError, match="tokens=0 is too few; give at least 1"):
        sk.SingularDefects(["a"], tokens=0)


def test_an_activation_of_half_a_step_becomes_zero():
    """On the grid of 127 steps up to 254, 1 is half a step, which goes to the even one."""
    X = torch.tensor([[254.0, 1.0], [1.0, 1.5], [-1.0, 0.5], [3.0, 1.25]], dtype=torch.float64)
    block = SimpleNamespace(down=torch.eye(2, dtype=torch.float64), number=0)
    found = SimpleNamespace(tracks=torch.tensor([True, False, False, False]))
    row = projection_row(block, X, found, {})
    assert on_grid(X)[1:].tolist() == [[0, 2], [0, 0], [4, 2]]
    assert row["zeroed"] == 0.5


def test_the_row_of_a_projection_tells_long_tokens_from_ordinary_ones():
    """On the grid of even numbers, by hand; the weights are on theirs."""
    long, *ordinary = [254.0, 3.0, 0.0], [1.0, 7.0, 0.0], [4.0, -5.0, 0.0], [2.0, 6.5, 0.0]
    X = torch.tensor([ordinary[0], long, *ordinary[1:]], dtype=torch.float64)
    block = SimpleNamespace(down=torch.eye(3, dtype=torch.float64), number=2)
    row = projection_row(block, X, SimpleNamespace(tracks=torch.tensor([False, True, False, False])), {2: "explodes"})
    assert (row["block"], row["keep"], row["role"]) == (2, True, "explodes")
    assert row["error"] == pytest.approx(1 / math.hypot(4, 5))
    assert row["error_of_long"] == pytest.approx(1 / math.hypot(254, 3))
    assert row["zeroed"] == pytest.approx(4 / 9)
    assert (row["largest"], row["typical"]) == (254, 2)


def test_the_bar_is_full_when_every_block_was_looked_at(monkeypatch):
    moves = []

    @contextlib.contextmanager
    def bar(total, *_words):
        moves.append(-total)
        yield SimpleNamespace(update=lambda: moves.append(1))

    monkeypatch.setattr(defects, "bar", bar)
    monkeypatch.setattr(defects, "layer_row", lambda block, *_, **how: {"block": block})
    monkeypatch.setattr(defects, "projection_row", lambda block, *_: {"block": block})
    layers, projections = sk.SingularDefects(["a"])._by_block(Three(), None, [None] * 3, {})
    assert [row["block"] for row in layers] == [row["block"] for row in projections] == [0, 1, 2]
    assert moves == [-3, 1, 1, 1]
