"""Who spent the margin: each operation's own rounding error, carried to the difference of the two largest logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stabilitykit.errors import UsageError
from stabilitykit.measurements.base import Cost, Finding, Measurement
from stabilitykit.measurements.logit_gap import names
from stabilitykit.measurements.smooth import ratio
from stabilitykit.results.metric import Metric, Reading
from stabilitykit.results.result import Worst
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.generation import Text
from stabilitykit.subjects.measurable import Measurable
from stabilitykit.subjects.precision import SELF_TEST
from stabilitykit.traces.account import EXACT, NATIVE, Account, account
from stabilitykit.traces.ledger_rows import Row, ledger_rows

NAMED = 3
"""Operations that the sentence names."""


@dataclass(frozen=True, eq=False)
class Ledger(Measurement[CausalLMSubject]):
    """Share out, among all operations of a forward, what rounding does to the margin of the next token.

    The margin is m = z_a - z_b, of the two largest logits or of `pair`; the deviation D = m_native - m_true, the latter
    in true float64 from the same ids and weights. Operation i has the error e_i = y_i - f_i(x_i): what came out, less
    the operation in float64 on the same inputs. With a share t of its error added to every operation of the float64
    twin, the margin goes from m(0) = m_true to m(1) = m_native, and D = sum_i of the integral of <g_i(t), e_i>, with
    g_i the gradient of m by operation i's output. The integral is a Gauss-Legendre sum over `points` shares, one
    vector-Jacobian product each; the remainder, D less the sum, is printed. That m(1) is the native margin is checked:
    `unseen` is the difference, the rounding of operations that Python's torch does not see.

    The whole prompt runs at once, batch 1, also for a subject that decodes, after `step` tokens generated greedily. A
    mixture's experts run "eager". `share` is a contribution over D: with the remainder's the shares add up to 1, and
    may be negative or above 1, since roundings cancel. `typical` is the root of the summed squares of all elements'
    contributions: the size of D if every rounding's sign were a coin's, so what another device is likely to change.

    Rows by `part`: operation (those that round), kind, layer. Arrays: `contribution` (points, N), `error_share`
    (points,). UsageError for counts and pairs that cannot be meant and for a text that ends before `step`;
    UnsupportedError without true float64 and for an input that is no token's; InvalidError if watching changes a bit.
    Cost: `step` + 3 forwards, 5 + `points` in float64, `points` backwards; the memory of a float64 forward's
    activations, twice. Source: gradients along a path as by Sundararajan et al. 2017 (arXiv 1703.01365), by errors.
    """

    step: int = 0
    pair: tuple[int, int] | None = None
    points: int = 2

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("deviation", "logit", "neither", "margin as computed less margin in true float64"),
        Metric("margin", "logit", "higher", "margin in true float64; negative if rounding decides the token"),
        Metric("margin_spent", "share", "lower", "size of the deviation over that of the margin"),
        Metric("explained", "share", "neither", "sum of all operations' contributions over the deviation"),
        Metric("remainder_share", "share", "lower", "size of what the sum leaves over, over that of the deviation"),
        Metric("remainder", "logit", "neither", "deviation less the sum"),
        Metric("unseen", "logit", "neither", "rounding of what runs below torch's Python functions"),
        Metric("largest_share", "share", "neither", "share of the operation that contributes most, by size"),
        Metric("turnover", "logit", "lower", "sum of the sizes of all operations' contributions"),
        Metric("cancellation", "", "neither", "turnover over the size of the deviation"),
        Metric("typical", "logit", "lower", "size of the deviation if every rounding's sign were a coin's"),
        Metric("operations", "operations", "neither", "operations that round"),
        Metric("operations_seen", "operations", "neither", "operations that were redone in float64"),
    )
    needs: ClassVar[type[Measurable]] = CausalLMSubject
    causes: ClassVar[tuple[str, ...]] = (
        "one operation in a narrower dtype than its neighbours, if its share of the typical deviation is large",
        "a branch that rounding takes otherwise, such as a router's choice, if the remainder is large",
        "operations below torch's Python functions, such as compiled kernels, if something is unseen",
    )

    def __post_init__(self) -> None:
        """Refuse counts that ask nothing."""
        for name, least in (("step", 0), ("points", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name}={value!r} is no count; give at least {least}")

    def cost(self, subject: CausalLMSubject) -> Cost:
        """Return the rows, those of the float64 twin and its self-test included."""
        return Cost(forwards=self.step + NATIVE + SELF_TEST + EXACT + self.points, backwards=self.points)

    def find(self, subject: CausalLMSubject) -> Finding:
        """Redo every operation in float64, carry its error to the margin, and add up."""
        found = account(subject, [*subject.ids, *self._said(subject)], self.pair, self.points)
        rows = ledger_rows(subject, found)
        tokens = names(subject, found.pair)
        return Finding(
            self._values(found, rows),
            _sentence(found, tokens, rows),
            rows=tuple(rows),
            arrays={"contribution": found.contributions, "error_share": found.nodes},
            worst=_worst(rows),
            noise=f"{found.typical:.3g} logit, if every rounding's sign were a coin's",
            about={"pair": list(found.pair), "tokens": tokens, "native_margin": found.native},
        )

    def _said(self, subject: CausalLMSubject) -> list[int]:
        """Return the tokens that are generated before the one in question."""
        if not self.step:
            return []
        text = Text(subject.loaded, list(subject.ids), self.step, subject.anatomy)
        for _logits in text.greedy():
            pass
        subject.counter.forwards += len(text.generated)
        if len(text.generated) < self.step:
            raise UsageError(
                f"step={self.step}: the text ends after {len(text.generated)} tokens; ask for an earlier one"
            )
        return text.generated

    def _values(self, found: Account, rows: Sequence[Row]) -> dict[str, float | Reading]:
        schema = {metric.name: metric for metric in self.metrics}
        size, remainder = abs(found.deviation), found.deviation - found.explained
        values: dict[str, float | Reading] = {
            "deviation": found.deviation,
            "margin": found.true,
            "margin_spent": ratio(size, abs(found.true)),
            "explained": found.explained / found.deviation if size else math.nan,
            "remainder_share": ratio(abs(remainder), size) if remainder else 0.0,
            "remainder": remainder,
            "unseen": found.native - found.replayed,
            "turnover": found.turnover,
            "cancellation": ratio(found.turnover, size),
            "typical": found.typical,
            "operations": len(found.effects),
            "operations_seen": found.errors.seen,
        }
        top = _largest(rows)
        place = {"module": top[0]["module"], "op": top[0]["op"]} if top else {}
        values["largest_share"] = Reading(schema["largest_share"], top[0]["share"] if top else math.nan, place=place)
        return values


def _largest(rows: Sequence[Row]) -> list[Row]:
    """Return the operations, those that contribute most first."""
    return sorted((row for row in rows if row["part"] == "operation"), key=lambda row: -abs(row["contribution"]))


def _worst(rows: Sequence[Row]) -> Worst | None:
    top = next(iter(_largest(rows)), None)
    if top is None:
        return None
    moved = f"{top['contribution']:+.3g} logit"
    return Worst(_named(top), "rounds by", f"{top['scaled_ulp']:.2g} ULP", "moves the margin by", moved)


def _named(row: Row) -> str:
    """Return the module, and which of its operations, where it is not the linear layer that the module is."""
    if (row["op"], row["occurrence"]) == ("linear", 0):
        return str(row["module"])
    again = f"#{row['occurrence']}" if row["occurrence"] else ""
    return f"{row['module'] or 'model'} {row['op']}{again}"


def _sentence(found: Account, tokens: Sequence[str], rows: Sequence[Row]) -> str:
    a, b = tokens
    where = f"the margin of {a!r} over {b!r}, {found.true:.3g} logit,"
    if not found.deviation:
        cancel = f"{len(found.effects)} operations round and cancel" if found.effects else "no operation rounds"
        return f"Rounding leaves {where} as it is: {cancel}."
    spent = _percent(ratio(abs(found.deviation), abs(found.true)))
    decided = "; in true float64 the other token comes first" if found.true < 0 else ""
    left = _percent(abs(found.deviation - found.explained) / abs(found.deviation))
    times = found.turnover / abs(found.deviation)
    return (
        f"Rounding moves {where} by {found.deviation:+.3g} or {spent}{decided}: {_shares(rows)}. "
        f"All {len(found.effects)} together move it {times:.3g} times as far, to and fro; {left} is left unexplained."
    )


def _shares(rows: Sequence[Row]) -> str:
    """Name the operations that contribute most, and sum up the others."""
    ranked = _largest(rows)
    said = [f"{_named(row)} {_percent(row['share'], '+')}" for row in ranked[:NAMED]]
    if others := ranked[NAMED:]:
        said.append(f"{len(others)} others {_percent(math.fsum(row['share'] for row in others), '+')}")
    return ", ".join(said) or "no operation that is seen rounds"


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}{',.0f' if abs(share) >= 10 else '.3g'}} %"
