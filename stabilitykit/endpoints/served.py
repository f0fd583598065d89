"""The replies of a server, and what follows from them: references, flips, who answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from stabilitykit.endpoints.answer import Answer
from stabilitykit.endpoints.load import Sample


class Served:
    """The samples at temperature 0 of some prompts: alone (level 1) and at the `concurrency` levels.

    `lost` is why the rest was not asked, "" if all was.
    """

    def __init__(
        self, prompts: Sequence[str], concurrency: Sequence[int], samples: Sequence[Sample], lost: str = ""
    ) -> None:
        self.prompts, self.samples, self.levels, self.lost = prompts, samples, (1, *concurrency), lost

    @cached_property
    def references(self) -> Mapping[int, Answer]:
        """The most common completion of each prompt alone, the earliest of several; none for a prompt without any."""
        found: dict[int, Answer] = {}
        for prompt in range(len(self.prompts)):
            answers = [sample.reply.answer for sample in self.of(prompt, alone=True)]
            given = [answer for answer in answers if answer is not None]
            counts = Counter(answer.said for answer in given)
            if given:
                found[prompt] = max(given, key=lambda answer: counts[answer.said])
        return found

    def of(self, prompt: int, *, alone: bool) -> list[Sample]:
        """Return the samples of a prompt, alone or under any load."""
        return [one for one in self.samples if one.prompt == prompt and (one.level == 1) == alone]

    def at(self, level: int) -> list[Sample]:
        """Return the samples of a level."""
        return [one for one in self.samples if one.level == level]

    def flipped(self, sample: Sample) -> bool:
        """Return whether it was answered otherwise than the reference."""
        reference, answer = self.references.get(sample.prompt), sample.reply.answer
        return reference is not None and answer is not None and answer.said != reference.said

    def compared(self, level: int) -> int:
        """Return how many answers of a level are held against a reference, which is no trial of itself."""
        answered = [one for one in self.at(level) if one.reply.answer is not None and one.prompt in self.references]
        return len(answered) - (len(self.references) if level == 1 else 0)

    @property
    def answers(self) -> list[Answer]:
        """All answers."""
        return [one.reply.answer for one in self.samples if one.reply.answer is not None]

    @property
    def models(self) -> set[str]:
        """The names of models in the answers."""
        return {answer.model for answer in self.answers}

    @property
    def fingerprints(self) -> set[str]:
        """What the answers say of the server's configuration, where they do."""
        return {answer.fingerprint for answer in self.answers} - {""}
