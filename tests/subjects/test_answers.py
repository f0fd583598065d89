"""A search that is stopped anywhere goes on to the same end, and nothing it was told is asked again."""

import pytest
import torch

from stabilitykit.numerics.digest import digest
from stabilitykit.subjects import answers, lanes
from stabilitykit.subjects.answers import Kept, answers_in
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.lanes import Probe

X0 = torch.tensor([0.0, 0.0, 0.0])
THRESHOLDS = [3, 1, 7, 2, 5, 4, 6, 2, 1, 9, 3, 3]


class Stopped(BaseException):
    """As KeyboardInterrupt is, for which a test would stop."""


class Counted(FunctionSubject):
    """y = floor(x): changed where a coordinate has reached 1. Stops before the call numbered `stop`."""

    def __init__(self, *, stop=None, weights="w", batch=4):
        super().__init__(torch.floor, X0, batch=batch, name="counted", first=torch.floor)
        self.asked, self.stop, self.weights = [], stop, weights

    def describe(self):
        return {**super().describe(), **({"model_digest": self.weights} if self.weights else {})}

    def evaluate(self, X):
        return self._told(super().evaluate, X)

    def first_blocks(self, X, blocks=1):
        return self._told(super().first_blocks, X)

    def _told(self, ask, X):
        if self.stop is not None and len(self.asked) >= self.stop:
            raise Stopped
        self.asked.append(digest(X))
        return ask(X)


def search(number, threshold):
    """Step on in the plane of this search until the output changes; return where, the slot and the output's bits."""
    step = 0
    while True:
        step += 1
        x = X0.clone()
        x[number % 3] = step / threshold
        answer = yield Probe(x) if step % 3 == 2 and step < threshold else x
        if answer.changed and answer.output is not None:
            return number, step, answer.slot, answer.output.tolist()


def run(subject, folder, *, resumed, screen=True):
    assert len(subject.baseline) == len(subject.baseline_state)
    with answers_in(Kept(folder, resumed)):
        return lanes.run(subject, [search(n, t) for n, t in enumerate(THRESHOLDS)], screen=screen)


@pytest.fixture(autouse=True)
def _write_at_once(monkeypatch):
    monkeypatch.setattr(answers, "EVERY", 0.0)


@pytest.mark.parametrize("screen", [True, False])
def test_a_search_that_is_stopped_anywhere_goes_on(tmp_path, screen):
    whole = Counted()
    expected = lanes.run(whole, [search(n, t) for n, t in enumerate(THRESHOLDS)], screen=screen)
    assert {found[:2] for found in expected} == set(enumerate(THRESHOLDS))
    prepared = 2  # the baselines, which every process takes for itself
    whole = Counted()
    assert run(whole, tmp_path.parent / "none", resumed=False, screen=screen) == expected
    for stop in range(prepared, len(whole.asked)):
        folder = tmp_path.parent / f"{stop}"
        first, then = Counted(stop=stop), Counted()
        with pytest.raises(Stopped):
            run(first, folder, resumed=False, screen=screen)
        assert run(then, folder, resumed=True, screen=screen) == expected
        assert len(first.asked) + len(then.asked) == len(whole.asked) + len(first.asked[:prepared])
        assert first.asked[prepared:] + then.asked[prepared:] == whole.asked[prepared:]


def stopped(folder, stop=9):
    with pytest.raises(Stopped):
        run(Counted(stop=stop), folder, resumed=False)
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def tmp_path(tmp_path):
    (tmp_path / "answers").mkdir()
    return tmp_path / "answers"


def asked(folder, subject=None, *, resumed=True):
    subject = subject or Counted()
    run(subject, folder, resumed=resumed)
    return len(subject.asked)


def test_what_was_told_is_used_by_a_resumed_process_alone(tmp_path):
    whole = asked(tmp_path.parent / "none")
    stopped(tmp_path)
    assert asked(tmp_path, resumed=False) == whole
    stopped(tmp_path.parent / "again")
    assert asked(tmp_path.parent / "again") < whole


def test_the_same_search_twice_in_one_process_is_run_twice(tmp_path):
    whole = asked(tmp_path.parent / "none")
    stopped(tmp_path)
    kept, subjects = Kept(tmp_path, resumed=True), [Counted(), Counted()]
    for subject in subjects:
        with answers_in(kept):
            lanes.run(subject, [search(n, t) for n, t in enumerate(THRESHOLDS)])
    assert len(subjects[0].asked) < whole
    assert len(subjects[1].asked) == whole


@pytest.mark.parametrize("other", [Counted(weights="other"), Counted(batch=3)], ids=["weights", "batch"])
def test_another_subject_is_told_nothing(tmp_path, other):
    stopped(tmp_path)
    fresh = Counted(weights=other.weights, batch=other.batch)
    assert asked(tmp_path, other) == asked(tmp_path.parent / "none", fresh)


def test_a_subject_without_a_digest_of_its_weights_keeps_nothing(tmp_path):
    with pytest.raises(Stopped):
        run(Counted(stop=9, weights=""), tmp_path, resumed=False)
    assert list(tmp_path.iterdir()) == []


def test_another_numeric_environment_is_told_nothing(tmp_path, monkeypatch):
    whole = asked(tmp_path.parent / "none")
    stopped(tmp_path)
    monkeypatch.setattr(answers, "numeric_key", lambda _: "another")
    assert asked(tmp_path) == whole


def test_torn_and_damaged_answers_are_cut_off(tmp_path):
    whole = asked(tmp_path.parent / "none")
    path = stopped(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2].replace(b"changed", b"chanGed") + b"".join(lines[3:]))
    assert asked(tmp_path) == whole - 2
    assert path.read_bytes().startswith(b"".join(lines[:2]))
    assert len(path.read_bytes().splitlines()) == whole - 2, "all but the baselines is there now"
    path.write_bytes(b"".join(lines)[:-5])
    assert asked(tmp_path) == whole - len(lines) + 1


def test_another_course_of_the_search_is_not_mixed_with_the_former(tmp_path):
    """The first batch is the same, a later one is not: the model is asked from there on."""
    path = stopped(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + b"".join(lines[3:]))
    subject = Counted()
    expected = lanes.run(Counted(), [search(n, t) for n, t in enumerate(THRESHOLDS)])
    assert run(subject, tmp_path, resumed=True) == expected


def test_what_is_shorter_than_five_seconds_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "EVERY", 5.0)
    asked(tmp_path.parent / "new", resumed=False)
    assert not (tmp_path.parent / "new").exists()
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(answers.time, "monotonic", lambda: next(clock))
    asked(tmp_path.parent / "new", resumed=False)
    assert len(list((tmp_path.parent / "new").iterdir())) == 1


def test_outputs_come_back_bit_for_bit():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        output = torch.tensor([[0.0, -0.0, float("nan"), 1e-40, float("inf")]]).to(dtype)
        back = answers._tensor(answers._plain(output), output.device)
        assert digest(back) == digest(output)
    assert answers._tensor(answers._plain(None), X0.device) is None


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lanes.run(Counted(), [search(0, 3)])
    assert list(tmp_path.iterdir()) == []
