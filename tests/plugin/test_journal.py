"""The journal survives what kills a run: torn and damaged lines are told from whole ones."""

from stabilitykit.plugin.journal import FORMER, NAME, Journal, read


def test_what_is_appended_is_read_back(tmp_path):
    journal = Journal(tmp_path / "new")
    for record in ('{"a": 1}', '{"b": "Ä\\u2028"}'):
        journal.append(record)
    assert read(tmp_path / "new" / NAME) == (['{"a": 1}', '{"b": "Ä\\u2028"}'], 0)


def test_a_torn_last_line_costs_that_line_alone(tmp_path):
    journal = Journal(tmp_path)
    for number in range(3):
        journal.append(f'{{"n": {number}}}')
    whole = (tmp_path / NAME).read_bytes()
    for cut in range(len(whole) // 3 * 2 + 1, len(whole) - 1):
        (tmp_path / NAME).write_bytes(whole[:cut])
        assert read(tmp_path / NAME) == (['{"n": 0}', '{"n": 1}'], 1)


def test_any_changed_byte_is_noticed(tmp_path):
    Journal(tmp_path).append('{"n": 1}')
    whole = (tmp_path / NAME).read_bytes()
    for index in range(len(whole) - 1):
        (tmp_path / NAME).write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert read(tmp_path / NAME)[0] == []


def test_the_journal_of_the_run_before_is_kept_once(tmp_path):
    for number in range(3):
        Journal(tmp_path).append(f'{{"run": {number}}}')
    assert read(tmp_path / NAME)[0] == ['{"run": 2}']
    assert read(tmp_path / FORMER)[0] == ['{"run": 1}']


def test_a_killed_run_leaves_what_it_measured(inner):
    run = inner(
        """
import os

def test_first(stability):
    stability.measure(ToyDrift(3.0), TOY)

def test_killed(stability):
    os._exit(9)
""",
        apart=True,
    )
    assert run.verdicts == {"toy_drift[test_first]": "differs"}
    assert not (run.folder / "index.html").exists()
