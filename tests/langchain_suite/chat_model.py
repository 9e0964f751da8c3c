"""LangChain's tests of chat models, on a language model with random weights that runs as any local model does.

What the model cannot do is said by the suite's own flags: it calls no tools, so there is no structured output either, and
it reads text only.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memagent.agent.models.local import LocalChatModel
from memagent.agent.testing import tiny_model
from memagent.langchain import ChatMemagent


@cache
def local_model() -> LocalChatModel:
    with TemporaryDirectory() as folder:
        tiny_model().model.save_pretrained(folder)
        tiny_model().tokenizer.save_pretrained(folder)
        return LocalChatModel(Path(folder), name="tiny", digest="tiny")


class OnTinyModel:
    """What both suites test."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemagent

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": local_model()}


class TestUnit(OnTinyModel, ChatModelUnitTests):
    pass


class TestIntegration(OnTinyModel, ChatModelIntegrationTests):
    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "echo"
