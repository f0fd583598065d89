"""What kind of kernel gave other bits for the same operands: read off the operation, without running anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from stabilitykit.traces.operation_log import Operation

MATMUL, REDUCTION, ELEMENTWISE = "matmul kernel", "reduction order", "elementwise library"
ATTENTION, RANDOM, MOVEMENT = "attention kernel", "random numbers", "data movement"
THREADS, ALIGNMENT, UNKNOWN = "threads", "alignment", "unclassified"

MEANINGS = {
    MATMUL: "another kernel of the matrix library, or another order in which it adds up products",
    REDUCTION: "a sum, a mean or a norm whose terms were added in another order or width",
    ELEMENTWISE: "another implementation of a function of single elements, such as a vectorised exponential",
    ATTENTION: "another fused attention kernel, or other tiles of it",
    RANDOM: "another state or another algorithm of the random generator",
    MOVEMENT: "nothing is rounded where numbers are only moved: a race, a defect, or damaged memory",
    THREADS: "the number of threads decides in how many parts a sum is split",
    ALIGNMENT: "the address of an operand decides which vector kernel runs",
    UNKNOWN: "no class is known for this operation",
}
_IEEE = "IEEE 754 rounds this one correctly, so only flushed subnormals, fused operations or a defect are left"

# Base names of operations, and of modules where those were logged. In this order: the first that matches counts.
_FAMILIES = (
    (ATTENTION, r"scaled_dot_product|_(flash|efficient|cudnn)_attention|flex_attention|Attention$"),
    (MATMUL, r"(^|_)(mm|addmm|bmm|baddbmm|addbmm|mv|addmv|dot|vdot|addr|matmul|grouped_mm|scaled_mm|int_mm)(_|$)"),
    (MATMUL, r"(^|_)(linear|convolution|conv\w*)(_|$)|^(Linear|Conv1D|Conv\dd)$"),
    (REDUCTION, r"softmax|logsumexp|cumsum|cumprod|scatter_add|scatter_reduce|index_add|index_reduce|[a-z]_norm|Norm$"),
    (REDUCTION, r"^(sum|mean|prod|std|var|nansum|std_mean|var_mean)$|Norm$"),
    (
        MOVEMENT,
        r"^_?(cat|stack|copy|clone|embedding|index|index_select|index_put|gather|scatter|where|repeat)_?$",
    ),
    (MOVEMENT, r"^(neg|abs|relu|eq|ne|lt|le|gt|ge|max|min|amax|amin|argmax|topk|sort|fill|zeros|ones|full|arange)_?$"),
    (MOVEMENT, r"^(masked_fill|slice_scatter|select_scatter|roll|flip|triu|tril|nonzero|constant_pad_nd|clamp)_?$"),
    (MOVEMENT, r"^Embedding$"),
    (ELEMENTWISE, r"^_to_copy$|(SiLU|GELU|ReLU|Tanh|Sigmoid)\w*$|Activation$"),
)
_ROUNDED_CORRECTLY = re.compile(r"^(add|sub|rsub|mul|div|sqrt|reciprocal|_to_copy)_?$")


@dataclass(frozen=True)
class Cause:
    """A class of kernel, what it means, and which circumstances of the two sides differ as well.

    `suspects`: "threads" or "alignment" where their numbers or addresses are not the same. `proved` once running the
    operation again has shown that such a circumstance alone gives the other bits.
    """

    name: str
    meaning: str
    suspects: tuple[str, ...] = ()
    proved: bool = False


def classify(a: Operation, b: Operation, threads: tuple[int, int] = (1, 1)) -> Cause:
    """Return the class of an operation that gave other bits for the same operands. O(operands)."""
    suspects = []
    if threads[0] != threads[1]:
        suspects.append(THREADS)
    if any((x.address, x.stride) != (y.address, y.stride) for x, y in zip(a.inputs, b.inputs, strict=True)):
        suspects.append(ALIGNMENT)
    base = base_name(a.operation)
    name = _family(a.operation, base)
    meaning = _IEEE if name == ELEMENTWISE and _ROUNDED_CORRECTLY.match(base) else MEANINGS[name]
    return Cause(name, meaning, tuple(suspects))


def base_name(operation: str) -> str:
    """Return `mm` for `aten.mm.default`, and a module's class as it is."""
    parts = operation.split(".")
    return parts[1] if len(parts) > 1 else operation


def _family(operation: str, base: str) -> str:
    tags = _tags(operation)
    for name, pattern in _FAMILIES:
        if re.search(pattern, base):
            return name
    if torch.Tag.nondeterministic_seeded in tags:
        return RANDOM
    if torch.Tag.pointwise in tags:
        return ELEMENTWISE
    return REDUCTION if torch.Tag.reduction in tags else UNKNOWN


def _tags(operation: str) -> list[torch.Tag]:
    """Return what torch says of an operation; nothing of one that this torch does not have."""
    found: Any = torch.ops
    for part in operation.split("."):
        found = getattr(found, part, None)
    return list(getattr(found, "tags", ()))
