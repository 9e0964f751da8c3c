"""Choosing the heads that address: every head is asked alone how well it ranks the turn that answers a question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.rope_map import value_similarity as likeness
from memagent.backends.rope_map.addressing import Head, mass
from memagent.backends.rope_map.chunk_table import Catalogue
from memagent.backends.rope_map.value_similarity import SHARPNESS, Likeness
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import Asked, KeysAndValues, Reader

HEADS = 14
VALUE_HEADS = 5
OFFSETS = (64, 128, 256, 512)
_FIRST_OFFSET = 256
# There are many query heads: they are asked each so manieth question; a prime, as questions come in kinds.
_EVERY = 7
RECIPE = (HEADS, VALUE_HEADS, OFFSETS, _FIRST_OFFSET, _EVERY)
"""What a choice depends on besides its scenes."""


@dataclass(frozen=True)
class Heard:
    """A generated conversation as the model sees it.

    Attributes:
        catalogue: its pieces: one a turn, numbered like the turns.
        stored: keys and values of each piece, in all layers.
        asked: each question's queries in the layers that heads are chosen from, and its values in all.
        answers: the turn that answers each question, from 0; None for a remark that needs no memory.
    """

    catalogue: Catalogue
    stored: list[KeysAndValues]
    asked: list[Asked]
    answers: list[int | None]


def owners_of(read: Sequence[KeysAndValues]) -> Tensor:
    """Return the piece that each token belongs to, from 0: ``[tokens]``."""
    return torch.cat([torch.full((len(one.keys),), place) for place, one in enumerate(read)])


def choose_heads(scenes: Sequence[Heard], reader: Reader, keys: Tensor, depth: int) -> tuple[Head, ...]:
    """Return the heads whose mass alone ranks answers best, each at its best offset.

    Args:
        keys: of small talk, ``[tokens, layers, kv_heads, head_dim]``.
        depth: heads of the first so many layers are asked.
    """

    def quality(head: Head) -> float:
        shared = head.head // reader.group
        others = keys[:, head.layer, shared].float()
        offset, scaling = torch.tensor(head.offset), 1 / math.sqrt(reader.head_dim)

        def asking(one: Asked) -> Tensor:
            return rotary.rotate(one.queries[head.layer, head.head], offset, reader.theta.cpu()) * scaling

        def offered(one: KeysAndValues) -> Tensor:
            return one.keys[:, head.layer, shared].float()

        return sum(_alone(scene, asking, offered, others, every=_EVERY) for scene in scenes)

    first = [Head(layer, head, _FIRST_OFFSET) for layer in range(depth) for head in range(reader.heads)]
    best = sorted(first, key=lambda head: -quality(head))[:HEADS]
    offsets = (max((Head(head.layer, head.head, offset) for offset in OFFSETS), key=quality) for head in best)
    return tuple(sorted(offsets, key=lambda head: (head.layer, head.head)))


def choose_values(scenes: Sequence[Heard], reader: Reader, values: Tensor) -> Likeness:
    """Return the likeness of the heads whose values alone rank answers best.

    Args:
        values: of small talk, ``[tokens, layers, kv_heads, head_dim]``.
    """

    def quality(head: tuple[int, int]) -> float:
        alike = likeness.learn([head], values)
        others = alike(values)

        def asking(one: Asked) -> Tensor:
            return SHARPNESS * alike(one.values)

        def offered(one: KeysAndValues) -> Tensor:
            return alike(one.values)

        return sum(_alone(scene, asking, offered, others) for scene in scenes)

    heads = [(layer, head) for layer in range(reader.depth) for head in range(reader.kv_heads)]
    return likeness.learn(sorted(sorted(heads, key=lambda head: -quality(head))[:VALUE_HEADS]), values)


def _alone(
    scene: Heard,
    asking: Callable[[Asked], Tensor],
    offered: Callable[[KeysAndValues], Tensor],
    others: Tensor,
    every: int = 1,
) -> float:
    """Return the mean reciprocal rank of answers, or of the turn before them, by one head's mass.

    Args:
        asking: a question's vectors, ``[tokens, dim]``, so that inner products with what is offered are scores.
        offered: a stored piece's, ``[tokens, dim]``.
        others: those of small talk, ``[tokens, dim]``.
        every: each so manieth question is asked.
    """
    keys = torch.cat([offered(one) for one in scene.stored])
    known = [(place, answer) for place, answer in enumerate(scene.answers) if answer is not None]
    answered = dict(known[::every])
    asked = [asking(scene.asked[place]) for place in answered]
    queries = torch.cat(asked)
    owners = owners_of(scene.stored).expand(len(queries), -1)
    paid = mass(queries @ keys.T, owners, len(scene.stored), queries @ others.T)
    total = 0.0
    for answer, one in zip(answered.values(), torch.split(paid, [len(one) for one in asked]), strict=True):
        found = one.mean(0)
        told = found[max(0, answer - 1) : answer + 1].max()
        total += 1.0 / float((found >= told).sum())
    return total / len(answered)
