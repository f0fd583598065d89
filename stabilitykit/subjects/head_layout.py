"""Which elements of which weights belong to one attention head: q, k, v and o of every block, by family.

A head's output is softmax(Q_h x . K_g x) V_g x, and attention returns the sum of O_h over its heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.stored import Checkpoint

MATRICES = ("q", "k", "v", "o")

# The last parts of a name below its block: which matrices the tensor holds. A name is looked up by its own last part.
_SEPARATE = {"q_proj": "q", "k_proj": "k", "v_proj": "v"} | dict.fromkeys(
    ("o_proj", "out_proj", "dense", "c_proj"), "o"
)
_FUSED = ("qkv_proj", "query_key_value", "Wqkv", "c_attn")
_PARENTS = ("attn", "self_attn", "attention", "self_attention")
_NAME = re.compile(r"(?P<stem>.*?)\.(?P<block>\d+)\.(?P<inside>.*)\.weight")

# How the rows of a fused weight follow one another, which no shape can tell: all q, all k, all v ("blocks"), or for
# each group of heads that share k and v: its q heads, its k, its v ("groups").
LAYOUTS = {
    "phi3": "blocks",
    "mpt": "blocks",
    "gpt2": "blocks",
    "gpt_neox": "groups",
    "bloom": "groups",
    "falcon": "groups",
    "gpt_bigcode": "groups",
}
TRANSPOSED = ("gpt2",)
"""Families that keep a weight as (in, out)."""


@dataclass(frozen=True)
class Heads:
    """The heads of one weight: `matrices` says which it holds; `queries` and `keys` count heads of `width`.

    Query head h reads k and v of head h // (queries / keys).
    """

    name: str
    block: int
    matrices: str
    queries: int
    keys: int
    width: int
    hidden: int
    layout: str = "separate"
    transposed: bool = False

    def split(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the heads of each matrix, (heads, width, hidden) for q, k and v, (heads, hidden, width) for o.

        Any dtype; a view where the layout allows one.
        """
        W = weight.T if self.transposed else weight
        if self.matrices == "o":
            return {"o": W.reshape(self.hidden, self.queries, self.width).transpose(0, 1)}
        if self.layout == "groups":
            grouped = W.reshape(self.keys, -1, self.width, self.hidden)
            parts = (grouped[:, :-2].reshape(-1, self.width, self.hidden), grouped[:, -2], grouped[:, -1])
            return dict(zip("qkv", parts, strict=True))
        rows = W.reshape(-1, self.width, self.hidden)
        counts = [self.queries if matrix == "q" else self.keys for matrix in self.matrices]
        return dict(zip(self.matrices, torch.split(rows, counts), strict=True))


def find_heads(checkpoint: Checkpoint) -> list[Heads]:
    """Return the attention weights of every block that has them, by block, then by name.

    From names, shapes and the configuration; nothing is read. UnsupportedError where there are none, where shapes are
    not those of the configuration's heads, and for a fused weight of a family whose order of rows is not known.
    """
    config = checkpoint.config
    queries, hidden = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    named = _attention(checkpoint.entries)
    if not named or not queries or not hidden:
        raise UnsupportedError(
            f"{checkpoint.name} has no attention weights of a known name; heads cannot be told apart"
        )
    width = getattr(config, "head_dim", None) or hidden // queries
    known = [_heads(checkpoint, name, *place, (queries, width, hidden)) for name, place in named.items()]
    keys = {heads.block: heads.keys for heads in known if "k" in heads.matrices}
    shared = [replace(heads, keys=keys.get(heads.block, heads.queries)) for heads in known]
    return sorted(shared, key=lambda heads: (heads.block, MATRICES.index(heads.matrices[0])))


def _attention(entries: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Return block and leaf of each attention weight below the stem that most of them share: the language model's."""
    stems: dict[str, dict[str, tuple[int, str]]] = {}
    for name in entries:
        match = _NAME.fullmatch(name)
        parts = match["inside"].split(".") if match else []
        if match and len(parts) > 1 and parts[-2] in _PARENTS and parts[-1] in (*_SEPARATE, *_FUSED):
            stems.setdefault(match["stem"], {})[name] = (int(match["block"]), parts[-1])
    return max(stems.values(), key=len, default={})


def _heads(checkpoint: Checkpoint, name: str, block: int, leaf: str, sizes: tuple[int, int, int]) -> Heads:
    queries, width, hidden = sizes
    family = str(checkpoint.config.model_type)
    entry = checkpoint.entries[name]
    shape = entry.shape[::-1] if family in TRANSPOSED else entry.shape
    matrices = _SEPARATE.get(leaf, "qkv")
    layout = "separate" if leaf in _SEPARATE else LAYOUTS.get(family, "")
    if not layout:
        raise UnsupportedError(
            f"{checkpoint.name}: {name!a} holds q, k and v together, in an order that is not known of {family!a}"
        )
    expected = _expected(matrices, shape, queries, width, hidden)
    if expected is None or not entry.floating:
        raise UnsupportedError(
            f"{checkpoint.name}: {name!a} is {entry.dtype} of shape {list(entry.shape)}, which are not {queries} heads "
            f"of width {width} on {hidden} inputs"
        )
    return Heads(name, block, matrices, queries, expected, width, hidden, layout, family in TRANSPOSED)


def _expected(matrices: str, shape: tuple[int, ...], queries: int, width: int, hidden: int) -> int | None:
    """Return how many k and v heads a shape means, None where it fits no number; of q and o, as many as queries.

    The configuration is not asked: some families carry a number of key heads that they do not use.
    """
    wanted = (hidden, queries * width) if matrices == "o" else (shape[0], hidden)
    if len(shape) != 2 or shape != wanted or shape[0] % width * (matrices != "o"):
        return None
    rows = shape[0] // width
    if matrices in ("q", "o"):
        return queries if matrices == "o" or rows == queries else None
    keys = rows if matrices in ("k", "v") else (rows - queries) // 2
    fits = keys > 0 and queries % keys == 0 and (matrices != "qkv" or queries + 2 * keys == rows)
    return keys if fits else None
