"""Log-likelihood of a text after each of several stored chunks, for query-likelihood reranking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.encoder import AttentionEncoder, KeysAndValues
from memagent.backends.shared.attention.hooks import AttentionCall, attention_hook
from memagent.kernels.memory_attention import memory_attention


def log_likelihoods(
    encoder: AttentionEncoder, opening: KeysAndValues, chunks: Sequence[KeysAndValues], text: TokenSpan
) -> Tensor:
    """Return ``log P(text | opening, chunk)`` for each chunk, in one forward pass.

    Query likelihood ranks documents by how likely they make the query (Ponte and Croft, SIGIR 1998); with a language
    model that was not trained for it: Sachan et al. 2022, arXiv 2204.07496. Here the model attends to the chunks' stored
    keys and values, so that it reads the text's tokens only.

    Args:
        encoder: of the model.
        opening: what every text begins with; it takes the attention that nothing else deserves.
        chunks: each stands alone between the opening and the text. A chunk may be empty.
        text: its prefix, at least one token, stands between a chunk and the text and is not scored.

    Returns:
        float32 ``[chunks]`` on the CPU, in nats, summed over the text's tokens; a higher value means a likelier text.
    """
    ids = torch.tensor([[*text.prefix_ids, *text.ids]], device=encoder.model.device)
    targets = ids[0, len(text.prefix_ids) :, None]
    with torch.inference_mode(), attention_hook(encoder.model, _ChunkOfEachSample(encoder, opening, chunks)):
        output = encoder.decoder(input_ids=ids.expand(len(chunks), -1), use_cache=False)
        output_head = encoder.model.get_output_embeddings()
        # One chunk at a time: the logits of a long text over a large vocabulary take more memory than all else.
        logits_by_chunk = (
            output_head(states).float()
            for states in output.last_hidden_state[:, len(text.prefix_ids) - 1 : -1]
        )
        sums = [(logits.gather(1, targets)[:, 0] - logits.logsumexp(1)).sum() for logits in logits_by_chunk]
    return torch.stack(sums).cpu()


class _ChunkOfEachSample:
    """Attention hook: each sample of a batch attends to its own chunk, which ends right before the sample's text.

    Shorter chunks are padded on the left; a bias per sample hides the padding.
    """

    def __init__(
        self, encoder: AttentionEncoder, opening: KeysAndValues, chunks: Sequence[KeysAndValues]
    ) -> None:
        device, dtype = encoder.model.device, encoder.model.dtype
        memories = [
            KeysAndValues(torch.cat([opening.keys, chunk.keys]), torch.cat([opening.values, chunk.values]))
            for chunk in chunks
        ]
        max_tokens = max(len(memory.keys) for memory in memories)
        lengths = torch.tensor([len(memory.keys) for memory in memories], device=device)
        # [chunks, layers, kv_heads, max_tokens, head_dim], shorter ones padded on the left
        keys, values = (
            torch.stack([_padded(getattr(memory, part), max_tokens) for memory in memories]).to(device, dtype)
            for part in ("keys", "values")
        )
        positions = torch.arange(-max_tokens, 0)
        self._keys = rotary.rotate(keys, positions, encoder.theta).to(dtype)
        self._values = values
        is_padding = torch.arange(max_tokens, device=device) < max_tokens - lengths[:, None]
        self._bias = torch.zeros(len(chunks), max_tokens, device=device).masked_fill(is_padding, -torch.inf)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """Compute one layer's attention, see ``hooks.AttentionHook``."""
        return memory_attention(
            query,
            key,
            value,
            query,
            self._keys[:, layer],
            self._values[:, layer],
            is_causal=True,
            scaling=call.scaling,
            memory_bias=self._bias,
        )


def _padded(tensor: Tensor, max_tokens: int) -> Tensor:
    """Turn ``[tokens, layers, kv_heads, head_dim]`` into ``[layers, kv_heads, max_tokens, head_dim]``, padded on the left."""
    return torch.nn.functional.pad(tensor.permute(1, 2, 0, 3), (0, 0, max_tokens - len(tensor), 0))
