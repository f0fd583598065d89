"""The tie solver against planes whose nearest tie is known, and every reason it has to refuse."""

import contextlib
import math

import pytest
import torch

import stabilitykit as sk
from stabilitykit.measurements import tie_store
from stabilitykit.measurements.derived import derived_in
from stabilitykit.measurements.tie_solver import BATCHES, GRADIENTS, _neighbours, tie_point
from stabilitykit.measurements.tie_store import tie_of
from stabilitykit.numerics.bits import bits_equal, spacing

W = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 2.0], [-3.0, 0.0, 0.25]])
X0 = torch.tensor([1.0, 0.5, 0.25])


def linear(W=W, x0=X0, **how):
    return sk.FunctionSubject(lambda X: X @ W.T.to(X.dtype), x0, name="plane", **how)


def bent(X):
    """Two logits whose difference is x + x^3 - 3, and a third far below."""
    x = X[:, 0]
    return torch.stack([x + x**3, torch.full_like(x, 3.0), torch.full_like(x, -9.0)], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_nearest_tie_of_a_plane(dtype):
    """It is x0 minus the projection onto w_a - w_b, up to the dtype's rounding, and its gap is within 2 ULP."""
    subject = linear(W.to(dtype), X0.to(dtype))
    tie = tie_point(subject)
    assert tie.pair == (0, 1)
    d = (W[0] - W[1]).double()
    nearest = X0.double() - (X0.double() @ d) / (d @ d) * d
    assert float((tie.x.double() - nearest).norm()) < 16 * torch.finfo(dtype).eps
    logits = subject.at(tie.x).baseline[0]
    assert tie.logits == (float(logits[0]), float(logits[1]))
    assert tie.gap_ulp == abs(float(logits[0].double() - logits[1].double())) / float(spacing(logits[:2]).max())
    assert tie.gap_ulp <= 2
    assert tie.distance == pytest.approx(float((nearest - X0.double()).norm()), rel=16 * torch.finfo(dtype).eps)
    assert tie.relative_distance == pytest.approx(tie.distance / float(X0.double().norm()))
    assert tie.gap0 == 1.75 - 0.5


def test_a_curved_gap_takes_several_steps_and_lands_on_its_root():
    """x + x^3 = 3 from 0.1, where the first step overshoots to 2.9: halved or not, |g| never rises on the way."""
    tie = tie_point(sk.FunctionSubject(bent, torch.tensor([0.1])))
    root = 1.2134116627622296
    assert float(tie.x) == pytest.approx(root, rel=1e-6)
    newton = [abs(row["gap"]) for row in tie.trace if row["kind"] == "newton"]
    assert len(newton) >= 3
    assert tie.trace[0]["gap"] == pytest.approx(tie.gap0)
    assert tie.residual == tie.gap_ulp <= 2


def test_steps_that_do_not_help_are_halved():
    """g = atan(x) from x = 2 makes full Newton steps diverge; halved ones arrive at 0."""
    tie = tie_point(
        sk.FunctionSubject(lambda X: torch.cat([X.atan() + 4, torch.full_like(X, 4.0)], 1), torch.tensor([2.0]))
    )
    assert abs(float(tie.x)) <= 1e-6
    newton = [abs(row["gap"]) for row in tie.trace if row["kind"] == "newton"]
    assert newton[0] > abs(tie.gap0) > newton[1]


def test_a_jump_over_zero_is_bracketed_to_neighbouring_floats():
    """Where rounding lets no input tie, the search ends between two neighbours, and the better one is refused."""

    def split(X):
        x = X[:, :1]
        return torch.cat([x + torch.where(x > 1, 1e-3, -1e-3), torch.ones_like(x)], 1)

    subject = sk.FunctionSubject(split, torch.tensor([2.0]), name="split")
    with pytest.raises(sk.UnsupportedError, match=r"do not tie within 2 ULP: the smallest difference of .* is 0.001"):
        tie_point(subject)
    assert subject.counter.backwards <= GRADIENTS
    tie = tie_point(subject, max_ulp=1e6)
    assert float(tie.x) in (1.0, float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))))


