"""The file that long work goes on from: lines whose checksum holds, but that nobody here wrote."""

import pytest

import stabilitykit as sk
from stabilitykit.measurements.resumable import Steps
from stabilitykit.subjects.checked_lines import append_lines


@pytest.mark.parametrize(
    ("letters", "said"), [(58, f"'{'a' * 58}'"), (59, f"'{'a' * 55} ..."), (5000, f"'{'a' * 55} ...")]
)
def test_what_was_asked_otherwise_is_told_in_at_most_60_characters(tmp_path, letters, said):
    path = tmp_path / "steps.jsonl"
    with sk.resumable(path):
        Steps({"prompt": "a" * letters})
    with sk.resumable(path), pytest.raises(sk.IncomparableError) as refused:
        Steps({"prompt": 1})
    assert str(refused.value).startswith(f"{path} is of a run with prompt {said}, this one has 1; ask as that run did")
    assert len(said) <= 60


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
