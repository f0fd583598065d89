"""The first differing operation, run again alone in two fresh processes: what one forward showed, confirmed or not."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stabilitykit.subjects import launch
from stabilitykit.traces import operation_reproducer
from stabilitykit.traces.classify import ALIGNMENT, MEANINGS, THREADS, Cause
from stabilitykit.traces.reproducer import TENSORS, Side


@dataclass(frozen=True)
class Replay:
    """What the operation gave alone, as digests: under A's setting as A ran it, under B's as B did.

    `confirmed`: both gave exactly the bits of their forward, which differ. `cause` names the one circumstance that
    makes A's process give B's bits, "threads" or "alignment"; "" if there is none, and the kernel itself is another.
    """

    a: tuple[str, ...]
    b: tuple[str, ...]
    expected_a: tuple[str, ...]
    expected_b: tuple[str, ...]
    cause: str = ""

    @property
    def confirmed(self) -> bool:
        """Whether both sides came out again."""
        return self.a == self.expected_a and self.b == self.expected_b != self.a

    @property
    def sentence(self) -> str:
        """What was seen, in words."""
        if self.confirmed:
            why = f" B's {self.cause} alone make the difference." if self.cause else ""
            return f"Run again alone on the same operands, it gave A's bits under A's setting and B's under B's.{why}"
        if self.a == self.b:
            return "Run again alone on the same operands, it gave the same bits under both settings: not reproduced."
        sides = [name for name, ours, theirs in self._sides() if ours != theirs]
        return f"Run again alone, its bits differ, but side {' and '.join(sides)} gave others than in the forward."

    def refine(self, cause: Cause) -> Cause:
        """Return the cause, replaced by the circumstance that was proved to make the difference."""
        if not self.cause:
            return cause
        return replace(cause, name=self.cause, meaning=MEANINGS[self.cause], proved=True)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "confirmed": self.confirmed, "sentence": self.sentence}

    def _sides(self) -> Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        return (("A", self.a, self.expected_a), ("B", self.b, self.expected_b))


def replay(folder: Path, a: Side, b: Side, timeout: float = 300.0) -> Replay:
    """Run the operation of a reproducer's folder under both settings, each in a fresh process.

    Beside A's and B's own runs, A's process runs it with B's threads, and with B's addresses and strides: a difference
    that appears then is theirs. Errors as of `launch.ask`. Cost: two processes, and the operation four times.
    """
    ours = _run(folder, a.environ, [("a", a.threads), ("a", b.threads), ("b", a.threads)], timeout)
    (theirs,) = _run(folder, b.environ, [("b", b.threads)], timeout)
    expected_a, expected_b = (tuple(one.digest for one in side.entry.outputs) for side in (a, b))
    alone = zip((THREADS, ALIGNMENT), ours[1:], strict=True)
    cause = next((name for name, given in alone if given == theirs != ours[0]), "")
    return Replay(ours[0], theirs, expected_a, expected_b, cause)


def _run(
    folder: Path, environ: Mapping[str, str], runs: Sequence[tuple[str, int]], timeout: float
) -> list[tuple[str, ...]]:
    with tempfile.TemporaryDirectory(prefix="stabilitykit-") as place:
        request = {"tensors": str(folder.resolve() / TENSORS), "runs": runs}
        answer = launch.ask("stabilitykit.traces.replay", Path(place), request, environ, timeout)
    return [tuple(one) for one in answer["digests"]]


def main(folder: Path) -> None:
    """Answer the request in a folder: the other side of `replay`."""
    request = launch.request_of(folder)
    tensors, found = operation_reproducer.read(Path(request["tensors"]))
    given = [operation_reproducer.run(tensors, found, side, threads) for side, threads in request["runs"]]
    launch.answered(folder, {"digests": [[operation_reproducer.digest(one) for one in outputs] for outputs in given]})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
