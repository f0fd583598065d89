"""What a weight is for, by its name: its block, and whether it belongs to attention, MLP, norm, embedding or head."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from stabilitykit.errors import UsageError
from stabilitykit.subjects.stored import Checkpoint, Entry

_NAME = re.compile(r"(?:(?P<stem>.*?)\.)?(?P<block>\d+)\.(?P<inside>.+)")
_BIAS = re.compile(r"(?:^|[._])bias$|\.sinks$")
# In this order: a norm inside attention is a norm.
_ROLES = (
    ("head", re.compile(r"lm_head|embed_out", re.IGNORECASE)),
    ("norm", re.compile(r"norm|(^|[._])ln(_|[.\d]|$)|layer_?norm", re.IGNORECASE)),
    ("attention", re.compile(r"attn|attention|(^|\.)(q|k|v|o|qkv)_proj", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|expert|(^|\.)fc\d|gate|moe", re.IGNORECASE)),
    ("embedding", re.compile(r"emb|wte|wpe", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Role:
    """Block number from 0, or None outside the blocks; the name inside the block; and one word for what it is."""

    block: int | None
    inside: str
    kind: str


def roles(entries: Mapping[str, Entry]) -> dict[str, Role]:
    """Return the role of each tensor; blocks are those below the stem that holds most elements."""
    matches = {name: _NAME.fullmatch(name) for name in entries}
    sizes = Counter[str]()
    for name, match in matches.items():
        if match:
            sizes[match["stem"] or ""] += entries[name].size
    stem = sizes.most_common(1)[0][0] if sizes else None
    found = {}
    for name, match in matches.items():
        inside = match["inside"] if match and (match["stem"] or "") == stem else None
        block = int(match["block"]) if match and inside is not None else None
        found[name] = Role(block, inside or name, _kind(inside or name))
    return found


def chosen(subject: Checkpoint, blocks: Sequence[int] | None, names: str) -> dict[str, Role]:
    """Return the weights of some blocks, None for all and what is outside, whose name fits a pattern such as "*norm*".

    In order of blocks, what is outside first, then of names. UsageError where nothing fits.
    """
    every = roles(subject.entries)
    fitting = {
        name: role
        for name, role in every.items()
        if (blocks is None or role.block in set(blocks)) and fnmatchcase(name, names)
    }
    if not fitting:
        raise UsageError(f"no weight of {subject.name} fits blocks={blocks}, names={names!r}")
    return dict(sorted(fitting.items(), key=lambda one: (-1 if one[1].block is None else one[1].block, one[0])))


def _kind(name: str) -> str:
    if _BIAS.search(name):
        return "bias"
    return next((kind for kind, pattern in _ROLES if pattern.search(name)), "other")
