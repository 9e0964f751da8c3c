"""The latent autoencoder: what it keeps, its file, and a training that is interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder, nearest_tokens
from memagent.backends.neural.context_bank.closed_form import (
    TrainingTexts,
    fit_closed_form,
)
from memagent.backends.neural.context_bank.config import LatentConfig
from memagent.backends.neural.context_bank.quality import measure, rounded
from memagent.backends.neural.context_bank.training import Losses, Training, TrainingSettings
from memagent.backends.neural.context_bank.weights import WeightsError, card_of, load, save

HIDDEN, VOCABULARY = 96, 500


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    return torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts(table: torch.Tensor) -> TrainingTexts:
    """Texts whose last states are a fixed map of their embeddings, with noise."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 14, (150,), generator=generator).tolist()
    ids = torch.randint(VOCABULARY, (sum(lengths),), generator=generator)
    mixing = torch.randn(HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5
    last = table[ids] @ mixing + 0.1 * torch.randn(len(ids), HIDDEN, generator=generator)
    means = torch.stack([part.mean(0) for part in torch.split(table[ids], lengths)])
    targets = torch.nn.functional.normalize(means @ torch.randn(HIDDEN, 24, generator=generator), dim=1)
    return TrainingTexts(ids, last, lengths, targets)


@pytest.fixture(scope="module")
def autoencoder(texts: TrainingTexts, table: torch.Tensor) -> LatentAutoencoder:
    config = LatentConfig(HIDDEN, ratio=4, key_size=24, token_size=10)
    fitted = fit_closed_form(config, texts, table, torch.Generator().manual_seed(0))
    return fitted.requires_grad_(False)


def test_tokens_come_back_from_rounded_latents(
    autoencoder: LatentAutoencoder, texts: TrainingTexts, table: torch.Tensor
) -> None:
    quality = measure(autoencoder, texts.ids, texts.last, texts.lengths, table)
    assert quality.token_accuracy > 0.99
    assert quality.cosine_first > 0.3
    assert quality.cosine_last > 0.3


def test_one_latent_holds_ratio_tokens(autoencoder: LatentAutoencoder, table: torch.Tensor) -> None:
    for tokens in (1, 3, 4, 5, 8, 9):
        rows = table[:tokens]
        assert autoencoder.encode(rows, rows).shape == (-(-tokens // 4), HIDDEN)


def test_the_keys_of_blocks_add_up_to_the_key_of_the_text(
    autoencoder: LatentAutoencoder, texts: TrainingTexts, table: torch.Tensor
) -> None:
    """So merging vectors by their weighted mean keeps the key of a text."""
    rows, states = table[texts.ids[:8]], texts.last[:8]
    together = autoencoder.encode(rows, states)[:, :24].sum(0)
    apart = (
        autoencoder.encode(rows[:4], states[:4])[:, :24] + autoencoder.encode(rows[4:], states[4:])[:, :24]
    )
    assert torch.allclose(together, apart.sum(0), atol=1e-4)


def test_the_key_imitates_the_embedder(
    autoencoder: LatentAutoencoder, texts: TrainingTexts, table: torch.Tensor
) -> None:
    tokens = autoencoder.standardise(table[texts.ids], texts.last)
    keys = torch.stack(
        [
            autoencoder.encode_blocks(autoencoder.blocks(text))[:, :24].sum(0) / len(text)
            for text in torch.split(tokens, texts.lengths)
        ]
    )
    own = torch.nn.functional.normalize(keys, dim=1)
    target = torch.nn.functional.normalize(texts.targets - texts.targets.mean(0), dim=1)
    pairs = torch.corrcoef(torch.stack([(own @ own.T).flatten(), (target @ target.T).flatten()]))
    assert pairs[0, 1] > 0.8


def test_places_after_the_last_token_have_no_code(
    autoencoder: LatentAutoencoder, table: torch.Tensor
) -> None:
    latents = autoencoder.encode(table[:2], table[:2])
    codes = latents[:, 24:64].view(4, 10)
    assert codes[:2].square().sum(1).min() > 1
    assert codes[2:].abs().max() < 1e-5


def test_nearest_tokens_finds_each_code(autoencoder: LatentAutoencoder, table: torch.Tensor) -> None:
    codes = autoencoder.table_codes(table)
    ids, distances = nearest_tokens(codes[:300] + 0.01, codes)
    assert torch.equal(ids, torch.arange(300))
    assert distances.max() < 0.01


def test_the_file_is_small_and_gives_nearly_the_same(
    autoencoder: LatentAutoencoder, texts: TrainingTexts, table: torch.Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "weights.safetensors"
    save(autoencoder, file, {"seed": 3})
    loaded = load(file)
    assert card_of(file) == {"seed": 3}
    assert file.stat().st_size < 0.4 * sum(4 * tensor.numel() for tensor in autoencoder.state_dict().values())
    before = autoencoder.encode(table[:8], texts.last[:8])
    after = loaded.encode(table[:8], texts.last[:8])
    assert torch.nn.functional.cosine_similarity(before, after).min() > 0.999
    assert measure(loaded, texts.ids, texts.last, texts.lengths, table).token_accuracy > 0.98


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "bytes"])
def test_a_damaged_file_is_refused(autoencoder: LatentAutoencoder, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "weights.safetensors"
    save(autoencoder, file, {})
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "other": b"{}" * 40,
            "bytes": content.replace(b'"ratio', b'"ratix'),
        }[damage].replace(b'\\"ratio', b'\\"ratix')
    )
    with pytest.raises(WeightsError):
        load(file)


def test_rounding_is_within_half_a_step() -> None:
    latents = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    steps = latents.abs().amax(dim=1, keepdim=True) / 127
    assert ((rounded(latents) - latents).abs() <= steps * 0.51).all()


@pytest.mark.parametrize("ratio", [4, 8, 16, 32, 100])
def test_sizes_fit_the_models(ratio: int) -> None:
    for hidden in (576, 896, 1536, 2048):
        config = LatentConfig.of(hidden, ratio)
        assert config.key_size + ratio * config.token_size + config.state_size == hidden


def test_a_latent_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        LatentConfig.of(64, 100)


class TestTraining:
    """From the closed form, by gradient steps, continued after an interruption."""

    SETTINGS = TrainingSettings(steps=12, texts=8, learning_rate=1e-4, warm_up=0.5)

    def start(self, texts: TrainingTexts, table: torch.Tensor) -> Training:
        config = LatentConfig(HIDDEN, ratio=4, key_size=24, token_size=10)
        fitted = fit_closed_form(config, texts, table, torch.Generator().manual_seed(0))
        return Training(fitted, texts, table, self.SETTINGS)

    def test_the_divergence_counts_after_a_warm_up(
        self, texts: TrainingTexts, table: torch.Tensor, tmp_path: Path
    ) -> None:
        losses = list(self.start(texts, table).steps(tmp_path / "steps"))
        weights = [loss.kl_weight for loss in losses]
        assert weights[0] == 0.0
        assert weights[6:] == [1.0] * 6
        assert weights == sorted(weights)

    def test_an_interrupted_training_ends_in_the_same_weights(
        self, texts: TrainingTexts, table: torch.Tensor, tmp_path: Path
    ) -> None:
        whole = self.start(texts, table)
        uninterrupted = list(whole.steps(tmp_path / "whole", save_every=100))
        first = self.start(texts, table)
        steps = first.steps(tmp_path / "part", save_every=5)
        before: list[Losses] = [next(steps) for _ in range(7)]
        second = self.start(texts, table)
        second.resume(tmp_path / "part")
        assert second.step == 5
        after = list(second.steps(tmp_path / "part", save_every=5))
        assert before[:5] + after == uninterrupted == second.history
        for name, tensor in whole.autoencoder.state_dict().items():
            assert torch.equal(tensor, second.autoencoder.state_dict()[name]), name

    @pytest.mark.parametrize("fault", ["damaged", "other settings"])
    def test_a_file_that_does_not_fit_is_no_start(
        self,
        texts: TrainingTexts,
        table: torch.Tensor,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        fault: str,
    ) -> None:
        """Nothing of it is taken over, and the log says so."""
        file = tmp_path / "steps"
        other = self.start(texts, table)
        if fault == "other settings":
            other.settings = replace(self.SETTINGS, kl_weight=0.5)
        list(other.steps(file, save_every=4))
        if fault == "damaged":
            file.write_bytes(file.read_bytes()[:-100])
        training, fresh = self.start(texts, table), self.start(texts, table)
        training.resume(file)
        assert training.step == 0
        assert "starts from the beginning" in caplog.text
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(tensor, training.state_dict()[name]), name

    def test_training_lowers_the_loss(
        self, texts: TrainingTexts, table: torch.Tensor, tmp_path: Path
    ) -> None:
        training = self.start(texts, table)
        training.settings = TrainingSettings(steps=60, texts=32, learning_rate=1e-3, kl_weight=0.01)
        losses = list(training.steps(tmp_path / "steps"))
        first, last = losses[:10], losses[-10:]
        assert sum(loss.last for loss in last) < sum(loss.last for loss in first)
