"""Training the latent autoencoder: the evidence lower bound, from the closed-form start.

The loss of a text is the negative log-likelihood of both halves under Gaussians, plus ``kl_weight`` times the divergence of the
posterior from N(0, 1), raised from 0 in the first part of the training (KL warm-up, Sonderby et al. 2016), plus the cross-entropy of
its tokens, plus the squared error of the cosines between the keys of texts, which are to be those between the sentence embedder's
centred vectors (relational distillation, Park et al. 2019).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from memagent.backends.neural.context_bank.autoencoder import LatentAutoencoder
from memagent.backends.neural.context_bank.closed_form import TrainingTexts

_LOGGER = logging.getLogger("memagent")
_CANDIDATES = 4096
"""Wrong tokens, drawn from the vocabulary, in the cross-entropy of each token, beside those of the batch."""
_VARIANCE_RATE = 300.0
"""Their gradients are small, and they begin far from where they end."""
_TEMPERATURE = 0.1
"""Of squared distances between codes, whose components have variance 1."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast the autoencoder is trained.

    Attributes:
        steps: Gradient steps.
        texts: Texts in a step.
        learning_rate: Of AdamW at its highest; it falls to 0 as a cosine. Variances learn faster, by ``_VARIANCE_RATE``.
        kl_weight: Weight of the divergence after the warm-up; 1 is the evidence lower bound.
        warm_up: Share of the steps in which the weight of the divergence rises.
        seed: Of texts, noise and candidates.
    """

    steps: int = 800
    texts: int = 48
    learning_rate: float = 3e-5
    kl_weight: float = 1.0
    warm_up: float = 0.3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of a step's loss, in nats per element or token; lower is better.

    Attributes:
        first: negative log-likelihood of the embeddings.
        last: the same of the last hidden states.
        tokens: cross-entropy of the tokens.
        key: squared error of the cosines between texts, 0 to 4.
        divergence: of posterior and prior, per element of the reconstruction.
        kl_weight: its weight in this step.
    """

    first: float
    last: float
    tokens: float
    key: float
    divergence: float
    kl_weight: float


