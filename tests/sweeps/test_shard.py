"""Whoever measures which units, in which order, stopped however often: the merged bytes are those of a single run."""

import random
import threading
import time

import pytest
import torch
from oracles.small_sweep import DIRECTIONS, PROMPTS, asked, begun, held, killed

import stabilitykit as sk
from stabilitykit import cli
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.noise import threads
from stabilitykit.sweeps import unit_files
from stabilitykit.sweeps.bench import Bench
from stabilitykit.sweeps.plan import Weights

WORDS = (
    *("boundary", "--model=tiny", "--batch=4", "--unit=6", "--prompts=prompts.txt", "--out=sweep"),
    f"--directions={','.join(DIRECTIONS)}",
)


def test_a_part_is_killed_and_goes_on_to_the_bytes_of_a_single_run(tmp_path, monkeypatch, capsys, same):
    """One of two parts is killed in its middle, in a process of its own; who measures the last unit merges."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    third = sk.plan(asked(), tmp_path / "sweep").units[2]
    with held(tmp_path / "sweep", third):  # it cannot be done before it is killed, however slow the killer is
        found = killed(begun(tmp_path, *WORDS, "--shard=1/2"), tmp_path)
    assert 0 < len(found) < 5
    kept = {path: path.stat().st_mtime_ns for path in found}
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *WORDS, "--shard=2/2"]) == 0
    said = capsys.readouterr().out
    assert "part 2/2 of 10 units: 5 measured, 0 there already" in said
    assert "other parts are missing" in said
    assert not (tmp_path / "sweep" / "table.csv").exists()
    assert cli.main(["sweep", *WORDS, "--shard=1/2"]) == 0
    said = capsys.readouterr().out
    assert f"{5 - len(found)} measured, {len(found)} there already" in said
    assert "10 units (10 measured), 38 rows" in said
    same(tmp_path / "sweep")
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "measured twice"


def measured_by(monkeypatch):
    """Return the list of units that are measured from now on."""
    numbers = []
    measure = Bench.measure
    monkeypatch.setattr(Bench, "measure", lambda bench, unit: numbers.append(unit.number) or measure(bench, unit))
    return numbers


def test_bits_do_not_depend_on_what_was_measured_before(single):
    """Units in a random order, in one process and each in a bench of its own, and without a sweep."""
    plan = sk.plan(asked())
    bench, shuffled = Bench(plan), list(plan.units)
    random.Random(0).shuffle(shuffled)
    for number, unit in enumerate(shuffled):
        found = (Bench(plan) if number in (3, 7) else bench).measure(unit).result
        known = unit_files.read(single, unit).result
        assert found.rows == known.rows
        for name, array in known.arrays.items():
            assert array.tobytes() == found.arrays[name].tobytes()
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPTS[1], path="decode", batch=4)
    (slice_,) = [unit for unit in plan.units if unit.prompt == PROMPTS[1] and unit.directions == "gaussian:10 7-10"]
    alone = sk.measure(sk.FirstChange(sk.strategies.gaussians(10, 64)[6:]), subject, progress=False)
    assert alone.rows == unit_files.read(single, slice_).result.rows


def test_a_fan_lies_in_one_plane_whatever_was_computed_before():
    """v1 and v2 of five vectors and of nine have other last bits; a fan is of five, whoever asked for more before."""
    plan = sk.plan(asked(prompts=("another prompt",), directions=("singular:7", "fan:3"), unit=8))
    sevens, fan = plan.units
    alone = Bench(plan).measure(fan).result
    bench = Bench(plan)
    of_nine = sk.singular_vectors(bench.subject(fan), 9)
    bench.measure(sevens)
    after = bench.measure(fan).result
    assert not bits_equal(of_nine[:1], torch.from_numpy(alone.arrays["directions"][:1]))
    assert after.arrays["directions"].tobytes() == alone.arrays["directions"].tobytes()
    assert after.rows == alone.rows


def test_what_is_there_is_never_measured_again(tmp_path, single, monkeypatch):
    plan = sk.plan(asked(), tmp_path)
    numbers = measured_by(monkeypatch)
    first = sk.run_shard(plan, tmp_path, "1/3")
    assert (first.units, first.found, first.measured) == (3, 0, 3)
    again = sk.run_shard(plan, tmp_path, "1/2")
    assert (again.units, again.found, again.measured) == (5, 3, 2)
    assert numbers == [0, 1, 2, 3, 4]
    monkeypatch.setattr("stabilitykit.sweeps.bench.load", None)  # a part that is whole loads no model
    assert sk.run_shard(plan, tmp_path, "1/2").measured == 0


@pytest.mark.parametrize("where", [10, 4000, -20])
def test_one_flipped_bit_is_measured_anew_and_nothing_else_is(tmp_path, same, monkeypatch, where, single):
    plan = sk.plan(asked(), tmp_path)
    (tmp_path / "units").mkdir()
    for path in (single / "units").iterdir():
        (tmp_path / "units" / path.name).write_bytes(path.read_bytes())
    path = unit_files.path_of(tmp_path, plan.units[3])
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        sk.UnreadableError, match="1 of 10 units are not measured, 1 of them damaged, the first is unit 3"
    ):
        sk.merge(tmp_path)
    numbers = measured_by(monkeypatch)
    done = sk.run_shard(plan, tmp_path)
    assert (numbers, done.damaged, done.found) == ([3], 1, 9)
    sk.merge(tmp_path)
    same(tmp_path)


@pytest.mark.parametrize("how", ["half", "empty", "renamed", "doubled"])
def test_a_file_that_is_not_this_unit_s_own_and_whole_does_not_count(tmp_path, single, how):
    plan = sk.plan(asked(), tmp_path)
    (tmp_path / "units").mkdir()
    one, two = (unit_files.path_of(single, unit).read_bytes() for unit in plan.units[:2])
    content = {"half": one[: len(one) // 2], "empty": b"", "renamed": two, "doubled": one + one}[how]
    unit_files.path_of(tmp_path, plan.units[0]).write_bytes(content)
    assert unit_files.read(tmp_path, plan.units[0]) is None
    unit_files.path_of(tmp_path, plan.units[0]).write_bytes(one)
    assert unit_files.read(tmp_path, plan.units[0]).nodeid == plan.units[0].id


def test_a_unit_that_another_process_has_is_left_to_it(tmp_path, single, monkeypatch):
    """One that is held and measured meanwhile is taken over; one whose holder dies is measured at the end."""
    plan = sk.plan(asked(), tmp_path)
    numbers, measuring, dying = measured_by(monkeypatch), plan.units[0], plan.units[1]
    holds = [held(tmp_path, unit) for unit in (measuring, dying)]
    for lock in holds:
        lock.acquire()
    done = []
    with threads(1):
        at_work = threading.Thread(
            target=lambda: (threads(1).__enter__(), done.append(sk.run_shard(plan, tmp_path, "1/2")))
        )
        at_work.start()
        while len(numbers) < 3:
            time.sleep(0.01)
        assert numbers == [2, 3, 4]
        unit_files.write(tmp_path, unit_files.read(single, measuring))
        for lock in holds:
            lock.release()
        at_work.join(60)
    assert numbers == [2, 3, 4, 1]
    assert (done[0].measured, done[0].found) == (4, 1)


def test_two_that_measure_one_unit_at_once_do_no_harm(tmp_path, same):
    """Where locks do not work, as on some file systems, both write the same."""
    plan = sk.plan(asked(), tmp_path)
    for bench in (Bench(plan), Bench(plan)):
        for unit in plan.units[:2]:
            unit_files.write(tmp_path, bench.measure(unit))
    sk.run_shard(plan, tmp_path)
    sk.merge(tmp_path)
    same(tmp_path)


def test_another_numeric_environment_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    """By the field, whether the units there are this part's or another's; `mixed` allows it."""
    plan = sk.plan(asked(directions=("gaussian:2",)), tmp_path)
    sk.run_shard(plan, tmp_path, "1/2")
    numbers = measured_by(monkeypatch)
    with threads(2):
        for part in ("2/2", "1/1"):
            with pytest.raises(sk.IncomparableError, match=r"would be measured with threads 2, and .* was with 1"):
                sk.run_shard(plan, tmp_path, part)
    assert numbers == []
    torch.set_float32_matmul_precision("high")
    try:
        assert sk.run_shard(plan, tmp_path, "2/2", mixed=True).measured == 1
    finally:
        torch.set_float32_matmul_precision("highest")
    with pytest.raises(sk.IncomparableError) as refused:
        sk.merge(tmp_path)
    assert f"unit {plan.units[1].id} was measured with matmul_precision high, and {plan.units[0].id} was" in str(
        refused.value
    )
    frame = sk.merge(tmp_path, mixed=True).frame()
    assert frame.environment.nunique() == 2


def test_other_weights_under_the_name_are_refused(tmp_path):
    plan = sk.plan(asked(), tmp_path)
    moved = plan.weights[0]._replace(digest="f" * 64)
    with pytest.raises(sk.IncomparableError, match="the sweep was planned on ffffffffffff"):
        Bench(type(plan)(plan.sweep, (Weights(*moved),))).loaded(type(plan)(plan.sweep, (moved,)).units[0])


def test_models_in_several_dtypes_lie_side_by_side(tmp_path):
    """Each dtype has its own environment, and that is no mixture."""
    plan = sk.plan(asked(dtypes=("float32", "bfloat16"), prompts=PROMPTS[:1], directions=("gaussian:2",)), tmp_path)
    sk.run_shard(plan, tmp_path)
    frame = sk.merge(tmp_path).frame()
    assert list(frame.dtype) == ["float32"] * 2 + ["bfloat16"] * 2
    assert frame.environment.nunique() == 2
    one, other = (
        sk.measure(sk.FirstChange(sk.strategies.gaussians(2, 64)), _subject(dtype), progress=False).arrays["radius"]
        for dtype in ("float32", "bfloat16")
    )
    assert frame.radius.tolist() == [*one, *other]


def _subject(dtype):
    return sk.CausalLMSubject(sk.load("tiny", dtype=dtype), PROMPTS[0], path="decode", batch=4)


def test_only_one_model_and_subject_are_held(monkeypatch):
    """And the model that the plan was made on is not loaded again."""
    plan = sk.plan(asked(directions=("gaussian:2",)))
    monkeypatch.setattr("stabilitykit.sweeps.bench.load", None)
    bench = Bench(plan)
    with pytest.raises(TypeError):
        Bench(plan, "another").loaded(plan.units[0])
    first, second = (bench.subject(unit) for unit in bench.plan.units)
    assert first.loaded is second.loaded
    assert bench.subject(bench.plan.units[1]) is second
    assert not bits_equal(first.x0, second.x0)
    two = sk.plan(asked(directions=("gaussian:2",), dtypes=("float32", "bfloat16")))
    assert two.held is None
    assert sk.plan(asked(directions=("gaussian:2",)), device=None).held is None
