"""`stabilitykit sweep`: what it says, what it refuses in a sentence, and its exit status."""

import pytest
from oracles.small_sweep import PROMPTS

import stabilitykit as sk
from stabilitykit import cli
from stabilitykit.sweeps import on_ray
from stabilitykit.sweeps.shard import Done


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return tmp_path


WORDS = (
    "sweep",
    "boundary",
    "--model=tiny",
    "--batch=4",
    "--unit=6",
    "--prompts=prompts.txt",
    "--directions=gaussian:10, sign:2",
)


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (("sweep", "boundary"), 2, "sweep keeps what it measures in a folder; name it with --out"),
        (
            ("sweep", "boundary", "sweep"),
            2,
            "sweep takes no argument 'sweep' after a question; name the folder with --out",
        ),
        (("sweep", "merge"), 2, "name it: stabilitykit sweep merge DIR"),
        (("sweep", "merge", "nowhere"), 3, "nowhere/plan.json is no plan of a sweep"),
        (("sweep", "boundary", "--out=x", "--engine=dask"), 2, "engine 'dask' is none of here, ray"),
        (("sweep", "boundary", "--out=x", "--device=cpu,cpu"), 2, "sweep measures on one device, not cpu, cpu"),
        (("sweep", "boundary", "--out=prompts.txt"), 2, "out 'prompts.txt' is a file; name a folder"),
        (("sweep", "boundary", "--out=x", "--unit=none"), 2, "unit 'none' is not a whole number from 1 up"),
        (("sweep", "boundary", "--out=x", "--parameter=beyond"), 2, "parameter 'beyond' is not KEY=VALUE"),
        (("sweep", "boundary", "--out=x", "--parameter=beyond=-1"), 2, "beyond=-1 is no count"),
        (("sweep", "boundery", "--out=x"), 2, "'boundery' is no question to sweep"),
        ((*WORDS, "--out=x", "--shard=0/4"), 2, "shard '0/4' is no part i/N with i from 1 to N, such as 3/16"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(capsys, here, words, status, sentence):
    assert cli.main(words) == status
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("stabilitykit sweep: ")
    assert error.count("\n") == 1
    assert not (here / "x" / "units").exists()


def test_a_plan_lists_units_and_cost_and_measures_nothing(capsys, here):
    assert cli.main([*WORDS, "--plan", "--shard=2/2"]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["unit", "id", "model", "dtype", "prompt", "directions"]
    assert [row.split()[0] for row in rows[1:]] == ["3", "4", "5"]
    assert "once upon" in rows[1]
    sweep = sk.Sweep(
        question="boundary", models=("tiny",), prompts=PROMPTS, directions=("gaussian:10", "sign:2"), batch=4, unit=6
    )
    assert rows[3].split()[1] == sk.plan(sweep).units[5].id
    subject = sk.CausalLMSubject(sk.load("tiny"), PROMPTS[1], path="decode", batch=4)
    cost = sum((sk.FirstChange(sk.strategies.gaussians(n, 64)).cost(subject) for n in (6, 4, 2)), sk.Cost())
    assert total == f"3 units of 6: {cost}"
    assert sorted(path.name for path in here.iterdir()) == ["prompts.txt"]


def test_what_has_no_answer_is_status_1(capsys, monkeypatch):
    def refusing(self, subject):
        raise sk.InvalidError("it overflows")

    monkeypatch.setattr(sk.FirstChange, "find", refusing)
    assert cli.main([*WORDS, "--out=x"]) == 1
    assert "6 units (6 invalid), 6 rows" in capsys.readouterr().out


def test_units_that_were_lost_are_status_3(capsys, monkeypatch):
    """A device that only the workers have is none of this process's business."""
    told = {}

    def run(plan, folder, shard, **how):
        told.update(how, held=plan.held, shard=shard)
        return Done(6, 0, 4, 1, 2, "its node has died")

    monkeypatch.setattr(on_ray, "run_on_ray", run)
    assert cli.main([*WORDS, "--out=x", "--engine=ray", "--device=cuda"]) == 3
    assert told == {"device": "cuda", "mixed": False, "held": None, "shard": "1/1"}
    said = capsys.readouterr().out
    assert "6 units: 4 measured, 0 there already" in said
    assert "1 of the measured had a damaged file, which was replaced" in said
    assert "2 units were lost with their workers (its node has died); the same command measures them" in said
