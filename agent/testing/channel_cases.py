"""Contract cases of the model channel: a memory changes a model only while it is attached, and in its own context."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from memagent.agent.testing.flag_cases import add_turns, backend_of
from memagent.agent.testing.recall_cases import QUESTION
from memagent.agent.testing.tiny_model import tiny_model
from memagent.backends import registry
from memagent.backends.protocol import ModelMemory

if TYPE_CHECKING:
    from memagent.agent.testing.contract import OpenMemory

_PROMPT = tuple(range(5, 17))


def logits(model: Any) -> Any:
    """Return the logits ``[tokens, vocabulary]`` of a fixed prompt.

    Args:
        model: a transformers model.
    """
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([_PROMPT]), use_cache=False).logits[0]


class ChannelCases:
    """A memory changes the model's logits while it is attached, in its own context; afterwards the model is unchanged."""

    backend: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]

    @pytest.fixture
    def channel(self, open_memory: OpenMemory) -> ModelMemory:
        """The backend after it has read a few turns; a backend that abstains does not here."""
        kind = registry.get(self.backend)
        if not kind.model_channel:
            pytest.skip("it has no model channel")
        settings = dict(self.settings)
        if hasattr(kind.Config(), "abstain"):
            settings["abstain"] = "false"
        memory = open_memory(settings=settings)
        add_turns(memory, 5)
        return cast(ModelMemory, backend_of(memory))

    def test_changes_the_model_while_it_is_attached(self, channel: ModelMemory) -> None:
        """The logits differ while turns are attached, and only then."""
        import torch

        local = tiny_model()
        before = logits(local.model)
        with channel.attached(local, QUESTION) as injection:
            during = logits(local.model)
        assert injection.seqs >= {seq for hit in injection.hits for seq in hit.seqs}
        assert torch.equal(before, during) == (not injection.seqs)
        assert torch.equal(before, logits(local.model))

    def test_an_exception_restores_the_model(self, channel: ModelMemory) -> None:
        """After an exception, the model computes what it computed before."""
        import torch

        local = tiny_model()
        before = logits(local.model)
        with pytest.raises(ZeroDivisionError), channel.attached(local, QUESTION):
            raise ZeroDivisionError
        assert torch.equal(before, logits(local.model))

    def test_excluded_turns_do_not_change_the_model(self, channel: ModelMemory) -> None:
        """Excluded turns are not attached and do not change the logits."""
        import torch

        local = tiny_model()
        with channel.attached(local, QUESTION, exclude=range(1, 100)) as injection:
            assert (injection.hits, injection.seqs) == ([], frozenset())
            during = logits(local.model)
        assert torch.equal(during, logits(local.model))

    def test_other_contexts_do_not_see_it(self, channel: ModelMemory) -> None:
        """Forward passes of other threads and contexts do not use the memory."""
        import torch

        local = tiny_model()
        before = logits(local.model)
        outside = copy_context()
        logits_elsewhere: list[Any] = []
        with channel.attached(local, QUESTION):
            other = Thread(target=lambda: logits_elsewhere.append(logits(local.model)))
            other.start()
            other.join()
            logits_elsewhere.append(outside.run(logits, local.model))
        assert all(torch.equal(before, after) for after in logits_elsewhere)
