"""The index of what stored chunks are addressed by: the keys of the calibrated heads, and value embeddings.

One ``kernels.lsh`` index per key head, and one for the value embeddings. Heads of 64 components take 2 * 64 bytes per token and
head in memory, besides the pages. A question reads a share of the keys that shrinks as their number grows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.errors import CheckpointError
from memagent.backends.rope_map.addressing import (
    CalibratedHeads,
    ChunkEvidence,
    QueryHead,
    attention_mass,
    head_evidence,
)
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import MAX_CHUNK_TOKENS
from memagent.backends.shared.attention.encoder import EncodedQueries, KeysAndValues
from memagent.kernels.lsh import LSHIndex

_VALUES = "values"


@dataclass(frozen=True, slots=True)
class _HeadResult:
    """What one head finds: chunk numbers, ascending, evidence on them and on the background, ``[chunks, 2]`` each."""

    chunks: Tensor
    evidence: Tensor
    background: Tensor


class AddressingIndex:
    """Finds the chunks that a question's tokens attend to.

    Args:
        heads: the calibrated heads.
        theta: the model's rotary frequencies, ``[head_dim / 2]``.
        device: where the keys are kept and searched.
    """

    def __init__(self, heads: CalibratedHeads, theta: Tensor, device: str) -> None:
        self.heads = heads
        self._theta = theta.to(device)
        self._device = device
        self._scaling = (2 * len(theta)) ** -0.5
        key_heads = sorted({heads.key_head(head) for head in heads.query_heads})
        self._keys = {key_head: LSHIndex(device=device) for key_head in key_heads}
        self._values = LSHIndex(device=device)

    def insert(self, chunks: Iterable[tuple[int, KeysAndValues]]) -> None:
        """Add chunks with their numbers, none of which is in the index."""
        added = list(chunks)
        if not added:
            return
        ids = torch.cat([_token_ids(number, len(tensors.keys)) for number, tensors in added])
        ids = ids.to(self._device)
        for (layer, head), index in self._keys.items():
            keys = torch.cat([tensors.keys[:, layer, head] for _, tensors in added])
            index.insert(ids, keys.to(self._device))
        values = torch.cat([tensors.values for _, tensors in added])
        embeddings = self.heads.value_similarity.embed(values).to(values.dtype)
        self._values.insert(ids, embeddings.to(self._device))

    def delete(self, chunks: Iterable[tuple[int, int]]) -> None:
        """Remove chunks, given as (number, tokens); no copy of their keys stays."""
        ids = [_token_ids(number, num_tokens) for number, num_tokens in chunks]
        if ids:
            for index in (*self._keys.values(), self._values):
                index.delete(torch.cat(ids).to(self._device))

    def search(self, question: EncodedQueries) -> ChunkEvidence:
        """Return the chunks that receive attention, with the evidence on them.

        Args:
            question: queries of ``heads.query_layers``, and values of the first ``heads.num_layers`` layers.
        """
        results = [self._search_keys(question.queries, head) for head in self.heads.query_heads]
        results.append(self._search_values(question.values))
        numbers = torch.unique(torch.cat([result.chunks for result in results]))
        evidence = torch.zeros(len(numbers), 2, len(results))
        for place, result in enumerate(results):
            evidence[torch.searchsorted(numbers, result.chunks), :, place] = result.evidence
        background = torch.stack([result.background for result in results], -1)
        return ChunkEvidence(numbers.tolist(), evidence.flatten(1), background.flatten(1))

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, to be saved with safetensors."""
        named = {f"{layer}:{head}": index for (layer, head), index in self._keys.items()}
        return {
            f"{name}.{part}": tensor
            for name, index in (named | {_VALUES: self._values}).items()
            for part, tensor in index.state().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Replace the contents by those that ``state`` returned.

        Raises:
            CheckpointError: the state is damaged, or of other heads.
        """
        parts: dict[str, dict[str, Tensor]] = {name.partition(".")[0]: {} for name in self.state()}
        try:
            for key, tensor in state.items():
                name, _, part = key.partition(".")
                parts[name][part] = tensor
            restored = {name: LSHIndex.from_state(tensors, self._device) for name, tensors in parts.items()}
            self._values = restored.pop(_VALUES)
            self._keys = {(layer, head): restored[f"{layer}:{head}"] for layer, head in self._keys}
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"its index is not one of the calibrated heads ({error})") from error

    @property
    def bytes_in_memory(self) -> int:
        """Size of all tensors."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def _search_keys(self, queries: Tensor, head: QueryHead) -> _HeadResult:
        """Search one head's keys with the question's unrotated queries, ``[layers, heads, tokens, head_dim]``."""
        unrotated = queries[self.heads.query_layers.index(head.layer), head.head].to(self._device)
        rotated = rotary.rotate(unrotated, torch.tensor(head.offset), self._theta) * self._scaling
        key_head = self.heads.key_head(head)
        return self._search_index(rotated, self._keys[key_head], self.heads.background_keys[key_head])

    def _search_values(self, values: Tensor) -> _HeadResult:
        """Search the value heads with the values of the question's tokens."""
        queries = self.heads.tuning.value_sharpness * self.heads.value_similarity.embed(values)
        return self._search_index(queries.to(self._device), self._values, self.heads.background_values)

    def _search_index(self, queries: Tensor, index: LSHIndex, background_keys: Tensor) -> _HeadResult:
        """Return what one head finds.

        Args:
            queries: of a question's tokens, ``[tokens, dim]``, scaled so that inner products are scores.
            index: of the stored keys.
            background_keys: ``[background tokens, dim]``.
        """
        tuning, segment_ids = self.heads.tuning, self.heads.background_segment_ids
        hits = index.query(queries, tuning.hits_per_token)
        background_scores = (queries @ background_keys.T.to(queries)).cpu()
        scores, ids = hits.scores.cpu(), hits.ids.cpu()
        numbers, places = torch.unique(ids // MAX_CHUNK_TOKENS, return_inverse=True)
        stored_mass = attention_mass(scores, places, len(numbers), background_scores)
        background_mass = attention_mass(
            background_scores,
            segment_ids.expand(len(background_scores), -1),
            int(segment_ids.max()) + 1,
            scores,
        )
        stored, background = head_evidence(stored_mass, background_mass, tuning.mass_floor)
        # Short lists of hits are padded with the number -1.
        real = numbers >= 0
        return _HeadResult(numbers[real], stored[real], background)


def _token_ids(number: int, num_tokens: int) -> Tensor:
    """Return an id for each token of a chunk; the chunk's number is the id divided by ``MAX_CHUNK_TOKENS``."""
    return number * MAX_CHUNK_TOKENS + torch.arange(num_tokens)
