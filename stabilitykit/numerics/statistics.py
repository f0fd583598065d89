"""What "k of n differed" says about the rate: exact bounds, intervals, and the trials a claim needs."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal, localcontext
from numbers import Integral
from statistics import NormalDist

from stabilitykit.errors import UsageError


def rate_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided exact (Clopper-Pearson) upper bound of an event's rate, in [0, 1].

    The rate p with P(at most `events` in `trials` | p) = 1 - confidence: the `confidence` quantile of
    Beta(events + 1, trials - events). Without events it is 1 - (1 - confidence)**(1 / trials); with an event
    in every trial it is 1. UsageError unless 0 <= events <= trials, trials >= 1, 0 < confidence < 1. O(1).
    """
    check(events, trials, confidence)
    if events == trials:
        return 1.0
    if events == 0:
        # The power would lose the digits of a small bound; expm1 and log1p keep them.
        return -math.expm1(math.log1p(-confidence) / trials)
    from scipy.stats import beta

    return float(beta.ppf(confidence, float(events + 1), float(trials - events)))


def trials_for(rate: float, confidence: float = 0.95) -> int:
    """Event-free trials that bound the rate, ceil(ln(1 - confidence) / ln(1 - rate)): 59 for 5%, 299 for 1%.

    UsageError unless 0 < rate < 1 and 0 < confidence < 1. O(1).
    """
    _check_open("rate", rate)
    _check_open("confidence", confidence)
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def wilson(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Wilson score interval (low, high) of an event's rate, within [0, 1].

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = events / trials, n = trials and z the normal
    quantile of (1 + confidence) / 2. An approximation that describes a rate; a claim rests on `rate_bound`.
    UsageError as there. O(1).
    """
    check(events, trials, confidence)
    share = events / trials
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / trials
    centre = share + z2 / 2
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    low = (centre - half) / (1 + z2) if events else 0.0
    high = (centre + half) / (1 + z2) if events < trials else 1.0
    return low, high


def sentence(events: int, trials: int, confidence: float = 0.95) -> str:
    """The count and what it proves, as '0 of 59 differed: rate < 5% at 95%'.

    The bound is `rate_bound`, rounded up to two significant digits: never smaller than what was proven.
    UsageError as there. O(1).
    """
    relation = "<=" if events == trials else "<"
    with localcontext():  # arithmetic sets flags, and the ones there are of the caller
        bound = Decimal(rate_bound(events, trials, confidence)) * 100
        digits = Decimal(1).scaleb(bound.adjusted() - 1)
        percent = plain(bound.quantize(digits, rounding=ROUND_CEILING))
        level = plain(Decimal(str(confidence)) * 100)
    return f"{events} of {trials} differed: rate {relation} {percent}% at {level}%"


def plain(number: Decimal) -> str:
    """Return a number as one writes it: without an exponent, and without zeros at the end."""
    return f"{number.normalize():f}"


def check(events: int, trials: int, confidence: float) -> None:
    """UsageError for counts or a level that there cannot be."""
    if not (isinstance(events, Integral) and isinstance(trials, Integral)):
        raise UsageError(f"events and trials are counts, not {events!r} and {trials!r}")
    if not (trials >= 1 and 0 <= events <= trials):
        raise UsageError(f"{events} events in {trials} trials: need 0 <= events <= trials and trials >= 1")
    _check_open("confidence", confidence)


def _check_open(name: str, number: float) -> None:
    if not 0 < number < 1:
        raise UsageError(f"{name} must lie strictly between 0 and 1, not {number!r}")
