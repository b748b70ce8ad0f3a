"""Attention's kept states with room for more, against transformers' own layer."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from finetune.kept_states import ROOM, RoomyLayer, make_room


def caches(num_prompt_tokens=5, rows=4):
    """Two caches of two layers, filled with the same prompts; the second with room."""
    plain, roomy = DynamicCache(), DynamicCache()
    for layer in range(2):
        states = torch.randn(2, rows, 3, num_prompt_tokens, 8)
        for cache in (plain, roomy):
            cache.update(*states, layer)
    make_room(roomy)
    assert all(type(layer) is RoomyLayer for layer in roomy.layers)
    return plain, roomy


def test_what_is_kept_is_what_the_plain_layer_keeps_whatever_is_done_with_it():
    torch.manual_seed(0)
    plain, roomy = caches()
    for step in range(3 * ROOM):
        rows, more = len(plain.layers[0].keys), 1 + 3 * (step % 50 == 0)
        states = torch.randn(2, 2, rows, 3, more, 8)
        for layer in range(2):
            expected, found = (cache.update(*states[layer], layer) for cache in (plain, roomy))
            assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
        for cache in (plain, roomy):
            if step % 60 == 10:
                cache.batch_select_indices(torch.arange(rows)[step % 2 :])
            if step % 40 == 20:
                cache.crop(-3)
            if step == 33:
                cache.reorder_cache(torch.arange(rows).flip(0))
        assert roomy.get_seq_length() == plain.get_seq_length()
    assert all(torch.equal(a.values, b.values) for a, b in zip(plain.layers, roomy.layers, strict=True))


def test_a_token_is_written_into_its_place_and_all_is_copied_once_in_a_room():
    plain, roomy = caches()
    places = set()
    for _ in range(2 * ROOM):
        keys, _ = roomy.update(*torch.randn(2, 4, 3, 1, 8), 0)
        places.add(keys.data_ptr())
    assert len(places) <= 2 and type(plain.layers[0]) is DynamicLayer


def test_rows_that_are_left_out_do_not_write_into_those_of_a_copy():
    _, roomy = caches()
    keys, _ = roomy.update(*torch.randn(2, 4, 3, 1, 8), 0)
    before = keys.clone()
    roomy.batch_select_indices(torch.tensor([1]))
    roomy.update(*torch.randn(2, 1, 3, 1, 8), 0)
    assert torch.equal(keys, before)


def test_other_layers_stay_as_they_are():
    from transformers import MistralConfig

    config = MistralConfig(num_hidden_layers=2, sliding_window=4)
    cache = DynamicCache(config=config)
    kinds = [type(layer) for layer in cache.layers]
    cache.update(*torch.randn(2, 1, 3, 9, 8), 0)
    make_room(cache)
    assert [type(layer) for layer in cache.layers] == kinds and RoomyLayer not in kinds
    make_room(object())  # a model with states of its own kind
