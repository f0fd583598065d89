"""What is merged, how it reads, and what is refused: a missing part, a stranger, two machines with other bits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from oracles.small_sweep import PROMPTS, asked

import stabilitykit as sk
from stabilitykit.errors import InvalidError, TimedOutError, UnsupportedError
from stabilitykit.sweeps import unit_files
from stabilitykit.sweeps.bench import Bench
from stabilitykit.sweeps.plan import read_plan


@pytest.fixture
def copied(tmp_path, single):
    """The measured units of the single run and their plan, in a folder of their own."""
    (tmp_path / "units").mkdir()
    for path in [single / "plan.json", *(single / "units").iterdir()]:
        (tmp_path / path.relative_to(single)).write_bytes(path.read_bytes())
    return tmp_path


def test_tables_and_arrays_say_what_the_units_found(single):
    plan, merged = read_plan(single), sk.merge(single)
    assert (merged.units, merged.rows, merged.verdicts) == (10, 38, {"measured": 10})
    frame = merged.frame()
    readings = pd.read_csv(single / "readings.csv")
    expected, at = [], 0
    with np.load(single / "arrays.npz") as arrays:
        for unit in plan.units:
            result = unit_files.read(single, unit).result
            for row in result.rows:
                there = frame.iloc[at]
                assert (there.sweep_unit, there.prompt, there.directions) == (unit.number, unit.prompt, unit.directions)
                assert (there.radius, there.direction) == (row["radius"], row["direction"])
                at += 1
            for name, array in result.arrays.items():
                assert arrays[f"{unit.number:06d}/{name}"].tobytes() == array.tobytes()
            assert ("directions" in result.arrays) == (unit.family.kind in ("singular", "fan"))
            expected += [(unit.number, name, float(reading.value).hex()) for name, reading in result.readings.items()]
    assert at == len(frame)
    assert list(zip(readings.sweep_unit, readings.reading, readings.value_hex, strict=True)) == expected
    assert [value.hex() for value in readings.value] == [bits for _, _, bits in expected]
    timings = pd.read_csv(single / "timings.csv")
    assert list(timings.sweep_unit) == list(range(10))
    assert (timings.forwards > 0).all()


def test_nothing_that_changes_from_run_to_run_is_in_what_is_compared(single):
    for name in ("table.csv", "readings.csv", "environments.json"):
        text = (single / name).read_text(encoding="utf-8")
        assert "seconds" not in text
        assert "time_utc" not in text
        assert "load_average" not in text


def test_missing_units_are_counted(copied):
    units = read_plan(copied).units
    for unit in (units[2], units[7]):
        unit_files.path_of(copied, unit).unlink()
    with pytest.raises(
        sk.UnreadableError, match="2 of 10 units are not measured, 0 of them damaged, the first is unit 2;"
    ):
        sk.merge(copied)
    assert not (copied / "table.csv").exists()


def test_a_part_of_another_plan_is_named(copied):
    """One from another sweep of the same folder name, as when artifacts of two runs are unpacked into one."""
    (unit,) = sk.plan(asked(prompts=("another",), directions=("sign:1",))).units
    unit_files.write(copied, replace(unit_files.read(copied, read_plan(copied).units[0]), nodeid=unit.id))
    with pytest.raises(
        sk.UnreadableError, match=f"holds 1 of another sweep or another version, the first {unit.id}.json;"
    ):
        sk.merge(copied)


def altered(copied, number, change):
    """Replace what a unit gave by a changed copy, with a checksum that holds."""
    unit = read_plan(copied).units[number]
    record = unit_files.read(copied, unit)
    unit_files.write(copied, replace(record, result=change(record.result)))


def test_machines_that_differ_in_what_is_not_recorded_are_found_by_their_bits(copied):
    """One bit of y0, in one of five units of a prompt."""

    def moved(result):
        y0 = result.arrays["y0"].copy()
        y0[2, 5] = np.nextafter(y0[2, 5], np.inf)
        return replace(result, arrays={**result.arrays, "y0": y0})

    altered(copied, 7, moved)
    with pytest.raises(sk.IncomparableError, match="the model's output at rest has other bits"):
        sk.merge(copied)
    with pytest.raises(sk.IncomparableError, match="the model's output at rest has other bits"):
        sk.merge(copied, mixed=True)


@pytest.mark.parametrize("field", ["threads", "attention", "mkl_cbwr", "gpu"])
def test_an_environment_that_differs_is_refused_by_its_field(copied, field):
    altered(copied, 9, lambda result: replace(result, environment={**result.environment, field: "another"}))
    with pytest.raises(sk.IncomparableError, match=f"was measured with {field} another, and .* was with"):
        sk.merge(copied)
    assert sk.merge(copied, mixed=True).frame().environment.nunique() == 2


def test_all_models_of_a_sweep_are_measured_on_one_kind_of_machine(tmp_path):
    """Of two dtypes the machine must be the same, and what belongs to a model may be each one's own."""
    plan = sk.plan(asked(dtypes=("float32", "bfloat16"), prompts=PROMPTS[:1], directions=("sign:1",)), tmp_path)
    sk.run_shard(plan, tmp_path)
    altered(tmp_path, 1, lambda result: replace(result, environment={**result.environment, "attention": "another"}))
    sk.merge(tmp_path)
    altered(tmp_path, 1, lambda result: replace(result, environment={**result.environment, "threads": 3}))
    with pytest.raises(sk.IncomparableError, match=r"was measured with threads 3, and .* was with 1"):
        sk.merge(tmp_path)


