"""A real model: numbers that two implementations agree on, and facts that do not depend on the machine."""

import pytest
import torch

from stabilitykit.measurements.determinism import BatchInvariance, RunToRun
from stabilitykit.measurements.gain import DirectionalGain
from stabilitykit.measurements.measure import measure
from stabilitykit.measurements.spectrum import SingularSpectrum
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load

pytestmark = pytest.mark.model

PROMPT = "The capital of France is"
SIGMA = [27.4086, 19.5140, 15.2833, 12.3255, 8.4545]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take minutes; their number decides bits, so it stays fixed."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ambient)


@pytest.fixture(scope="module")
def loaded():
    return load("smollm2")


def values(result, name, count=5):
    return [result.readings[f"{name}_{i + 1}"].value for i in range(count)]


def test_the_singular_values_of_the_study_in_five_rounds_of_eight_rows(loaded):
    """40 rows each way, 5 for the residuals, 3 that prove the two kinds of products adjoint."""
    result = measure(SingularSpectrum(k=5), CausalLMSubject(loaded, PROMPT))
    assert values(result, "sigma") == pytest.approx(SIGMA, rel=1e-4)
    assert result.execution.tangents + result.execution.backwards <= 88
    assert all(residual < 1e-4 * SIGMA[0] for residual in values(result, "residual"))
    assert result.readings["gap"].value == pytest.approx((SIGMA[0] - SIGMA[1]) / SIGMA[0], rel=1e-3)
    assert result.readings["adjoint_defect"].value < 1e-4


def test_the_dense_jacobian_of_the_other_path_agrees(loaded):
    """576 rows through the decode step, and one for the adjoint proof, against those of 5 vectors."""
    subject = CausalLMSubject(loaded, PROMPT, path="decode", batch=64)
    result = measure(SingularSpectrum(k="all"), subject)
    assert values(result, "sigma") == pytest.approx(SIGMA, rel=1e-4)
    assert result.execution.backwards == 577
    assert len(result.rows) == 576
    sigma = result.arrays["sigma"]
    assert bool((sigma[:-1] >= sigma[1:]).all())
    assert sigma[-1] >= 0


def test_a_bfloat16_spectrum_covers_the_float32_one_with_its_residual_and_its_rounding():
    """A residual speaks of the rounded map. That map itself is a few of its roundoffs, 2**-8, away from float32's."""
    result = measure(SingularSpectrum(k=3), CausalLMSubject(load("smollm2", dtype="bfloat16"), PROMPT))
    for sigma, residual, exact in zip(values(result, "sigma", 3), values(result, "residual", 3), SIGMA, strict=False):
        assert abs(sigma - exact) <= residual + 16 * 2.0**-8 * SIGMA[0]
        assert 1e-3 < residual < 0.1 * SIGMA[0]
    assert result.readings["adjoint_defect"].value < 2.0**-3.5


@pytest.mark.long
def test_short_prompts_in_float32_have_other_bits_in_company(loaded):
    """Matrix kernels are chosen by the number of rows: one row alone takes another than eight, on every machine seen.

    Which lengths differ is a fact of one machine, so only this is asserted: it is caught, and the rows that differ are
    those that say so.
    """
    result = measure(BatchInvariance(), CausalLMSubject(loaded, PROMPT))
    assert result.verdict == "differs"
    differing = [row for row in result.rows if not row["bits_equal"]]
    assert {row["length"] for row in differing} & {1, 2, 3}
    assert result.readings["differing_cases"].value == len(differing) > 0
    assert result.readings["cases"].value == 16 * 19
    assert all(row["max_scaled_ulp"] < 1000 for row in differing), "a difference of rounding, not of function"
    assert all(row["differing_bits"] <= 576 for row in differing)


@pytest.mark.parametrize(("path", "batch"), [("prefill", 1), ("decode", 8)])
def test_equal_runs_have_equal_bits(loaded, path, batch):
    result = measure(RunToRun(), CausalLMSubject(loaded, PROMPT, path=path, batch=batch))
    assert result.verdict == "pass"
    assert "0 of 59 differed: rate < 5% at 95%" in result.sentence
    assert result.execution.forwards == 60 * batch


def test_the_whole_prompt_is_plain_transformers(loaded):
    subject = CausalLMSubject(loaded, PROMPT)
    E = loaded.model.get_input_embeddings()(torch.tensor([subject.ids]))
    with torch.no_grad():
        plain = loaded.model.base_model(inputs_embeds=E, use_cache=False).last_hidden_state[:, -1]
    assert torch.equal(subject.evaluate(subject.copies(1)).view(torch.int32), plain.view(torch.int32))


@pytest.mark.long
def test_the_gain_of_small_steps_is_sigma_until_rounding_takes_over(loaded):
    """Along v1, within 1 percent of |J v1| in true float64 from 2.6e-5 to 2.6e-3; natively rounding below 2.6e-7."""
    subject = CausalLMSubject(loaded, PROMPT, path="decode", batch=16)
    epsilons = (1e-3, 1e-4, 1e-5, 1e-7, 1e-8)
    result = measure(DirectionalGain(directions="v1", epsilons=epsilons, signs="+"), subject, progress=False)
    assert result.readings["sigma"].value == pytest.approx(SIGMA[0], rel=1e-4)
    rows = {row["epsilon"]: row for row in result.rows}
    for epsilon in (1e-3, 1e-4, 1e-5):
        assert rows[epsilon]["gain_true"] == pytest.approx(SIGMA[0], rel=0.01)
        assert rows[epsilon]["regime"] == "linear"
    for epsilon in (1e-7, 1e-8):
        assert rows[epsilon]["gain_realised"] > 2 * SIGMA[0]
        assert rows[epsilon]["gain_true"] < SIGMA[0] * 1.01
        assert rows[epsilon]["regime"] == "rounding"
    assert rows[1e-8]["alignment"] < 0.99 < rows[1e-5]["alignment"]
    assert 1e-6 < result.readings["rounding_noise"].value < 1e-3
