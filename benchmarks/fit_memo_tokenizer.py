"""Train the tokenizer of the backend `memo`: a byte-level BPE of 16,000 merges, without normalisation or control tokens.

    python benchmarks/fit_memo_tokenizer.py wikitext2/valid.txt wikitext2/test.txt

Reads plain text, writes backends/memo/tokenizer.json, and takes some seconds. States of the memory are rebuilt afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from memagent.backends.memo.tokenizer import FILE

MERGES = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, nargs="+")
    arguments = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + MERGES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    # WikiText writes " @-@ " for a hyphen and puts blanks around punctuation, which nobody types.
    lines = (
        line.replace(" @-@ ", "-")
        .replace(" @,@ ", ",")
        .replace(" @.@ ", ".")
        .replace(" ,", ",")
        .replace(" .", ".")
        for path in arguments.texts
        for line in path.read_text(encoding="utf-8").splitlines()
    )
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.save(str(FILE), pretty=False)
    print(f"{tokenizer.get_vocab_size()} tokens, {FILE.stat().st_size / 1e6:.2f} MB: {FILE}")


if __name__ == "__main__":
    main()
