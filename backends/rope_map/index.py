"""The addressing heads' keys of everything stored, findable by hashing: ``kernels.lsh``, one index a key head.

Costs, with n stored tokens and a key head of 64 components: 2 * 64 bytes a token and head in memory beside the
pages; a question touches a share of the keys that shrinks as n grows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from memagent.backends.attention import rotary
from memagent.backends.attention.pieces import LONGEST
from memagent.backends.attention.reader import KeysAndValues
from memagent.backends.errors import CheckpointError
from memagent.backends.rope_map.addressing import Addressing, Found, evidence, mass
from memagent.kernels.lsh import LSHIndex

_HITS = 256


class AddressIndex:
    """Finds the pieces that a question's tokens attend to.

    Args:
        addressing: which heads ask.
        theta: the model's rotary frequencies.
        device: where the keys lie.
    """

    def __init__(self, addressing: Addressing, theta: Tensor, device: str) -> None:
        self.addressing = addressing
        self._theta = theta.to(device)
        self._device = device
        self._scaling = (2 * len(theta)) ** -0.5
        keys = sorted({addressing.key_head(head) for head in addressing.heads})
        self._indexes = {key: LSHIndex(device=device) for key in keys}

    def insert(self, pieces: Iterable[tuple[int, KeysAndValues]]) -> None:
        """Add pieces with their numbers."""
        added = list(pieces)
        if not added:
            return
        ids = torch.cat([_ids(number, len(found.keys)) for number, found in added]).to(self._device)
        for (layer, head), index in self._indexes.items():
            keys = torch.cat([found.keys[:, layer, head] for _, found in added])
            index.insert(ids, keys.to(self._device))

    def delete(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Remove pieces, given as (number, tokens)."""
        gone = [_ids(number, tokens) for number, tokens in pieces]
        if gone:
            for index in self._indexes.values():
                index.delete(torch.cat(gone).to(self._device))

    def find(self, queries: Tensor) -> Found:
        """Return the pieces that draw attention, with the evidence on them.

        Args:
            queries: of the addressing layers, unrotated: ``[layers, heads, tokens, head_dim]``.
        """
        heads = range(len(self.addressing.heads))
        seen = [self._ask(queries, place) for place in heads]
        numbers = torch.unique(torch.cat([own for own, _, _ in seen]))
        stored = torch.zeros(len(numbers), 2, len(heads))
        for place, (own, found, _) in enumerate(seen):
            stored[torch.searchsorted(numbers, own), :, place] = found
        background = torch.stack([other for _, _, other in seen], -1)
        return Found(numbers.tolist(), stored.flatten(1), background.flatten(1))

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, to be saved."""
        return {
            f"{layer}.{head}.{name}": tensor
            for (layer, head), index in self._indexes.items()
            for name, tensor in index.state().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave.

        Raises:
            CheckpointError: it is of other heads.
        """
        own: dict[tuple[int, int], dict[str, Tensor]] = {key: {} for key in self._indexes}
        try:
            for name, tensor in state.items():
                layer, head, rest = name.split(".", 2)
                own[int(layer), int(head)][rest] = tensor
            self._indexes = {key: LSHIndex.from_state(its, self._device) for key, its in own.items()}
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"its index is not one of the heads that address ({error})") from error

    @property
    def bytes_in_memory(self) -> int:
        return sum(tensor.nbytes for tensor in self.state().values())

    def _ask(self, queries: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pieces one head finds, ascending, the evidence on them and that on the background's pieces."""
        head = self.addressing.heads[place]
        own = queries[self.addressing.layers.index(head.layer), head.head].to(self._device)
        asking = rotary.rotate(own, torch.tensor(head.offset), self._theta) * self._scaling
        hits = self._indexes[self.addressing.key_head(head)].query(asking, _HITS)
        others = (asking @ self.addressing.background[self.addressing.key_head(head)].T.to(asking)).cpu()
        scores, ids = hits.scores.cpu(), hits.ids.cpu()
        numbers, places = torch.unique(ids // LONGEST, return_inverse=True)
        talk, count = self.addressing.owners, int(self.addressing.owners.max()) + 1
        stored, background = evidence(
            mass(scores, places, len(numbers), others),
            mass(others, talk.expand(len(others), -1), count, scores),
        )
        # What is missing from a short list of hits has the number -1.
        real = numbers >= 0
        return numbers[real], stored[real], background


def _ids(number: int, tokens: int) -> Tensor:
    """Number the tokens of a piece."""
    return number * LONGEST + torch.arange(tokens)
