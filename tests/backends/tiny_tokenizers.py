"""Tiny tokenizers of the kinds that models have, each with added tokens that are hard to keep out of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds

WORDS = ["the quick brown fox jumps over the lazy dog", "a <b> and a </b>, or |im| and [x]"] * 10
BEGIN, END, CALL = "<|im_start|>", "<|im_end|>", "<call>"
UNKNOWN, UNKNOWN_WORD = "<unk>", "[UNK]"
SENTENCE = {"unk_token": UNKNOWN, "bos_token": "<s>", "eos_token": "</s>"}


def byte_level() -> Any:
    """Like Qwen: special tokens, one that is not flagged so, some within others, one of a single letter."""
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    _train_bpe(made, pre_tokenizers.ByteLevel.alphabet())
    return _wrapped(made, [CALL, "<call", "call>", "|im", "\u20ac"])


def merging() -> Any:
    """Like Llama 2: SentencePiece's spaces, and merges of its own that make ``<s>`` and ``<unk>``."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<", "s", ">", "s>", "u", "n", "k", "un", "unk", "unk>", "\u2581", "|", "a", "b", "e", "x"]
    vocabulary = {piece: place for place, piece in enumerate(["<unk>", "<s>", "</s>", *bytes_, *pieces])}
    merges = [("s", ">"), ("<", "s>"), ("u", "n"), ("un", "k"), ("unk", ">"), ("<", "unk>")]
    made = Tokenizer(kinds.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(made, [CALL], **SENTENCE)


def unigram() -> Any:
    """Like Gemma and T5: control tokens in a Unigram vocabulary, letters normalised, a space before the first word."""
    pieces = ["\u2581", *"<>|/sancl_imetrodu.", "call", "\u2581the", "im_", "start"]
    vocabulary = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        *((piece, -float(len(pieces))) for piece in pieces),
    ]
    made = Tokenizer(kinds.Unigram(vocabulary, unk_id=0))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    call = AddedToken(CALL, normalized=True, lstrip=True, rstrip=True)
    return _wrapped(made, [call], **SENTENCE)


def whole_words() -> Any:
    """Like Llama 3: what stands in the vocabulary as a whole is taken without merges, markers too."""
    made = Tokenizer(kinds.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    made.decoder = decoders.Fuse()
    _train_bpe(made, sorted(set("".join(WORDS)) | set("<|im_startend|>\n")))
    return _wrapped(made, [CALL])


def word_pieces() -> Any:
    """Like BERT: letters lowered, an unknown token, brackets around the names."""
    names = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", BEGIN, END]
    letters = [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    pieces = [*names, "[", "]", "<", ">", "|", "_", *letters]
    made = Tokenizer(
        kinds.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token=UNKNOWN_WORD)
    )
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    marks = [AddedToken(name, special=True, normalized=False) for name in names[1:4]]
    return _wrapped(made, marks, unk_token=UNKNOWN_WORD)


def words() -> Any:
    """A vocabulary of whole words, in which the markers are words."""
    names = ["[UNK]", BEGIN, END, CALL, "user", "the", "quick", "fox", "<", "|"]
    made = Tokenizer(
        kinds.WordLevel({name: place for place, name in enumerate(names)}, unk_token=UNKNOWN_WORD)
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(made, [CALL], unk_token=UNKNOWN_WORD)


def indenting() -> Any:
    """Like GPT-NeoX and Phi: runs of spaces are added tokens that are ordinary text."""
    made = byte_level().backend_tokenizer
    made.add_tokens([AddedToken(" " * count, normalized=False) for count in range(2, 9)])
    return _wrapped(made, [AddedToken("\n\n", special=False)])


KINDS: dict[str, Callable[[], Any]] = {
    make.__name__: cache(make)
    for make in (byte_level, merging, unigram, whole_words, word_pieces, words, indenting)
}


def names_of(tokenizer: Any) -> list[str]:
    """Return the added tokens of a tokenizer that are not white space."""
    return [name for name in tokenizer.get_added_vocab() if name.strip()]


def _train_bpe(made: Any, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=[BEGIN, END], show_progress=False
    )
    made.train_from_iterator(WORDS, trainer)


def _wrapped(made: Any, added: Sequence[str | AddedToken], **names: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    wrapped = make(tokenizer_object=made, additional_special_tokens=[BEGIN, END], **names)
    wrapped.add_tokens(list(added))
    return wrapped
