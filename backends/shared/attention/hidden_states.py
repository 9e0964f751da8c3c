"""What a model's first and last layers hold of a text: rows of the embedding table, and last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memagent.backends.protocol import LocalModel
from memagent.backends.shared.attention.chunks import TokenSpan
from memagent.backends.shared.attention.families import supported_family


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The hidden states of a token span, float32 on the CPU.

    Attributes:
        ids: its tokens, ``[tokens]``.
        first: rows of the embedding table, ``[tokens, hidden_size]``.
        last: after the last layer and its normalisation, ``[tokens, hidden_size]``.
    """

    ids: Tensor
    first: Tensor
    last: Tensor


class HiddenStateReader:
    """Reads token spans with one model.

    Attributes:
        table: the embedding table, ``[vocab_size, hidden_size]``.

    Raises:
        SettingError: the model is of no supported family.
    """

    def __init__(self, local: LocalModel) -> None:
        self._decoder = supported_family(local.model).decoder_of(local.model)
        self._device = local.model.device
        self.table: Tensor = local.model.get_input_embeddings().weight.detach()

    def read(self, spans: Sequence[TokenSpan]) -> Iterator[HiddenStates]:
        """Yield the hidden states of each span, in order.

        Spans are read one by one: in a batch, rounding would make a span's numbers depend on the others.

        Args:
            spans: each of at least one token.
        """
        for span in spans:
            ids = torch.tensor([[*span.prefix_ids, *span.ids]], device=self._device)
            with torch.inference_mode():
                states = self._decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
            own = ids[0, len(span.prefix_ids) :]
            yield HiddenStates(
                own.cpu(), self.table[own].float().cpu(), states[len(span.prefix_ids) :].float().cpu()
            )
