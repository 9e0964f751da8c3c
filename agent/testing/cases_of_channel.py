"""Cases of the contract for backends with a model channel: what they do inside a model ends when it should."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from memagent.agent.testing.cases_of_contract import backend_of, tell
from memagent.agent.testing.cases_of_recall import QUESTION
from memagent.agent.testing.tiny_model import tiny_model
from memagent.backends import registry
from memagent.backends.protocol import ModelMemory

if TYPE_CHECKING:
    from memagent.agent.testing.contract import OpenMemory

_PROMPT = tuple(range(5, 17))


def logits(model: Any) -> Any:
    """Return the logits ``[tokens, vocabulary]`` of a fixed prompt."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([_PROMPT]), use_cache=False).logits[0]


class ChannelCases:
    """Attached, a memory changes what the model computes in its own context; afterwards nothing of it is left."""

    backend: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]

    @pytest.fixture
    def channel(self, open_memory: OpenMemory) -> ModelMemory:
        """The backend after it has read a few turns, without abstention where it has any."""
        kind = registry.get(self.backend)
        if not kind.model_channel:
            pytest.skip("it has no model channel")
        settings = dict(self.settings)
        if hasattr(kind.Config(), "abstain"):
            settings["abstain"] = "false"
        memory = open_memory(settings=settings)
        tell(memory, 5)
        return cast(ModelMemory, backend_of(memory))

    def test_changes_the_model_while_it_is_attached(self, channel: ModelMemory) -> None:
        import torch

        local = tiny_model()
        before = logits(local.model)
        with channel.attached(local, QUESTION) as injection:
            during = logits(local.model)
        assert injection.seqs >= {seq for hit in injection.hits for seq in hit.seqs}
        assert torch.equal(before, during) == (not injection.seqs)
        assert torch.equal(before, logits(local.model))

    def test_nothing_is_left_after_an_exception(self, channel: ModelMemory) -> None:
        import torch

        local = tiny_model()
        before = logits(local.model)
        with pytest.raises(ZeroDivisionError), channel.attached(local, QUESTION):
            raise ZeroDivisionError
        assert torch.equal(before, logits(local.model))

    def test_what_is_excluded_is_not_attended(self, channel: ModelMemory) -> None:
        import torch

        local = tiny_model()
        with channel.attached(local, QUESTION, exclude=range(1, 100)) as injection:
            assert (injection.hits, injection.seqs) == ([], frozenset())
            during = logits(local.model)
        assert torch.equal(during, logits(local.model))

    def test_other_contexts_do_not_see_it(self, channel: ModelMemory) -> None:
        import torch

        local = tiny_model()
        before = logits(local.model)
        outside = copy_context()
        seen: list[Any] = []
        with channel.attached(local, QUESTION):
            other = Thread(target=lambda: seen.append(logits(local.model)))
            other.start()
            other.join()
            seen.append(outside.run(logits, local.model))
        assert all(torch.equal(before, one) for one in seen)
