"""What attention keeps of the tokens read so far, with room for those to come.

transformers' own cache copies all of it for every new token, behind 900 tokens on a CPU two fifths of the time. Here a
token is written into its place, and all is copied once in 64 tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

ROOM = 64  # tokens


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, (B, heads, T, head width) each, at the head of longer tensors.

    `keys` and `values` may be cut or replaced by others of any batch, as DynamicLayer's methods do: they get new room.
    """

    _whole: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `DynamicLayer.update`."""
        num_kept, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._whole is None or self._whole[0].data_ptr() != self.keys.data_ptr() or self._whole[0].shape[-2] < end:
            self._whole = _with_room(self.keys, end + ROOM), _with_room(self.values, end + ROOM)
        keys, values = self._whole
        keys[:, :, num_kept:end], values[:, :, num_kept:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """See `DynamicLayer.batch_select_indices`; the rows left out are let go of at once."""
        super().batch_select_indices(indices)
        self._whole = None


def _with_room(states: torch.Tensor, length: int) -> torch.Tensor:
    whole = states.new_empty(*states.shape[:2], length, states.shape[3])
    whole[:, :, : states.shape[2]] = states
    return whole


def make_room(cache: Any) -> None:
    """Give room to the layers of a cache that was filled with a prompt; those that are no plain attention stay."""
    for place, layer in enumerate(getattr(cache, "layers", [])):
        if type(layer) is DynamicLayer and layer.get_seq_length():
            cache.layers[place] = roomy = RoomyLayer()
            vars(roomy).update(vars(layer))
