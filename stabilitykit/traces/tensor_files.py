"""Two files of tensors, set against each other bit by bit: what differs, where, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stabilitykit.errors import UnreadableError, UsageError, first_line
from stabilitykit.numerics.bits import FORMATS, bits_equal, name_of, raw_bytes
from stabilitykit.numerics.differences import Difference, difference
from stabilitykit.results.archive import read_array
from stabilitykit.subjects.headers import LARGEST, check_header

FORMS = "a .safetensors or a .npy file"


@dataclass(frozen=True)
class Compared:
    """One tensor of both files.

    `verdict`: `pass` if dtype, shape and every bit agree, else `differs`; `structure` says what else is not the same:
    another dtype or shape, or that one file lacks it. `difference` has the numbers where both are comparable floats;
    of other dtypes, `differing` elements are counted. `first` is the index of the first element that differs: the worst
    has none where a number became NaN.
    """

    name: str
    verdict: str
    dtype: str
    shape: tuple[int, ...]
    structure: str = ""
    differing: int = 0
    difference: Difference | None = None
    first: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class TensorFile:
    """The tensors of one file, by name, read one at a time. No pickle is read; a .npy file holds one, named `array`.

    UsageError for another kind of file, UnreadableError for a missing, damaged or object-typed one, for names that
    stand twice, and for more than 10,000 tensors. Names are never used as paths.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        if path.suffix not in (".safetensors", ".npy"):
            raise UsageError(f"{path} is not {FORMS}; other formats are never read")
        try:
            if path.suffix == ".npy":
                self._array: Tensor | None = torch.from_numpy(read_array(path))
                self.names = ["array"]
                return
            self._array = None
            with path.open("rb") as file:
                check_header(file.read(LARGEST + 8), path)
            self._opened = stack.enter_context(safe_open(path, framework="pt"))
            self.names = sorted(self._opened.keys())
        except (OSError, ValueError, TypeError, EOFError, SafetensorError) as error:
            raise UnreadableError(f"{path} cannot be read: {first_line(error)}") from None

    def __getitem__(self, name: str) -> Tensor:
        """Return one tensor."""
        tensor: Tensor = self._opened.get_tensor(name) if self._array is None else self._array
        return tensor


def compare(left: Path, right: Path) -> list[Compared]:
    """Compare two files tensor by tensor, in the order of their names; two .npy files hold one tensor each.

    Bits are compared in each tensor's own dtype, so -0 is not +0 and a NaN equals only its own payload. Memory: one
    tensor of each file. Errors as for `TensorFile`.
    """
    with ExitStack() as stack:
        a, b = TensorFile(left, stack), TensorFile(right, stack)
        return list(_compared(a, b))


def _compared(a: TensorFile, b: TensorFile) -> Iterator[Compared]:
    ours, theirs = set(a.names), set(b.names)
    for name in sorted(ours | theirs):
        if name not in theirs or name not in ours:
            holder, lacking = (a, b) if name in ours else (b, a)
            only = holder[name]
            yield Compared(name, "differs", _dtype(only), tuple(only.shape), f"missing from {lacking.path}")
        else:
            yield _pair(name, a[name], b[name])


def _pair(name: str, a: Tensor, b: Tensor) -> Compared:
    dtype, shape = _dtype(a), tuple(a.shape)
    if a.dtype != b.dtype or a.shape != b.shape:
        other = f"{dtype} {list(shape)} against {_dtype(b)} {list(b.shape)}"
        return Compared(name, "differs", dtype, shape, other)
    if bits_equal(a, b):
        return Compared(name, "pass", dtype, shape)
    # By bytes: a complex -0 equals +0, and not every dtype can be compared by value.
    changed = (raw_bytes(a) != raw_bytes(b)).view(-1, a.element_size()).any(dim=1).view(shape)
    found = difference(a, b) if a.dtype in FORMATS else None
    first = tuple(changed.nonzero()[0].tolist())
    return Compared(name, "differs", dtype, shape, "", int(changed.sum()), found, first)


def _dtype(tensor: Tensor) -> str:
    return name_of(tensor.dtype)