def test_a_jump_that_newton_steps_stop_short_of_is_bracketed_as_well():
    """Of the two sides of 1.25 the upper one is nearer zero, and steps 32 times shorter still end below."""

    def split(X):
        return torch.cat([X + torch.where(X > 1.25, 1e-3, -5e-3), torch.full_like(X, 1.25)], 1)

    tie = tie_point(sk.FunctionSubject(split, torch.tensor([2.0])), max_ulp=1e6)
    assert float(tie.x) == 1.25 + 2.0**-23
    newton = [row["gap"] for row in tie.trace if row["kind"] == "newton"]
    assert min(map(abs, newton)) > tie.gap > 1e-3


def test_a_pair_may_be_given_and_keeps_its_order():
    """Tokens 1 and 2 of the plane, with token 0 far below; the gap is that of the pair as given."""
    low = W.clone()
    low[0] = torch.tensor([-9.0, -9.0, -9.0])
    tie = tie_point(linear(low, torch.tensor([1.0, 0.5, 3.0])), pair=(2, 1))
    assert tie.pair == (2, 1)
    assert tie.gap0 < 0
    assert tie.gap_ulp <= 2


def test_a_third_token_that_overtakes_is_named():
    """On the way to the tie of 0 and 1 token 2 comes first: the study never looked. No pair is put in its place."""
    high = W.clone()
    high[2] = torch.tensor([0.0, -2.5, 6.0])  # 0.25 at x0, last of the three, and 2 where 0 and 1 tie at 1.1
    subject = linear(high)
    assert subject.baseline[0].argsort(descending=True).tolist() == [0, 1, 2]
    with pytest.raises(
        sk.UnsupportedError, match=r"tokens 0 and 1 tie at .* token 2 has a logit of .*; give pair=\(0, 2\)"
    ):
        tie_point(subject)


def test_no_way_to_go():
    """A gap that does not depend on the input, and one that never turns."""
    flat = sk.FunctionSubject(lambda X: torch.cat([X * 0 + 1, X * 0], 1), torch.tensor([1.0]), name="flat")
    with pytest.raises(sk.UnsupportedError, match=r"the gradient of their difference is 0.0 there, no way to go"):
        tie_point(flat)
    above = sk.FunctionSubject(lambda X: torch.cat([X**2 + 1, X * 0], 1), torch.tensor([1.1]), name="above")
    with pytest.raises(sk.UnsupportedError, match="do not tie within 2 ULP"):
        tie_point(above)
    assert above.counter.forwards <= BATCHES + 2


def test_the_neighbour_that_should_close_the_gap_comes_first():
    """Above 1 floats are twice as far apart as below: up in the first coordinate closes it, down in the second half."""
    gap, slopes = 2.0**-23, torch.tensor([-1.0, 1.0], dtype=torch.float64)
    first, second, *_ = _neighbours(torch.ones(2), gap, slopes, 1)
    assert first.tolist() == [[1 + 2.0**-23, 1.0]]
    assert second.tolist() == [[1.0, 1 - 2.0**-24]]


@pytest.mark.parametrize(
    ("pair", "said"),
    [((0, 0), "two different ids"), ((0, 3), "from 0 to 2"), ((-1, 0), "from 0 to 2"), ((True, 0), "ids")],
)
def test_an_impossible_pair_is_refused(pair, said):
    """Equal ids, ids outside, and what is no id."""
    with pytest.raises(sk.UsageError, match=said):
        tie_point(linear(), pair=pair)


def test_what_has_no_two_logits_is_refused():
    """A single output, a module, and an unknown kind of equality."""
    with pytest.raises(sk.UsageError, match="a tie takes two"):
        tie_point(sk.FunctionSubject(lambda X: X, torch.tensor([1.0])))
    module = sk.ModuleSubject(sk.CausalLMSubject(sk.load("tiny"), [1, 2]), "model.layers.0.mlp")
    with pytest.raises(sk.UnsupportedError, match="has no logits"):
        tie_point(module)
    with pytest.raises(sk.UsageError, match="'odds' is not one of logits, probabilities"):
        tie_point(linear(), equal="odds")


