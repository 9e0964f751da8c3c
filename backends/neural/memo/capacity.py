"""How many pairs a correlation matrix holds, and how often it decodes the right token.

A query that was stored retrieves its value with weight 1. The other N pairs add cross-talk: to the score of every token a
Gaussian of variance N / (d_in d_out). As codes are only nearly orthogonal, the value itself adds 1 / d_out to the variance of
every other token. A token is decoded if its score stays above the highest of all others.
"""

from __future__ import annotations

import torch


def predicted_accuracy(pairs: float, d_in: int, d_out: int, tokens: int) -> float:
    """Return the expected share of stored pairs whose token is decoded.

    Args:
        pairs: Pairs in the matrix, 0 or more. A cross-talk above that of random keys counts as more pairs; a query that sums
            l keys with the same value counts as ``pairs / l``.
        d_in: Size of keys.
        d_out: Size of codes.
        tokens: Tokens to choose from, 1 or more.

    Returns:
        0 to 1, higher is better.
    """
    if pairs <= 0:
        return 1.0
    deviation = (pairs / (d_in * d_out)) ** 0.5
    own = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    density = torch.exp(-own.square() / 2) * (16 / 1000) / (2 * torch.pi) ** 0.5
    others = (pairs / (d_in * d_out) + 1 / d_out) ** 0.5
    below = torch.exp((tokens - 1) * torch.special.log_ndtr((1 + deviation * own) / others))
    return min(float((density * below).sum()), 1.0)


def capacity(d_in: int, d_out: int, tokens: int, accuracy: float = 0.9) -> float:
    """Return how many pairs a matrix holds before the expected accuracy falls below a value.

    The paper's figure 4 has 0.0277 d_in d_out + 1,900 pairs for 0.9 and 100,000 tokens; this law, 0.031 d_in d_out.

    Args:
        d_in: Size of keys.
        d_out: Size of codes.
        tokens: Tokens to choose from, 2 or more.
        accuracy: Between ``1 / tokens`` and 1.
    """
    low, high = 0.0, float(d_in * d_out)
    for _ in range(40):
        middle = (low + high) / 2
        if predicted_accuracy(middle, d_in, d_out, tokens) >= accuracy:
            low = middle
        else:
            high = middle
    return low
