"""Attention over rows packed end to end, each a shared prompt with several answers: no padding and no dense mask.

On CPU a dense mask makes the kernel compute every pair of positions of a padded batch. Here the shared part of a row is
one call of the same kernel and its answers are another (measured: quicker than one per answer), and the rows of a
micro-batch lie in one line, so that the rest of the model computes no padding either. Registered in transformers under
`TREE`; without `tree=` it is plain sdpa.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREE = "equipoise_tree"
Tree = tuple[tuple[int, ...], ...]  # per row: length of the shared part, then of each branch


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,  # (1, H, N, D)
    key: Tensor,  # (1, G, N, D)
    value: Tensor,  # (1, G, N, D)
    attention_mask: Tensor | None,
    *,
    tree: Tree | None = None,
    scaling: float | None = None,
    **kwargs: Any,  # transformers passes what its back ends need
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of packed rows, (1, N, H, D)."""
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    given = value.dtype
    if given == torch.bfloat16:
        # The CPU kernel's backward in bfloat16 takes three times as long as in float32.
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast(query.device.type, enabled=False):
        out = _segments(query, key, value, tree, scaling)
    return out.transpose(1, 2).contiguous().to(given), None


def _segments(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float | None) -> Tensor:
    """Two kernel calls per row, one for the shared part and one for all its branches, (1, H, N, D)."""
    rows = [sum(row) for row in tree]
    out = []
    # `split` has one cheap backward; slices would each add a gradient of the full size.
    for row, q, k, v in zip(tree, query.split(rows, 2), key.split(rows, 2), value.split(rows, 2), strict=True):
        ends = [row[0], sum(row[1:])]
        (q, own_q), (shared_k, _), (shared_v, _) = q.split(ends, 2), k.split(ends, 2), v.split(ends, 2)
        if row[0]:
            out.append(scaled_dot_product_attention(q, shared_k, shared_v, is_causal=True, scale=scaling))
        seen = _seen(row, q.dtype)
        out.append(scaled_dot_product_attention(own_q, k, v, attn_mask=seen, scale=scaling))
    return torch.cat(out, 2)


@lru_cache(maxsize=512)  # every layer of a micro-batch asks for the same masks
def _seen(row: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """(branch tokens, row tokens): what the branches may see, as an additive mask, which the kernel takes as it is."""
    shared, *branches = row
    owner = torch.repeat_interleave(torch.arange(len(branches)), torch.tensor(branches))
    own = (owner[:, None] == owner[None, :]).tril()
    seen = torch.cat((torch.ones(len(owner), shared, dtype=torch.bool), own), 1)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, float("-inf"))


AttentionInterface.register(TREE, tree_attention)
AttentionMaskInterface.register(TREE, sdpa_mask)
