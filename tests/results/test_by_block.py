"""One table of several results: against rows gathered by hand, with planted gaps and repeats."""

import math

import pytest

import stabilitykit as sk
from stabilitykit.results.result import Result


def result(name, *rows):
    return Result(name, name, "measured", name, "", {}, rows=rows)


def test_rows_meet_at_their_block_whatever_it_is_called():
    defects = result("defects", {"part": "layer", "block": 0, "a": 1.0}, {"part": "layer", "block": 2, "a": 3.0})
    ledger = result("ledger", {"part": "layer", "layer": 2, "share": 0.5}, {"part": "layer", "layer": 0, "share": 0.25})
    profile = result(
        "profile", {"site": "embed", "gain": 9.0}, *({"site": f"block:{k}", "gain": 10.0 * k} for k in (0, 2, 11))
    )
    table = sk.by_block([defects, ledger, profile])
    assert table.index.tolist() == [0, 2, 11]
    assert table.loc[2].to_dict() == {"defects.a": 3.0, "ledger.share": 0.5, "profile.gain": 20.0}
    assert math.isnan(table.loc[11, "defects.a"])
    assert table.loc[11, "profile.gain"] == 110.0


def test_of_several_rows_of_a_block_the_median_counts():
    steps = result("p", *({"site": f"block:{k}", "gain": float(gain + k)} for gain in (1, 2, 90) for k in (0, 1)))
    assert sk.by_block([steps])["p.gain"].tolist() == [2.0, 3.0]


def test_parts_about_one_block_are_left_out_and_roles_are_kept():
    rows = [{"part": "layer", "block": k, "a": float(k), "role": "decay" if k else ""} for k in range(3)]
    table = sk.by_block([result("d", *rows, *({"part": "vector", "block": 1, "sigma": 5.0} for _ in range(9)))])
    assert sorted(table.columns) == ["d.a", "d.role"]
    assert table["d.role"].tolist() == ["", "decay", "decay"]


def test_rows_of_a_matrix_give_columns_of_each():
    rows = [
        {"part": "layer", "layer": k, "matrix": m, "s1": 10.0 * k + n} for k in (0, 1) for n, m in enumerate(("q", "v"))
    ]
    table = sk.by_block([result("head_spectra", *rows, {"part": "head", "layer": 0, "matrix": "q", "s1": 99.0})])
    assert sorted(table.columns) == ["head_spectra.q.s1", "head_spectra.v.s1"]
    assert table.loc[1].to_dict() == {"head_spectra.q.s1": 10.0, "head_spectra.v.s1": 11.0}


def test_operations_are_not_mixed_with_their_layers_but_subjects_are_averaged():
    operations = [{"part": "operation", "layer": k % 2, "share": 100.0, "subject": "a"} for k in range(6)]
    layers = [
        {"part": "layer", "layer": k, "share": share + k, "subject": name}
        for k in (0, 1)
        for name, share in (("a", 1.0), ("b", 3.0))
    ]
    assert sk.by_block([result("ledger", *operations, *layers)])["ledger.share"].tolist() == [2.0, 3.0]


def test_operations_outside_the_blocks_are_no_block():
    rows = ({"part": "layer", "layer": None, "a": 7.0}, *({"part": "layer", "layer": k, "a": float(k)} for k in (0, 1)))
    assert sk.by_block([result("ledger", *rows)])["ledger.a"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("given", [[], [result("x", {"a": 1})], [result("x", {"site": "embed", "a": 1})]])
def test_nothing_to_join_is_refused(given):
    with pytest.raises(sk.UsageError):
        sk.by_block(given)
