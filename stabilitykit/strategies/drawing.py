"""Hypothesis strategies that draw direction recipes, the simplest kinds first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from stabilitykit.strategies.recipe import Direction

if TYPE_CHECKING:
    from torch import Tensor

_COEFFICIENTS = st.integers(-8, 8)
_SEEDS = st.integers(0, 2**31 - 1)


def directions(dim: int, basis: Tensor | None = None) -> st.SearchStrategy[Direction]:
    """Draw `Direction` recipes in `dim` dimensions; a failure shrinks toward one axis.

    With a `basis` (k, dim), such as measured singular vectors, combinations of its rows are drawn as well: what
    random directions never meet is often two of them. Expand a draw by `draw.expand(basis)`.
    """
    index = st.integers(0, dim - 1)
    terms = st.lists(
        st.tuples(index, _COEFFICIENTS.filter(bool)), min_size=1, max_size=min(4, dim), unique_by=lambda term: term[0]
    )
    drawn = {
        "axis": st.tuples(index, st.sampled_from([1, -1])),
        "subspace": None if basis is None else _combinations(len(basis)),
        "sparse": terms.map(tuple),
        "sign": st.tuples(_SEEDS),
        "gaussian": st.tuples(_SEEDS),
    }
    # Built by keywords, since that is what Hypothesis prints as a call that can be pasted.
    return st.one_of(
        st.builds(Direction, kind=st.just(kind), data=data, dim=st.just(dim))
        for kind, data in drawn.items()
        if data is not None
    )


def _combinations(k: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw one to k coefficients, not all zero."""
    return st.lists(_COEFFICIENTS, min_size=1, max_size=k).filter(any).map(tuple)
