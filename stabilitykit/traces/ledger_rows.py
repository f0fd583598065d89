"""A ledger as tidy rows: an operation, a kind of operation, a layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.callers import Place
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.traces.account import Account
from stabilitykit.traces.carried import Effect

Row = Mapping[str, Any]

ATTENTION = "scaled_dot_product_attention"


def ledger_rows(subject: CausalLMSubject, found: Account) -> list[Row]:
    """Return a row an operation that rounds, in the order they run, then the kinds and the layers.

    `share` is the contribution over the deviation, `typical_share` its part of the typical deviation's square.
    """
    addresses = {place: address(subject, place) for place in found.effects}
    operations = [
        {
            "part": "operation",
            "module": place.module,
            "op": place.operation,
            "occurrence": place.occurrence,
            **addresses[place],
            **_columns(found, [effect]),
            "max_ulp": found.errors.of[place].max_ulp,
            "scaled_ulp": found.errors.of[place].scaled_ulp,
            "elements": found.errors.of[place].elements,
        }
        for place, effect in found.effects.items()
    ]
    kinds = _grouped(found, lambda place: addresses[place]["kind"])
    layers = _grouped(found, lambda place: addresses[place]["layer"])
    by_size = sorted(kinds.items(), key=lambda item: -math.fsum(effect.squares for effect in item[1]))
    inside = sorted((item for item in layers.items() if item[0] is not None), key=lambda item: item[0])
    outside = [(None, layers[None])] if None in layers else []
    return [
        *operations,
        *({"part": "kind", "kind": kind, **_columns(found, effects)} for kind, effects in by_size),
        *({"part": "layer", "layer": layer, **_columns(found, effects)} for layer, effects in [*inside, *outside]),
    ]


def address(subject: CausalLMSubject, place: Place) -> dict[str, Any]:
    """Return the layer of an operation, None outside the blocks, and its kind.

    The kind is the name of the module if it holds no others (`q_proj`, `input_layernorm`, `lm_head`), without numbers;
    `attention`; `residual add` for a sum that a block itself takes; else module and operation (`self_attn mul`).
    """
    return {"layer": _layer(subject.anatomy, place.module), "kind": _kind(subject, place)}


def _layer(anatomy: Anatomy, module: str) -> int | None:
    stems = enumerate(anatomy.block_names)
    return next((k for k, stem in stems if module == stem or module.startswith(f"{stem}.")), None)


def _kind(subject: CausalLMSubject, place: Place) -> str:
    if place.operation == ATTENTION:
        return "attention"
    if place.module in subject.anatomy.block_names:
        return "residual add" if place.operation == "add" else f"block {place.operation}"
    named = [part for part in place.module.split(".") if part and not part.isdigit()]
    name = named[-1] if named else "model"
    is_leaf = bool(named) and not any(subject.model.get_submodule(place.module).children())
    return name if is_leaf else f"{name} {place.operation}"


def _grouped(found: Account, key: Callable[[Place], Any]) -> dict[Any, list[Effect]]:
    groups: dict[Any, list[Effect]] = defaultdict(list)
    for place, effect in found.effects.items():
        groups[key(place)].append(effect)
    return groups


def _columns(found: Account, effects: Sequence[Effect]) -> dict[str, Any]:
    contribution = math.fsum(effect.contribution for effect in effects)
    squares = math.fsum(effect.squares for effect in effects)
    return {
        "contribution": contribution,
        "share": contribution / found.deviation if found.deviation else math.nan,
        "absolute": math.fsum(effect.absolute for effect in effects),
        "typical": math.sqrt(squares),
        "typical_share": squares / found.typical**2 if found.typical else math.nan,
        "operations": len(effects),
    }
