"""Who spent the margin: planted roundings in models that have no other, and sums on many architectures."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import stabilitykit as sk
from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.prompts import DEFAULT_PROMPTS
from stabilitykit.subjects.tiny import byte_tokenizer, tiny

PROMPT = "The capital of France is"
IDS = list(PROMPT.encode())
FAMILIES = ("llama", "gpt2", "gemma2", "qwen2", "qwen3", "phi3", "bloom", "mamba", "zamba2", "mixtral", "gpt_oss")


class Cast(nn.Module):
    """Passes a module's output through bfloat16: the only rounding of a float64 model without others."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        y = self.inner(*args, **kwargs)
        return y.to(torch.bfloat16).to(y.dtype)


class Hidden(Cast):
    """The same where no torch function sees it; the copy that serves as the float64 twin does not round."""

    def __deepcopy__(self, memo):
        return copy.deepcopy(self.inner, memo)

    def forward(self, x):
        return torch.from_numpy(self.inner(x).numpy().astype("float32").astype("float64"))


class Drifting(Cast):
    """Other bits from the second call on, once it is told to: the planted model that cannot be watched."""

    calls = -1000

    def forward(self, x):
        self.calls += 1
        return self.inner(x) * (1 + 2.0**-20 * (self.calls > 1))


def exact_gpt2(planted=None, blocks=(1,)):
    """A GPT-2 in float64, which casts nothing, with a planted module around the MLP of some blocks."""
    model = tiny("gpt2", dtype="float64")
    for k in blocks if planted else ():
        model.transformer.h[k].mlp = planted(model.transformer.h[k].mlp)
    return sk.CausalLMSubject(sk.adopt(model, byte_tokenizer()), PROMPT)


def value(result, name):
    return result.readings[name].value


def operations(result):
    return [row for row in result.rows if row["part"] == "operation"]


def margins(subject, ids, pair):
    """Return the margin natively and in true float64, computed without the ledger, of one row of logits as it is."""
    row = torch.tensor([ids])
    found = []
    with torch.no_grad(), subject.running("eager" if subject.has_experts else None):
        found.append(subject.model(input_ids=row, use_cache=False, logits_to_keep=1).logits[0, -1])
    model = copy.deepcopy(subject.model).double()
    if subject.has_experts:
        model.set_experts_implementation("eager")
    with torch.no_grad(), sk.true_float64():
        found.append(model(input_ids=row, use_cache=False, logits_to_keep=1).logits[0, -1])
    return [float(z[pair[0]].double() - z[pair[1]].double()) for z in found]


@pytest.fixture(scope="module")
def llama():
    return sk.CausalLMSubject(sk.load("tiny"), PROMPT)


@pytest.fixture(scope="module")
def ledger(llama):
    return sk.measure(sk.Ledger(), llama, progress=False)


def test_a_model_without_rounding_has_an_empty_ledger():
    """The clean twin: float64 throughout, so no operation is in the table and nothing is spent."""
    result = sk.measure(sk.Ledger(), exact_gpt2(), progress=False)
    assert result.rows == ()
    assert result.worst is None
    for name in ("deviation", "margin_spent", "remainder", "remainder_share", "unseen", "turnover", "operations"):
        assert value(result, name) == 0, name
    assert value(result, "operations_seen") > 100
    assert result.sentence.endswith(" logit, as it is: no operation rounds.")


