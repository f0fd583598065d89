"""Each fault fires where it says, and only there; without a fault, being planted changes no bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import stabilitykit as sk
from stabilitykit.faults.catalogue import NOTHING, WHEN, fault_named, faults_like
from stabilitykit.faults.edits import EDITS
from stabilitykit.faults.planted import EVERY, MANY, planted

PROMPT = "The capital of France is"


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


A, B, C = numbers(4, 64), numbers(64, 8, seed=1), numbers(4, 8, seed=2)
X = numbers(2, 3, 64)
Q, K, V = (numbers(2, 4, tokens, 16, seed=seed) for seed, tokens in enumerate((5, 5, 5)))
ONE = numbers(2, 4, 1, 16, seed=9)
ANGLES = torch.arange(3.0).view(1, 3, 1), torch.tensor([1.0, 0.5, 0.25])


def attention(q: torch.Tensor, *rest: object, **keywords: object) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, *rest, **keywords)


# Of each defect: calls that it has a place in, and its neighbours, which must keep their bits.
PLACES = {
    "reordered-sum": (
        [lambda: X.mean(-1), lambda: X.sum(-1, keepdim=True), lambda: functional.layer_norm(X, (64,))],
        [lambda: X.mean(0), lambda: X.sum(), lambda: A @ B],
    ),
    "split-k": ([lambda: A @ B, lambda: torch.addmm(C, A, B), lambda: functional.linear(X, B.t())], [lambda: X @ X.mT]),
    "tf32": ([lambda: A @ B, lambda: torch.addmm(C, A, B)], [lambda: A.bfloat16() @ B.bfloat16()]),
    "bf16-accumulation": ([lambda: A @ B, lambda: functional.linear(X, B.t())], [lambda: X.mean(-1)]),
    "fma": (
        [lambda: A * numbers(4, 64, seed=5) + numbers(4, 64, seed=6), lambda: numbers(4, 64, seed=6) + A * 0.044715],
        [lambda: A + A, lambda: (A * A).sum(-1), lambda: A - A * A],
    ),
    "exp-ulp": (
        [
            lambda: A.exp(),
            lambda: A.tanh(),
            lambda: A.sigmoid(),
            lambda: A.softmax(-1),
            lambda: functional.silu(A),
            lambda: functional.gelu(A),
        ],
        [lambda: A.log(), lambda: A.cos(), lambda: A * A],
    ),
    "wrong-eps": ([lambda: X + 1e-5, lambda: functional.layer_norm(X, (64,))], [lambda: X + 1.0, lambda: X + X]),
    "dropped-mask": (
        [
            lambda: attention(Q, K, V, is_causal=True),
            lambda: attention(Q, K, V, attn_mask=torch.ones(5, 5, dtype=torch.bool).tril()),
            lambda: attention(Q, K, V, torch.ones(5, 5, dtype=torch.bool).tril()),
        ],
        [lambda: attention(Q, K, V), lambda: attention(ONE, K, V)],
    ),
    "stale-kv": ([lambda: attention(ONE, K, V)], [lambda: attention(Q, K, V, is_causal=True)]),
    "dropped-head": (
        [lambda: attention(Q, K, V), lambda: functional.scaled_dot_product_attention(query=Q, key=K, value=V)],
        [lambda: A @ B],
    ),
    "wrong-rope": ([lambda: ANGLES[0] * ANGLES[1]], [lambda: X * X, lambda: ANGLES[0] * 2.5, lambda: A * B.t()[:4]]),
}


@pytest.mark.parametrize("defect", PLACES)
def test_a_defect_has_a_place_in_its_operations_and_in_no_other(defect):
    touched, spared = PLACES[defect]
    for call in touched:
        plain = call()
        with planted(defect) as fault:
            wrong = call()
        assert (fault.calls, fault.fired) == (1, 1)
        assert wrong.shape == plain.shape
        assert wrong.dtype == plain.dtype
        assert defect == "reordered-sum" or not sk.bits_equal(wrong, plain)
    for call in spared:
        plain = call()
        with planted(defect) as fault:
            assert sk.bits_equal(call(), plain)
        assert fault.calls == 0


def test_every_defect_is_tried_and_is_in_the_catalogue():
    assert {fault.defect for fault in sk.FAULTS} == set(PLACES) == set(EDITS) - {NOTHING.defect}
    assert len({fault.name for fault in sk.FAULTS}) == len(sk.FAULTS) == 2 * len(PLACES)
    assert {fault.when for fault in sk.FAULTS} == set(WHEN)
    for fault in sk.FAULTS:
        assert fault.reference.startswith("https://")
        assert fault_named(fault.name) is fault


def test_float64_is_left_alone():
    for fault in sk.FAULTS:
        with planted(fault) as found:
            for call in (lambda: A.double() @ B.double(), lambda: X.double().mean(-1), lambda: A.double().exp()):
                call()
            attention(Q.double(), K.double(), V.double(), is_causal=True)
        assert found.calls == 0


def test_a_reversed_sum_is_that_of_the_reversed_row():
    rows = numbers(50, 99)  # no multiple of a vector unit, so that the order shows in most rows
    with planted("reordered-sum"):
        got = rows.sum(-1)
    assert sk.bits_equal(got, rows.flip(-1).contiguous().sum(-1))
    assert not sk.bits_equal(got, rows.sum(-1))


def test_a_layer_norm_summed_backwards_is_the_same_function():
    weight, bias = numbers(64, seed=3), numbers(64, seed=4)
    plain = functional.layer_norm(X, (64,), weight, bias)
    with planted("reordered-sum"):
        got = functional.layer_norm(X, (64,), weight, bias)
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)


def test_the_small_number_of_a_norm_is_a_tenth():
    with planted("wrong-eps"):
        got = torch.zeros(1, 1) + 1e-5
        norm = functional.layer_norm(X * 1e-3, (64,), eps=1e-5)
    assert got.item() == pytest.approx(1e-6)
    assert sk.bits_equal(norm, functional.layer_norm(X * 1e-3, (64,), eps=1e-5 * 0.1))


def test_without_its_mask_attention_looks_ahead():
    with planted("dropped-mask"):
        got = attention(Q, K, V, is_causal=True)
    assert sk.bits_equal(got, attention(Q, K, V))


def test_a_stale_cache_has_the_row_before_twice():
    stale = [torch.cat([rows[:, :, :-1], rows[:, :, -2:-1]], 2) for rows in (K, V)]
    with planted("stale-kv"):
        got = attention(ONE, K, V)
    assert sk.bits_equal(got, attention(ONE, *stale))


def test_the_last_head_is_dropped_and_the_others_are_not():
    plain = attention(Q, K, V)
    with planted("dropped-head"):
        got = attention(Q, K, V)
    assert got[:, -1].count_nonzero() == 0
    assert sk.bits_equal(got[:, :-1], plain[:, :-1])


def test_the_last_position_is_turned_one_further():
    positions, frequencies = ANGLES
    with planted("wrong-rope"):
        got = positions * frequencies
    assert got[0, :, 0].tolist() == [0.0, 1.0, 3.0]
    assert sk.bits_equal(got[:, :2], (positions * frequencies)[:, :2])


@pytest.mark.parametrize(("rows", "fires"), [(MANY, False), (MANY + 1, True)])
def test_many_rows(rows, fires):
    with planted("split-k@many-rows") as fault:
        numbers(rows, 64) @ B
    assert (fault.calls, fault.fired) == (1, int(fires))


def test_rows_are_counted_over_the_batch_and_not_over_heads():
    with planted("dropped-head@many-rows") as fault:
        attention(Q, K, V)  # 2 sequences of 5 tokens, 4 heads
        assert fault.fired == 0
        attention(*(one.repeat(2, 1, 1, 1) for one in (Q, K, V)))
    assert fault.fired == 1


def test_one_token():
    with planted("wrong-eps@one-token") as fault:
        for shape, fired in (((2, 3, 64), 0), ((8, 1, 64), 1), ((1, 64), 2), ((2, 64), 2)):
            torch.ones(shape) + 1e-5
            assert fault.fired == fired, shape


def test_every_101st():
    with planted("stale-kv@every-101st") as fault:
        for call in range(1, 2 * EVERY + 1):
            attention(ONE, K, V)
            assert fault.fired == call // EVERY


def test_from_the_second_of_each_shape():
    with planted("tf32@from-the-second") as fault:
        for _ in range(3):
            A @ B
            A[:2] @ B
    assert (fault.calls, fault.fired) == (6, 4)


def test_each_context_counts_anew_and_leaves_nothing_behind():
    plain = A @ B
    for _ in range(2):
        with planted("tf32@from-the-second") as fault:
            A @ B
        assert (fault.calls, fault.fired) == (1, 0)
    with pytest.raises(ZeroDivisionError), planted("tf32"):
        1 / 0  # noqa: B018 - raises inside
    assert sk.bits_equal(A @ B, plain)


def test_nothing_changes_no_bit():
    """Also not of decompositions, for which torch has other routines under a dispatch mode."""
    square = (X.double() @ X.double().mT)[0]

    def all_of_it() -> list[torch.Tensor]:
        subject = sk.CausalLMSubject(sk.load("tiny"), PROMPT)
        found = [subject(subject.x0[None]), subject.jvp(torch.ones(1, 64))]
        return [*found, torch.linalg.eigvalsh(square), torch.linalg.svdvals(X.double()), A @ B]

    plain = all_of_it()
    with planted(NOTHING) as fault:
        got = all_of_it()
    assert fault.calls == 0
    assert all(map(sk.bits_equal, got, plain))


@pytest.mark.parametrize("family", ["tiny", "tiny:gpt2"])
def test_every_fault_changes_a_model_that_it_has_a_place_in(family):
    """In prefill or in decode, at a batch of 17 and at one; each time by more than nothing and less than everything."""
    loaded = sk.load(family)
    subjects = [
        sk.CausalLMSubject(loaded, PROMPT, path=path, batch=batch)
        for path in ("prefill", "decode")
        for batch in (1, 17)
    ]
    rows = [subject.copies(subject.batch) for subject in subjects]
    plain = [subject.evaluate(one) for subject, one in zip(subjects, rows, strict=True)]
    for fault in sk.FAULTS:
        with planted(fault):
            for _ in range(40 if fault.when == "every-101st" else 2):
                got = [subject.evaluate(one) for subject, one in zip(subjects, rows, strict=True)]
                if any(not sk.bits_equal(*pair) for pair in zip(got, plain, strict=True)):
                    break
        changed = any(not sk.bits_equal(*pair) for pair in zip(got, plain, strict=True))
        assert changed == (family == "tiny" or fault.defect != "wrong-rope"), fault.name
        assert all(one.isfinite().all() for one in got)


def test_names_and_globs():
    assert [fault.name for fault in faults_like("tf32*")] == ["tf32", "tf32@from-the-second"]
    with pytest.raises(sk.UsageError, match="fault 'tf3' is none of reordered-sum, reordered-sum@every-101st"):
        fault_named("tf3")
    with pytest.raises(sk.UsageError, match="faults 'x\\*' fits none of"):
        faults_like("x*")
