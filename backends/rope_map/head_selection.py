"""Head selection: which heads address memory, found by how well each head alone ranks the turns that answer questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.rope_map.addressing import QueryHead, attention_mass
from memagent.backends.rope_map.chunk_table import ChunkTable
from memagent.backends.rope_map.tuning import Tuning
from memagent.backends.rope_map.value_similarity import ValueSimilarity, fit_value_similarity
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import AttentionEncoder, EncodedQueries, KeysAndValues


@dataclass(frozen=True)
class EncodedDialogue:
    """A generated dialogue and its questions, encoded with the model.

    Attributes:
        table: its chunks: one per turn, numbered like the turns.
        chunks: keys and values of each chunk, of all layers.
        questions: queries of each question in the layers that heads are selected from, and its values in all layers.
        answers: place of the turn that answers each question, from 0; None for a remark that needs no memory.
    """

    table: ChunkTable
    chunks: list[KeysAndValues]
    questions: list[EncodedQueries]
    answers: list[int | None]


def segment_ids(chunks: Sequence[KeysAndValues]) -> Tensor:
    """Return the place of the chunk that each token belongs to, from 0: ``[tokens]``."""
    return torch.cat([torch.full((len(chunk.keys),), place) for place, chunk in enumerate(chunks)])


def select_query_heads(
    dialogues: Sequence[EncodedDialogue],
    encoder: AttentionEncoder,
    background_keys: Tensor,
    num_layers: int,
    tuning: Tuning,
) -> tuple[QueryHead, ...]:
    """Return the query heads whose attention mass alone ranks answers best, each at its best offset.

    Args:
        dialogues: encoded by the model.
        encoder: of the model.
        background_keys: of small talk, ``[tokens, layers, kv_heads, head_dim]``.
        num_layers: heads of the first so many layers are compared.
        tuning: the constants.

    Returns:
        At most ``num_query_heads``, in order of layer and head.
    """

    def quality(head: QueryHead) -> float:
        kv_head = head.head // encoder.group_size
        background = background_keys[:, head.layer, kv_head].float()
        offset, scaling = torch.tensor(head.offset), 1 / math.sqrt(encoder.head_dim)

        def queries_of(question: EncodedQueries) -> Tensor:
            queries = question.queries[head.layer, head.head]
            return rotary.rotate(queries, offset, encoder.theta.cpu()) * scaling

        def keys_of(chunk: KeysAndValues) -> Tensor:
            return chunk.keys[:, head.layer, kv_head].float()

        return sum(
            mean_reciprocal_rank(dialogue, queries_of, keys_of, background, stride=tuning.question_stride)
            for dialogue in dialogues
        )

    heads = [
        QueryHead(layer, head, tuning.first_offset)
        for layer in range(num_layers)
        for head in range(encoder.num_heads)
    ]
    best = sorted(heads, key=lambda head: -quality(head))[: tuning.num_query_heads]
    with_offsets = (
        max((QueryHead(head.layer, head.head, offset) for offset in tuning.offsets), key=quality)
        for head in best
    )
    return tuple(sorted(with_offsets, key=lambda head: (head.layer, head.head)))


def select_value_heads(
    dialogues: Sequence[EncodedDialogue], encoder: AttentionEncoder, background_values: Tensor, tuning: Tuning
) -> ValueSimilarity:
    """Return the similarity of the ``num_value_heads`` heads whose values alone rank answers best.

    Args:
        dialogues: encoded by the model.
        encoder: of the model.
        background_values: of small talk, ``[tokens, layers, kv_heads, head_dim]``.
        tuning: the constants.
    """

    def quality(head: tuple[int, int]) -> float:
        similarity = fit_value_similarity([head], background_values, tuning.whitening_ridge)
        background = similarity.embed(background_values)

        def queries_of(question: EncodedQueries) -> Tensor:
            return tuning.value_sharpness * similarity.embed(question.values)

        def keys_of(chunk: KeysAndValues) -> Tensor:
            return similarity.embed(chunk.values)

        return sum(mean_reciprocal_rank(dialogue, queries_of, keys_of, background) for dialogue in dialogues)

    heads = [(layer, head) for layer in range(encoder.num_layers) for head in range(encoder.num_kv_heads)]
    best = sorted(heads, key=lambda head: -quality(head))[: tuning.num_value_heads]
    return fit_value_similarity(sorted(best), background_values, tuning.whitening_ridge)


def mean_reciprocal_rank(
    dialogue: EncodedDialogue,
    queries_of: Callable[[EncodedQueries], Tensor],
    keys_of: Callable[[KeysAndValues], Tensor],
    background_keys: Tensor,
    stride: int = 1,
) -> float:
    """Return how well one head's attention mass ranks the chunks of a dialogue.

    Args:
        dialogue: encoded by the model.
        queries_of: gives a question's queries, ``[tokens, dim]``, scaled so that inner products with keys are scores.
        keys_of: gives a chunk's keys, ``[tokens, dim]``.
        background_keys: of small talk, ``[tokens, dim]``.
        stride: 1 for all questions, 2 for every second one, and so on.

    Returns:
        The mean over questions of 1 / rank, 0 to 1; the rank is that of the answering turn or of the turn before it,
        whichever is better.
    """
    keys = torch.cat([keys_of(chunk) for chunk in dialogue.chunks])
    answered = [(place, answer) for place, answer in enumerate(dialogue.answers) if answer is not None]
    answer_of = dict(answered[::stride])
    queries_by_question = [queries_of(dialogue.questions[place]) for place in answer_of]
    queries = torch.cat(queries_by_question)
    masses = attention_mass(
        queries @ keys.T,
        segment_ids(dialogue.chunks).expand(len(queries), -1),
        len(dialogue.chunks),
        queries @ background_keys.T,
    )
    masses_by_question = torch.split(masses, [len(queries) for queries in queries_by_question])
    total = 0.0
    for answer, question_masses in zip(answer_of.values(), masses_by_question, strict=True):
        mean_masses = question_masses.mean(0)
        best = mean_masses[max(0, answer - 1) : answer + 1].max()
        total += 1.0 / float((mean_masses >= best).sum())
    return total / len(answer_of)
