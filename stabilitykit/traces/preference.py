"""Which of two tokens each run prefers, stage by stage, at the step at which they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stabilitykit.traces.aligned import NORM, Aligned
from stabilitykit.traces.readout import Readout
from stabilitykit.traces.recording import Generation
from stabilitykit.traces.stages import LOGITS, Stage

Row = Mapping[str, Any]
TIE = "tie"


@dataclass(frozen=True, eq=False)
class Preference:
    """The two tokens that the runs chose at their divergence, `a` and `b`, and their logits along the way.

    The logit lens: the final norm and the head's two rows read the residual stream behind each block, and in between
    where the recording has it, as if the model ended there. `stages` are those, the recorded `post_norm` (which is
    read without a norm of ours), and, where both kept them, the recorded `logits`. `ahead` (2, n): logit of a's token
    minus that of b's in run a and in run b; `sides` (2, n): "a" or "b", or "tie" where both logits round to one
    number. All of it is about the step of the divergence, whose states made the tokens differ.
    """

    pair: Aligned
    tokens: tuple[int, int]
    stages: tuple[str, ...]
    blocks: tuple[int | None, ...]
    ahead: tuple[tuple[float, ...], ...]
    sides: tuple[tuple[str, ...], ...]

    @property
    def flip(self) -> int | None:
        """The first stage at which the runs do not agree; a tie agrees with a tie only."""
        return next((index for index, agree in enumerate(self.agreed) if not agree), None)

    @property
    def parted(self) -> int | None:
        """The stage from which on they do not agree to the end; None where they agree in the end."""
        return _from(self.agreed, False)

    @property
    def agreed(self) -> list[bool]:
        """At which stages the runs prefer the same."""
        return [a == b for a, b in zip(*self.sides, strict=True)]

    def first(self, run: int) -> int | None:
        """The first stage at which a run (0 or 1) prefers its own token."""
        own = "ab"[run]
        return self.sides[run].index(own) if own in self.sides[run] else None

    def settled(self, run: int) -> int | None:
        """The stage from which on a run prefers its own token to the end; None where the end is a tie."""
        return _from(self.sides[run], "ab"[run])

    def unrounded(self, run: int) -> str:
        """The token that the state which a run's head read prefers, before its logits are rounded."""
        return _side(self.ahead[run][self.stages.index(NORM)], False)

    def named(self, index: int | None) -> str | None:
        """The name of a stage."""
        return None if index is None else self.stages[index]


def preference(pair: Aligned, readouts: tuple[Readout, Readout]) -> Preference | None:
    """Follow both tokens through both runs; None for runs that do not part."""
    step = pair.divergence
    if step is None:
        return None
    tokens = (int(pair.a.predicted[step]), int(pair.b.predicted[step]))
    stream = [stage for stage in pair.stages if _is_read(pair, stage, readouts[0])]
    last = next(stage for stage in pair.stages if stage.name == NORM)
    runs = [
        _along(side, step, stream, tokens, readout) for side, readout in zip((pair.a, pair.b), readouts, strict=True)
    ]
    stages = [*stream, last]
    known = [logits for side in (pair.a, pair.b) if (logits := _recorded(side, step, tokens)) is not None]
    if len(known) == len(runs):
        stages.append(LOGITS)
        runs = [[*run, _between(*logits)] for run, logits in zip(runs, known, strict=True)]
    ahead = tuple(tuple(value for value, _ in run) for run in runs)
    sides = tuple(tuple(_side(value, tied) for value, tied in run) for run in runs)
    names, blocks = zip(*((one.name, one.block) for one in stages), strict=True)
    return Preference(pair, tokens, names, blocks, ahead, sides)


def _from(values: Sequence[Any], wanted: Any) -> int | None:
    """Return the index from which on all values are the one that is wanted; None if the last is not."""
    others = [index for index, value in enumerate(values) if value != wanted]
    start = others[-1] + 1 if others else 0
    return start if start < len(values) else None


def _is_read(pair: Aligned, stage: Stage, readout: Readout) -> bool:
    width = pair.a.states[NORM].shape[1]
    return readout.residual(stage) and pair.a.states[stage.name].shape[1] == width


def _along(
    side: Generation, step: int, stream: Sequence[Stage], tokens: tuple[int, int], readout: Readout
) -> list[tuple[float, bool]]:
    """Return the preference behind each stage of the stream, and in the recorded state that the head read."""
    states = torch.stack([side.states[stage.name][step] for stage in stream])
    normed = [*readout.normed(states), side.states[NORM][step]]
    return [readout.preference(state, *tokens) for state in normed]


def _recorded(side: Generation, step: int, tokens: tuple[int, int]) -> tuple[float, float] | None:
    """Return the recorded logits of both tokens: from all of them, or from the largest; None where one is unknown."""
    if "logits" in side.states:
        first, second = side.states["logits"][step][list(tokens)].double().tolist()
        return first, second
    known: dict[int, Tensor] = dict(zip(side.top_ids[step].tolist(), side.top_logits[step], strict=True))
    return (float(known[tokens[0]]), float(known[tokens[1]])) if set(tokens) <= set(known) else None


def _between(first: float, second: float) -> tuple[float, bool]:
    return first - second, first == second


def _side(ahead: float, tied: bool) -> str:
    """Return whose token is ahead; without rounding a tie is a difference of 0."""
    if tied or ahead == 0:
        return TIE
    return "a" if ahead > 0 else "b"


def preference_rows(found: Preference) -> list[Row]:
    """Return a row a stage, and one of part `flip` that says where each run made up its mind."""
    step = found.pair.step
    ids = {f"token_{run}": found.tokens[k] for k, run in enumerate("ab")}
    words = {f"word_{run}": found.pair.words.get(found.tokens[k], "") for k, run in enumerate("ab")}
    place = {**found.pair.place(step), **ids, **words}
    rows: list[Row] = [
        {
            "part": "preference",
            **place,
            "order": index,
            "stage": name,
            "block": found.blocks[index],
            "ahead_a": found.ahead[0][index],
            "ahead_b": found.ahead[1][index],
            "prefers_a": found.sides[0][index],
            "prefers_b": found.sides[1][index],
            "agree": found.agreed[index],
        }
        for index, name in enumerate(found.stages)
    ]
    return [
        *rows,
        {
            "part": "flip",
            **place,
            "order": found.flip,
            "stage": found.named(found.flip),
            "block": None if found.flip is None else found.blocks[found.flip],
            "parted_from": found.named(found.parted),
            **{f"first_{run}": found.named(found.first(k)) for k, run in enumerate("ab")},
            **{f"settled_{run}": found.named(found.settled(k)) for k, run in enumerate("ab")},
            **{f"tie_{run}": found.sides[k][-1] == TIE for k, run in enumerate("ab")},
            **{f"unrounded_{run}": found.unrounded(k) for k, run in enumerate("ab")},
        },
    ]
