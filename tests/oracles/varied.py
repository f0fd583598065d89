"""Questions with other arguments than the suite's, of subjects whose answers no kernel changes if that can be had.

A toy whose every operation is one that IEEE 754 rounds rounds alike everywhere; models in float64 move by so little
that words and counts, and numbers to a millionth, stay.
"""

from typing import Any

import torch
from oracles.asked import PROMPT
from oracles.defective import defective
from torch import Tensor

import stabilitykit as sk
from stabilitykit import strategies

WEIGHTS = torch.tensor(
    [
        [1.0, 0.25, -0.5, 0.75, 0.125, -1.5],
        [0.5, 1.25, 0.5, -0.25, -0.75, 1.0],
        [-0.25, 0.5, 1.0, 0.5, 1.5, -0.125],
        [-1.0, -0.5, 0.25, 0.5, -0.25, 0.75],
    ]
)
X0 = torch.tensor([0.9, 0.7, -0.3, 0.11, 1.3, -0.6])
AXES = torch.eye(6)
SLANTED = torch.tensor([[1.0, -0.5, 0.25, 0.0, 0.75, -1.0], [0.0, 0.5, 1.0, -0.25, 0.125, 0.5]])
UNEQUAL = "Rain falls, and the river rises slowly; ab,cd.\nNobody counts the drops."


def linear(X: Tensor) -> Tensor:
    """Multiply by WEIGHTS in a fixed order, with each product and each sum rounded."""
    W = WEIGHTS.to(X.dtype)
    total = X[:, :1] * W[:, 0]
    for k in range(1, len(X0)):
        total = total + X[:, k : k + 1] * W[:, k]
    return total


def bent(X: Tensor) -> Tensor:
    """A parabola behind the linear part."""
    Y = linear(X)
    return Y * Y * 0.125 + Y


def coarse(X: Tensor) -> Tensor:
    """The same, rounded to multiples of 2**-12 but in float64; its derivative is that of what is rounded."""
    Y = bent(X)
    return Y if Y.dtype == torch.float64 else ((Y * 4096).round() / 4096).detach() + (Y - Y.detach())


def toy(fn=bent, x0: Tensor = X0, **how: Any) -> sk.FunctionSubject:
    """Return the toy as a subject in batches of 4."""
    return sk.FunctionSubject(fn, x0, name="toy", **{"batch": 4, "exact": bent, **how})


def on_toys() -> list[tuple[Any, Any]]:
    """Return questions of the toys, as (measurement, subject) pairs."""
    chain = sk.MatmulChain(3, 32, epsilons=(1e-2, 1e-4), directions=2, seed=1)
    plain, half, stepped = toy(first=linear), toy(x0=X0.bfloat16()), toy(coarse)
    return [
        (sk.RunToRun(runs=5, confidence=0.9, stop_early=True), plain),
        (sk.FirstChange(SLANTED, beyond=5), plain),
        (sk.FirstChange(SLANTED, max_cells=7, screen=False, rule="native"), stepped),
        (sk.FirstChange(["v2", "-v1"], s_max=1e-7), stepped),
        (sk.StabilityFan(angles=9, plane=("v2", "-v3"), beyond=2), half),
        (sk.StabilityFan(angles=7, max_cells=3), stepped),
        (sk.StabilitySpectrum(indices=2, both_signs=False, control=3, seed=1, max_cells=60), half),
        (sk.StabilitySpectrum(indices=[1, 3], control=2, max_cells=60), stepped),
        (sk.BoundaryJump(SLANTED, max_cells=50), stepped),
        (sk.BoundaryJump(angles=5, plane=("v1", "v3")), half),
        (sk.Staircase(SLANTED[0], start=2.0, n=40, unit="ulp"), plain),
        (sk.Staircase(SLANTED[1], stop=2e-6, unit="rel"), stepped),
        (sk.Regimes(SLANTED, (-6, -1), 3, replicates=100), toy(coarse, X0.half(), batch=1)),
        (sk.Regimes(AXES[:2], decades=(-9, -3), unit="abs", tolerance=0.3, replicates=100, seed=2), half),
        (sk.Rotation(SLANTED[0], shifts=(0, 1, 2, 5), magnitude=50.0, controls=1), stepped),
        (sk.Rotation("v2", shifts=3, step=2, gaps=(0.1, 1.0), unit="rel", magnitude=1e-4, seed=1), half),
        (sk.Landscape(SLANTED, span=9.0, n=15, unit="ulp", at="prompt", again=None), stepped),
        (sk.Landscape(AXES[:2], span=1e-4, n=9, unit="abs", again=5, beyond=4.0, rule="p32"), plain),
        (sk.Zoom(sk.Landscape(SLANTED, span=64.0, n=9, unit="ulp"), 4.0, n=9), stepped),
        (sk.Tie(equal="probabilities"), toy(batch=1)),
        (sk.Tie((0, 2)), plain),
        (sk.FlipScan(SLANTED, points=16, cells=5, oracle=False), stepped),
        (sk.FlipScan(("v2",), at="prompt", pair=(0, 1), equal="probabilities", span=2.0, points=12), plain),
        (sk.SingularSpectrum("all", tolerance=1e-8), plain),
        (sk.SingularSpectrum(2, max_products=12), plain),
        (sk.DirectionalGain(SLANTED, (1e-3, 1e-5), "abs", "-", 1e-5, export=True), stepped),
        (sk.DirectionalGain(("v2", "v_last"), (8.0, 64.0), "ulp", at=64.0, rule="p32"), half),
        (
            sk.DirectionalGain(
                SLANTED, (1e-2, 1e-4), noise="along", noise_scale=2.0, noise_unit="ulp", samples=(2, 5), seed=3
            ),
            plain,
        ),
        (sk.GainByDtype(("float64", "float32", "float16"), (1e-2, 1e-3), unit="abs", at=1e-3), plain),
        (sk.Representability((1e-1, 1e-4, 1e-8), "abs", ("float32", "float16"), SLANTED[0], at=1e-4), plain),
        (sk.Representability((1.0, 1e-3), dtypes=("bfloat16",), direction="v2", scale="eps*sigma", at=1e-3), half),
        (sk.NoiseTest("sizes", draws=5, seed=1), stepped),
        (sk.NoiseTest([sk.UlpNoise(2), sk.Gaussian(0.05)], draws=7), half),
        (chain, chain.subject()),
        (
            sk.KernelAccuracy([(3, 5), (1, 4)], ("normal", "wide"), 2, seed=1),
            sk.Kernel(bent_rows, "bh->bo", name="toy"),
        ),
        (
            sk.KernelPair(sk.Kernel(torch.neg, "bh->bh", name="other"), [(2, 6)], ("normal", "edge"), 1),
            sk.Kernel(lambda X: -X, "bh->bh", name="toy"),
        ),
    ]


