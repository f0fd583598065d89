"""Ray as the engine: on a stand-in that has its calls and nothing else, and on Ray itself where it is installed."""

import json
import sys
import types
from pathlib import Path

import pytest
from oracles.small_sweep import DRAWN, PROMPTS, asked, begun, held, killed

import stabilitykit as sk
from stabilitykit.sweeps.on_ray import _Crowd, _Worker, run_on_ray


class RayError(Exception):
    """What Ray raises, here for an actor that has died."""


class TaskError(RayError):
    """What Ray raises for a call that failed, with what it failed with."""

    def __init__(self, cause):
        super().__init__("in an actor")
        self.cause = cause


class Actor:
    """An object here in place of one elsewhere: a call is done when its answer is asked for."""

    def __init__(self, ray, made):
        self.ray, self.made, self.measure = ray, made, types.SimpleNamespace(remote=self._call)

    def _call(self, number):
        self.ray.calls.append((self, number))
        return (self, number)


class Ray(types.ModuleType):
    """A cluster of so many GPUs or cores; `dies` are the calls, counted from 0, in which the actor is lost.

    `fails` is what an actor raises, `elsewhere` what its environment has otherwise than here.
    """

    def __init__(self, resources, dies=(), fails=None, elsewhere=()):
        super().__init__("ray")
        self.resources, self.dies, self.fails, self.elsewhere = resources, dies, fails, dict(elsewhere)
        self.begun, self.actors, self.calls, self.killed, self.taken = [], [], [], [], []
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=TaskError)

    def is_initialized(self):
        return bool(self.begun)

    def init(self, **how):
        self.begun.append(how)

    def cluster_resources(self):
        return self.resources

    def remote(self, **takes):
        self.taken.append(takes)

        def decorate(kind):
            return types.SimpleNamespace(
                remote=lambda *given: self.actors.append(Actor(self, kind(*given))) or self.actors[-1]
            )

        return decorate

    def wait(self, calls, num_returns):
        return calls[-num_returns:], calls[:-num_returns]

    def get(self, call):
        actor, number = call
        if self.calls.index(call) in self.dies:
            raise RayError("The actor died.\n  class_name: _Worker\n  its node has died\n")
        try:
            if self.fails:
                raise self.fails
            record = json.loads(actor.made.measure(number))
            record["result"]["environment"] |= self.elsewhere
            return json.dumps(record)
        except sk.StabilityError as error:
            raise TaskError(error) from error

    def kill(self, actor):
        self.killed.append(actor)


@pytest.fixture
def cluster(monkeypatch):
    def make(*given, **more):
        ray = Ray(*given, **more)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return make


@pytest.mark.parametrize(
    ("resources", "actors", "takes"),
    [
        ({"GPU": 2.0, "CPU": 8.0}, 2, {"num_gpus": 1}),
        ({"CPU": 3.0}, 3, {"num_cpus": 1}),
        ({"CPU": 64.0}, 6, {"num_cpus": 1}),
    ],
)
def test_actors_share_the_units_one_a_gpu_or_one_a_core(tmp_path, cluster, resources, actors, takes):
    ray = cluster(resources)
    done = run_on_ray(sk.plan(asked(directions=DRAWN), tmp_path), tmp_path)
    assert (done.measured, done.lost, len(ray.actors), ray.taken) == (6, 0, actors, [takes])
    assert {number for _, number in ray.calls} == set(range(6))
    assert all(actor in {one for one, _ in ray.calls} for actor in ray.actors)


def test_a_unit_is_lost_with_its_actor_and_measured_by_the_next_call(tmp_path, cluster, same):
    """The bytes are those of a single run, whatever came from where and in which order."""
    plan = sk.plan(asked(), tmp_path)
    cluster({"GPU": 2.0}, dies={1})
    done = run_on_ray(plan, tmp_path)
    assert (done.measured, done.lost, done.why) == (9, 1, "its node has died")
    ray = cluster({"GPU": 2.0})
    done = run_on_ray(plan, tmp_path)
    assert (done.measured, done.found, done.lost, len(ray.actors)) == (1, 9, 0, 1)
    sk.merge(tmp_path)
    same(tmp_path)


def test_a_worker_of_another_version_measures_nothing():
    """The unit would have this plan's id and other bits."""
    planned = sk.plan(asked(directions=DRAWN)).to_dict()
    with pytest.raises(sk.IncomparableError, match=r"the sweep was planned by stabilitykit 0\.0\.1, this is"):
        _Worker(json.dumps({**planned, "stabilitykit": "0.0.1"}), "cpu", 1)


def test_when_all_actors_die_the_rest_is_lost(tmp_path, cluster):
    cluster({"GPU": 2.0}, dies={1, 2})
    done = run_on_ray(sk.plan(asked(directions=DRAWN), tmp_path), tmp_path)
    assert (done.measured, done.lost) == (1, 5)


