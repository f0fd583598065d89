"""One drawing function a measurement, found by the class name; a measurement without one shows its table only.

To add one: write a function from a Result to a list of `Figure`, and name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stabilitykit.report.figures import (
    block_flips,
    chains,
    changes,
    defects,
    drift,
    dtypes,
    endpoints,
    fan,
    fate,
    gains,
    geometry,
    head_products,
    head_spectra,
    invariances,
    jumps,
    kernels,
    landscape,
    ledger,
    margins,
    noise,
    operators,
    parts,
    power,
    prediction,
    profiles,
    prompts,
    readout,
    readout_states,
    recordings,
    regimes,
    representability,
    rotation,
    spectrum,
    stability_spectrum,
    staircase,
    submodules,
    ties,
    weights,
)
from stabilitykit.report.figures.figure import Figure

if TYPE_CHECKING:
    from stabilitykit.results.result import Result

__all__ = ["DRAWINGS", "Figure", "figures"]

DRAWINGS: Mapping[str, Callable[[Result], list[Figure]]] = {
    "TraceComparison": recordings.draw,
    "CrossDevice": recordings.draw,
    "Regimes": regimes.draw,
    "StabilityFan": fan.draw,
    "StabilitySpectrum": stability_spectrum.draw,
    "BoundaryJump": jumps.draw,
    "SingularSpectrum": spectrum.draw,
    "DirectionalGain": gains.draw,
    "GainByDtype": dtypes.draw,
    "Representability": representability.draw,
    "NoiseTest": noise.draw,
    "BatchInvariance": invariances.draw,
    "PaddingInvariance": invariances.draw,
    "CacheInvariance": invariances.draw,
    "ThreadInvariance": invariances.draw,
    "ProcessInvariance": invariances.draw,
    "FirstChange": changes.draw,
    "Staircase": staircase.draw,
    "Rotation": rotation.draw,
    "Tie": ties.draw_tie,
    "FlipScan": ties.draw_scan,
    "LayerProfile": profiles.draw,
    "SubmoduleProfile": submodules.draw,
    "ModuleSpectrum": parts.draw,
    "Fate": fate.draw,
    "MatmulChain": chains.draw,
    "WeightGain": chains.draw,
    "BlockGain": chains.draw,
    "OperatorProbe": operators.draw,
    "KernelAccuracy": kernels.draw,
    "KernelPair": kernels.draw_pair,
    "Landscape": landscape.draw,
    "Zoom": landscape.draw,
    "Margins": margins.draw,
    "WordByWord": prediction.draw,
    "Ledger": ledger.draw,
    "Drift": drift.draw,
    "ServedDeterminism": endpoints.draw,
    "CrossDrift": drift.draw,
    "HeadProducts": head_products.draw,
    "HeadSpectra": head_spectra.draw,
    "WeightStatistics": weights.draw,
    "PredictionSpread": readout.draw,
    "BasisVectors": readout.draw_basis,
    "ReadoutAngles": readout_states.draw_angles,
    "NormAlignment": readout_states.draw_alignment,
    "HeadReplay": readout_states.draw_replay,
    "BlockFlips": block_flips.draw,
    "KeptProjections": defects.draw_kept,
    "SingularDefects": defects.draw,
    "Signature": defects.draw_signature,
    "PromptSuite": prompts.draw,
    "Geometry": geometry.draw,
    "FaultPower": power.draw,
}


def figures(result: Result) -> list[Figure]:
    """Return the figures of a result; none where its class has no drawing or too little was measured to draw."""
    drawing = DRAWINGS.get(result.measurement)
    return drawing(result) if drawing and result.rows else []