def bent_rows(X: Tensor) -> Tensor:
    """A kernel for any width: each row times what follows it."""
    return X * X.roll(1, dims=-1) + X * 0.5


def on_models() -> list[tuple[Any, Any]]:
    """Return questions of tiny models, as (measurement, subject) pairs."""
    wide = sk.load("tiny:gpt2", dtype="float64")
    routed = sk.load("tiny:mixtral", dtype="float64", experts="eager")
    grouped = sk.load("tiny:gemma2", dtype="float64")
    decode = sk.CausalLMSubject(wide, PROMPT, path="decode", batch=4)
    prefill = sk.CausalLMSubject(grouped, UNEQUAL[:40], batch=2)
    logits = sk.CausalLMSubject(routed, PROMPT, site="logits", batch=4)
    planted = defective(decay=False)
    gaussians = torch.stack([d.expand() for d in strategies.gaussians(2, decode.x0.numel(), seed=5)])
    return [
        (sk.LayerProfile(gaussians, (1e-3, 1e-6), "abs", "previous", (1,), tau=1e-9), decode),
        (sk.LayerProfile("v2", ((1e-5, 1e-4), (1e-4, 1e-3)), factor=1.5), prefill),
        (sk.SubmoduleProfile(1, gaussians, (1e-4, 1e-3), "rel", "start", (1, -1)), decode),
        (sk.SubmoduleProfile("all", "v1", (1e-3,), modules="*mlp*"), prefill),
        (sk.ModuleSpectrum(block=1, replace=False, tolerance=1e-4), decode),
        (sk.ModuleSpectrum(modules=("model.layers.1.mlp",), inside=0, max_products=30), prefill),
        (sk.DirectionalGain(("v1", "v_middle"), (1e-2, 1e-4)), logits),
        (sk.SingularSpectrum(3), logits),
        (sk.Tie(), sk.CausalLMSubject(wide, PROMPT, site="logits")),
        (sk.Fate(gaussians, cells=5), decode),
        (sk.WeightGain("model.layers.1.mlp.down_proj", epsilons=(1e-2, 1e-4), directions=2, seed=1), prefill),
        (sk.BlockGain(epsilons=(1e-2, 1e-3), directions=gaussians, unit="abs"), decode),
        (sk.Ledger(step=1, points=3), decode),
        (sk.HeadSpectra((0, 2), null_draws=3, shuffles=19, seed=1), sk.Checkpoint.of(grouped)),
        (sk.HeadProducts((1,), null_draws=3, shuffles=19), sk.Checkpoint.of(grouped)),
        (sk.WeightStatistics((1,), "*mlp*", "all", outlier=0.1, shuffles=19), sk.Checkpoint.of(routed)),
        (sk.WeightStatistics(spectra="none", shuffles=19), sk.Checkpoint.of(wide)),
        (sk.PredictionSpread([PROMPT, "ab"], (0.5, 0.99), 2, 5, 3, empty=False), wide),
        (sk.BasisVectors(3.0, 2.0, 4), wide),
        (sk.ReadoutAngles([PROMPT, UNEQUAL], 3, (1, 2, 50)), wide),
        (sk.NormAlignment([PROMPT, UNEQUAL], 3, 2), grouped),
        (sk.HeadReplay([PROMPT, UNEQUAL], 3, 0.5), grouped),
        (sk.BlockFlips([PROMPT, UNEQUAL, "ab"], 3, shuffles=49, seed=1), routed),
        (sk.Margins([PROMPT, UNEQUAL], 5), wide),
        (sk.WordByWord(UNEQUAL, sample=9, tokens=30), grouped),
        (sk.Trace([PROMPT, UNEQUAL], 3), routed),
        (sk.Signature([UNEQUAL, "xy."], tau=50.0), planted),
        (sk.Signature([UNEQUAL], against=defective(seed=1)), planted),
        (sk.SingularDefects([UNEQUAL], 24, 40.0, "normed", "x", eigenpairs=True, seed=2), planted),
        (sk.KeptProjections([UNEQUAL], 4, "row", (1, 2), controls=3, seed=2), planted),
        (sk.Geometry(sk.QUESTIONS[:2], sk.ROLES[:3], sample=200), wide),
        (sk.PromptSuite(sk.QUESTIONS[:3], sk.ROLES[:2], 3), wide),
    ]


def varied() -> list[tuple[Any, Any]]:
    """Return all of them."""
    return [*on_toys(), *on_models()]
