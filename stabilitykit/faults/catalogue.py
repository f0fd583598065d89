"""The faults there are: what each stands for, which operation it touches, and when it fires. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from stabilitykit.errors import UsageError

When = Literal["always", "many-rows", "one-token", "every-101st", "from-the-second"]

WHEN: dict[When, str] = {
    "always": "at every call",
    "many-rows": "where more than 16 rows come at once",
    "one-token": "where each sequence brings one token",
    "every-101st": "at every 101st call",
    "from-the-second": "at all calls but the first of each shape",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One bug that a model, a kernel or an engine can have.

    `defect` is what goes wrong, `touches` the operation it goes wrong in, `stands_for` the bug as people met it, with a
    `reference`; `when` says at which calls of that operation. The same defect at every call is one fault, since only a
    comparison with a run that had not it can show it, and at some calls another, which differs from itself.
    """

    defect: str
    touches: str
    stands_for: str
    reference: str
    when: When = "always"

    @property
    def name(self) -> str:
        """The defect, and after an @ when it fires, if not always."""
        return self.defect if self.when == "always" else f"{self.defect}@{self.when}"


_SOMETIMES: tuple[tuple[Fault, When], ...] = (
    (
        Fault(
            "reordered-sum",
            "sums and means, and the sums in a layer norm",
            "a reduction adds up in another order: another vector width, or atomics in the order in which they arrive",
            "https://docs.pytorch.org/docs/stable/notes/randomness.html",
        ),
        "every-101st",
    ),
    (
        Fault(
            "split-k",
            "matrix products",
            "a kernel splits the long axis in two and adds the halves, often only for some batch sizes",
            "https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html#batched-computations-or-slice-computations",
        ),
        "many-rows",
    ),
    (
        Fault(
            "tf32",
            "matrix products in float32",
            "tensor cores read 10 of 23 mantissa bits, after a library has switched TF32 on",
            "https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html",
        ),
        "from-the-second",
    ),
    (
        Fault(
            "bf16-accumulation",
            "matrix products",
            "partial sums are kept in bfloat16",
            "https://github.com/pytorch/pytorch/pull/89172",
        ),
        "one-token",
    ),
    (
        Fault(
            "fma",
            "an addition to a product",
            "a compiler fuses a multiplication and an addition, which then round once, often in the vector loop only",
            "https://github.com/pytorch/pytorch/pull/197018",
        ),
        "many-rows",
    ),
    (
        Fault(
            "exp-ulp",
            "exp, tanh, sigmoid, SiLU, GELU, softmax",
            "another exponential function, one unit in the last place off, often by the number of elements",
            "https://github.com/pytorch/pytorch/issues/48235",
        ),
        "many-rows",
    ),
    (
        Fault(
            "wrong-eps",
            "the small number added in a norm",
            "a kernel has 1e-6 written into it where the model says 1e-5",
            "https://github.com/apache/tvm/pull/15856",
        ),
        "one-token",
    ),
    (
        Fault(
            "dropped-mask",
            "attention over several tokens",
            "the mask does not reach attention, often for batches with padding only",
            "https://github.com/ml-explore/mlx-lm/issues/1906",
        ),
        "many-rows",
    ),
    (
        Fault(
            "stale-kv",
            "attention over a cache",
            "the row of the newest token is read before it is written",
            "https://github.com/vllm-project/vllm/pull/37152",
        ),
        "every-101st",
    ),
    (
        Fault(
            "dropped-head",
            "attention",
            "the partial results of the last head are not merged",
            "https://github.com/mlc-ai/mlc-llm/pull/1995",
        ),
        "many-rows",
    ),
    (
        Fault(
            "wrong-rope",
            "the rotary position of the last token",
            "a cache counts a token too early, so that the next one is turned one position too far",
            "https://github.com/fla-org/flash-linear-attention/issues/766",
        ),
        "one-token",
    ),
)

NOTHING = Fault("nothing", "no operation", "the clean twin: all that planting does, without a fault", "")
"""What shows that it is the fault that a check reacts to, and not its being planted; it is none of `FAULTS`."""

FAULTS: tuple[Fault, ...] = tuple(one for fault, when in _SOMETIMES for one in (fault, replace(fault, when=when)))
"""Each defect twice: at every call, and at some."""


def fault_named(name: str, option: str = "fault") -> Fault:
    """Return the fault of that name; UsageError with all names otherwise, which begins with where it was asked for."""
    for fault in (*FAULTS, NOTHING):
        if fault.name == name:
            return fault
    raise UsageError(f"{option} {name!r} is none of {', '.join(fault.name for fault in FAULTS)}")


def faults_like(pattern: str) -> Sequence[Fault]:
    """Return the faults whose names a glob fits; UsageError where there are none."""
    found = [fault for fault in FAULTS if fnmatchcase(fault.name, pattern)]
    if not found:
        raise UsageError(f"faults {pattern!r} fits none of {', '.join(fault.name for fault in FAULTS)}")
    return found