def test_a_planted_rounding_is_found_where_it_is_and_is_the_whole_deviation():
    subject = exact_gpt2(Cast)
    result = sk.measure(sk.Ledger(points=4), subject, progress=False)
    [row] = operations(result)
    where = ("transformer.h.1.mlp", "to", 0, 1, "mlp to")
    assert tuple(row[name] for name in ("module", "op", "occurrence", "layer", "kind")) == where
    native, true = margins(subject, IDS, result.subject["pair"])
    assert abs(native - true) > 1e-6
    assert value(result, "deviation") == native - true
    assert value(result, "margin") == pytest.approx(true, rel=1e-14, abs=0)
    assert row["contribution"] == pytest.approx(native - true, rel=1e-9, abs=0)
    assert row["share"] == pytest.approx(1, rel=1e-9, abs=0)
    assert row["scaled_ulp"] * 2.0**-45 == pytest.approx(0.25, abs=0.26)  # at most half a ULP of bfloat16, in float64's
    assert value(result, "operations") == 1
    assert value(result, "unseen") == pytest.approx(0, abs=1e-14)
    assert value(result, "largest_share") == row["share"]
    assert result.readings["largest_share"].place == {"module": "transformer.h.1.mlp", "op": "to"}
    assert result.worst.where == "transformer.h.1.mlp to"


def test_two_planted_roundings_are_told_apart():
    """Each has the integral of its own part, which is found here by moving the share of one error alone."""
    subject = exact_gpt2(Cast, blocks=(0, 2))
    result = sk.measure(sk.Ledger(points=6), subject, progress=False)
    shares = [row["contribution"] for row in operations(result)]
    assert [row["module"] for row in operations(result)] == ["transformer.h.0.mlp", "transformer.h.2.mlp"]
    assert shares == pytest.approx(integrals(subject, result.subject["pair"]), rel=1e-5, abs=0)
    assert sum(shares) == pytest.approx(value(result, "deviation"), rel=1e-9, abs=0)
    assert min(map(abs, shares)) > 1e-6


def integrals(subject, pair):
    """Return the integral of dm/ds_i at equal shares of both errors, by differences and Gauss, with plain hooks."""
    model, row = copy.deepcopy(subject.model), torch.tensor([IDS])
    casts = [model.transformer.h[k].mlp for k in (0, 2)]
    shares = [1.0, 1.0]
    errors = []

    for cast in casts:
        cast.forward = lambda x, inner=cast.inner: inner(x)

    def noting(_module, _inputs, y):
        errors.append(y.to(torch.bfloat16).double() - y)
        return y + errors[-1]

    def margin():
        z = model(input_ids=row, use_cache=False).logits[0, -1]
        return float(z[pair[0]] - z[pair[1]])

    with torch.no_grad():
        handles = [cast.register_forward_hook(noting) for cast in casts]
        margin()
        for handle in handles:
            handle.remove()
        for number, cast in enumerate(casts):
            cast.register_forward_hook(lambda _m, _i, y, n=number: y + shares[n] * errors[n])
        found = np.zeros(2)
        for node, weight in zip(*np.polynomial.legendre.leggauss(6), strict=True):
            for number in (0, 1):
                sides = []
                for step in (1e-3, -1e-3):
                    shares[:] = [(node + 1) / 2] * 2
                    shares[number] += step
                    sides.append(margin())
                found[number] += weight / 2 * (sides[0] - sides[1]) / 2e-3
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_is_the_deviation(family, dtype):
    """On many architectures, a mixture and state-space models among them; the deviation is taken without the ledger."""
    subject = sk.CausalLMSubject(sk.load(f"tiny:{family}", dtype=dtype), PROMPT)
    result = sk.measure(sk.Ledger(), subject, progress=False)
    native, true = margins(subject, IDS, result.subject["pair"])
    assert native != true
    assert value(result, "deviation") == pytest.approx(native - true, rel=1e-6, abs=0)
    total = math.fsum(row["contribution"] for row in operations(result))
    assert total == pytest.approx(native - true, rel=1e-5 if dtype == "float32" else 1e-3, abs=0)
    assert value(result, "remainder") == pytest.approx(native - true - total, abs=1e-14)
    assert abs(value(result, "unseen")) < 1e-13
    assert 0 < value(result, "operations") < value(result, "operations_seen")


