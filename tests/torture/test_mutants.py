"""The engine of the mutants: what it changes, that a strong test kills all of it, and what it says of a weak one."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import pytest
from torture.mutants.campaign import Ground, Journal
from torture.mutants.command import GROUNDS, RECORDS, ROOT
from torture.mutants.operators import mutants, planted
from torture.mutants.record import KILLED, counted, reasons
from torture.mutants.trial import Outcome

SOURCE = '''\
"""A text with 1 in it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    SEEN = 1
LIMIT = 3


def clipped(x: float = 0) -> float:
    if x > LIMIT:
        return -1
    return abs(x)


def least(values, below=True):
    found = min(values) if below and values else None
    return found


class Box:
    def __init__(self, side):
        self.side = side

    @property
    def area(self):
        return self.side * self.side


def countdown(n):
    steps = 0
    while n > 0:
        n -= 1
        steps += 1
        if steps > 9:
            raise OverflowError
    return steps
'''
STRONG = """
import pytest
from pkg import calc

def test_clipped():
    assert calc.LIMIT == 3
    assert [calc.clipped(x) for x in (-2, 2, 3, 4)] == [2, 2, 3, -1]
    assert calc.clipped() == 0

def test_least():
    assert calc.least([2, 1]) == 1
    assert calc.least([]) is None
    assert calc.least([2, 1], False) is None

def test_area():
    assert calc.Box(3).area == 9

def test_countdown():
    assert [calc.countdown(n) for n in (0, 1, 9)] == [0, 1, 9]
    with pytest.raises(OverflowError):
        calc.countdown(10)
"""
ENDING = """
import os

def f(x):
    while x < 1:
        x += 1
    return os.abort() if x > 1 else 2
"""
ENDED = """
import time
from pkg.calc import f

def test_a():
    assert f(0) == 2

def test_slow():
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert f(1) == 2
"""
RUN = """
import json, sys
from pathlib import Path
from torture.mutants.campaign import Ground, Journal, reached, run
root = Path(sys.argv[1])
sys.path.insert(0, str(root))
ground = Ground(root, "pkg", ("tests",), (), 0.4)
reach, journal = reached(ground, root / "reach.json"), Journal(root / "journal.jsonl", ground)
todo = [one for one in ground.order() if one.name not in journal.outcomes]
for one, outcome in run(ground, journal, reach, todo, 600.0, float(sys.argv[2])):
    print(json.dumps([one.place, *outcome]))
"""
FILE = "pkg/calc.py"


def places(source):
    return [one.place.partition(": ")[2] for one in mutants(FILE, source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", ["a < b -> a <= b", "a < b -> a >= b"]),
        ("a <= b", ["a <= b -> a < b", "a <= b -> a > b"]),
        ("a > b", ["a > b -> a >= b", "a > b -> a <= b"]),
        ("a >= b", ["a >= b -> a > b", "a >= b -> a < b"]),
        ("a == b", ["a == b -> a != b"]),
        ("a is not b", ["a is not b -> a is b"]),
        ("a in b", ["a in b -> a not in b"]),
        ("a + b", ["a + b -> a - b"]),
        ("a // b", ["a // b -> a / b"]),
        ("a ** b", ["a ** b -> a * b"]),
        ("a << b", ["a << b -> a >> b"]),
        ("a and b", ["a and b -> a or b"]),
        ("not a", ["not a -> a"]),
        ("-a", ["-a -> a"]),
        ("x = True", ["True -> False"]),
        ("x = 7", ["7 -> 8", "7 -> 6"]),
        ("x = 0.5", ["0.5 -> 1.0"]),
        ("x = 0.0", ["0.0 -> 1.0"]),
        ("x = 'text'", []),
        ("x = f'{y:.3f}'", []),
        ("x: Literal[1]", []),
        ("x = abs(y)", ["abs(y) -> y"]),
        ("x = y.abs()", ["y.abs() -> y"]),
        ("x = min(y)", ["min(y) -> max(y)"]),
        ("x = y.all()", ["y.all() -> y.any()"]),
        ("x = sorted(y, key=z)", ["sorted(y, key=z) -> list(y)"]),
        ("x = y if z else w", ["z -> not z"]),
        ("x = [y for y in z if w]", ["w -> not w"]),
        ("if x:\n    pass", ["x -> not x"]),
        ("f(x)", ["f(x) -> pass"]),
        ("raise x", ["raise x -> pass"]),
        ("x.y = z", ["x.y = z -> pass"]),
        ("x -= y", ["x -= y -> pass", "x -= y -> x += y"]),
        ("def f():\n    return x", ["return x -> return None"]),
        ("def f():\n    return None", []),
        ("for x in y:\n    break", ["break -> continue"]),
        ("@f(1)\ndef g(): pass", []),
        ("x = zip(y, strict=True)", []),
    ],
)
def test_each_place_is_changed_in_each_way(source, expected):
    assert places(source) == expected


def test_a_planted_mutant_is_its_source_but_for_the_one_place():
    whole = [ast.dump(planted(SOURCE, one.number)) for one in mutants(FILE, SOURCE)]
    assert len({*whole, ast.dump(ast.parse(SOURCE))}) == len(whole) + 1
    for one in mutants(FILE, SOURCE):
        before, after = (ast.unparse(tree).splitlines() for tree in (ast.parse(SOURCE), planted(SOURCE, one.number)))
        changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1
        assert one.before in changed[0][0]
        assert one.after in changed[0][1]
    with pytest.raises(IndexError, match="no mutant"):
        planted(SOURCE, len(whole))


def test_a_name_says_where_and_a_place_survives_an_edit_above():
    shifted = mutants(FILE, "import math\n\n" + SOURCE.replace('"""A text with 1 in it."""', ""))
    one, same = (
        next(one for one in found if one.before == "x > LIMIT" and one.after == "x >= LIMIT")
        for found in (mutants(FILE, SOURCE), shifted)
    )
    assert one.name == f"{FILE}:11:7:compare:{one.number}"
    assert one.place == same.place == f"{FILE} clipped: x > LIMIT -> x >= LIMIT"
    assert one.name != same.name


@pytest.fixture
def project(tmp_path):
    for folder, file, text in (("pkg", "calc.py", SOURCE), ("tests", "test_calc.py", STRONG)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    # So does an installed plugin with its package, which pytest would then load past any mutant.
    (tmp_path / "conftest.py").write_text("import pytest\npytest.register_assert_rewrite('pkg')\n")

    def run(each="inf"):
        path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
        words = [sys.executable, "-c", RUN, str(tmp_path), each]
        environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        ended = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert ended.returncode == 0, ended.stderr
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        return {line[0].partition(" ")[2]: line[1:] for line in lines}

    ground = Ground(tmp_path, "pkg", ("tests",))
    run.known = lambda: Journal(tmp_path / "journal.jsonl", ground).outcomes
    run.tests = tmp_path / "tests" / "test_calc.py"
    run.source = tmp_path / "pkg" / "calc.py"
    return run


def test_a_strong_test_kills_all_and_says_how(project):
    found = project()
    assert len(found) == len(mutants(FILE, SOURCE))
    assert {verdict for verdict, _, _ in found.values()} == {"killed"}
    assert found["clipped: x > LIMIT -> x >= LIMIT"][1] == "tests/test_calc.py::test_clipped"
    assert found["Box.area: self.side * self.side -> self.side / self.side"][1] == "tests/test_calc.py::test_area"
    assert found[": 3 -> 4"][0] == found["clipped: 0 -> 1"][0] == "killed", "nothing of them is in a function's body"


def test_a_test_that_fails_by_its_place_kills_nothing(project):
    """It passes only after another one, which takes longer and would come later here."""
    slow = "end = time.process_time() + 0.05\n    while time.process_time() < end: pass\n"
    first = (
        f"import time\nfrom pkg import calc\nseen = []\n\ndef test_first():\n    {slow}    seen.append(calc.LIMIT)\n"
    )
    project.tests.write_text(first + "\ndef test_second():\n    assert calc.clipped(1) == seen[0] - 2\n")
    with pytest.raises(AssertionError, match="test_second fails in its place without a mutant too"):
        project()


def test_a_weak_test_is_told_what_it_does_not_see_and_a_better_one_goes_on_from_there(project):
    weak = STRONG.replace("(-2, 2, 3, 4)] == [2, 2, 3, -1]", "(-2, 2, 4)] == [2, 2, -1]").replace(
        "LIMIT == 3", "LIMIT > 0"
    )
    project.tests.write_text(weak)
    survived = {place for place, outcome in project().items() if outcome[0] == "survived"}
    assert survived == {"clipped: x > LIMIT -> x >= LIMIT", ": 3 -> 2"}
    assert project() == {}, "all were tried"
    assert len(project.known()) == len(mutants(FILE, SOURCE))
    project.source.write_text(SOURCE.replace("return steps", "return steps + 0 * n"))
    assert project.known() == {}, "what was known of an edited file is void"


def test_a_crash_and_an_endless_loop_are_kills_and_a_short_look_leaves_open(project):
    project.source.write_text(ENDING)
    project.tests.write_text(ENDED)
    found = project("0.01")
    assert found["f: x < 1 -> x <= 1"][0] == "crashed"
    assert found["f: x += 1 -> pass"][0] == "timeout"
    assert found["f: x < 1 -> x >= 1"][0] == "open", "only the quicker test had its turn"
    assert found["f: 2 -> 3"][:2] == ["killed", "tests/test_calc.py::test_a"]
    assert project() == {}


def test_what_only_an_import_runs_is_imported_with_its_mutant(project):
    """A decorator has done its work long before a test: a mutant put into it afterwards would change nothing."""
    project.source.write_text("def made(f):\n    return f\n\n\n@made\ndef g(x):\n    return x\n")
    project.tests.write_text("from pkg import calc\n\ndef test_it():\n    assert calc.g(2) == 2\n")
    assert project()["made: return f -> return None"][0] == "killed"


def test_what_survives_on_record_is_little_and_has_a_reason():
    whole = json.loads((RECORDS / "mutants.json").read_text(encoding="utf-8"))
    rooms = {room["room"]: room for room in whole["rooms"]}
    assert set(rooms) == {ground.room for ground in GROUNDS.values()}
    assert rooms["stabilitykit/numerics"]["run"] == rooms["stabilitykit/numerics"]["mutants"]
    assert rooms["stabilitykit/measurements"]["run"] >= 2000
    for room in rooms.values():
        killed = sum(room[verdict] for verdict in KILLED)
        assert room["run"] == killed + len(room["survivors"])
        assert all(one["reason"] for one in room["survivors"])
        assert killed >= 0.95 * (room["run"] - room["equivalent"])


@pytest.mark.parametrize("unsettled", [0, 3, None])
def test_a_sample_ends_where_the_first_has_neither_a_killer_nor_a_reason(tmp_path, monkeypatch, unsettled):
    """What was run behind it counts for itself; a reason counts only where no test killed."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / FILE).write_text(SOURCE, encoding="utf-8")
    ground = Ground(tmp_path, "pkg", ("tests",))
    journal, order = Journal(tmp_path / "journal", ground), ground.order()
    for place, mutant in enumerate(order[:-1]):
        survives = place in (1, 5, unsettled)
        journal.add(mutant, Outcome("survived", "", 2) if survives else Outcome("killed", "test_it", 1))
    known = {order[1].place: "equivalent: it is one", order[2].place: "of no use", order[5].place: "last bits"}
    monkeypatch.setattr("torture.mutants.record.reasons", lambda: known)
    found, last = counted(ground, journal), len(order) - 1
    assert found["run"] == {0: 0, 3: 3, None: last}[unsettled]
    assert found["beyond"]["run"] == last - found["run"]
    assert found["beyond"]["killed"] == {0: last - 3, 3: last - 5, None: 0}[unsettled]
    assert (found["equivalent"], len(found["survivors"])) == {0: (0, 0), 3: (1, 1), None: (1, 2)}[unsettled]


def test_a_reason_belongs_to_a_mutant_that_there_is():
    files = {place.partition(" ")[0] for place in reasons()}
    places = {one.place for file in files for one in mutants(file, (ROOT / file).read_text(encoding="utf-8"))}
    assert set(reasons()) - places == set()


def test_an_edit_of_one_file_leaves_the_order_of_the_others(tmp_path):
    (tmp_path / "pkg").mkdir()
    for name in "ab":
        (tmp_path / "pkg" / f"{name}.py").write_text(SOURCE, encoding="utf-8")
    ground = Ground(tmp_path, "pkg", ("tests",))
    before = [one.place for one in ground.order() if "a.py" in one.file]
    assert before != sorted(before)
    (tmp_path / "pkg" / "b.py").write_text("LIMIT = 3\n", encoding="utf-8")
    assert [one.place for one in ground.order() if "a.py" in one.file] == before
