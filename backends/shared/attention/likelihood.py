"""How likely a text is after each of some remembered pieces: the model's own word on whether the two belong together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.encoder import KeysAndValues, Reader, Row
from memagent.backends.shared.attention.hooks import AttentionCall, watched


def likelihoods(reader: Reader, opening: KeysAndValues, pieces: Sequence[KeysAndValues], row: Row) -> Tensor:
    """Return ``log P(row | opening, piece)`` for each piece, in one pass over the model.

    Ranking what may answer a question by how likely it makes the question is query likelihood (Ponte and Croft, SIGIR
    1998); with a language model that was never trained for it, Sachan et al. 2022, arXiv 2204.07496. Here the pieces'
    stored keys and values are attended, so that only the question's tokens are read.

    Args:
        opening: what every text begins with, which draws the attention that nothing else deserves.
        pieces: each as if it stood alone between the opening and the row.
        row: what stands between a piece and the text, at least one token, and the text.

    Returns:
        float32 ``[pieces]`` on the CPU, in nats, summed over the text's tokens; higher is likelier.
    """
    ids = torch.tensor([[*row.before, *row.ids]], device=reader.model.device)
    text = ids[0, len(row.before) :, None]
    with torch.inference_mode(), watched(reader.model, _Each(reader, opening, pieces)):
        run = reader.model.model(input_ids=ids.expand(len(pieces), -1), use_cache=False)
        head = reader.model.get_output_embeddings()
        # One piece at a time: the logits of a long text over a large vocabulary take more memory than all else.
        each = (head(states).float() for states in run.last_hidden_state[:, len(row.before) - 1 : -1])
        told = [(logits.gather(1, text)[:, 0] - logits.logsumexp(1)).sum() for logits in each]
    return torch.stack(told).cpu()


class _Each:
    """Each sample of a batch attends to a piece of its own, whose last token stands right before the sample's first.

    ``kernels.memory_attention`` hides memory tokens from all samples alike; here each sample hides what its own shorter piece
    is filled up with, so the keys are joined and masked for PyTorch's attention.
    """

    def __init__(self, reader: Reader, opening: KeysAndValues, pieces: Sequence[KeysAndValues]) -> None:
        device, dtype = reader.model.device, reader.model.dtype
        pieces = [
            KeysAndValues(torch.cat([opening.keys, one.keys]), torch.cat([opening.values, one.values]))
            for one in pieces
        ]
        longest = max(len(piece.keys) for piece in pieces)
        lengths = torch.tensor([len(piece.keys) for piece in pieces], device=device)
        # [pieces, layers, kv_heads, longest, head_dim], shorter ones filled up on the left
        keys, values = (
            torch.stack([_filled(getattr(piece, part), longest) for piece in pieces]).to(device, dtype)
            for part in ("keys", "values")
        )
        places = torch.arange(-longest, 0)
        self._keys = rotary.rotate(keys, places, reader.theta).to(dtype)
        self._values = values
        self._real = (torch.arange(longest, device=device) >= longest - lengths[:, None])[:, None, None]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, call: AttentionCall) -> Tensor:
        """Watch one layer: see ``watching.Watcher``."""
        length = query.shape[2]
        causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        return torch.nn.functional.scaled_dot_product_attention(
            query,
            torch.cat([self._keys[:, layer], key], 2),
            torch.cat([self._values[:, layer], value], 2),
            attn_mask=torch.cat(
                [self._real.expand(-1, -1, length, -1), causal.expand(len(query), 1, -1, -1)], -1
            ),
            scale=call.scaling,
            enable_gqa=True,
        )


def _filled(tokens: Tensor, longest: int) -> Tensor:
    """Turn ``[tokens, layers, kv_heads, head_dim]`` into ``[layers, kv_heads, longest, head_dim]``."""
    return torch.nn.functional.pad(tokens.permute(1, 2, 0, 3), (0, 0, longest - len(tokens), 0))
