"""Exact, certified measurements of a language model's floating-point stability, as pytest tests.

Every public name is imported when it is first used: pytest loads this package at each start, for its plugin, and torch
alone would cost seconds there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stabilitykit.homes import HOMES

if TYPE_CHECKING:
    from stabilitykit import strategies as strategies
    from stabilitykit.endpoints.endpoint import Endpoint as Endpoint
    from stabilitykit.endpoints.served_determinism import ServedDeterminism as ServedDeterminism
    from stabilitykit.errors import IncomparableError as IncomparableError
    from stabilitykit.errors import InvalidError as InvalidError
    from stabilitykit.errors import StabilityError as StabilityError
    from stabilitykit.errors import UnreadableError as UnreadableError
    from stabilitykit.errors import UnsupportedError as UnsupportedError
    from stabilitykit.errors import UsageError as UsageError
    from stabilitykit.faults.catalogue import FAULTS as FAULTS
    from stabilitykit.faults.catalogue import Fault as Fault
    from stabilitykit.faults.planted import Planted as Planted
    from stabilitykit.faults.planted import planted as planted
    from stabilitykit.measurements.base import Cost as Cost
    from stabilitykit.measurements.base import Finding as Finding
    from stabilitykit.measurements.base import Measurement as Measurement
    from stabilitykit.measurements.basis_vectors import BasisVectors as BasisVectors
    from stabilitykit.measurements.block_flips import BlockFlips as BlockFlips
    from stabilitykit.measurements.boundary import FirstChange as FirstChange
    from stabilitykit.measurements.boundary import StabilityFan as StabilityFan
    from stabilitykit.measurements.boundary_jump import BoundaryJump as BoundaryJump
    from stabilitykit.measurements.cache_invariance import CacheInvariance as CacheInvariance
    from stabilitykit.measurements.chains import BlockGain as BlockGain
    from stabilitykit.measurements.chains import MatmulChain as MatmulChain
    from stabilitykit.measurements.chains import WeightGain as WeightGain
    from stabilitykit.measurements.defect_signature import Signature as Signature
    from stabilitykit.measurements.defects import SingularDefects as SingularDefects
    from stabilitykit.measurements.determinism import BatchInvariance as BatchInvariance
    from stabilitykit.measurements.determinism import RunToRun as RunToRun
    from stabilitykit.measurements.directions import singular_vectors as singular_vectors
    from stabilitykit.measurements.fate import Fate as Fate
    from stabilitykit.measurements.flip_pair import FlipPair as FlipPair
    from stabilitykit.measurements.flip_pair import flip_pair as flip_pair
    from stabilitykit.measurements.flip_scan import FlipScan as FlipScan
    from stabilitykit.measurements.gain import DirectionalGain as DirectionalGain
    from stabilitykit.measurements.gain_by_dtype import GainByDtype as GainByDtype
    from stabilitykit.measurements.geometry import Geometry as Geometry
    from stabilitykit.measurements.head_products import HeadProducts as HeadProducts
    from stabilitykit.measurements.head_replay import HeadReplay as HeadReplay
    from stabilitykit.measurements.head_spectra import HeadSpectra as HeadSpectra
    from stabilitykit.measurements.kept_projections import KeptProjections as KeptProjections
    from stabilitykit.measurements.kernel_pair import KernelPair as KernelPair
    from stabilitykit.measurements.kernels import KernelAccuracy as KernelAccuracy
    from stabilitykit.measurements.landscape import Landscape as Landscape
    from stabilitykit.measurements.layer_profile import LayerProfile as LayerProfile
    from stabilitykit.measurements.margins import Margins as Margins
    from stabilitykit.measurements.measure import measure as measure
    from stabilitykit.measurements.module_spectrum import ModuleSpectrum as ModuleSpectrum
    from stabilitykit.measurements.noise_models import Constant as Constant
    from stabilitykit.measurements.noise_models import Coordinate as Coordinate
    from stabilitykit.measurements.noise_models import DtypeRoundTrip as DtypeRoundTrip
    from stabilitykit.measurements.noise_models import Gaussian as Gaussian
    from stabilitykit.measurements.noise_models import Perturbation as Perturbation
    from stabilitykit.measurements.noise_models import RoundTrip as RoundTrip
    from stabilitykit.measurements.noise_models import UlpNoise as UlpNoise
    from stabilitykit.measurements.noise_models import Uniform as Uniform
    from stabilitykit.measurements.noise_test import NoiseTest as NoiseTest
    from stabilitykit.measurements.norm_alignment import NormAlignment as NormAlignment
    from stabilitykit.measurements.operator_probe import OperatorProbe as OperatorProbe
    from stabilitykit.measurements.padding_invariance import PaddingInvariance as PaddingInvariance
    from stabilitykit.measurements.prediction import WordByWord as WordByWord
    from stabilitykit.measurements.prediction_spread import PredictionSpread as PredictionSpread
    from stabilitykit.measurements.process_invariance import ProcessInvariance as ProcessInvariance
    from stabilitykit.measurements.prompt_suite import PromptSuite as PromptSuite
    from stabilitykit.measurements.readout_angles import ReadoutAngles as ReadoutAngles
    from stabilitykit.measurements.regimes import Regimes as Regimes
    from stabilitykit.measurements.representability import Representability as Representability
    from stabilitykit.measurements.resumable import resumable as resumable
    from stabilitykit.measurements.rotation import Rotation as Rotation
    from stabilitykit.measurements.signature_file import read_signature as read_signature
    from stabilitykit.measurements.signature_file import write_signature as write_signature
    from stabilitykit.measurements.spectrum import SingularSpectrum as SingularSpectrum
    from stabilitykit.measurements.stability_spectrum import StabilitySpectrum as StabilitySpectrum
    from stabilitykit.measurements.staircase import Staircase as Staircase
    from stabilitykit.measurements.submodule_profile import SubmoduleProfile as SubmoduleProfile
    from stabilitykit.measurements.thread_invariance import ThreadInvariance as ThreadInvariance
    from stabilitykit.measurements.tie_point import TiePoint as TiePoint
    from stabilitykit.measurements.tie_solver import tie_point as tie_point
    from stabilitykit.measurements.ties import Tie as Tie
    from stabilitykit.measurements.weight_export import WeightExport as WeightExport
    from stabilitykit.measurements.weights import WeightStatistics as WeightStatistics
    from stabilitykit.measurements.zoom import Zoom as Zoom
    from stabilitykit.numerics.bits import bits_equal as bits_equal
    from stabilitykit.numerics.perturbation import perturb as perturb
    from stabilitykit.prompts import QUESTIONS as QUESTIONS
    from stabilitykit.prompts import ROLES as ROLES
    from stabilitykit.prompts import Prompt as Prompt
    from stabilitykit.prompts import Role as Role
    from stabilitykit.report.read import read as read
    from stabilitykit.results.by_block import by_block as by_block
    from stabilitykit.results.failure import StabilityFailure as StabilityFailure
    from stabilitykit.results.metric import Metric as Metric
    from stabilitykit.results.metric import Reading as Reading
    from stabilitykit.results.result import Result as Result
    from stabilitykit.subjects.causal_lm import CausalLMSubject as CausalLMSubject
    from stabilitykit.subjects.function_subject import FunctionSubject as FunctionSubject
    from stabilitykit.subjects.generation import Way as Way
    from stabilitykit.subjects.kernel import Kernel as Kernel
    from stabilitykit.subjects.measurable import Measurable as Measurable
    from stabilitykit.subjects.model_kernels import attention_kernels as attention_kernels
    from stabilitykit.subjects.model_kernels import model_kernels as model_kernels
    from stabilitykit.subjects.models import LoadedModel as LoadedModel
    from stabilitykit.subjects.models import adopt as adopt
    from stabilitykit.subjects.models import load as load
    from stabilitykit.subjects.module_subject import ModuleSubject as ModuleSubject
    from stabilitykit.subjects.operators import Machine as Machine
    from stabilitykit.subjects.precision import true_float64 as true_float64
    from stabilitykit.subjects.stored import Checkpoint as Checkpoint
    from stabilitykit.subjects.subject import Subject as Subject
    from stabilitykit.sweeps.asked import Sweep as Sweep
    from stabilitykit.sweeps.merge import merge as merge
    from stabilitykit.sweeps.plan import Plan as Plan
    from stabilitykit.sweeps.plan import plan as plan
    from stabilitykit.sweeps.shard import run_shard as run_shard
    from stabilitykit.traces.bisect import Bisection as Bisection
    from stabilitykit.traces.bisect import bisect as bisect
    from stabilitykit.traces.compare import TraceComparison as TraceComparison
    from stabilitykit.traces.cross_device import CrossDevice as CrossDevice
    from stabilitykit.traces.cross_device import CrossDrift as CrossDrift
    from stabilitykit.traces.drift import Drift as Drift
    from stabilitykit.traces.ledger import Ledger as Ledger
    from stabilitykit.traces.operations import OperationLog as OperationLog
    from stabilitykit.traces.operations import operations_at as operations_at
    from stabilitykit.traces.record import record as record
    from stabilitykit.traces.recording import Recording as Recording
    from stabilitykit.traces.store import read_recording as read_recording
    from stabilitykit.traces.store import write_recording as write_recording
    from stabilitykit.traces.trace import Trace as Trace

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - grouped by purpose
    # the model, and the function under test
    "load",
    "adopt",
    "LoadedModel",
    "Checkpoint",
    "Subject",
    "CausalLMSubject",
    "ModuleSubject",
    "FunctionSubject",
    "Kernel",
    "Machine",
    "model_kernels",
    "attention_kernels",
    # the one verb, and the questions
    "measure",
    "Measurement",
    "Measurable",
    "Finding",
    "Cost",
    "RunToRun",
    "BatchInvariance",
    "PaddingInvariance",
    "CacheInvariance",
    "ThreadInvariance",
    "ProcessInvariance",
    "OperatorProbe",
    "KeptProjections",
    "KernelAccuracy",
    "KernelPair",
    "FirstChange",
    "StabilityFan",
    "StabilitySpectrum",
    "BoundaryJump",
    "Staircase",
    "Regimes",
    "Rotation",
    "Landscape",
    "Zoom",
    "Tie",
    "FlipScan",
    "SingularSpectrum",
    "LayerProfile",
    "SubmoduleProfile",
    "ModuleSpectrum",
    "Fate",
    "MatmulChain",
    "WeightGain",
    "BlockFlips",
    "BlockGain",
    "HeadProducts",
    "HeadSpectra",
    "WeightStatistics",
    "WeightExport",
    "DirectionalGain",
    "Drift",
    "GainByDtype",
    "Representability",
    "NoiseTest",
    "Margins",
    "WordByWord",
    "resumable",
    "PredictionSpread",
    "BasisVectors",
    "ReadoutAngles",
    "NormAlignment",
    "HeadReplay",
    "CrossDevice",
    "CrossDrift",
    "Prompt",
    "PromptSuite",
    "Geometry",
    "Role",
    "QUESTIONS",
    "ROLES",
    "Recording",
    "OperationLog",
    "operations_at",
    "bisect",
    "Bisection",
    "Trace",
    "TraceComparison",
    "read_recording",
    "record",
    "write_recording",
    "Way",
    "Ledger",
    "SingularDefects",
    "Signature",
    "read_signature",
    "write_signature",
    "Endpoint",
    "ServedDeterminism",
    # kinds of noise
    "Perturbation",
    "UlpNoise",
    "Uniform",
    "Gaussian",
    "Constant",
    "Coordinate",
    "RoundTrip",
    "DtypeRoundTrip",
    # what comes back
    "Result",
    "Reading",
    "Metric",
    "StabilityFailure",
    "read",
    "by_block",
    # thousands of directions, in parts on any number of machines
    "Sweep",
    "Plan",
    "plan",
    "run_shard",
    "merge",
    # two tokens that tie, and the smallest flip between them
    "tie_point",
    "TiePoint",
    "flip_pair",
    "FlipPair",
    # inputs, and bits
    "strategies",
    "singular_vectors",
    "perturb",
    "bits_equal",
    "true_float64",
    # errors
    "StabilityError",
    "UsageError",
    "UnreadableError",
    "InvalidError",
    "IncomparableError",
    "UnsupportedError",
    "__version__",
]

_HOME_OF = {name: home for home, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name == "strategies":
        return import_module("stabilitykit.strategies")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stabilitykit' has no attribute {name!r}")
    value = getattr(import_module(f"stabilitykit.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
