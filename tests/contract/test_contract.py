"""Every built-in backend keeps the contract."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from memagent.agent.testing import BackendContract, tiny_model
from memagent.backends.protocol import LocalModel
from memagent.backends.rope_map.calibration import calibration_path
from tests.backends.context_bank.tiny import train_tiny_autoencoder
from tests.conftest import small_model

CALIBRATIONS = Path(__file__).parents[1] / "data" / "calibrations"
AUTOENCODERS = Path(__file__).parents[1] / "data" / "autoencoders"


class TestNone(BackendContract):
    backend = "none"
    recalls = False


class TestInMemory(BackendContract):
    backend = "in_memory"


class TestBm25(BackendContract):
    backend = "bm25"


class TestRag(BackendContract):
    backend = "rag"


class TestTitans(BackendContract):
    backend = "titans"


class TestMemo(BackendContract):
    backend = "memo"


class TestContextBank(BackendContract):
    backend = "context_bank"

    @pytest.fixture(scope="session")
    @classmethod
    def models_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a folder with an autoencoder for SmolLM2, made by ``benchmarks/fit_context_bank.py``, and one for the tiny model."""
        folder = tmp_path_factory.mktemp("models")
        shutil.copytree(AUTOENCODERS, folder / "derived")
        train_tiny_autoencoder(folder / "derived", tiny_model())
        return folder

    def recall_model(self) -> LocalModel:
        return small_model()


class TestRopeMap(BackendContract):
    backend = "rope_map"

    @pytest.fixture(scope="session")
    @classmethod
    def models_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a folder with the calibrations of SmolLM2, each of which takes most of a minute to make.

        The files' names are the fingerprints of what they depend on; one is for processors that compute in bfloat16, one for
        others. `memagent backends train rope_map --model smollm2-135m` makes a new one in the models' folder.
        """
        folder = tmp_path_factory.mktemp("models")
        shutil.copytree(CALIBRATIONS, folder / "derived")
        return folder

    def recall_model(self) -> LocalModel:
        return small_model()


def test_the_shipped_calibration_is_todays() -> None:
    assert calibration_path(CALIBRATIONS, small_model(), context=2).exists()
