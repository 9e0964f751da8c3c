"""Evaluate MeMo with lm-evaluation-harness: one task of multiple choice, one of memorisation, before and after reading.

    pip install 'lm-eval==0.4.13'
    python examples/memo/memo_lm_eval.py --output json

Run it from the root of the repository, which the task files in `examples/memo/tasks` name their data from. Nothing is downloaded:
the tokenizer is made here, one token for each byte.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before lm_eval imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval  # type: ignore[import-not-found,unused-ignore]
from lm_eval.models.huggingface import HFLM  # type: ignore[import-not-found,unused-ignore]
from lm_eval.tasks import TaskManager  # type: ignore[import-not-found,unused-ignore]
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from memagent.backends.neural.memo import MeMoConfig, MeMoForCausalLM

TASKS = Path(__file__).parent / "tasks"
METRICS = {"memo_choice": "acc,none", "memo_recite": "exact_match,none"}
END = "<end>"


def byte_tokenizer() -> Any:
    """Return a tokenizer of 256 bytes and a token that ends a text."""
    vocabulary = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def facts() -> list[str]:
    """Return the sentences that the tasks ask for."""
    lines = (TASKS / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    return [f"{fact['prompt']} {fact['answer']}." for fact in map(json.loads, lines)]


def evaluate(model: Any, tokenizer: Any) -> dict[str, float]:
    """Return the metric of each task."""
    results: Any = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        tasks=list(METRICS),
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    return {task: results["results"][task][metric] for task, metric in METRICS.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    tokenizer = byte_tokenizer()
    model = MeMoForCausalLM(
        MeMoConfig(vocab_size=len(tokenizer), num_hidden_layers=3, eos_token_id=tokenizer.eos_token_id)
    )
    texts = [tokenizer(sentence + END)["input_ids"] for sentence in facts()]
    metrics = {"empty": evaluate(model, tokenizer)}
    metrics["memorised"] = evaluate(model.memorise(texts), tokenizer)
    metrics["half forgotten"] = evaluate(model.forget(texts[::2]), tokenizer)
    if options.output == "json":
        print(json.dumps(metrics, indent=2))
    else:
        for state, values in metrics.items():
            print(f"{state}: " + ", ".join(f"{task} {value:.3f}" for task, value in values.items()))


if __name__ == "__main__":
    main()
