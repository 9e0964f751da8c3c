"""Chat models that run in this process, through transformers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

from memagent.agent.models.chat import Message, Sampling
from memagent.agent.models.folder import check_complete, model_errors
from memagent.agent.models.prefill import PrefixReader
from memagent.agent.models.prefix_cache import PREFIX_SCOPE, count_shared
from memagent.agent.models.runtime import LOADING, best_device, best_dtype, torch, transformers
from memagent.backends.errors import ModelError
from memagent.backends.shared.tokens import TextTokenizer

_UNKNOWN_WINDOW = 4096
# All that str.splitlines takes for the end of a line, and U+001F beside the separators that are among them.
_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1f\x85\u2028\u2029]")
_QUOTED = "\n> "


class LocalChatModel:
    """A causal language model with its tokenizer, loaded and ready to generate.

    Args:
        source: a folder with safetensors, or a hub id.
        name: as after ``--model``.
        digest: identifies the weights.
        offline: use only what is on this machine; a hub model may be in the hub's own cache. False: missing files are fetched
            from the hub into that cache.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, source: str | Path, *, name: str, digest: str, offline: bool = True) -> None:
        self.name = name
        self.digest = digest
        self.device = best_device()
        hint = "The hub does not answer, so it was looked for on this machine only."
        hint = hint if offline and isinstance(source, str) else ""
        with LOADING, model_errors(f"The model {name} cannot be loaded", hint):
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                source, local_files_only=offline, trust_remote_code=False
            )
            self.tokenizer("A trial: some odd settings are only met when a text is read.")
            self._text_tokenizer = TextTokenizer(self.tokenizer)
            self.model: Any
            self.model, report = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                dtype=best_dtype(self.device),
                local_files_only=offline,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that the report names them
            )
            check_complete(report, f"The model {name}")
            self.model.to(self.device).eval()
        self.window = self._window()
        self.prefix_reader = PrefixReader(self.model)

    def _window(self) -> int:
        """Return the window that the model's config names; ModelError if it names none that can be."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or _UNKNOWN_WINDOW
        if not isinstance(positions, int) or positions < 1:
            raise ModelError(f"The model {self.name} is damaged: its config has {positions!r:.80} positions.")
        return positions

    def count(self, messages: Sequence[Message]) -> int:
        """Return the length of the prompt these messages make, in tokens."""
        return len(self._encode(messages))

    def count_text(self, text: str) -> int:
        """Return the length of a bare text in tokens."""
        return len(self._text_tokenizer.encode(text))

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the reply as chunks of whole words. Closing the iterator ends the generation within a token.

        What stands before the last message is read first, without the memory that may be attached in this context. Where
        ``PREFIX_SCOPE`` is set, it is kept, and what was kept is not read again.

        Args:
            messages: the prompt, oldest first.
            sampling: how tokens are sampled.

        Raises:
            ModelError: generation failed (out of memory, for instance).
        """
        prompt = self._encode(messages)
        ids = torch.tensor([prompt], device=self.device)
        prefix, scope = prompt[: self._prefix_length(messages, prompt)], PREFIX_SCOPE.get()
        streamer = transformers.TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        stop = threading.Event()
        failures: list[BaseException] = []

        def generate() -> None:
            try:
                with torch.inference_mode(), torch.random.fork_rng():
                    torch.manual_seed(sampling.seed)
                    # Memory acts in the context that it was attached in, so not in an empty one.
                    cache = Context().run(self.prefix_reader.read, prefix, scope)
                    self.model.generate(
                        input_ids=ids,
                        **cache,
                        attention_mask=torch.ones_like(ids),
                        streamer=streamer,
                        stopping_criteria=[
                            lambda ids, scores: torch.full((1,), stop.is_set(), device=self.device)
                        ],
                        generation_config=self._generation(sampling),
                    )
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                failures.append(error)
                streamer.end()

        # The thread works in the caller's context, where a memory may be attached to the model.
        worker = threading.Thread(
            target=copy_context().run, args=(generate,), name="memagent-generate", daemon=True
        )
        worker.start()
        try:
            yield from (text for text in streamer if text)
        finally:
            stop.set()
            worker.join()
        if failures:
            raise ModelError(f"{self.name} could not answer: {failures[0]}") from failures[0]

    def _generation(self, sampling: Sampling) -> Any:
        """Return the sampling and the end tokens as transformers takes them."""
        ends = self.model.generation_config.eos_token_id
        return transformers.GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            do_sample=sampling.temperature > 0,
            temperature=sampling.temperature or None,
            eos_token_id=ends if ends is not None else self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )

    def _prefix_length(self, messages: Sequence[Message], prompt: Sequence[int]) -> int:
        """Return how many tokens of a prompt stand before its last message, and are the same whatever that message says."""
        try:
            other = self._encode([*messages[:-1], Message(messages[-1].role, "")])
        except ModelError:  # the template refuses an empty message
            return 0
        return min(count_shared(prompt, other), len(prompt) - 1)

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        """Write the messages in the model's own chat format; control tokens in their contents are text."""
        joined = _merge_neighbours(messages)
        roles = [message.role for message in joined]
        contents = [message.content for message in joined]
        if not self.tokenizer.chat_template:
            return self._text_tokenizer.encode(_plain_prompt(joined))
        return self._text_tokenizer.encode_prompt(lambda texts: self._render(roles, texts), contents)

    def _render(self, roles: Sequence[str], contents: Sequence[str]) -> str:
        """Apply the model's chat template, which is a program of the model's authors, in transformers' sandbox.

        Where a template refuses the system role, the system prompt becomes the beginning of the first message.

        Raises:
            ModelError: the template fails.
        """
        from jinja2 import TemplateError

        rows = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            try:
                return self._apply(rows)
            except TemplateError:  # some templates know no system role
                if rows[0]["role"] != "system" or len(rows) == 1:
                    raise
                system, first, *rest = rows
                merged = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
                return self._apply([merged, *rest])
        except Exception as error:  # a template is a program and may fail in any way
            raise ModelError(f"The chat template of {self.name} cannot be applied: {error}") from error

    def _apply(self, rows: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        return text


def _merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """Join neighbours of one role (a question that got no answer, say): many templates refuse them."""
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return joined


def _plain_prompt(messages: Sequence[Message]) -> str:
    """Write messages for a model without a chat template: a line begins with a role only where a message begins.

    Every further line of a message is quoted with ``>``, whichever character breaks the line.
    """
    lines = (f"{message.role.title()}: {_LINE_BREAK.sub(_QUOTED, message.content)}" for message in messages)
    return "\n".join([*lines, "Assistant:"])
