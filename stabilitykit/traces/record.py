"""Record a generation: greedily with a cache, listening at every stage, and prove that listening changed nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabilitykit.errors import InvalidError, UnsupportedError, UsageError
from stabilitykit.measurements.operator_probe import probe
from stabilitykit.measurements.progress import bar
from stabilitykit.numerics.digest import short_digest
from stabilitykit.prompts import Prompt
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.environment import environment
from stabilitykit.subjects.generation import Text, Way, first_largest
from stabilitykit.traces import STATES
from stabilitykit.traces.digests import Digests, StagedDigests, Step
from stabilitykit.traces.identity import identity
from stabilitykit.traces.recording import Generation, Recording
from stabilitykit.traces.stages import LOGITS, Stage, discover, listening

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel
    from stabilitykit.traces.operations import OperationLog


def record(
    loaded: LoadedModel,
    prompts: Sequence[Prompt | str | Sequence[int]] | Recording,
    tokens: int = 96,
    *,
    level: str = "module",
    states: str = "none",
    top: int = 10,
    steps: Sequence[int] = (0,),
    forced: bool = False,
    whole: LoadedModel | None = None,
) -> Recording:
    """Generate up to `tokens` tokens of each prompt and return the recording; see `Generation` for what is kept.

    Each prompt runs twice: plainly, with nothing that listens, and recorded. The logits of every step must have the
    same bits in both: InvalidError if a model does not repeat itself, UnsupportedError if listening changes it. With
    `level="op"` the operations of `steps` are recorded as well. `prompts` may be another recording: then its prompts
    are continued, and with `forced` its tokens are read, whatever this model would say (teacher forcing), so that every
    step of both is about the same input. `whole` has all the weights where `loaded` holds a share of them. UsageError
    for prompts, levels and counts that cannot be meant. Memory: one prompt's digests and the states that are asked for.
    Cost: two rows a token, and for each operation log the steps before it, twice.
    """
    _check(prompts, tokens, states, top, steps, forced)
    if isinstance(prompts, Recording):
        asked = [_again(one, forced) for one in prompts.generations]
    else:
        asked = [_asked(one) for one in prompts]
    anatomy, stages, generations = find(loaded.model), list[Stage](), list[Generation]()
    seconds = {"plain": 0.0, "recorded": 0.0}
    with bar(len(asked), "recorded", "prompt") as progress:
        for prompt, told, said in asked:
            text = Text(loaded, told, tokens if said is None else max(len(said), 1), anatomy, listens=False)
            stages = stages or discover(loaded.model, anatomy, _first(text, said), level)
            taken = _Taken(text, said, stages, states, top)
            _prove(loaded, prompt, taken)
            generations.append(taken.generation(prompt, _operations(loaded, taken, steps) if level == "op" else {}))
            seconds = {name: seconds[name] + spent for name, spent in taken.seconds.items()}
            progress.update()
    made = _Made("forced" if forced else "free", level, tuple(stages), tuple(generations), seconds)
    return _recording(loaded, made, whole or loaded)


class _Made(NamedTuple):
    """What was recorded, before it is said of which model and on what machine."""

    mode: str
    level: str
    stages: tuple[Stage, ...]
    generations: tuple[Generation, ...]
    seconds: dict[str, float]


def _recording(loaded: LoadedModel, made: _Made, whole: LoadedModel) -> Recording:
    device = str(loaded.model.device)
    return Recording(
        model=identity(whole),
        device=device,
        environment=environment(loaded),
        probe=probe(loaded.model.dtype, device, torch.get_num_threads()),
        observer={"steps": sum(one.steps for one in made.generations)},
        words=_words(loaded, made.generations),
        **made._asdict(),
    )


def _words(loaded: LoadedModel, generations: Sequence[Generation]) -> dict[int, str]:
    if loaded.tokenizer is None:
        return {}
    named = {
        token for one in generations for array in (one.tokens, one.top_ids) for token in array.reshape(-1).tolist()
    }
    return {token: str(loaded.tokenizer.decode([token])) for token in sorted(named)}


def _check(
    prompts: Sequence[Any] | Recording, tokens: int, states: str, top: int, steps: Sequence[int], forced: bool
) -> None:
    if forced and not isinstance(prompts, Recording):
        raise UsageError("forced reads the tokens of another recording; give that recording as prompts")
    if isinstance(prompts, str) or (not isinstance(prompts, Recording) and not prompts):
        raise UsageError("prompts is a list of texts or of lists of token ids, with at least one")
    if states not in STATES:
        raise UsageError(f"states {states!r} of a recording is not one of {', '.join(STATES)}")
    for name, count in (("tokens", tokens), ("top", top - 1)):
        if count < 1:
            raise UsageError(f"{name} is too few; give at least {1 if name == 'tokens' else 2}")
    if any(step < 0 for step in steps):
        raise UsageError("steps are numbered from 0, the one that reads the prompt")


_Asked = tuple[Prompt, str | Sequence[int], list[int] | None]


def _asked(given: Prompt | str | Sequence[int]) -> _Asked:
    """Return a prompt, what the tokenizer or the model reads, and that it may say what it will."""
    if isinstance(given, Prompt):
        return given, given.text, None
    return Prompt(given if isinstance(given, str) else ""), given, None


def _again(one: Generation, forced: bool) -> _Asked:
    return Prompt(one.text or "", one.kind), one.ids, one.tokens.tolist() if forced else None


def _first(text: Text, said: Sequence[int] | None) -> Callable[[], Tensor]:
    return lambda: next(_rows(text, said))


def _rows(text: Text, said: Sequence[int] | None) -> Iterator[Tensor]:
    """Yield the logits (M,) of each step."""
    if said is None:
        yield from text.greedy()
    else:
        yield from (row[-1] for row in text.forced(Way("decode"), said))


def _operations(loaded: LoadedModel, taken: _Taken, steps: Iterable[int]) -> dict[int, OperationLog]:
    from stabilitykit.traces.operations import operations_at

    chosen = [step for step in steps if step < len(taken.tokens)]
    return {step: operations_at(loaded, taken.text.ids, taken.tokens, step) for step in chosen}


def _prove(loaded: LoadedModel, prompt: Prompt, taken: _Taken) -> None:
    """InvalidError where the recorded logits are not those of a plain generation, since no two generations are equal.

    UnsupportedError where it is the recording that changes them.
    """
    differing = taken.first_difference()
    if differing is None:
        return
    where = f"step {differing} of the prompt {prompt.text[:40]!r}"
    if not taken.repeats():
        raise InvalidError(
            f"{loaded.spec} does not repeat itself: two plain generations differ before or at {where}; "
            "measure RunToRun, and switch nondeterministic kernels off"
        )
    raise UnsupportedError(
        f"{loaded.spec} gives other bits when it is recorded: its logits at {where} are not those of a plain "
        "generation; record at level 'block', or uncompiled"
    )


@dataclass
class _Taken:
    """One prompt, run plainly and recorded."""

    text: Text
    said: Sequence[int] | None
    stages: Sequence[Stage]
    states: str
    top: int
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = time.perf_counter()
        self._plain = self.plain()
        self.seconds["plain"] = time.perf_counter() - start
        start = time.perf_counter()
        self._record()
        self.seconds["recorded"] = time.perf_counter() - start

    def plain(self) -> list[bytes]:
        """Return the digest of each step's logits, with nothing that listens."""
        return [short_digest(row) for row in _rows(self.text, self.said)]

    def repeats(self) -> bool:
        """Return whether two more plain generations are equal to the first."""
        return self.plain() == self._plain == self.plain()

    def first_difference(self) -> int | None:
        """Return the first step whose recorded logits are not the plain ones, None if all are."""
        pairs = zip(self._plain, self._logits, strict=False)
        differing = next((step for step, (plain, here) in enumerate(pairs) if plain != here), None)
        if differing is None and len(self._plain) != len(self._logits):
            return min(len(self._plain), len(self._logits))
        return differing

    def _record(self) -> None:
        model = self.text.loaded.model
        on_cpu = model.device.type == "cpu"
        digests = Digests(self.stages) if on_cpu else StagedDigests(self.stages)
        kept = _Vectors([_is_kept(self.states, stage) for stage in self.stages])
        steps: list[Future[Step]] = []
        tops: list[tuple[list[int], Tensor, float, int]] = []
        self._logits: list[bytes] = []

        def hear(index: int, tensors: tuple[Tensor, ...]) -> None:
            digests.hear(index, tensors)
            kept.hear(index, tensors)

        with listening(model, self.stages, hear if self.states != "none" else digests.hear):
            for row in _rows(self.text, self.said):
                digests.hear(len(self.stages) - 1, (row,))
                kept.hear(len(self.stages) - 1, (row[None, None],))
                steps.append(digests.take())
                kept.next()
                tops.append(_largest(row, self.top))
        self._steps = [step.result() for step in steps]
        self._logits = [step[-1] for step in self._steps]
        self._tops, self._vectors = tops, kept
        self.tokens = list(self.text.generated if self.said is None else self.said)

    def generation(self, prompt: Prompt, operations: dict[int, Any]) -> Generation:
        """Return what is kept of this prompt."""
        flat = b"".join(one for step in self._steps for one in step)
        shape = (len(self._steps), len(self.stages), -1)
        return Generation(
            kind=prompt.kind,
            text=prompt.text or None,
            ids=tuple(self.text.ids),
            tokens=np.array(self.tokens, dtype=np.int64),
            predicted=np.array([predicted for *_, predicted in self._tops], dtype=np.int64),
            top_ids=np.array([ids for ids, *_ in self._tops], dtype=np.int64),
            top_logits=torch.stack([values for _, values, *_ in self._tops]),
            normaliser=np.array([normaliser for *_, normaliser, _ in self._tops]),
            digests=np.frombuffer(flat, dtype=np.uint8).reshape(shape),
            states=self._vectors.stacked(self.stages),
            operations=operations,
        )