def test_a_tie_at_the_start_moves_nothing():
    """Equal logits at x0: no gradient, no distance."""
    subject = linear(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 1.0]))
    tie = tie_point(subject)
    assert (tie.distance, tie.backwards, tie.gap) == (0.0, 0, 0.0)


def test_equal_probabilities_are_found_before_equal_logits():
    """Of small logits in float32 many bit-different pairs have the same softmax; the tie says which it is."""

    def small(X):
        return torch.cat([X * 1e-10 + 1e-9, X * 0, X * 0 - 30], 1)

    subject = sk.FunctionSubject(small, torch.tensor([3.0]))
    by_logits, by_probability = (tie_point(subject, equal=equal) for equal in ("logits", "probabilities"))
    assert by_probability.equal_probabilities
    assert by_probability.residual == 0
    assert by_probability.gap != 0
    assert by_probability.gap_ulp > 2
    assert by_probability.distance < by_logits.distance
    assert by_logits.gap_ulp <= 2


def test_probabilities_are_compared_in_the_dtype_of_the_logits():
    """In bfloat16 the residual of probabilities counts in bfloat16's own ULP."""
    subject = linear(W.bfloat16(), X0.bfloat16())
    tie = tie_point(subject, equal="probabilities")
    p = torch.softmax(subject.at(tie.x).baseline[0], dim=-1)
    assert tie.probabilities == (float(p[0]), float(p[1]))
    assert tie.residual == abs(float(p[0].double() - p[1].double())) / float(spacing(p[:2]).max())


@pytest.mark.parametrize("spec", ["tiny", "tiny:gpt2", "tiny:gemma2", "tiny:qwen3"])
@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 1), ("decode", 8)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_tie_in_their_own_bits(spec, path, batch, dtype):
    """The accepted gap is that of the model's own logits at x, in slot 0 of its batch; both tokens lead."""
    loaded, ties = sk.load(spec, dtype=dtype), []
    for prompt in ("The capital", "2 + 2 =", "Once upon a time", "def f(x):"):
        subject = sk.CausalLMSubject(loaded, prompt, path=path, batch=batch)
        with contextlib.suppress(sk.UnsupportedError):  # in random weights a third token is often near
            ties.append((subject.with_site("logits"), tie_point(subject)))
    assert ties
    for subject, tie in ties:
        z = subject.at(tie.x).baseline[0]
        assert (float(z[tie.pair[0]]), float(z[tie.pair[1]])) == tie.logits
        assert set(z.topk(2).indices.tolist()) == set(tie.pair)
        assert tie.gap_ulp <= 2
        assert tie.backwards <= GRADIENTS
        assert tie.forwards <= (BATCHES + 1) * batch
        assert (tie.path, tie.batch, tie.slot) == (path, batch, 0)


def test_the_whole_prompt_may_move():
    """rows="all": the nearest tie of all embeddings together is nearer than that of the last one."""
    loaded = sk.load("tiny")
    last, whole = (sk.CausalLMSubject(loaded, "The capital", rows=rows, site="logits") for rows in ("last", "all"))
    pair = tuple(last.baseline[0].topk(2).indices.tolist())
    ties = [tie_point(subject, pair) for subject in (last, whole)]
    assert ties[1].distance < ties[0].distance
    assert bits_equal(ties[1].x0, whole.x0)


def test_nothing_is_left_at_another_batch():
    """Where slots are not proved equal, only slot 0 is asked: a subject whose slots differ still ties in slot 0."""

    def slotted(X):
        return X @ W.T + torch.arange(len(X))[:, None] * torch.tensor([[0.125, 0.0, 0.0]])

    subject = sk.FunctionSubject(slotted, X0, batch=4)
    tie = tie_point(subject)
    z = subject.at(tie.x).baseline
    assert abs(float(z[0, 0] - z[0, 1])) <= 2 * tie.ulp
    assert abs(float(z[1, 0] - z[1, 1])) > 0.1