def test_more_points_leave_less_over():
    subject = sk.CausalLMSubject(sk.load("tiny", dtype="bfloat16"), PROMPT)
    left = [value(sk.measure(sk.Ledger(points=n), subject, progress=False), "remainder_share") for n in (1, 2, 3)]
    assert 1e-2 > left[0] > 1e2 * left[1] > 1e4 * left[2]


def test_kinds_and_layers_are_the_operations_summed_up(ledger):
    rows = operations(ledger)
    for part, column in (("kind", "kind"), ("layer", "layer")):
        groups = [row for row in ledger.rows if row["part"] == part]
        assert len({row[column] for row in groups}) == len(groups)
        for group in groups:
            inside = [row for row in rows if row[column] == group[column]]
            assert group["operations"] == len(inside) > 0
            for name in ("contribution", "share", "absolute", "typical_share"):
                assert group[name] == pytest.approx(math.fsum(row[name] for row in inside), rel=1e-9, abs=0), name
            assert group["typical"] == pytest.approx(math.hypot(*(row["typical"] for row in inside)), rel=1e-9, abs=0)
    assert [row["layer"] for row in ledger.rows if row["part"] == "layer"] == [0, 1, 2, None]
    assert math.fsum(row["typical_share"] for row in rows) == pytest.approx(1, rel=1e-9, abs=0)
    assert math.fsum(row["share"] for row in rows) == pytest.approx(value(ledger, "explained"), rel=1e-9, abs=0)
    kinds = {row["kind"] for row in rows}
    assert {"lm_head", "q_proj", "down_proj", "attention", "residual add", "input_layernorm", "norm"} <= kinds
    assert {"self_attn mul", "self_attn add", "mlp mul", "act_fn", "rotary_emb"} <= kinds
    assert not any(any(sign.isdigit() for sign in kind) for kind in kinds)


def test_readings_follow_from_the_rows(ledger):
    rows, deviation = operations(ledger), value(ledger, "deviation")
    assert value(ledger, "turnover") == pytest.approx(
        math.fsum(abs(row["contribution"]) for row in rows), rel=1e-9, abs=0
    )
    assert value(ledger, "cancellation") == pytest.approx(value(ledger, "turnover") / abs(deviation), rel=1e-9, abs=0)
    assert value(ledger, "typical") == pytest.approx(math.hypot(*(row["typical"] for row in rows)), rel=1e-9, abs=0)
    assert value(ledger, "margin_spent") == pytest.approx(abs(deviation) / value(ledger, "margin"), rel=1e-9, abs=0)
    assert value(ledger, "operations") == len(rows)
    top = max(rows, key=lambda row: abs(row["contribution"]))
    assert value(ledger, "largest_share") == top["share"] == top["contribution"] / deviation
    assert ledger.readings["largest_share"].place["module"] == top["module"]
    assert all(row["absolute"] >= abs(row["contribution"]) for row in rows)
    points = ledger.arrays["contribution"]
    assert points.shape == (2, len(rows))
    assert points.mean(axis=0) == pytest.approx([row["contribution"] for row in rows], rel=1e-9, abs=0)
    assert ledger.arrays["error_share"] == pytest.approx([0.5 - 12**-0.5, 0.5 + 12**-0.5], rel=1e-9, abs=0)


def test_constants_that_are_rounded_are_in_the_table(ledger):
    """The rotary tables are made without gradients from whole numbers, and their errors count."""
    found = {row["op"]: row for row in operations(ledger) if row["module"] == "model.rotary_emb"}
    assert set(found) >= {"cos", "sin"}
    assert all(row["contribution"] != 0 and row["layer"] is None for row in found.values())


def test_a_later_step_is_the_prompt_with_what_was_generated(llama):
    later = sk.measure(sk.Ledger(step=3), llama, progress=False)
    said = llama.model.generate(torch.tensor([IDS]), max_new_tokens=3, do_sample=False)[0].tolist()
    assert len(said) == len(IDS) + 3
    longer = sk.CausalLMSubject(llama.loaded, said)
    assert later.rows == sk.measure(sk.Ledger(), longer, progress=False).rows
    assert later.execution.forwards == sk.Ledger(step=3).cost(llama).forwards


