"""Requests one by one and at once: when each was sent, and how many were really under way together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from stabilitykit.endpoints.endpoint import Endpoint, Reply, Request

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply of the plan: which prompt it is about, how many requests were sent at once, and in which wave."""

    prompt: int
    level: int
    wave: int
    reply: Reply


def together(endpoint: Endpoint, requests: Sequence[Request]) -> list[Reply]:
    """Send all requests at the same moment, a thread each, and return the replies in order."""
    barrier = Barrier(len(requests))

    def one(request: Request) -> Reply:
        # Without it the first would be answered while the last thread is still being made.
        barrier.wait(_START_SECONDS)
        return endpoint.ask(request)

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(one, requests))


def waves(prompts: int, repeats: int, level: int) -> list[list[int]]:
    """Return which prompts go into each wave of `level` requests: each at least `repeats` times, in turn.

    The last wave is filled up, so that every wave is as large as the first.
    """
    count = -(-prompts * repeats // level)
    return [[(wave * level + slot) % prompts for slot in range(level)] for wave in range(count)]


def under_way(replies: Sequence[Reply]) -> int:
    """Return the most requests that were sent and not yet answered at one moment."""
    moments = sorted([*((reply.start, 1) for reply in replies), *((reply.end, -1) for reply in replies)])
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def gone(replies: Sequence[Reply]) -> str:
    """Return the error if nobody is there any more: a connection failed, or a whole wave waited in vain; else ""."""
    lost = next((reply.error for reply in replies if reply.lost), "")
    in_vain = all(reply.answer is None and reply.status is None for reply in replies)
    return lost or (replies[0].error if in_vain else "")
