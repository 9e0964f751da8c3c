"""memagent with a chat model that replies for half a minute, for tests that interrupt a reply."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from unittest.mock import patch

from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.fakes import EchoModel
from memagent.cli.chat import chat
from memagent.cli.main import main


class SlowModel(EchoModel):
    """A model that needs a tenth of a second for each word."""

    name = "slow"

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield 300 words."""
        for number in range(300):
            yield f"word{number} "
            time.sleep(0.1)


if __name__ == "__main__":
    with patch.object(chat, "load_model", lambda name, frontend=None: SlowModel()):
        main()
