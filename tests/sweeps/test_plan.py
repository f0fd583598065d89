"""A plan is the same list of units everywhere, and a unit's id is of all that decides its bits and of nothing else."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from oracles.small_sweep import asked

import stabilitykit as sk
from stabilitykit.strategies import gaussians
from stabilitykit.sweeps.bench import Bench, cost_of
from stabilitykit.sweeps.family import Family
from stabilitykit.sweeps.plan import Plan, read_plan

WEIGHTS = ("tiny", "float32", "0" * 64, 64)


def planned(**changes):
    """Return a plan without loading anything."""
    from stabilitykit.sweeps.plan import Weights

    return Plan(asked(**changes), (Weights(*WEIGHTS),))


def ids(plan):
    return [unit.id for unit in plan.units]


def test_units_are_slices_of_each_family_for_each_prompt():
    units = planned().units
    assert [unit.number for unit in units] == list(range(10))
    assert [unit.directions for unit in units[:5]] == [
        "gaussian:10 1-6",
        "gaussian:10 7-10",
        "singular:3 1-3",
        "fan:4 1-4",
        "sign:2 1-2",
    ]
    assert [unit.prompt for unit in units] == ["ab cd"] * 5 + ["once upon"] * 5
    assert len(set(ids(planned()))) == 10


def test_without_directions_a_subject_is_one_unit():
    assert [unit.directions for unit in planned(question="regimes", directions=()).units] == ["", ""]


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 10, 16])
def test_parts_are_neighbours_and_together_everything_once(parts):
    plan = planned()
    shared = [plan.shard(f"{part + 1}/{parts}") for part in range(parts)]
    assert [unit for part in shared for unit in part] == list(plan.units)
    sizes = [len(part) for part in shared]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(sk.UsageError, match="is no part i/N with i from 1 to N"):
        planned().shard(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "regimes"},
        {"parameters": {"beyond": 2}},
        {"path": "prefill"},
        {"batch": 8},
        {"site": "pre_norm"},
        {"attention": "eager"},
        {"experts": "eager"},
        {"load_args": {"canonical": False}},
        {"prompts": ("another",)},
    ],
)
def test_what_decides_bits_decides_ids(changes):
    assert not set(ids(planned())) & set(ids(planned(**changes)))


def test_the_seed_decides_only_what_is_drawn():
    now, then = planned(seed=1).units, planned().units
    changed = [unit.family.kind for unit, other in zip(now, then, strict=True) if unit.id != other.id]
    assert set(changed) == {"gaussian"}


def test_weights_dtype_and_version_decide_ids(monkeypatch):
    from stabilitykit.sweeps.plan import Weights

    digests = [set(ids(planned()))]
    digests += [
        set(ids(Plan(asked(), (Weights(*weights),))))
        for weights in (("tiny", "float32", "1" * 64, 64), ("tiny", "bfloat16", "0" * 64, 64))
    ]
    monkeypatch.setattr(sk, "__version__", "0.0.0")
    digests.append(set(ids(planned())))
    assert len(set.union(*digests)) == sum(map(len, digests))


def test_more_of_the_same_keeps_the_units_there_are():
    """More prompts, more families and more drawn directions leave ids alone; singular vectors are computed anew."""
    small, large = (
        planned(),
        planned(prompts=("new", "ab cd", "once upon"), directions=("sign:2", "gaussian:18", "singular:3")),
    )
    kept = {
        unit.directions.split()[1]
        for unit in small.units
        if unit.id in set(ids(large)) and unit.family.kind == "gaussian"
    }
    assert kept == {"1-6"}
    assert sum(unit.id in set(ids(large)) for unit in small.units) == 6
    for family in ("singular", "fan"):
        fewer, more = (planned(directions=(f"{family}:{count}",)).units[0] for count in (7, 12))
        assert (fewer.start, fewer.stop) == (more.start, more.stop) == (0, 6)
        assert fewer.id != more.id


def test_a_plan_is_read_back_and_another_is_refused(tmp_path):
    made = sk.plan(asked(parameters={"s_max": float("inf"), "beyond": 1}), tmp_path)
    assert read_plan(tmp_path).units == made.units
    assert sk.plan(asked(parameters={"s_max": float("inf"), "beyond": 1}), tmp_path).units == made.units
    with pytest.raises(sk.UsageError, match=r"plan.json is of a sweep with parameters .*beyond.*; ask as that one did"):
        sk.plan(asked(), tmp_path)
    other = sk.plan(asked(batch=8, parameters={"beyond": 1}))
    with pytest.raises(sk.UsageError, match=r"plan.json is of a sweep with .*name another folder"):
        sk.run_shard(other, tmp_path)
    assert not (tmp_path / "units").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"stabilitykit": "VERSION", "weights": []}'])
def test_what_is_no_plan_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "plan.json").write_text(content.replace("VERSION", sk.__version__), encoding="utf-8")
    with pytest.raises(sk.UnreadableError, match=r"plan.json is no plan of a sweep; name the folder"):
        sk.merge(tmp_path)


def test_another_versions_plan_is_refused(tmp_path):
    sk.plan(asked(), tmp_path)
    data = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    (tmp_path / "plan.json").write_text(json.dumps({**data, "stabilitykit": "0.0.1"}), encoding="utf-8")
    with pytest.raises(sk.IncomparableError, match=r"planned by stabilitykit 0\.0\.1, this is"):
        sk.merge(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"question": "nonsense"}, "'nonsense' is no question to sweep"),
        ({"question": "margins"}, "'margins' is no question to sweep"),
        ({"question": "uniform"}, "'uniform' is no question to sweep"),
        ({"question": "measurement"}, "'measurement' is no question to sweep"),
        ({"question": "zoom", "directions": ()}, "zoom cannot be asked with the parameters {}: "),
        ({"question": "landscape"}, "landscape takes no directions"),
        ({"parameters": {"bejond": 1}}, "boundary has no parameter 'bejond'; it has"),
        ({"parameters": {"beyond": -1}}, "beyond=-1 is no count"),
        ({"directions": ("cauchy:4",)}, "directions 'cauchy:4' are none of gaussian:N"),
        ({"directions": ("gaussian:all",)}, "directions 'gaussian:all' are none of"),
        ({"directions": ("gaussian:0",)}, "directions 'gaussian:0' are none of"),
        ({"directions": "gaussian:4"}, "directions of a sweep is a list of different ones"),
        ({"prompts": ()}, "prompts of a sweep is a list of different ones"),
        ({"prompts": ("a", "a")}, "prompts of a sweep is a list of different ones"),
        ({"dtypes": ("int8",)}, "dtype 'int8' is none of"),
        ({"path": "sideways"}, "path 'sideways' is none of"),
        ({"parameters": {"s_max": torch.ones(2)}}, "parameters of a sweep are numbers, texts and lists of them"),
        ({"unit": 0}, "unit 0 is not a whole number from 1 up"),
        ({"batch": 0}, "batch 0 is not a whole number from 1 up"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(changes, sentence):
    with pytest.raises(sk.UsageError) as refused:
        asked(**changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("family", ["singular:65", "sign:65"])
def test_more_directions_than_coordinates_do_not_exist(tmp_path, family):
    with pytest.raises(sk.UsageError, match=f"directions {family} do not exist: the input has 64 coordinates"):
        sk.plan(asked(directions=(family,)), tmp_path)
    assert not (tmp_path / "plan.json").exists(), "it would stand in the way of the one that was meant"


@pytest.fixture(scope="module")
def subject():
    return sk.CausalLMSubject(sk.load("tiny"), "ab cd", path="decode", batch=4)


def expanded(text, subject, start, stop, vectors=None):
    family = Family.parse(text)
    return torch.stack([one.expand() for one in family.members(start, stop, 3, subject, vectors)]).numpy()


def test_families_are_what_they_say(subject):
    drawn = np.stack([one.expand().numpy() for one in gaussians(9, 64, 3)])
    assert expanded("gaussian:9", subject, 4, 9).tobytes() == drawn[4:].tobytes()
    assert np.array_equal(expanded("sign:6", subject, 1, 6), scipy.linalg.hadamard(64)[1:6] / 8)
    turns = [0, np.pi / 2, np.pi, 3 * np.pi / 2]
    basis = torch.eye(64, dtype=torch.float64)[:5]
    fan = expanded("fan:4", subject, 1, 4, lambda count: basis[:count])
    oracle = [np.cos(turn) * basis[0].numpy() + np.sin(turn) * basis[1].numpy() for turn in turns[1:]]
    assert np.allclose(fan, oracle, atol=1e-15)
    assert np.array_equal(expanded("singular:5", subject, 2, 4, lambda count: basis[:count]), basis[2:4])
    everything = torch.eye(64, dtype=torch.float64)
    assert len(expanded("singular:all", subject, 60, Family.parse("singular:all").size(64), lambda _: everything)) == 4


def test_singular_directions_are_those_of_the_jacobian(subject):
    bench = Bench(sk.plan(asked(prompts=("ab cd",), directions=("singular:3",))))
    (unit,) = bench.plan.units
    found = bench.measure(unit).result.arrays["directions"]
    dense = subject.vjp(torch.eye(64)).double().numpy()
    v = np.linalg.svd(dense)[2][:3]
    assert np.allclose(np.abs((found * v).sum(axis=1)), 1, atol=1e-4)


def test_the_cost_is_that_of_the_measurement(subject):
    plan = sk.plan(asked(prompts=("ab cd", "once upon"), directions=("gaussian:10", "singular:3")))
    stated = cost_of(plan, plan.units, "cpu")
    one = [sk.FirstChange(gaussians(count, 64)).cost(subject) for count in (6, 4, 3)]
    assert stated == (one[0] + one[1] + one[2]) * 2
    whole = sk.plan(asked(question="regimes", directions=()))
    assert cost_of(whole, whole.units, "cpu") == sk.Regimes().cost(subject) * 2
