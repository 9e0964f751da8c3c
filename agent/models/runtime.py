"""torch and transformers, configured on import: no progress bars, no telemetry, idle threads that sleep."""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from typing import Any

# Idle OpenMP threads otherwise spin, and with another busy process on the machine every token then
# takes ten times as long (measured: 1.1 s a token against 0.17 s, two threads on two cores).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")

import torch

transformers: Any = import_module("transformers")  # its annotations stop half-way

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

__all__ = ["LOADING", "best_device", "best_dtype", "torch", "transformers"]

LOADING = threading.RLock()
"""Held while transformers builds a model from files. Meanwhile it replaces torch's default type and methods of its own classes for
all threads; of two loadings at once, the second would put back what the first had replaced, for good."""


def best_device() -> str:
    """Return the torch device a model runs best on: a GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> torch.dtype:
    """Return bfloat16 where the device computes in it, else float32."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device == "cpu":
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"):
            if getattr(torch.cpu, probe, bool)():
                return torch.bfloat16
        return torch.float32
    return torch.bfloat16
