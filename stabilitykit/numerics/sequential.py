"""What may be claimed about a rate where the number of trials was not fixed before, but stopped by what was seen."""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Decimal, localcontext

from stabilitykit.errors import UsageError
from stabilitykit.numerics.statistics import check, plain


def first_event(trial: int, confidence: float = 0.95) -> tuple[float, float]:
    """One-sided exact bounds (low, high) of an event's rate, from the trial at which it came first and one stopped.

    The number of the first event is geometric: P(first <= k) = 1 - (1 - p)**k and P(first >= k) = (1 - p)**(k - 1).
    `low` is the p that makes the former 1 - confidence, `high` the latter; each holds with `confidence`. At the first
    trial nothing is known above. Trials that were all run without an event say what a fixed number of them says
    (`statistics.rate_bound`): the plan stops early only where an event ends it. UsageError unless trial >= 1 and
    0 < confidence < 1. O(1).
    """
    check(1, trial, confidence)
    low = -math.expm1(math.log(confidence) / trial)
    return low, 1.0 if trial == 1 else -math.expm1(math.log1p(-confidence) / (trial - 1))


def anytime_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """Upper bound of an event's rate that holds at all numbers of trials at once, whatever made one stop or go on.

    The largest p at which the e-process of the uniform mixture, B(k + 1, n - k + 1) / (p**k (1 - p)**(n - k)) after k
    events in n trials, is below 1 / (1 - confidence): by Ville's inequality the true rate's exceeds that ever with
    probability at most 1 - confidence. Wider than `statistics.rate_bound`, which holds at one n only: 0 of 59 bound the
    rate by 11.3 % and not 5 %. UsageError as there. O(1).
    Source: Robbins 1970; Ville 1939.
    """
    check(events, trials, confidence)
    from scipy.optimize import brentq
    from scipy.special import betaln

    level = float(betaln(events + 1, trials - events + 1)) + math.log1p(-confidence)

    def surplus(p: float) -> float:
        return level - events * math.log(p) - (trials - events) * math.log1p(-p)

    if events == trials:
        return 1.0
    start, end = max(events / trials, 1e-300), 1 - 1e-16
    return float(brentq(surplus, start, end, xtol=1e-15, rtol=1e-13))


def sentence(trial: int, planned: int, confidence: float = 0.95) -> str:
    """Say what a plan of so many trials found that was stopped by its first event, as `statistics.sentence` does.

    `run 7 of at most 59 differed first: rate > 0.73% at 95%`. UsageError for a trial beyond the plan.
    """
    if not 1 <= trial <= planned:
        raise UsageError(f"trial {trial} of {planned}: need 1 <= trial <= planned")
    with localcontext():  # arithmetic sets flags, and the ones there are of the caller
        low = Decimal(first_event(trial, confidence)[0]) * 100
        shown = low.quantize(Decimal(1).scaleb(low.adjusted() - 1), rounding=ROUND_FLOOR)  # never over what is proven
        level = Decimal(str(confidence)) * 100
        return f"run {trial} of at most {planned} differed first: rate > {plain(shown)}% at {plain(level)}%"
