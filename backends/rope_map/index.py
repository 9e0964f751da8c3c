"""What everything stored is addressed by, findable by hashing: the addressing heads' keys, and the joined values.

One ``kernels.lsh`` index a key head, and one for the values. Costs, with n stored tokens and heads of 64
components: 2 * 64 bytes a token and head in memory beside the pages; a question touches a share of the keys that shrinks as n
grows.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from memagent.backends.errors import CheckpointError
from memagent.backends.rope_map.addressing import Addressing, Found, Head, evidence, mass
from memagent.backends.rope_map.value_similarity import SHARPNESS
from memagent.backends.shared.attention import rotary
from memagent.backends.shared.attention.chunks import LONGEST
from memagent.backends.shared.attention.encoder import Asked, KeysAndValues
from memagent.kernels.lsh import LSHIndex

_HITS = 256
_ALIKE = "alike"


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
        self._keys = {key: LSHIndex(device=device) for key in keys}
        self._alike = LSHIndex(device=device)

    def insert(self, pieces: Iterable[tuple[int, KeysAndValues]]) -> None:
        """Add pieces with their numbers."""
        added = list(pieces)
        if not added:
            return
        ids = torch.cat([_ids(number, len(found.keys)) for number, found in added]).to(self._device)
        for (layer, head), index in self._keys.items():
            keys = torch.cat([found.keys[:, layer, head] for _, found in added])
            index.insert(ids, keys.to(self._device))
        values = torch.cat([found.values for _, found in added])
        alike = self.addressing.likeness(values).to(values.dtype)
        self._alike.insert(ids, alike.to(self._device))

    def delete(self, pieces: Iterable[tuple[int, int]]) -> None:
        """Remove pieces, given as (number, tokens)."""
        gone = [_ids(number, tokens) for number, tokens in pieces]
        if gone:
            for index in (*self._keys.values(), self._alike):
                index.delete(torch.cat(gone).to(self._device))

    def find(self, asked: Asked) -> Found:
        """Return the pieces that draw attention, with the evidence on them.

        Args:
            asked: queries of the addressing layers, and values of the first ``addressing.depth``.
        """
        seen = [self._by_head(asked.queries, head) for head in self.addressing.heads]
        asking = SHARPNESS * self.addressing.likeness(asked.values)
        seen.append(self._ask(asking.to(self._device), self._alike, self.addressing.alike))
        numbers = torch.unique(torch.cat([own for own, _, _ in seen]))
        stored = torch.zeros(len(numbers), 2, len(seen))
        for place, (own, found, _) in enumerate(seen):
            stored[torch.searchsorted(numbers, own), :, place] = found
        background = torch.stack([other for _, _, other in seen], -1)
        return Found(numbers.tolist(), stored.flatten(1), background.flatten(1))

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, to be saved."""
        named = {f"{layer}:{head}": index for (layer, head), index in self._keys.items()}
        return {
            f"{key}.{name}": tensor
            for key, index in (named | {_ALIKE: self._alike}).items()
            for name, tensor in index.state().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave.

        Raises:
            CheckpointError: it is of other heads.
        """
        own: dict[str, dict[str, Tensor]] = {name.partition(".")[0]: {} for name in self.state()}
        try:
            for name, tensor in state.items():
                key, _, part = name.partition(".")
                own[key][part] = tensor
            found = {key: LSHIndex.from_state(its, self._device) for key, its in own.items()}
            self._alike = found.pop(_ALIKE)
            self._keys = {key: found[f"{key[0]}:{key[1]}"] for key in self._keys}
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"its index is not one of the heads that address ({error})") from error

    @property
    def bytes_in_memory(self) -> int:
        return sum(tensor.nbytes for tensor in self.state().values())

    def _by_head(self, queries: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
        own = queries[self.addressing.layers.index(head.layer), head.head].to(self._device)
        asking = rotary.rotate(own, torch.tensor(head.offset), self._theta) * self._scaling
        key = self.addressing.key_head(head)
        return self._ask(asking, self._keys[key], self.addressing.background[key])

    def _ask(self, asking: Tensor, index: LSHIndex, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pieces found, ascending, the evidence on them and that on the background's pieces.

        Args:
            asking: what a question's tokens ask with, ``[tokens, dim]``, so that inner products are scores.
            index: of what is stored.
            background: the same of small talk, ``[background tokens, dim]``.
        """
        hits = index.query(asking, _HITS)
        others = (asking @ background.T.to(asking)).cpu()
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