def test_what_an_actor_refuses_is_said_here_and_the_others_are_let_go(tmp_path, cluster):
    ray = cluster({"GPU": 2.0}, fails=sk.IncomparableError("other weights"))
    with pytest.raises(sk.IncomparableError, match="other weights"):
        run_on_ray(sk.plan(asked(directions=DRAWN), tmp_path), tmp_path)
    assert len(ray.killed) == 1
    assert not list(tmp_path.glob("units/*"))


def test_an_actor_in_another_environment_is_refused(tmp_path, cluster):
    """A node of the cluster that has another processor, whose finding is not written down."""
    cluster({"GPU": 1.0}, elsewhere={"cpu": "another"})
    plan = sk.plan(asked(directions=("sign:1",)), tmp_path)
    sk.run_shard(plan, tmp_path, "1/2")
    with pytest.raises(sk.IncomparableError, match="would be measured with cpu another, and "):
        run_on_ray(plan, tmp_path)
    assert len(list(tmp_path.glob("units/*"))) == 1
    assert run_on_ray(plan, tmp_path, mixed=True).measured == 1


def test_too_few_cores_and_no_ray_are_said_in_a_sentence(tmp_path, cluster, monkeypatch):
    cluster({"CPU": 0.0})
    plan = sk.plan(asked(directions=("sign:1",)))
    with pytest.raises(sk.UsageError, match="the Ray cluster has 0 cores and no GPU, and an actor takes 1"):
        run_on_ray(plan, tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(sk.UnreadableError, match=r"ray is not installed; pip install 'stabilitykit\[ray\]'"):
        run_on_ray(plan, tmp_path)


def test_a_cluster_that_is_there_is_used(tmp_path, cluster):
    ray = cluster({"GPU": 1.0})
    plan = sk.plan(asked(directions=("sign:1",), prompts=("ab",)), tmp_path)
    ray.init(num_gpus=1)
    run_on_ray(plan, tmp_path)
    assert ray.begun == [{"num_gpus": 1}]
    assert Path(tmp_path / "units").exists()


@pytest.fixture
def ray(monkeypatch):
    """A cluster on this machine, with two GPUs that it only believes in."""
    found = pytest.importorskip("ray", reason="Ray is not installed: pip install 'stabilitykit[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default its workers wait for all else on the machine
    found.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield found
    found.shutdown()


def merged(folder):
    return [(folder / name).read_bytes() for name in ("table.csv", "readings.csv", "arrays.npz", "environments.json")]


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.long
def test_two_workers_and_two_parts_give_the_bytes_of_a_single_run(tmp_path, ray, monkeypatch):
    """SmolLM2 by one process, by two parts of which one is killed, by two actors of which one is killed, and mixed."""
    sweep = asked(models=("smollm2",), directions=("gaussian:24", "fan:8"), batch=8, unit=12)
    folders = {name: tmp_path / name / "sweep" for name in ("single", "parts", "actors", "mixed")}
    plans = {name: sk.plan(sweep, folder) for name, folder in folders.items()}
    assert sk.run_shard(plans["single"], folders["single"]).measured == 6

    (tmp_path / "parts" / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    words = (
        "boundary",
        "--prompts=prompts.txt",
        "--directions=gaussian:24,fan:8",
        "--batch=8",
        "--unit=12",
        "--out=sweep",
    )
    with held(folders["parts"], plans["parts"].units[1]):
        assert 0 < len(killed(begun(tmp_path / "parts", *words, "--shard=1/2"), tmp_path / "parts")) < 3
    for part in ("2/2", "1/2"):
        process = begun(tmp_path / "parts", *words, f"--shard={part}")
        assert (process.communicate(timeout=300)[1], process.returncode) == ("", 0)

    kept, dead = _Crowd._kept, []

    def killing(crowd, ended, unit):
        if not dead:
            dead.append(next(iter(crowd.busy.values()))[0])
            ray.kill(dead[0])
        return kept(crowd, ended, unit)

    monkeypatch.setattr(_Crowd, "_kept", killing)
    first = run_on_ray(plans["actors"], folders["actors"])
    assert (first.measured, first.lost) == (5, 1)
    again = run_on_ray(plans["actors"], folders["actors"])
    assert (again.measured, again.found, again.lost) == (1, 5, 0)

    assert sk.run_shard(plans["mixed"], folders["mixed"], "1/2").measured == 3
    assert run_on_ray(plans["mixed"], folders["mixed"], "2/2").measured == 3
    for folder in folders.values():
        sk.merge(folder)
    bits = [merged(folder) for folder in folders.values()]
    assert bits[1:] == bits[:1] * 3
