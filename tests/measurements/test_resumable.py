"""The file that long work goes on from: lines whose checksum holds, but that nobody here wrote."""

import pytest

import stabilitykit as sk
from stabilitykit.measurements.resumable import Steps
from stabilitykit.subjects.checked_lines import append_lines


@pytest.mark.parametrize("line", ["{nope", "[1]", "[" * 100_000, "9" * 5000])
def test_a_line_that_is_no_step_is_refused(tmp_path, line):
    path = tmp_path / "steps.jsonl"
    append_lines(path, ['{"model": "a"}', line])
    with sk.resumable(path), pytest.raises(sk.UnreadableError, match="holds a line that is no step of a measurement"):
        Steps({"model": "a"})
    with sk.resumable(tmp_path / "new.jsonl"):
        Steps({"model": "a"}).once(lambda: {"rank": 1})
    with sk.resumable(tmp_path / "new.jsonl"):
        assert Steps({"model": "a"}).once(dict) == {"rank": 1}
