"""The journal survives what kills a run: torn and damaged lines are told from whole ones, and its run is known."""

import json

import pytest

from stabilitykit.errors import UnreadableError, UnwritableError, UsageError
from stabilitykit.report.journal import FORMER, NAME, Journal, lines, read, resumable

HEADER = json.dumps({"started": "2026-01-02", "identity": {"seed": 0, "models": ["tiny"]}})


def record(number, node="a"):
    return json.dumps({"check_id": f"check{number}", "nodeid": node})


def done(records, node="a", outcome="passed"):
    about = {"nodeid": node, "records": records, "source": "5", "outcome": outcome, "message": "", "code": None}
    return json.dumps(about)


def written(folder, *entries, resumed=False):
    journal = Journal(folder, HEADER, resumed=resumed)
    for entry in entries:
        journal.append(entry, "done" if "outcome" in entry else "record")
    return folder / NAME


def test_what_is_appended_is_read_back(tmp_path):
    path = written(tmp_path / "new", '{"a": 1}', '{"b": "Ä\\u2028"}')
    assert lines(path) == ([("header", HEADER), ("record", '{"a": 1}'), ("record", '{"b": "Ä\\u2028"}')], 0)


def test_a_torn_last_line_costs_that_line_alone(tmp_path):
    path = written(tmp_path, *[f'{{"n": {number}}}' for number in range(3)])
    whole = path.read_bytes()
    for cut in range(whole.rindex(b"\n", 0, -1) + 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert lines(path) == ([("header", HEADER), ("record", '{"n": 0}'), ("record", '{"n": 1}')], 1)


def test_what_is_appended_to_a_torn_line_is_whole(tmp_path):
    path = written(tmp_path, record(0))
    path.write_bytes(path.read_bytes()[:-9])
    written(tmp_path, record(1), resumed=True)
    assert lines(path) == ([("header", HEADER), ("header", HEADER), ("record", record(1))], 1)


def test_any_changed_byte_is_noticed(tmp_path):
    path = written(tmp_path, '{"n": 1}')
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for index in range(start, len(whole) - 1):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        assert [line.kind for line in lines(path)[0]] == ["header"]


def test_a_full_disk_stops_no_run_and_is_told_once(tmp_path, monkeypatch):
    journal = Journal(tmp_path, HEADER)
    journal.keep(record(0))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(UnwritableError, match=r"journal\.jsonl was not written \(\d+ bytes\): No space left"):
            journal.append(record(1))
        journal.keep(record(1))
    journal.keep(record(2))
    assert journal.problem.endswith("what was there before is unchanged; the rest of this run cannot be resumed")
    assert lines(journal.path) == ([("header", HEADER), ("record", record(0))], 0)


def test_the_kind_is_under_the_checksum(tmp_path):
    path = written(tmp_path, done(0))
    path.write_bytes(path.read_bytes().replace(b'"done":', b'"record":'))
    assert lines(path) == ([("header", HEADER)], 1)


def test_the_journal_of_the_run_before_is_kept_once(tmp_path):
    for number in range(3):
        written(tmp_path, f'{{"run": {number}}}')
    assert lines(tmp_path / NAME)[0][1:] == [("record", '{"run": 2}')]
    assert lines(tmp_path / FORMER)[0][1:] == [("record", '{"run": 1}')]


def test_a_test_is_finished_with_all_its_records(tmp_path):
    path = written(tmp_path, record(0), record(1), done(2), record(2, "b"), record(3, "c"), done(2, "c"))
    contents = read(path)
    assert list(contents.finished) == ["a"]
    assert contents.finished["a"].records == (record(0), record(1))
    assert contents.damaged == 0


def test_what_an_interrupted_test_left_is_not_counted_with_what_it_left_when_resumed(tmp_path):
    written(tmp_path, record(0))
    path = written(tmp_path, record(1), done(1), resumed=True)
    assert read(path).finished["a"].records == (record(1),)
    assert len(read(path).headers) == 2


def test_a_finished_test_whose_record_is_damaged_is_not_finished(tmp_path):
    path = written(tmp_path, record(0), done(1), record(1, "b"), done(1, "b"))
    path.write_bytes(path.read_bytes().replace(b"check0", b"chEck0"))
    contents = read(path)
    assert (list(contents.finished), contents.damaged) == (["b"], 1)


@pytest.mark.parametrize("content", [b"", b'{"crc":"0123'])
def test_a_run_that_was_killed_in_its_first_line_left_nothing(tmp_path, content):
    former = written(tmp_path, record(0), done(1)).read_bytes()
    Journal(tmp_path, HEADER).begin()
    (tmp_path / NAME).write_bytes(content)
    assert resumable(tmp_path, {}) is None
    path = written(tmp_path, record(1), done(1))
    assert read(path).finished["a"].records == (record(1),)
    assert (tmp_path / FORMER).read_bytes() == former


@pytest.mark.parametrize("content", [b"\n", b"nonsense\n"])
def test_a_journal_without_its_first_line_is_unreadable(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UnreadableError, match="does not say what run it is of"):
        resumable(tmp_path, {})
    path = written(tmp_path / "other", record(0))
    path.write_bytes(path.read_bytes().replace(b"2026", b"2025"))
    with pytest.raises(UnreadableError, match="its first line is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("kind", "data", "sentence"),
    [
        ("header", '{"identity": 3}', "a line of kind header is damaged, or was not written here: identity is 3"),
        ("record", '{"nodeid": ["a"]}', "nodeid is ['a'], not a text"),
        ("record", "{nope", "a line of kind record is no JSON"),
        ("record", "[" * 100_000, "a line of kind record is no JSON"),
        ("done", '{"nodeid": "a", "records": {}}', "a line of kind done is damaged"),
        ("done", "7", "it is 7, not an object"),
    ],
)
def test_a_line_whose_checksum_holds_may_still_not_be_ours(tmp_path, kind, data, sentence):
    journal = Journal(tmp_path, data if kind == "header" else HEADER)
    journal.append(data if kind != "header" else record(0), kind if kind != "header" else "record")
    with pytest.raises(UnreadableError) as caught:
        resumable(tmp_path, {})
    assert sentence in str(caught.value)


def test_only_the_same_run_is_resumed(tmp_path):
    assert resumable(tmp_path, {}) is None
    written(tmp_path, record(0), done(1))
    assert list(resumable(tmp_path, {"models": ["tiny"], "seed": 0}).finished) == ["a"]
    for identity, sentence in (
        ({"models": ["tiny"], "seed": 1}, "is of a run with seed 0, this one has 1"),
        ({"models": ["tiny"]}, "is of a run with seed 0, this one has null"),
        ({"models": ["tiny"], "seed": 0, "strict": True}, "is of a run with strict null, this one has true"),
        ({"models": ["tiny"], "seed": 0, "\u202e": 1}, r"is of a run with \u202e null"),
        ({"models": ["other" * 20], "seed": 0}, 'with models ["tiny"], this one has ["otherother'),
    ):
        with pytest.raises(UsageError) as caught:
            resumable(tmp_path, identity)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
