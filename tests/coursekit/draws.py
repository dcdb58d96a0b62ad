"""Random inputs for property tests: odd shapes, every memory layout, numbers from a seed."""

import torch
from hypothesis import strategies as st
from torch import Tensor

sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def strided(x: Tensor) -> Tensor:
    """The same numbers, neither contiguous nor channels-last."""
    room = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
    room[..., ::2] = x
    return room[..., ::2]


layouts = st.sampled_from([lambda x: x, strided, lambda x: x.transpose(0, -1).contiguous().transpose(0, -1)])


@st.composite
def images(draw, ranks=(4,), values=2):
    """Float64 activations, (N, C) or (N, C, H, W), with at least `values` values per channel."""
    n, c, h, w = (draw(sizes) for _ in range(4))
    rank = draw(st.sampled_from(ranks))
    shape = (max(n, values), c) if rank == 2 else (n, c, h, max(w, values))
    scale, offset = draw(st.sampled_from([(1.0, 0.0), (1e-3, 0.0), (30.0, 1e3)]))
    return draw(layouts)(offset + scale * randn(draw(seeds), *shape))