def test_a_given_pair_turns_the_sign(ledger, llama):
    a, b = ledger.subject["pair"]
    turned = sk.measure(sk.Ledger(pair=(b, a)), llama, progress=False)
    assert value(turned, "deviation") == -value(ledger, "deviation")
    assert value(turned, "margin") < 0
    pairs = zip(operations(turned), operations(ledger), strict=True)
    assert all(one["contribution"] == pytest.approx(-other["contribution"], rel=1e-9, abs=0) for one, other in pairs)
    assert "; in true float64 the other token comes first: " in turned.sentence


def test_the_margin_of_distant_logits_is_exact(llama):
    """A difference taken in float32 would round; that of a large and a small logit is taken in float64."""
    with torch.no_grad():
        z = llama.model(input_ids=torch.tensor([IDS]), use_cache=False, logits_to_keep=1).logits[0, -1]
    pair = (int(z.argmax()), int(z.abs().argmin()))
    native, true = margins(llama, IDS, pair)
    assert native != float(z[pair[0]] - z[pair[1]])
    result = sk.measure(sk.Ledger(pair=pair), llama, progress=False)
    assert value(result, "deviation") == pytest.approx(native - true, rel=1e-9, abs=0)
    assert value(result, "explained") == pytest.approx(1, rel=1e-5)


def test_layer_1_is_not_layer_10():
    loaded = sk.load("tiny", load_args={"num_hidden_layers": 12})
    result = sk.measure(sk.Ledger(points=1), sk.CausalLMSubject(loaded, [3, 1, 2]), progress=False)
    for row in operations(result):
        parts = row["module"].split(".")
        assert row["layer"] == (int(parts[2]) if parts[:2] == ["model", "layers"] else None)
    assert {row["layer"] for row in operations(result)} == {*range(12), None}


def test_a_module_in_a_list_has_the_kind_of_the_list():
    subject = exact_gpt2(lambda mlp: nn.Sequential(mlp, Cast(nn.Identity())))
    [row] = operations(sk.measure(sk.Ledger(), subject, progress=False))
    assert (row["module"], row["kind"]) == ("transformer.h.1.mlp.1", "mlp to")


def test_the_path_and_batch_of_the_subject_do_not_matter(ledger, llama):
    decoding = sk.CausalLMSubject(llama.loaded, PROMPT, path="decode", batch=4)
    result = sk.measure(sk.Ledger(), decoding, progress=False)
    assert result.rows == ledger.rows
    assert result.execution.forwards == ledger.execution.forwards


def test_the_sentence_names_who_spent_how_much(ledger):
    top = max(operations(ledger), key=lambda row: abs(row["contribution"]))
    a, b = ledger.subject["tokens"]
    said = f"Rounding moves the margin of {a!r} over {b!r}, {value(ledger, 'margin'):.3g} logit, by "
    assert ledger.sentence.startswith(f"{said}{value(ledger, 'deviation'):+.3g} or ")
    assert f": {top['module']} {100 * top['share']:+,.0f} %, " in ledger.sentence
    assert f"All {value(ledger, 'operations')} together move it" in ledger.sentence


def test_what_no_torch_function_sees_is_said_to_be_unseen():
    """The planted defect: numpy rounds to float32. The twin does not, and no operation of the table explains it."""
    subject = exact_gpt2(Hidden)
    result = sk.measure(sk.Ledger(), subject, progress=False)
    assert operations(result) == []
    assert value(result, "deviation") != 0
    assert value(result, "unseen") == value(result, "remainder") == value(result, "deviation")
    assert value(result, "remainder_share") == 1
    assert result.sentence.endswith(
        ": no operation that is seen rounds. All 0 together move it 0 times as far, to and fro; 100 % is left "
        "unexplained."
    )


