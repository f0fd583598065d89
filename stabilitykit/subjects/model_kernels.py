"""Single operations of a model as kernels, in its own dtype and with its own weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stabilitykit.errors import UnsupportedError
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.kernel import Kernel
from stabilitykit.subjects.models import LoadedModel


def model_kernels(loaded: LoadedModel) -> list[Kernel]:
    """Return the final norm, and the largest matrix of block 0, which is one of its MLP where that has its own modules.

    Free is the number of rows alone: `shapes=[1, 8]`. Cost: one forward of 3 tokens, which finds the parts, and a
    float64 copy of each when it is first judged.
    """
    anatomy = find(loaded.model)
    norm = Kernel.of_module(
        anatomy.final_norm,
        "bh->bh",
        sizes={"h": anatomy.hidden_size},
        name=f"{loaded.spec} {anatomy.final_norm_name}",
        loaded=loaded,
    )
    matrices = [(name, part, _width(part)) for name, part in anatomy.blocks[0].named_modules() if _width(part)]
    if not matrices:
        return [norm]
    name, matrix, width = max(matrices, key=lambda found: sum(weight.numel() for weight in found[1].parameters()))
    full = f"{loaded.spec} {anatomy.block_names[0]}.{name}"
    return [norm, Kernel.of_module(matrix, "bi->bo", sizes={"i": width}, name=full, loaded=loaded)]


def attention_kernels(loaded: LoadedModel) -> tuple[Kernel, Kernel]:
    """Return attention as torch fuses it and as a plain softmax between two products, at the model's heads.

    Both take q, k, v of shapes (b, heads, t, d), (b, heads, s, d), (b, heads, s, d), without a mask; free are b, t, s.
    The plain one rounds its softmax from float32, as eager attention does. UnsupportedError without heads.
    """
    config = loaded.model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        raise UnsupportedError(f"{loaded.spec} has no number of attention heads in its configuration")
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    fused, plain = (
        Kernel(
            fn,
            "bhtd,bhsd,bhsd->bhtd",
            sizes={"h": heads, "d": width},
            dtype=loaded.model.dtype,
            device=loaded.model.device,
            loaded=loaded,
        )
        for fn in (fused_attention, plain_attention)
    )
    return fused, plain


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run torch's own kernel."""
    return functional.scaled_dot_product_attention(q, k, v)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run softmax(q k' / sqrt(d)) v, the softmax in float32."""
    weights = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return torch.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _width(module: nn.Module) -> int:
    """Return how many inputs a matrix takes, 0 for what is no matrix; GPT-2's own kind calls it nx."""
    return int(getattr(module, "in_features", 0) or getattr(module, "nx", 0))