@pytest.mark.parametrize("field", ["load_average", "time_utc", "gpu_uuid", "platform"])
def test_what_decides_no_bits_may_differ(copied, field, same):
    altered(copied, 9, lambda result: replace(result, environment={**result.environment, field: "another"}))
    sk.merge(copied)
    same(copied)


@pytest.mark.parametrize(("error", "verdict"), [(InvalidError, "invalid"), (UnsupportedError, "unsupported")])
def test_what_has_no_answer_stops_no_sweep(tmp_path, monkeypatch, error, verdict):
    find = sk.FirstChange.find

    def refusing(self, subject):
        if subject.prompt == PROMPTS[0]:
            raise error("=it overflows")
        return find(self, subject)

    monkeypatch.setattr(sk.FirstChange, "find", refusing)
    plan = sk.plan(asked(directions=("sign:2",)), tmp_path)
    sk.run_shard(plan, tmp_path)
    merged = sk.merge(tmp_path)
    assert merged.verdicts == {verdict: 1, "measured": 1}
    frame = merged.frame()
    assert list(frame.status) == [verdict, "measured", "measured"]
    assert frame.message[0] == "=it overflows"
    assert "=it" not in (tmp_path / "table.csv").read_text(encoding="utf-8"), "a spreadsheet would compute it"
    assert sk.run_shard(plan, tmp_path).measured == 0


def test_no_answer_in_time_is_no_finding(tmp_path, monkeypatch):
    def late(self, subject):
        raise TimedOutError("the process did not answer")

    monkeypatch.setattr(sk.FirstChange, "find", late)
    with pytest.raises(TimedOutError):
        sk.run_shard(sk.plan(asked(directions=("sign:2",)), tmp_path), tmp_path)
    assert not list(tmp_path.glob("units/*"))


def test_any_question_of_a_subject_can_be_swept(tmp_path):
    """Regimes along their own directions, a unit a prompt; of rows and readings nothing is lost."""
    sweep = asked(question="regimes", directions=(), parameters={"directions": ["v1"], "points": 1, "replicates": 100})
    sk.run_shard(sk.plan(sweep, tmp_path), tmp_path)
    frame = sk.merge(tmp_path).frame()
    loaded = sk.load("tiny")
    for prompt, rows in frame.groupby("prompt", sort=False):
        subject = sk.CausalLMSubject(loaded, prompt, path="decode", batch=4)
        alone = sk.measure(sk.Regimes(("v1",), points=1, replicates=100), subject, progress=False)
        assert rows.eps_stable.dropna().tolist() == [row["eps_stable"] for row in alone.rows if row["part"] == "ray"]


def test_what_takes_one_direction_is_swept_one_by_one(tmp_path):
    sweep = asked(question="staircase", directions=("gaussian:2",), prompts=PROMPTS[:1], unit=1, parameters={"n": 3})
    sk.run_shard(sk.plan(sweep, tmp_path), tmp_path)
    frame = sk.merge(tmp_path).frame()
    assert list(dict.fromkeys(frame.directions)) == ["gaussian:2 1-1", "gaussian:2 2-2"]
    with pytest.raises(sk.UsageError, match="a staircase climbs one direction, not 2"):
        sk.run_shard(sk.plan(asked(question="staircase", directions=("gaussian:2",))), tmp_path / "two")


def test_prompts_come_back_as_they_were(tmp_path):
    prompts = ("NaN", "-1 = \\x", "null")
    sk.run_shard(sk.plan(asked(prompts=prompts, directions=("sign:1",)), tmp_path), tmp_path)
    assert list(sk.merge(tmp_path).frame().prompt) == list(prompts)


def test_a_row_s_own_column_is_not_hidden_by_the_subject_s(tmp_path):
    """Rows of `GainByDtype` name dtypes of their own."""
    sweep = asked(question="gain_by_dtype", directions=(), prompts=PROMPTS[:1], parameters={})
    plan = sk.plan(sweep, tmp_path)
    record = Bench(plan).measure(plan.units[0])
    unit_files.write(tmp_path, record)
    frame = sk.merge(tmp_path).frame()
    assert set(frame["dtype"]) == {"float32"}
    assert frame["row_dtype"].tolist() == [row["dtype"] for row in record.result.rows]
