"""Test backends and programs: the contract suite, a random language model, and models without weights.

Public as ``memagent.testing``. Needs pytest (``pip install 'memagent[test]'``).

    # test_mine.py
    from memagent.testing import BackendContract

    class TestMine(BackendContract):
        backend = "mine"
"""

from memagent.agent.models.embedding import HashingEmbedder
from memagent.agent.models.fakes import EchoModel, ScriptedModel
from memagent.agent.testing.contract import BackendContract, OpenMemory
from memagent.agent.testing.tiny_model import TinyModel, tiny_model

__all__ = [
    "BackendContract",
    "EchoModel",
    "HashingEmbedder",
    "OpenMemory",
    "ScriptedModel",
    "TinyModel",
    "tiny_model",
]
