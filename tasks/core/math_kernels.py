"""Wakes the vector math of PyTorch's CPU build before threads can race for it.

oneMKL 2024.2, which the wheels carry, chooses the kernel of each vector function at its first call. When two threads make
that first call together, one of them can compute its whole half with a kernel of low accuracy: pytorch issue 188792, seen
here as cosines of the rotary embedding wrong by 1.5e-4 in one of 48 starts on two busy cores, and as an adapter that
differed from its twin of the same seed. One call on one element, made by one thread, settles the choice for good.
"""

from __future__ import annotations

_FUNCTIONS = (
    "acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "lgamma", "log", "log10",
    "log1p", "log2", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip


def settle_math_kernels() -> None:
    """Call every vector function once, in float32 and in float64, on one element and so in one thread. About 1 ms."""
    import torch

    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)
        for name in _FUNCTIONS:
            getattr(torch, name)(one)
        torch.pow(one, one)
        torch.softmax(one, 0)
        torch.log_softmax(one, 0)
