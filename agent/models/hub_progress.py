"""The progress of a download from the Hugging Face hub, reported as every other download is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def progress_class(report: Callable[[int, int, str], None], total: int, label: str) -> type[Any]:
    """Return a progress bar, for the argument ``tqdm_class`` of the hub's client, that prints nothing itself.

    Args:
        report: called as ``report(bytes done, total, label)``; what it raises ends the download.
        total: bytes of the file.
        label: of the download.
    """
    from huggingface_hub.utils.tqdm import tqdm

    class ReportingProgress(tqdm):
        """Hands the bytes that have come to ``report``."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            self.bytes_done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            """Take note of ``n`` further bytes."""
            self.bytes_done += int(n or 0)
            report(min(self.bytes_done, total), total, label)
            return None

    return ReportingProgress
