"""The contract suite and models without weights, for tests of backends and programs; see ``memagent.agent.testing``."""

from memagent.agent.testing import (
    BackendContract,
    EchoModel,
    HashingEmbedder,
    OpenMemory,
    ScriptedModel,
    TinyModel,
    tiny_model,
)

__all__ = [
    "BackendContract",
    "EchoModel",
    "HashingEmbedder",
    "OpenMemory",
    "ScriptedModel",
    "TinyModel",
    "tiny_model",
]
