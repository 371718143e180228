"""The cache with room gives what a cache without gives."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from lesion.models.kv_cache import roomy_cache

STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(1, 40)),
    st.tuples(st.just("crop"), st.integers(1, 3)),
    st.tuples(st.just("select"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_it_gives_what_a_dynamic_cache_gives(steps):
    plain: Any = DynamicCache()
    roomy = roomy_cache()
    for number, (step, value) in enumerate([("read", 5), *steps]):
        if step == "read":
            new = [torch.randn(3, 2, value, 4, generator=torch.Generator().manual_seed(number + i)) for i in (0, 1)]
            for one, other in zip(plain.update(*new, 0), roomy.update(*new, 0), strict=True):
                assert one.equal(other)
        elif step == "crop":
            for cache in (plain, roomy):
                cache.crop(-min(value, cache.get_seq_length() - 1))
        else:
            for cache in (plain, roomy):
                cache.batch_select_indices(torch.tensor(value))
        assert plain.get_seq_length() == roomy.get_seq_length()
        assert plain.layers[0].keys.equal(roomy.layers[0].keys) and plain.layers[0].values.equal(roomy.layers[0].values)


def test_a_token_is_written_beside_those_before():
    """They are not moved."""
    cache, new = roomy_cache(), torch.zeros(1, 2, 1, 4)
    cache.update(new, new, 0)
    first = cache.update(new, new, 0)[0].data_ptr()
    assert all(cache.update(new, new, 0)[0].data_ptr() == first for _ in range(20))
