"""Hypothesis strategies that draw direction recipes, the simplest kinds first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from stabilitykit.strategies.recipe import Direction

if TYPE_CHECKING:
    from torch import Tensor

_COEFFICIENTS = st.integers(-8, 8)
# Hypothesis takes fewer draws for simpler, and of equally many the earlier kind. An axis is one draw, and a seed is put
# together from several, so that vectors which no one can read are what a failure shrinks away from.
_SEEDS = st.tuples(*[st.integers(0, 15)] * 8).map(lambda digits: sum(d << 4 * place for place, d in enumerate(digits)))


def directions(dim: int, basis: Tensor | None = None) -> st.SearchStrategy[Direction]:
    """Draw `Direction` recipes in `dim` dimensions; a failure shrinks toward one axis.

    With a `basis` (k, dim), such as measured singular vectors, combinations of its rows are drawn as well: what
    random directions never meet is often two of them. Expand a draw by `draw.expand(basis)`.
    """
    index = st.integers(0, dim - 1)
    # Of one term it would be an axis by another name, and a finding would shrink to either.
    terms = st.lists(
        st.tuples(index, _COEFFICIENTS.filter(bool)), min_size=2, max_size=min(4, dim), unique_by=lambda term: term[0]
    )
    drawn: dict[str, st.SearchStrategy[Any] | None] = {
        "axis": st.integers(0, 2 * dim - 1).map(lambda drawn: (drawn // 2, -1 if drawn % 2 else 1)),
        "subspace": None if basis is None else _combinations(len(basis)),
        "sparse": None if dim == 1 else terms.map(tuple),
        "sign": st.tuples(_SEEDS.map(lambda row: row % (1 << (dim - 1).bit_length()))),
        "gaussian": st.tuples(_SEEDS),
    }
    # Built by keywords, since that is what Hypothesis prints as a call that can be pasted.
    built = [
        st.builds(Direction, kind=st.just(kind), data=data, dim=st.just(dim))
        for kind, data in drawn.items()
        if data is not None
    ]
    return st.one_of(built)


def _combinations(k: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw one to k coefficients, not all zero."""
    return st.lists(_COEFFICIENTS, min_size=1, max_size=k).filter(any).map(tuple)