class _Vectors:
    """The last position's vector of each stage that is kept, step by step."""

    def __init__(self, kept: Sequence[bool]) -> None:
        self._kept = kept
        self._now: dict[int, Tensor] = {}
        self._steps: list[dict[int, Tensor]] = []

    def hear(self, index: int, tensors: Sequence[Tensor]) -> None:
        if self._kept[index] and tensors[0].ndim == 3 and len(tensors[0]) == 1:
            self._now[index] = tensors[0][0, -1].detach().clone()

    def next(self) -> None:
        self._steps.append(self._now)
        self._now = {}

    def stacked(self, stages: Sequence[Stage]) -> dict[str, Tensor]:
        """Return (n, M) on the CPU for every stage that ran in each step with the same width."""
        found = {}
        for index, stage in enumerate(stages):
            vectors = [step[index] for step in self._steps if index in step]
            if len(vectors) == len(self._steps) and len({(one.shape, one.dtype) for one in vectors}) == 1:
                found[stage.name] = torch.stack(vectors).cpu()
        return found


def _is_kept(states: str, stage: Stage) -> bool:
    if states == "all":
        return True
    if states == "none" or stage.name == LOGITS.name:
        return False
    if stage.name == "post_norm":
        return True
    return states == "blocks" and (stage.name == "embed" or stage.name.startswith("block:"))


def _largest(row: Tensor, top: int) -> tuple[list[int], Tensor, float, int]:
    """Return the ids and values of the largest logits (M,), of equal ones the lowest id first, log-sum-exp, argmax."""
    top = min(top, len(row))
    least = row.topk(top).values[-1]
    among = (row >= least).nonzero().reshape(-1)
    order = row[among].sort(descending=True, stable=True).indices[:top]
    ids = among[order]
    return ids.tolist(), row[ids].cpu(), float(row.double().logsumexp(0)), first_largest(row)
