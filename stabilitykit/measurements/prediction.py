"""How well does a model predict each next word of a document, and which of its predictions hang by a thread?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.decisions import decided
from stabilitykit.measurements.margin_rows import way_rows
from stabilitykit.measurements.progress import bar
from stabilitykit.measurements.resumable import Steps, setting
from stabilitykit.measurements.token_predictions import COSINES, TokenPredictions, joined, predict
from stabilitykit.measurements.word_readings import readings, sentence, worst
from stabilitykit.measurements.word_rows import Row, Scan, window_rows, word_rows
from stabilitykit.numerics.forecast import pooled
from stabilitykit.prompts import PASSAGE
from stabilitykit.results.metric import Metric
from stabilitykit.subjects.anatomy import Anatomy, find
from stabilitykit.subjects.document import Document, read_document
from stabilitykit.subjects.generation import Way
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.models import LoadedModel
from stabilitykit.subjects.windows import CHUNK, Window, heard, text_of, way, windows
from stabilitykit.subjects.words import Tokenised, tokenise

WIDTH = 1024
WAYS = (
    Way("decode"),
    Way("prefill"),
    Way("prefill", 2),
    Way("prefill", chunk=16),
    Way("prefill", chunk=3),
    Way("prefill", attention="math"),
    Way("prefill", attention="eager"),
    Way("prefill", threads=1),
)
"""Other ways to compute the same logits, by which their noise is measured."""


@dataclass(frozen=True, eq=False)
class WordByWord(Measurement[LoadedModel]):
    """Predict each next word of a document from what stands before it, and say which predictions rounding may decide.

    `document`: the text itself as a str, or a Path of a text, Markdown or PDF file; `read_document` reads it. It is
    tokenised once; a word is what stands between white space, its tokens those with a character of it. No word is left
    out but the first, which nothing precedes. The text is read in windows of `window` tokens, each `stride` behind the
    one before, in pieces on a cache that begins empty with each window: every token is predicted once, from at least
    window - stride tokens where the text has them. A word's nll is the sum of its tokens', in nats; it matches if all
    of them are first predictions, and its rank is that of its first token among all logits, of equal ones by id.

    The margin is L1 - L2, exact, in logits. Its noise is how it differs on the first `sample` tokens between `ways` of
    computing the same logits, pooled as in `Margins`. Fragile: a margin below `fragile` times the noise, or no wider
    than one ULP, where any last bit of a logit makes a tie or turns it. `flip_probability`: `numerics.forecast`.
    A word has the smallest margin of its tokens.

    Rows (`part`): word; window, with digests of its logits; way. Arrays over the N predicted tokens: the fields of
    `TokenPredictions`. `tokens` reads no more than so many; `top` predictions are kept of each word. UsageError for a
    document of fewer than two words and for sizes that do not fit the model, UnreadableError for a file, and
    UnsupportedError for a tokenizer without offsets. Inside `resumable(path)` a killed process loses one window.
    Cost: ceil(T / stride) windows, at most T window / stride token positions; one forward a word over the growing text,
    as in the study, takes about 0.65 words^2. Source: the reference study's analysis of documents.
    """

    document: str | Path | Document = PASSAGE
    window: int | None = None
    stride: int | None = None
    top: int = 2
    tokens: int | None = None
    fragile: float = 3.0
    ways: Sequence[Way] = WAYS
    sample: int = CHUNK
    confidence: float = 0.95

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("fragile_share", "share", "lower", "words with a token whose margin rounding may decide"),
        Metric("accuracy", "share", "higher", "words of which every token is the first prediction"),
        Metric("perplexity", "", "lower", "exp of the mean nll of all predicted tokens"),
        Metric("expected_flips", "tokens", "lower", "tokens of which another device is expected to predict another"),
        Metric("first_token_accuracy", "share", "higher", "words whose first token is the first prediction"),
        Metric("token_accuracy", "share", "higher", "tokens that are the first prediction"),
        Metric("bits_per_character", "bit", "lower", "nll of all predicted tokens over the characters that they spell"),
        Metric("median_probability", "probability", "higher", "median probability of a word, all its tokens together"),
        Metric("mean_probability", "probability", "higher", "mean of the same"),
        Metric("median_rank", "", "lower", "median rank of a word's first token"),
        Metric("min_margin", "logit", "higher", "smallest difference between the two largest logits"),
        Metric("min_margin_ulp", "ULP", "higher", "the same in ULP of the largest logit, where that is smallest"),
        Metric("exact_ties", "tokens", "lower", "tokens whose largest logit several ids share"),
        Metric("noise", "logit", "lower", "root mean square of the margins' noise, pooled over the sample"),
        *(Metric(f"mean_{name}", "", "neither", f"mean cosine of {what}") for name, what in COSINES.items()),
        Metric("words", "words", "neither", "words that were predicted"),
        Metric("tokens", "tokens", "neither", "tokens that were predicted"),
        Metric("positions", "tokens", "lower", "token positions that passed the model for that"),
        Metric("study_positions", "tokens", "neither", "those of one forward a word over all text before it"),
    )
    needs: ClassVar[type[Measurable]] = LoadedModel
    causes: ClassVar[tuple[str, ...]] = (
        "logits in a 16-bit dtype, whose grid makes exact ties",
        "a document of another language or kind than the model was trained on",
        "text that was torn apart when the PDF was read",
    )

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        for name, least in (("top", 2), ("sample", 1), ("window", 2), ("stride", 1), ("tokens", 2)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise UsageError(f"{name}={count} is too few; give at least {least}")
        if not 0 < self.fragile < math.inf:
            raise UsageError(f"fragile must be a number of noises above 0, not {self.fragile!r}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence must lie strictly between 0 and 1, not {self.confidence!r}")

    def cost(self, subject: LoadedModel) -> Cost:
        """Return the rows of the windows and of the ways, of which a model may lack some."""
        text = self._tokenised(subject, read_document(self.document))
        config = subject.model.config.get_text_config()
        plan = self._plan(subject, text, getattr(config, "max_position_embeddings", None))
        sampled = self._sampled(text)
        before, said = len(text.lead) + sampled.first, sampled.end - sampled.first
        rows = [-(-one.positions(len(text.lead)) // CHUNK) for one in plan]
        return Cost(forwards=sum(rows) + 1 + sum(way.rows(before, said) for way in self.ways))

    def find(self, subject: LoadedModel) -> Finding:
        """Read, tokenise, measure the noise, predict window by window, and judge each word."""
        document = read_document(self.document)
        text, anatomy = self._tokenised(subject, document), find(subject.model)
        plan = self._plan(subject, text, anatomy.max_positions)
        steps = Steps(self._of(subject, document, text, plan))
        noise = steps.once(partial(self._noise, subject, anatomy, text))
        plain = []
        with bar(len(text.ids), "words", "token") as progress:
            progress.update(plan[0].first)
            for window in plan:
                plain.append(steps.once(partial(self._window, subject, anatomy, text, window)))
                progress.update(window.end - window.first)
        prior = pooled([np.array(noise["margins"], dtype=np.float64)])
        scan = Scan(text, tuple(plan), joined(plain), prior, self.fragile * prior.scale, self.confidence)
        return self._judged(subject, document, scan, [*window_rows(plan, plain), *noise["ways"]])

    def _judged(self, subject: LoadedModel, document: Document, scan: Scan, more: Sequence[Row]) -> Finding:
        """Return the finding from what was predicted at each token; `more` are rows besides those of the words."""
        flips = scan.flips()
        rows = word_rows(subject, scan, flips)
        values = readings(rows, scan, flips, {metric.name: metric for metric in self.metrics})
        return Finding(
            values,
            sentence(document.name, values),
            rows=(*rows, *more),
            arrays={name: getattr(scan.tokens, name) for name in TokenPredictions.__dataclass_fields__},
            worst=worst(rows),
            noise=f"{scan.noise.scale:.3g} logit, pooled over the first tokens in several ways of computing them",
            about={
                "document": document.name,
                "document_digest": document.digest,
                "characters": len(document.text),
                "pages": document.pages,
            },
        )

    def _tokenised(self, subject: LoadedModel, document: Document) -> Tokenised:
        text = tokenise(subject, document.text, self.tokens)
        if not [word for word in text.words if word.first >= (not text.lead)]:
            hint = f"; give Path({self.document!r}) for a file" if document.text == self.document else ""
            raise UsageError(f"{document.name} has no word with another before it; at least two are needed{hint}")
        return text

    def _plan(self, subject: LoadedModel, text: Tokenised, most: int | None) -> list[Window]:
        """Return the windows; UsageError where their sizes do not fit each other or the model."""
        width = self.window or min(WIDTH, most or WIDTH)
        if most is not None and width > most:
            raise UsageError(f"window={width} is more than the context of {subject.spec}, {most} tokens; give no more")
        lead = len(text.lead)
        stride = self.stride or max(1, (width - lead) // 2)
        if stride >= width - lead:
            raise UsageError(
                f"stride={stride} leaves no context in windows of {width} tokens; give less than {width - lead}"
            )
        return windows(len(text.ids), width, stride, lead)

    def _sampled(self, text: Tokenised) -> Window:
        first = 0 if text.lead else 1
        return Window(0, first, min(first + self.sample, len(text.ids)))

    def _noise(self, subject: LoadedModel, anatomy: Anatomy, text: Tokenised) -> dict[str, Any]:
        """Return the margins (ways with different bits, tokens) of the sample, and a row a way."""
        sampled, reference = text_of(subject, anatomy, text, self._sampled(text)), way(anatomy)
        found = decided(sampled, sampled.forced(reference), sampled.ways(self.ways), rivals=1)
        rows = [dict(row) for row in way_rows([found], reference.name)]
        return {"margins": found.margins[found.distinct, :, 0].tolist(), "ways": rows}

    def _window(self, subject: LoadedModel, anatomy: Anatomy, text: Tokenised, window: Window) -> dict[str, Any]:
        pieces = heard(text_of(subject, anatomy, text, window), way(anatomy))
        return predict(pieces, text.ids[window.first : window.end], self.top, anatomy.head)

    def _of(self, subject: LoadedModel, document: Document, text: Tokenised, plan: Sequence[Window]) -> dict[str, Any]:
        """Return what decides every bit of the steps."""
        return {
            "document": document.digest,
            "tokens": hashlib.sha256(json.dumps([text.lead, text.ids]).encode()).hexdigest(),
            "windows": [astuple(one) for one in plan[:2]],
            "top": self.top,
            "sample": self.sample,
            "ways": [one.name for one in self.ways],
            "stabilitykit": version("stabilitykit"),
            **setting(subject),
        }
