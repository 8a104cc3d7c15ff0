"""The decode loop: prompts as ids and random numbers in, sampled ids and their log-probabilities out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.errors import SettingError
from equipoise.models.cache import growing_cache

_COMPACT = 0.2  # share of finished rows at which copying the others is cheaper than carrying these along
_LOOK_EVERY = 8  # steps between looks at the device on an accelerator, where each look waits for the queue

StopCheck = Callable[[Sequence[int]], bool]


class Decoded(NamedTuple):
    """One answer: sampled ids (the end token included), log-probability at temperature 1 in nats, ended or cut."""

    ids: list[int]
    logp: float
    ended: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """A causal LM's forward, asked for the logits of the last position only."""

    model: nn.Module
    takes_positions: bool
    takes_last_only: bool

    @classmethod
    def of(cls, model: nn.Module) -> Reader:
        """Look at what `model` (plain, with our scoring entry, or wrapped by PEFT) accepts."""
        from peft import PeftModel

        plain = type(model.get_base_model() if isinstance(model, PeftModel) else model)
        # The scoring entry passes anything on, so the names stand in the class that it extends.
        forwards = [kind.forward for kind in plain.__mro__ if "forward" in vars(kind)]
        names = {name for forward in forwards for name in inspect.signature(forward).parameters}
        if "past_key_values" not in names:
            raise SettingError(f"{plain.__name__} keeps no key-value cache, so answers cannot be sampled from it")
        return cls(model, "position_ids" in names, "logits_to_keep" in names)

    def __call__(self, ids: Tensor, cache: Any, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Read ids (B, T) after what `cache` holds; return the logits that follow, (B, V) in float32 or better."""
        settings: dict[str, Any] = {}
        if self.takes_positions and positions is not None:
            settings["position_ids"] = positions
        if self.takes_last_only:
            settings["logits_to_keep"] = 1
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **settings)
        logits = out.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


class _Prefilled(NamedTuple):
    """The state after the prompts; `mask` and `positions` are None where all prompts have one length.

    Nothing is padded then, and attention is faster without a mask.
    """

    logits: Tensor  # (B, V)
    width: int
    mask: Tensor | None  # (B, width + limit)
    positions: Tensor | None  # (B, 1), of the next token


# no_grad and not inference_mode: a model that trains later must not keep inference tensors in its buffers.
@torch.no_grad()
def decode(
    reader: Reader,
    prompts: Sequence[tuple[int, ...]],
    random: NDArray[np.float64] | None,
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int | None = None,
    stops: StopCheck | None = None,
) -> list[Decoded]:
    """Answer a batch of prompts with one number of `random` (B, max_new_tokens) per token; None is greedy.

    A row ends at any of `end_ids`, or where `stops` says so of its ids so far; ended rows leave the batch.
    """
    device = reader.model.get_input_embeddings().weight.device
    n, limit = len(prompts), max_new_tokens
    uniform = None if random is None else torch.from_numpy(random).to(device)
    ends = torch.tensor(list(end_ids), device=device)
    look_every = 1 if device.type == "cpu" or stops is not None else _LOOK_EVERY
    cache = growing_cache(reader.model.config)
    logits, width, mask, positions = _prefill(reader, cache, prompts, limit, device)

    tokens = torch.zeros(n, limit, dtype=torch.long, device=device)
    counts = torch.zeros(n, dtype=torch.long, device=device)
    logps = torch.zeros(n, dtype=torch.float64, device=device)
    ended = torch.zeros(n, dtype=torch.bool, device=device)
    active = torch.arange(n, device=device)  # which prompt each row of the batch belongs to
    for step in range(limit):
        if uniform is None:
            token = logits.argmax(-1)
        else:
            token = draw(logits, uniform[active, step], temperature=temperature, top_p=top_p, top_k=top_k)
        logp = logits.gather(-1, token.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
        running = ~ended[active]  # an ended row may stay for some steps; it says nothing more
        tokens[active, step] = token
        counts[active] += running
        logps[active] += logp.double().where(running, 0.0)
        ended[active] |= torch.isin(token, ends)
        if stops is not None:
            for row in (~ended).nonzero().squeeze(-1).tolist():
                ended[row] = stops(tokens[row, : step + 1].tolist())
        if step + 1 == limit:
            break
        if (step + 1) % look_every == 0:
            keep = (~ended[active]).nonzero().squeeze(-1)
            if len(keep) == 0:
                break
            if len(keep) <= len(active) * (1 - _COMPACT):
                cache.reorder_cache(keep)
                active, token = active[keep], token[keep]
                mask = None if mask is None else mask[keep]
                positions = None if positions is None else positions[keep]
        logits = reader(
            token.unsqueeze(-1),
            cache,
            None if mask is None else mask[:, : width + step + 1],
            None if positions is None else positions + step,
        )
    columns = zip(tokens.tolist(), counts.tolist(), logps.tolist(), ended.tolist(), strict=True)
    return [Decoded(ids[:count], logp, end) for ids, count, logp, end in columns]


def _prefill(
    reader: Reader, cache: Any, prompts: Sequence[tuple[int, ...]], limit: int, device: torch.device
) -> _Prefilled:
    """Read each different prompt once and give every row its own copy of what was read."""
    places = {ids: place for place, ids in enumerate(dict.fromkeys(prompts))}
    lengths = torch.tensor([len(ids) for ids in places], device=device).unsqueeze(-1)
    width = int(lengths.max())
    filler = next(iter(places))[0]  # masked out: any id the model knows will do
    ids = torch.tensor([(filler,) * (width - len(p)) + p for p in places], device=device)  # (P, width), padded left
    mask = positions = None
    if bool((lengths != width).any()):
        columns = torch.arange(width + limit, device=device)
        mask = (columns >= width - lengths).long()
        positions = (columns[:width] - (width - lengths)).clamp(min=0)
    logits = reader(ids, cache, None if mask is None else mask[:, :width], positions)
    if len(places) < len(prompts):
        spread = torch.tensor([places[ids] for ids in prompts], device=device)
        cache.reorder_cache(spread)
        logits, lengths = logits[spread], lengths[spread]
        mask = None if mask is None else mask[spread]
    return _Prefilled(logits, width, mask, None if mask is None else lengths)


def draw(
    logits: Tensor, uniform: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None
) -> Tensor:
    """Return the token at which the cumulative distribution passes `uniform`: (B, V), (B,) -> (B,).

    Temperature, then the `top_k` likeliest, then the smallest set of likeliest tokens that holds `top_p` of what is
    left (Holtzman et al. 2020, arXiv:1904.09751); tokens of equal probability stay or go together.
    """
    probs = (logits / temperature).softmax(-1)
    if top_k is not None and top_k < probs.shape[-1]:
        least = probs.topk(top_k, dim=-1).values[:, -1:]
        probs = probs.where(probs >= least, 0.0)
    if top_p < 1:
        ranked = probs.sort(dim=-1, descending=True).values
        above = ranked.cumsum(-1) - ranked  # mass of everything likelier
        kept = (above < top_p * ranked.sum(-1, keepdim=True)).sum(-1, keepdim=True)
        probs = probs.where(probs >= ranked.gather(-1, (kept - 1).clamp(min=0)), 0.0)
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    goal = uniform.unsqueeze(-1) * cumulative[:, -1:]
    # The clamp only matters for logits that are not numbers; their log-probability gives them away.
    return torch.searchsorted(cumulative, goal, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
