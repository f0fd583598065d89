"""The first operation whose bits differ between two logs of one forward, and whether it made the difference itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from stabilitykit.errors import IncomparableError
from stabilitykit.traces.classify import Cause, classify
from stabilitykit.traces.operation_log import Operand, Operation, OperationLog

LOCAL, INHERITED, DIFFERENT, INPUTS, UNSEEN = "local", "inherited", "different-operations", "inputs", "unseen"

Pair = tuple[Operation | None, Operation | None]


@dataclass(frozen=True)
class Bisection:
    """Where two logs part.

    `verdict`: `pass` if every operation gave the same bits, else `differs`. `kind` of the first that did not:

    * `local`: it read the same bits, weights included, and gave others; no tensor had to be moved to know that;
    * `inherited`: an operand had other bits already, although no operation before it gave others: it came from outside
      of what was logged, such as the cache;
    * `different-operations`: one side runs an operation that the other does not, or with other arguments;
    * `inputs`: the tokens or a weight differ, also where rounding hides it, so there is nothing to explain;
    * `unseen`: all operations agree and the logits do not.

    `a` and `b` are both sides of it, `number` its place among A's operations, from 1. `later` operations after it gave
    other bits too; `local` counts, by name, those that read the same bits, the first one included.
    """

    verdict: str
    kind: str
    sentence: str
    compared: int
    a: Operation | None = None
    b: Operation | None = None
    number: int = 0
    later: int = 0
    local: Mapping[str, int] = field(default_factory=dict)
    cause: Cause | None = None
    level: str = "op"
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        sides = {side: None if own[side] is None else own[side].to_plain() for side in ("a", "b")}
        cause = None if self.cause is None else asdict(self.cause)
        return {**own, **sides, "cause": cause, "local": dict(self.local), "notes": list(self.notes)}


def bisect(a: OperationLog, b: OperationLog) -> Bisection:
    """Align two logs by module, operation and occurrence, and return where they part first.

    IncomparableError where one logged operations and the other modules. O(operations); no tensor is needed.
    """
    if a.level != b.level:
        raise IncomparableError(
            f"one log is of level {a.level!r} and the other of {b.level!r}; log both at level 'module' to compare them"
        )
    notes = tuple(f"{side}: {log.note}" for side, log in (("A", a), ("B", b)) if log.note)
    if told := _other_tokens(a, b):
        return Bisection("differs", INPUTS, told, 0, level=a.level, notes=notes)
    pairs = list(_aligned(a.entries, b.entries))
    both = [(x, y) for x, y in pairs if x and y]
    found = Bisection("pass", "", "", len(both), level=a.level, notes=notes)
    first = next((pair for pair in pairs if _parts(*pair)), None)
    if first is None:
        return _agreeing(found, a, b)
    others = [(x, y) for x, y in both if not _same(x.outputs, y.outputs)]
    local = Counter(x.operation for x, y in others if _kind(x, y) == LOCAL)
    found = replace(found, verdict="differs", kind=_kind(*first), a=first[0], b=first[1], local=local)
    found = replace(found, later=len(others) - (first in others), number=_number(first[0], a))
    if found.kind == LOCAL and found.a and found.b:
        found = replace(found, cause=classify(found.a, found.b, (a.threads, b.threads)))
    return replace(found, sentence=_sentence(found, a))


def _aligned(a: Sequence[Operation], b: Sequence[Operation]) -> Iterator[Pair]:
    """Yield pairs of one address in A's order; what only one side has stands alone, where it was met."""
    ours, theirs = {one.place for one in a}, {one.place: one for one in b}
    rest = iter(b)
    for one in a:
        if one.place not in theirs:
            yield one, None
            continue
        for other in rest:  # up to B's own next operation that A has as well
            if other.place in ours:
                break
            yield None, other
        yield one, theirs[one.place]
    yield from ((None, other) for other in rest)


def _parts(a: Operation | None, b: Operation | None) -> bool:
    if a is None or b is None or not _same(a.outputs, b.outputs):
        return True
    return _kind(a, b) in (DIFFERENT, INPUTS)