class Training(nn.Module):
    """A training run, which continues from its file after an interruption.

    Args:
        autoencoder: Where it starts; trained in place.
        texts: What it is trained on.
        table: The embedding table.
        settings: How long and how fast.

    Attributes:
        history: The losses of all steps, also of those before an interruption.
    """

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        texts: TrainingTexts,
        table: Tensor,
        settings: TrainingSettings,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.log_noise = nn.Parameter(torch.full((2,), -0.5))
        self.settings = settings
        self.history: list[Losses] = []
        self._texts, self._table = texts, table
        self._targets = functional.normalize(texts.targets - texts.targets.mean(0), dim=1)
        self._starts = torch.tensor([0, *texts.lengths]).cumsum(0).tolist()
        variances = [autoencoder.log_variance, self.log_noise]
        others = [
            parameter for parameter in autoencoder.parameters() if parameter is not autoencoder.log_variance
        ]
        self._optimizer = torch.optim.AdamW(
            [{"params": others, "factor": 1.0}, {"params": variances, "factor": _VARIANCE_RATE}],
            weight_decay=0.0,
        )

    def steps(self, path: Path, *, save_every: int = 50) -> Iterator[Losses]:
        """Take the remaining steps and yield the losses of each.

        Every ``save_every`` steps, write weights, optimizer state and losses to ``path``, which is replaced.
        """
        while self.step < self.settings.steps:
            self.history.append(self._take_step())
            if self.step % save_every == 0:
                self._store(path)
            yield self.history[-1]

    @property
    def step(self) -> int:
        """The number of steps that were taken."""
        return len(self.history)

    def _take_step(self) -> Losses:
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        chosen = torch.randint(len(self._texts.lengths), (settings.texts,), generator=generator).tolist()
        weight = settings.kl_weight * min(1.0, self.step / max(1.0, settings.warm_up * settings.steps))
        rate = (
            settings.learning_rate
            * 0.5
            * (1 + torch.cos(torch.tensor(torch.pi * self.step / settings.steps)))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = float(rate) * group["factor"]
        parts = self._losses(chosen, generator)
        loss = parts["first"] + parts["last"] + parts["tokens"] + parts["key"] + weight * parts["divergence"]
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self._optimizer.step()
        return Losses(**{name: part.item() for name, part in parts.items()}, kl_weight=weight)

    def _losses(self, chosen: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        autoencoder, size = self.autoencoder, self.autoencoder.config.hidden_size
        rows = [slice(self._starts[place], self._starts[place + 1]) for place in chosen]
        ids = [self._texts.ids[row] for row in rows]
        tokens = [
            autoencoder.standardise(self._table[own].float(), self._texts.last[row].float())
            for own, row in zip(ids, rows, strict=True)
        ]
        blocks = [autoencoder.blocks(text) for text in tokens]
        means = autoencoder.encode_blocks(torch.cat(blocks))
        noise = torch.randn(means.shape, generator=generator)
        decoded = autoencoder.decode(means + noise * (0.5 * autoencoder.log_variance).exp())
        counts = [len(block) for block in blocks]
        kept = torch.cat(
            [
                (torch.arange(count * autoencoder.config.ratio) < len(text))
                for count, text in zip(counts, tokens, strict=True)
            ]
        )
        target = torch.cat(tokens)
        first, last, codes = (
            part.flatten(0, 1)[kept] for part in (decoded.first, decoded.last, decoded.codes)
        )
        keys = torch.stack(
            [part.sum(0) for part in torch.split(means[:, : autoencoder.config.key_size], counts)]
        )
        variance = autoencoder.log_variance.exp()
        divergence = 0.5 * (means.square() + variance - 1 - autoencoder.log_variance).sum() / target.numel()
        return {
            "first": self._likelihood(first, target[:, :size], 0),
            "last": self._likelihood(last, target[:, size:], 1),
            "tokens": self._cross_entropy(codes, torch.cat(ids), generator),
            "key": (_cosines(keys) - _cosines(self._targets[chosen])).square().mean(),
            "divergence": divergence,
        }

    def _likelihood(self, decoded: Tensor, target: Tensor, half: int) -> Tensor:
        log_noise = self.log_noise[half]
        return 0.25 * ((decoded - target).square().mean() * (-2 * log_noise).exp() + 2 * log_noise)

    def _cross_entropy(self, codes: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(len(self._table), (_CANDIDATES,), generator=generator)
        candidates, places = torch.unique(torch.cat([ids, drawn]), return_inverse=True)
        table = self.autoencoder.table_codes(self._table[candidates])
        return functional.cross_entropy(
            -torch.cdist(codes, table).square() / _TEMPERATURE, places[: len(ids)]
        )

    def _store(self, path: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.state_dict().items()}
        for place, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
        history = json.dumps([astuple(losses) for losses in self.history])
        temporary = path.with_suffix(".new")
        save_file(tensors, temporary, metadata={"run": self._digest, "history": history})
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a file that ``steps`` wrote; start if it is missing, damaged, or of another run, which is logged."""
        if not path.exists():
            return
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                metadata = file.metadata()
            if metadata["run"] != self._digest:
                raise ValueError("it is of other texts or settings")
            history = [Losses(*losses) for losses in json.loads(metadata["history"])]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            _LOGGER.warning("%s is not continued: %s. Training starts from the beginning.", path.name, error)
            return
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, place, key = name.split(".")
                states.setdefault(int(place), {})[key] = tensor
        model = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        self.load_state_dict({name.removeprefix("model."): tensor for name, tensor in model.items()})
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": states})
        self.history = history

    @property
    def _digest(self) -> str:
        """What the run depends on, so that no other one is continued."""
        content = hashlib.sha256(repr((self.settings, self.autoencoder.config)).encode())
        for tensor in (self._texts.ids, self._texts.last, self._targets):
            content.update(tensor.contiguous().numpy().tobytes())
        return content.hexdigest()


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosines between rows ``[n, dim]``: ``[n, n]``."""
    unit = functional.normalize(rows, dim=1)
    return unit @ unit.T
