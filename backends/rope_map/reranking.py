"""Query-likelihood reranking: the chunks that make a question likelier rank higher.

Addressing compares tokens; the whole model knows more about what belongs together. So the best chunks are tried one by
one: the model attends to a chunk's keys and values as if it stood right before the question
(``shared/attention/likelihood.py``). The pointwise mutual information of chunk and question is

    PMI(chunk) = log P(question | chunk) - log P(question)

and the chunk's score rises by ``max(0, max_bonus + pmi_weight * (PMI(chunk) - highest PMI))``. Query likelihood: Ponte and
Croft, SIGIR 1998; with language models: Sachan et al. 2022, arXiv 2204.07496.
"""

from __future__ import annotations

from collections.abc import Mapping

from memagent.backends.rope_map.tuning import Tuning
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder, KeysAndValues
from memagent.backends.shared.attention.likelihood import log_likelihoods


def pmi(
    encoder: AttentionEncoder,
    opening: KeysAndValues,
    chunks: Mapping[int, KeysAndValues],
    question: TokenSpan,
) -> dict[int, float]:
    """Return the pointwise mutual information of each chunk and the question.

    Args:
        encoder: of the model.
        opening: keys and values of the text that everything is read after.
        chunks: keys and values by chunk number.
        question: its prefix stands between chunk and question.

    Returns:
        Nats by chunk number. Above 0 the chunk makes the question likelier, below 0 less likely.
    """
    no_chunk = KeysAndValues(opening.keys[:0], opening.values[:0])
    conditional = log_likelihoods(encoder, opening, [no_chunk, *chunks.values()], question)
    return dict(zip(chunks, (conditional[1:] - conditional[0]).tolist(), strict=True))


def rerank_bonus(pmi_by_chunk: Mapping[int, float], tuning: Tuning) -> dict[int, float]:
    """Return by how much the score of each chunk rises: 0 to ``max_bonus`` nats, most for the highest PMI."""
    weighted = {chunk: tuning.pmi_weight * value for chunk, value in pmi_by_chunk.items()}
    highest = max(weighted.values(), default=0.0)
    return {chunk: max(0.0, tuning.max_bonus + value - highest) for chunk, value in weighted.items()}
