"""Regenerating stored texts token by token, and explaining where each token comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.neural.memo.memory import MeMoMemory, Tokens


@dataclass(frozen=True)
class Regeneration:
    """A regenerated text.

    Attributes:
        ids: The tokens after the prompt, the end token included if it was reached.
        weights: For each token its weight: the number of layers that stored it after this text, plus cross-talk.
        confidences: For each token the probability, 0.5 to 1, that it and not the runner-up was stored here, if both differ
            by Gaussian cross-talk only. What was never stored has about 0.6.
        finished: Whether the end token was reached.
    """

    ids: list[int]
    weights: list[float]
    confidences: list[float]
    finished: bool

    @property
    def confidence(self) -> float:
        """The lowest confidence of a token, 0 if there is no token."""
        return min(self.confidences, default=0.0)


@dataclass(frozen=True)
class LayerVote:
    """What one layer says for a token.

    Attributes:
        layer: From 1 on.
        weight: 1 if the layer's window was stored with this token; with concatenated keys the share of its blocks that were.
            Plus cross-talk.
        matched: The tokens of the window that this weight stands for.
    """

    layer: int
    weight: float
    matched: int


@dataclass(frozen=True)
class Explanation:
    """Why a token follows the tokens before it.

    Attributes:
        token: Its id.
        votes: Of every layer that has a complete window.
    """

    token: int
    votes: list[LayerVote]

    @property
    def weight(self) -> float:
        """The sum of all votes."""
        return sum(vote.weight for vote in self.votes)


def regenerate(
    memory: MeMoMemory,
    prompts: Sequence[Tokens],
    codes: Tensor | None = None,
    *,
    limit: int,
    end: int | None = None,
) -> list[Regeneration]:
    """Continue prompts with the most probable stored tokens, all prompts at once.

    Args:
        memory: What is read.
        prompts: The beginning of each text; may be empty if the texts have codes or the keys are bound.
        codes: ``[prompts, dim]`` int8, the codes the texts were stored with, or near them. None: texts have no codes.
        limit: Tokens of each text, at most.
        end: A text ends after this token. None: no token ends it.

    Returns:
        One text for each prompt. It ends early where no layer has a complete window, and is empty if nothing is stored.
    """
    texts = [list(prompt) for prompt in prompts]
    results = [Regeneration([], [], [], False) for _ in prompts]
    active = list(range(len(texts))) if memory.pairs else []
    for _ in range(limit):
        if not active:
            break
        own = None if codes is None else codes[active]
        keys, available = memory.query_keys([texts[row] for row in active], [1] * len(active), own)
        weights, tokens = memory.reading.best(keys, 2)
        layers = available.sum(0)
        sure = token_confidences(weights, layers.to(weights.dtype).sqrt() * memory.deviation)
        going = []
        for place, row in enumerate(active):
            if not layers[place]:
                continue
            token = int(tokens[place, 0])
            texts[row].append(token)
            results[row] = _extended(results[row], token, float(weights[place, 0]), float(sure[place]), end)
            if not results[row].finished:
                going.append(row)
        active = going
    return results


def explain(memory: MeMoMemory, ids: Tokens, code: Tensor | None = None) -> list[Explanation]:
    """Say for each token of a text which layers speak for it, and with what weight.

    Args:
        memory: What is read.
        ids: The text from its beginning: a prompt and what was generated.
        code: ``[dim]`` int8, its code. None: it has none.

    Returns:
        One explanation for each token. The first tokens have no votes where no window is complete.
    """
    codes = None if code is None else code[None]
    if not ids:
        return []
    keys, available = memory.query_keys([ids[:-1]], [len(ids)], codes)
    values = memory.token_codes(ids).to(torch.float32)
    explanations = [Explanation(token, []) for token in ids]
    for layer in range(memory.settings.layers):
        retrieved = memory.reading.retrieve(keys[layer]).cpu()
        weights = (retrieved * values).sum(1) / memory.settings.dim
        size = memory.settings.heads ** (layer + 1)
        for place in available[layer].nonzero()[:, 0].tolist():
            weight = float(weights[place])
            # A bound window matches as a whole or not at all.
            share = float(weight > 0.5) if memory.settings.composition == "bound" else weight
            vote = LayerVote(layer + 1, weight, round(size * min(max(share, 0.0), 1.0)))
            explanations[place].votes.append(vote)
    return explanations


def token_confidences(weights: Tensor, deviations: Tensor) -> Tensor:
    """Return the probability that the best token and not the runner-up was stored, if they differ by Gaussian cross-talk only.

    Args:
        weights: ``[n, 2]``, of the two best tokens; ``[n, 1]`` if there is only one.
        deviations: ``[n]``, the standard deviation of their cross-talk.

    Returns:
        ``[n]``, 0.5 to 1.
    """
    if weights.shape[1] < 2:
        return torch.ones(len(weights))
    margins = weights[:, 0] - weights[:, 1]
    confidences: Tensor = torch.special.ndtr(margins / (deviations * 2**0.5))
    return confidences


def _extended(
    result: Regeneration, token: int, weight: float, confidence: float, end: int | None
) -> Regeneration:
    return Regeneration(
        [*result.ids, token],
        [*result.weights, weight],
        [*result.confidences, confidence],
        token == end,
    )
