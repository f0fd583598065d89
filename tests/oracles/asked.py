"""What the ready-made suite asks of a tiny model, one by one: for costs, and for results that no kernel changes."""

import torch
from oracles.defective import defective

import stabilitykit as sk
from stabilitykit import strategies

PROMPT = "The capital of France is"
READOUTS = (sk.ReadoutAngles, sk.NormAlignment, sk.HeadReplay)


def suite(profile, loaded):
    """Return what the ready-made suite asks, as (measurement, subject) pairs."""
    prefill = sk.CausalLMSubject(loaded, PROMPT)
    decode = sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=64)
    tied = sk.CausalLMSubject(loaded, PROMPT, path="decode", batch=4, site="logits")
    planted = defective()
    rays = torch.stack([d.expand() for d in strategies.gaussians(profile.directions, decode.x0.numel())])
    return [
        (sk.RunToRun(runs=profile.runs), prefill),
        (sk.BatchInvariance(sizes=profile.sizes, lengths=profile.lengths), prefill),
        (sk.PaddingInvariance(lengths=profile.lengths), prefill),
        (sk.CacheInvariance(lengths=profile.lengths), prefill),
        (sk.ThreadInvariance(counts=(1, 2), lengths=profile.lengths), prefill),
        (sk.FirstChange(direction=rays, beyond=profile.beyond), decode),
        (sk.StabilityFan(angles=profile.angles), decode),
        (sk.StabilitySpectrum(indices=profile.vectors, control=profile.directions), decode),
        (sk.BoundaryJump(angles=profile.angles), decode),
        (
            sk.Regimes(["v1", "v2", *strategies.gaussians(profile.regimes[0], 64)], points=profile.regimes[1]),
            decode,
        ),
        (sk.SingularSpectrum(k=profile.singular), prefill),
        (sk.DirectionalGain(directions=profile.gains), decode),
        (
            sk.DirectionalGain(
                ("v1",), (1e-4, 1e-5, 1e-6, 1e-7), signs="+", noise="isotropic", samples=profile.smoothing, oracle=False
            ),
            decode,
        ),
        (sk.GainByDtype(), decode.with_batch(8)),
        (sk.NoiseTest(draws=profile.noise), decode),
        (
            sk.NoiseTest(draws=profile.noise),
            sk.CausalLMSubject(loaded, PROMPT, rows="all", batch=8),
        ),
        (sk.Representability(), decode),
        (sk.LayerProfile(epsilons=profile.epsilons), decode.with_batch(8)),
        (sk.SubmoduleProfile(), decode.with_batch(8)),
        (sk.ModuleSpectrum(inside=profile.opened, tolerance=0.01), prefill),
        (sk.Fate(directions=rays[: profile.fates[0]], cells=profile.fates[1]), decode),
        (sk.Staircase(n=profile.stairs), decode),
        (sk.Rotation(shifts=profile.turns), decode),
        *((sk.Landscape(plane, n=profile.grid), decode) for plane in profile.planes),
        (sk.Zoom(sk.Landscape(n=profile.grid), n=profile.grid), decode),
        (sk.Tie(), tied),
        (sk.FlipScan(profile.flips[0], points=profile.flips[1], cells=profile.flips[2]), tied),
        (sk.FlipScan(("v1",), at="prompt"), tied),
        (sk.WeightGain(), prefill),
        (sk.BlockGain(), prefill),
        (sk.KernelAccuracy(shapes=profile.rows, tries=profile.tries), sk.model_kernels(loaded)[1]),
        (sk.Ledger(), prefill),
        (sk.HeadSpectra(), sk.Checkpoint.of(loaded)),
        (sk.HeadProducts(), sk.Checkpoint.of(loaded)),
        (sk.WeightStatistics(spectra=profile.spectra[0], spectra_blocks=profile.spectra[1]), sk.Checkpoint.of(loaded)),
        (sk.PredictionSpread([PROMPT]), loaded),
        (sk.BasisVectors(), loaded),
        *((kind([PROMPT] * 2, profile.readout[1]), loaded) for kind in READOUTS),
        (sk.Signature(["ab,cd", "efg.h"]), planted),
        (sk.SingularDefects(["ab,cd", "efg.h"], profile.defects[0], eigenpairs=profile.defects[1]), planted),
        (sk.Geometry(sk.QUESTIONS[: profile.suite[0]], sk.ROLES[: profile.suite[1]], sample=profile.sample), loaded),
        (sk.PromptSuite(sk.QUESTIONS[: profile.suite[0]], sk.ROLES[: profile.suite[1]], profile.suite[2]), loaded),
        (sk.KeptProjections(["ab,cd", "efg.h"], controls=profile.kept[1]), planted),
        (sk.BlockFlips([PROMPT] * (profile.carried[0] or 5), profile.carried[1]), loaded),
        (sk.Margins([PROMPT] * (profile.margins[0] or 5), profile.margins[1]), loaded),
        (sk.WordByWord(tokens=profile.passage[0], sample=profile.passage[1]), loaded),
        (sk.Trace([PROMPT] * (profile.generation[0] or 5), profile.generation[1]), loaded),
    ]


def processes(profile, loaded):
    """What starts processes of its own: too slow to be run here, but its statement counts."""
    said = {"prompts": [PROMPT] * (profile.generation[0] or 5), "tokens": profile.generation[1]}
    subject = sk.CausalLMSubject(loaded, PROMPT)
    return [
        (sk.ProcessInvariance(processes=profile.processes), subject),
        *((sk.CrossDevice(name, **said, forced=forced), loaded) for name in profile.devices for forced in (0, 1)),
        *((sk.CrossDrift(name, tokens=profile.drift), loaded) for name in profile.devices),
    ]