def test_a_model_that_changes_while_it_is_watched_is_refused():
    subject = exact_gpt2(Drifting)
    subject.in_float64()  # its copy is made before
    subject.model.transformer.h[1].mlp.calls = 0
    with pytest.raises(InvalidError, match="gives other logits while its operations are watched"):
        sk.measure(sk.Ledger(), subject, progress=False)


def test_cost_is_what_is_taken(ledger, llama):
    stated = sk.Ledger().cost(llama)
    assert (ledger.execution.forwards, ledger.execution.backwards) == (stated.forwards, stated.backwards)


@pytest.mark.parametrize(
    ("call", "error", "fragment"),
    [
        (lambda _: sk.Ledger(points=0), UsageError, "points=0 is no count; give at least 1"),
        (lambda _: sk.Ledger(step=-1), UsageError, "step=-1 is no count; give at least 0"),
        (lambda _: sk.Ledger(step=True), UsageError, "step=True is no count"),
        (lambda one: sk.measure(sk.Ledger(pair=(3, 3)), one), UsageError, "a token always ties with itself"),
        (lambda one: sk.measure(sk.Ledger(pair=(3, 999)), one), UsageError, "give two token ids from 0 to 257"),
        (lambda one: sk.measure(sk.Ledger(), one.at(one.x0 * 2)), UnsupportedError, "an input that is no token's"),
        (lambda one: sk.measure(sk.Ledger(), one.loaded), UsageError, "Ledger is asked of a CausalLMSubject"),
        (lambda one: sk.measure(sk.Ledger(step=600), one), UsageError, "600 are to follow"),
    ],
)
def test_what_cannot_be_asked_is_refused(call, error, fragment, llama):
    with pytest.raises(error, match=fragment):
        call(llama)


def test_a_text_that_ends_before_the_step_is_refused(llama, monkeypatch):
    first = sk.measure(sk.Ledger(step=1), llama, progress=False)
    assert first.execution.forwards > 0
    token = int(llama.model.generate(torch.tensor([IDS]), max_new_tokens=1, do_sample=False)[0, -1])
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", token)
    with pytest.raises(UsageError, match="step=2: the text ends after 1 tokens"):
        sk.measure(sk.Ledger(step=2), llama, progress=False)


@pytest.mark.model
@pytest.mark.parametrize(("dtype", "prompts"), [("float32", 2), ("bfloat16", 1)])
def test_smollm2_adds_up(dtype, prompts):
    """Within 10 % is what is asked; the remainder is that of float64 sums and of two points."""
    loaded = sk.load("smollm2", dtype=dtype)
    for prompt in DEFAULT_PROMPTS[:prompts]:
        result = sk.measure(sk.Ledger(), sk.CausalLMSubject(loaded, prompt), progress=False)
        assert value(result, "deviation") != 0
        assert abs(value(result, "explained") - 1) < 1e-4, prompt
        assert abs(value(result, "unseen")) < 1e-12
        assert 0.1 < abs(value(result, "deviation")) / value(result, "typical") < 10


@pytest.mark.model
def test_smollm2_with_an_exact_head_has_the_margin_less_the_head_s_contribution():
    """The head comes last, so what it spent can be taken back: its product of the native state, in float64."""
    subject = sk.CausalLMSubject(sk.load("smollm2"), PROMPT)
    result = sk.measure(sk.Ledger(), subject, progress=False)
    a, b = result.subject["pair"]
    native, _ = margins(subject, list(subject.ids), (a, b))
    W, h = subject.model.lm_head.weight.double(), subject.baseline[0].double()
    exact_head = float((W[a] - W[b]) @ h)
    [row] = [row for row in operations(result) if row["module"] == "lm_head"]
    assert row["contribution"] == pytest.approx(native - exact_head, rel=1e-6, abs=0)
    assert abs(row["contribution"]) > 1e-7
