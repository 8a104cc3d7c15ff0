"""Rows of token ids to the tensors of one micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from equipoise.data.tokens import Encoded

PAD, SHARED = -1, 0


@dataclass(frozen=True)
class Packed:
    """Token ids of B rows with K answers each, and where their trained tokens are.

    With `shared` layout a row of `input_ids` is `shared + branch 1 .. branch K`; in the plain layout every answer has a
    row of its own, after a copy of its prompt, and `segments` only tells padding (-1) from tokens.
    """

    input_ids: Tensor  # (R, T)
    position_ids: Tensor  # (R, T)
    segments: Tensor  # (R, T) int8: -1 padding, 0 shared, k the k-th branch
    predictors: Tensor  # (n,) flat position whose hidden state predicts the trained token
    targets: Tensor  # (n,) the trained token
    owners: Tensor  # (n,) row * K + branch it belongs to
    n_rows: int
    n_branches: int
    shared: bool

    def to(self, device: torch.device) -> Packed:
        """The same batch on another device."""
        moved = {
            f.name: v.to(device, non_blocking=True) for f in fields(self) if torch.is_tensor(v := getattr(self, f.name))
        }
        return replace(self, **moved)

    @property
    def n_tokens(self) -> int:
        """Positions computed, padding included."""
        return self.input_ids.numel()


def collate(rows: Sequence[Encoded], *, shared: bool = True, branches: Sequence[int] | None = None) -> Packed:
    """Pack `rows` into one micro-batch; `branches` picks some of the answers (default all)."""
    picked = [Encoded(r.shared, tuple(r.branches[k] for k in branches)) if branches is not None else r for r in rows]
    n_branches = len(picked[0].branches)
    lines = picked if shared else [Encoded(r.shared, (b,)) for r in picked for b in r.branches]
    width = max(line.length for line in lines)
    ids = torch.zeros(len(lines), width, dtype=torch.long)
    positions = torch.zeros(len(lines), width, dtype=torch.long)
    segments = torch.full((len(lines), width), PAD, dtype=torch.int8)
    predictors, targets, owners = [], [], []
    for i, line in enumerate(lines):
        start = len(line.shared)
        ids[i, :start] = torch.tensor(line.shared, dtype=torch.long)
        positions[i, :start] = torch.arange(start)
        segments[i, :start] = SHARED
        at = start
        for k, (branch, lead) in enumerate(line.branches):
            end = at + len(branch)
            ids[i, at:end] = torch.tensor(branch, dtype=torch.long)
            positions[i, at:end] = torch.arange(start, start + len(branch))
            segments[i, at:end] = k + 1 if shared else SHARED
            before = torch.arange(at + lead - 1, end - 1)
            if lead == 0:
                before[0] = start - 1  # the end of the shared part predicts the first token of every branch
            predictors.append(before + i * width)
            targets.append(ids[i, at + lead : end])
            owner = i * n_branches + k if shared else i
            owners.append(torch.full((len(branch) - lead,), owner))
            at = end
    return Packed(
        ids, positions, segments, torch.cat(predictors), torch.cat(targets), torch.cat(owners),
        len(picked), n_branches, shared,
    )  # fmt: skip


def attention_mask(segments: Tensor) -> Tensor:
    """(R, 1, T, T) bool: a token sees earlier tokens of its own branch and of the shared part.

    Padding sees only itself, so that no row of the softmax is empty.
    """
    width = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    earlier = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    allowed = earlier & ((query == key) | ((key == SHARED) & (query >= SHARED))) & (key >= SHARED)
    return (allowed | torch.eye(width, dtype=torch.bool, device=segments.device))[:, None]