@pytest.mark.model
@pytest.mark.parametrize(("dtype", "path"), [("float32", "decode"), ("float32", "prefill"), ("bfloat16", "decode")])
def test_smollm2_ties(dtype, path):
    """The capital of France is Paris, or the: equal to the last bit or two, a third of the embedding's length away."""
    subject = sk.CausalLMSubject(sk.load("smollm2", dtype=dtype), "The capital of France is", path=path, site="logits")
    tie = tie_point(subject)
    z = subject.at(tie.x).baseline[0]
    assert tie.gap_ulp <= 2
    assert set(z.topk(2).indices.tolist()) == set(tie.pair)
    assert 0.05 < tie.relative_distance < 0.5
    assert math.isfinite(tie.gap0)


def test_one_solve_serves_all_who_ask(tmp_path):
    """In memory by description and batch, through the folder as another worker reads it, and refusals as well."""
    loaded = sk.load("tiny")
    subject = sk.CausalLMSubject(loaded, "Once upon a time", path="decode", site="logits")
    tie_store._memory.clear()
    with derived_in(tmp_path):
        first = tie_of(subject)
        spent = vars(subject.counter).copy()
        assert tie_of(sk.CausalLMSubject(loaded, "Once upon a time", path="decode", counter=subject.counter)) is first
        tie_store._memory.clear()
        stored = tie_of(subject)
    assert vars(subject.counter) == spent
    assert bits_equal(stored.x, first.x)
    assert {**vars(stored), "x": 0, "x0": 0} == {**vars(first), "x": 0, "x0": 0}
    assert tie_of(subject.with_batch(2)).batch == 2
    flat = sk.FunctionSubject(lambda X: torch.cat([X * 0 + 1, X * 0], 1), torch.tensor([1.0]))
    for _ in range(2):
        with pytest.raises(sk.UnsupportedError, match="no way to go"):
            tie_of(flat)
    assert flat.counter.backwards == 1


def test_a_step_that_would_let_a_third_token_first_is_halved():
    """A full step of 1 lowers |g| from 1 to 0.5 where token 2 is far ahead; half of it stays where the pair leads."""

    def trap(X):
        x = X[:, :1]
        third = torch.where((x > 0.9) & (x < 1.1), 50.0, -9.0)
        return torch.cat([5 - x - x**2 / 2, x * 0 + 4, third], 1)

    tie = tie_point(sk.FunctionSubject(trap, torch.tensor([0.0])))
    steps = [row["distance"] for row in tie.trace if row["kind"] == "newton"]
    assert steps[:2] == [1.0, 0.5]
    assert tie.distance == pytest.approx(math.sqrt(3) - 1, rel=1e-6)


def test_a_third_token_between_the_two_is_refused_as_well():
    """Where the pair is apart by more than a third token's room, that one parts them."""

    def parted(third):
        def run(X):
            x = X[:, :1]
            first = x + torch.where(x > 1, 5e-4, -2e-3)
            return torch.cat([first, torch.ones_like(x), torch.full_like(x, third)], 1)

        return sk.FunctionSubject(run, torch.tensor([2.0]))

    assert tie_point(parted(0.5), max_ulp=1e6).gap > 0
    with pytest.raises(sk.UnsupportedError, match="a third token comes first"):
        tie_point(parted(1.0002), pair=(0, 1), max_ulp=1e6)


def test_a_gap_of_a_few_ulp_is_still_stepped_over_once():
    """Two coordinates five floats apart: within rounding of a tie, where one Newton step is tried and arrives."""
    x0 = torch.tensor([1.0, 1.0 + 5 * 2.0**-23])
    tie = tie_point(linear(torch.eye(2), x0))
    assert [row["kind"] for row in tie.trace] == ["start", "newton"]
    assert tie.gap == 0
