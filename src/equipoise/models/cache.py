"""A key-value cache that grows in place.

transformers' `DynamicLayer` copies the whole cache at every token; at a million parameters and 256 rows that copy costs
more than the model. Written against transformers 5.17-5.23: a cache is a list of layers, and a layer is what `update`
returns plus `keys` and `values`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

_ROOM = 64  # positions added when the buffer is full


class GrowingLayer(DynamicLayer):
    """Keys and values of one attention layer as views into buffers with room for more positions."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Remember dtype and device, with nothing stored yet."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = (key_states[:, :, :0], value_states[:, :, :0])  # (B, heads, room, dim)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append states (B, heads, new, dim); return all of them, (B, heads, length, dim).

        The trailing parameters are the parent's: some models pass what only other kinds of layer need.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        keys, values = self._buffers
        if keys.shape[2] < stop or (start and keys.data_ptr() != self.keys.data_ptr()):
            # Full, or the parent put new tensors in place of the views (cropping does): begin anew from what is there.
            keys, values = _with_room(key_states, stop), _with_room(value_states, stop)
            if start:
                keys[:, :, :start] = self.keys
                values[:, :, :start] = self.values
            self._buffers = (keys, values)
        keys[:, :, start:stop] = key_states
        values[:, :, start:stop] = value_states
        self.keys, self.values = keys[:, :, :stop], values[:, :, :stop]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx` (n,) in that order, repeats allowed."""
        length = self.get_seq_length()
        if length:
            keys, values = (buffer.index_select(0, beam_idx) for buffer in self._buffers)
            self._buffers = (keys, values)
            self.keys, self.values = keys[:, :, :length], values[:, :, :length]


def _with_room(states: Tensor, length: int) -> Tensor:
    batch, heads, _, dim = states.shape
    return states.new_empty(batch, heads, length + _ROOM, dim)


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return the cache `config` asks for, with its plain attention layers growing in place."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