def _kind(a: Operation | None, b: Operation | None) -> str:
    if a is None or b is None or a.form != b.form:
        return DIFFERENT
    if any(a.inputs[index].weight for index in _others(a, b)):
        return INPUTS
    return INHERITED if _others(a, b) else LOCAL


def _others(a: Operation, b: Operation) -> list[int]:
    """Return the operands that are not the same bits."""
    return [index for index, (x, y) in enumerate(zip(a.inputs, b.inputs, strict=True)) if x.bits != y.bits]


def _same(a: Sequence[Operand], b: Sequence[Operand]) -> bool:
    return [one.bits for one in a] == [one.bits for one in b]


def _number(one: Operation | None, log: OperationLog) -> int:
    return log.entries.index(one) + 1 if one else 0


def _other_tokens(a: OperationLog, b: OperationLog) -> str:
    for name, ours, theirs in (("prompt", a.ids, b.ids), ("generated text", a.generated, b.generated)):
        if ours != theirs:
            place = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y), None)
            where = f"in token {place}" if place is not None else f"in length, {len(ours)} and {len(theirs)} tokens"
            return f"The two sides read different tokens: the {name} differs {where}. Their operations say nothing."
    return ""


def _agreeing(found: Bisection, a: OperationLog, b: OperationLog) -> Bisection:
    what = "operations" if a.level == "op" else "calls of modules"
    all_of = f"All {found.compared} {what} of step {a.step} gave the same bits"
    if a.output == b.output:
        return replace(found, sentence=f"{all_of}.")
    return replace(
        found,
        verdict="differs",
        kind=UNSEEN,
        sentence=f"{all_of}, and the logits did not: something computes where it cannot be followed.",
    )


def _sentence(found: Bisection, log: OperationLog) -> str:
    a, b = found.a, found.b
    if a is None or b is None:
        side, one, other = ("A", a, "B") if a else ("B", b, "A")
        return (
            f"The sides run different operations: {one.place if one else ''} is {side}'s alone; {other} has none there."
        )
    where = f"The first operation whose bits differ is {a.place} (number {found.number} of {len(log.entries)})"
    told = _told(found.kind, a, b, log)
    if found.kind == DIFFERENT:
        where = where.replace("whose bits differ", "that differs")
    cause = f", by its {found.cause.name}: {found.cause.meaning}" if found.cause else ""
    return f"{where}: {told}{cause}.{_suspects(found)} {_afterwards(found)}"


def _told(kind: str, a: Operation, b: Operation, log: OperationLog) -> str:
    if kind == LOCAL:
        return f"it read the same bits ({_listed(a.inputs)}) and gave others: the difference is local"
    if kind == DIFFERENT:
        return f"the sides call it differently: {_call(a)} in A, {_call(b)} in B"
    if kind == INPUTS:
        return f"its weights are not the same ({_listed([a.inputs[i] for i in _others(a, b) if a.inputs[i].weight])})"
    return f"the difference is inherited: {_inherited(a, b, log)}"


def _afterwards(found: Bisection) -> str:
    told = f"{found.later} later operations gave other bits too"
    rest = Counter(found.local) - Counter([found.a.operation] if found.a and found.kind == LOCAL else [])
    names = ", ".join(f"{name} {count}" for name, count in rest.most_common())
    return f"{told}, {rest.total()} of them locally as well ({names})." if rest else f"{told}, none of them locally."


def _suspects(found: Bisection) -> str:
    if not found.cause or not found.cause.suspects:
        return ""
    return f" The sides differ there in {' and '.join(found.cause.suspects)} as well."


def _inherited(a: Operation, b: Operation, log: OperationLog) -> str:
    index = _others(a, b)[0]
    operand = a.inputs[index]
    told = f"operand {index} ({operand}) has other bits already, and"
    if operand.source is None:
        return f"{told} was there before this forward, as the cache of earlier steps is; compare an earlier step"
    writer = log.entries[operand.source].place
    return f"{told} {writer}, which wrote it last, gave the same: what wrote it since is not logged"


def _call(one: Operation) -> str:
    return f"({_listed(one.inputs)}) {one.arguments}"


def _listed(operands: Sequence[Operand]) -> str:
    return ", ".join(map(str, operands)) or "nothing"
