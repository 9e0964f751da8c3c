"""Names, docstrings and messages use the field's words: each coined word of the list has a better one beside it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("agent", "backends", "cli", "kernels")

COINED = {
    "alike": "similar",
    "choosing": "head selection",
    "heard": "encoded dialogue",
    "lift": "pmi",
    "lifts": "pmi",
    "likeness": "value similarity",
    "manieth": "mean reciprocal rank",
    "offered": "keys",
    "openers": "first words",
    "piece": "chunk",
    "pieces": "chunks",
    "recital": "associative memory",
    "recite": "decode, by beam search",
    "recited": "decoded",
    "recites": "decodes",
    "reciting": "decoding",
    "reread": "rerank",
    "rereading": "query-likelihood reranking",
    "watched": "attention hook",
    "watcher": "attention hook",
    "watching": "attention hook",
}
"""Words that stand nowhere."""

COINED_NAMES = {
    "asked": "queries",
    "asking": "queries",
    "attended": "injected keys and values",
    "copies": "key expansion",
    "credit": "neighbour_credit",
    "found": "what it is: matches, encoding, ids",
    "gains": "rerank_bonus",
    "gone": "forgotten_ids",
    "least": "min_pmi, threshold",
    "letters": "normalized_text",
    "longest": "max_..., with its unit: max_tokens, MAX_LINE_BYTES",
    "match": "score, or what a regular expression has read: amount, name",
    "owners": "segment_ids",
    "passage": "chunk",
    "passages": "chunks",
    "reach": "max_bonus",
    "said": "turn_texts, message",
    "span": "chunk; TokenSpan for tokens that an encoder reads",
    "spans": "chunks; TokenSpan for tokens that an encoder reads",
    "told": "remaining, message",
    "writer": "TurnTokenizer",
    "written": "write statistics; num_... for a number",
}
"""Words that are plain English in prose, but as part of a name say too little. ``one`` is a number before a noun."""

STANDARD = re.compile(r"not found|(?<=neighbour )credit|credit(?= neighbours)|token span")
"""Terms that contain such a word and are the field's own, or the better word itself."""

SPAN_PACKAGE = "memagent.backends.shared.attention"
"""The package of TokenSpan: the modules in it, and those that import from it, may call one a span."""

MESSAGE_FUNCTIONS = {"debug", "error", "info", "notify", "say", "warn", "warning", "write"}


def words_of(name: str) -> str:
    """Split snake_case and CamelCase into lower-case words with single spaces between."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)).lower()


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield node.lineno, name


def prose_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield docstrings, those of attributes included, and the texts of errors and messages."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case ast.Raise(exc=ast.expr() as message):
                yield from texts_in(message)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in MESSAGE_FUNCTIONS:
                yield from texts_in(node)


def texts_in(node: ast.AST) -> Iterator[tuple[int, str]]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.lineno, part.value


def coined_words(source: str, where: str) -> set[tuple[int, str, str]]:
    """Return the line, the word and what to write for each coined word of a module.

    Args:
        source: the module's text.
        where: its path below the root.
    """
    tree = ast.parse(source)
    in_names = COINED | COINED_NAMES
    if SPAN_PACKAGE in source or SPAN_PACKAGE in f"memagent.{where.replace('/', '.')}":
        in_names = {word: better for word, better in in_names.items() if word not in ("span", "spans")}
    faults = set()
    for line, name in names_in(tree):
        words = STANDARD.sub("", words_of(name)).split()
        faults |= {(line, word, in_names[word]) for word in words if word in in_names}
        if words[-1:] == ["one"]:
            faults.add((line, "one", "the thing's own name"))
        if name.startswith("Test") and where.startswith("backends/"):
            faults.add((line, name, "a name that pytest does not take for a test"))
    for line, text in prose_in(tree):
        words = re.findall("[a-z]+", text.lower())
        faults |= {(line, word, COINED[word]) for word in words if word in COINED}
    return faults


def test_the_tree_uses_the_fields_words() -> None:
    faults: list[str] = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        for line, word, better in sorted(coined_words(path.read_text(encoding="utf-8"), where)):
            faults.append(f"{where}:{line}: {word!r}; write: {better}")
    assert not faults, "\n".join(faults)


def test_no_module_has_the_name_of_a_library_it_uses() -> None:
    libraries = {"chromadb", "numpy", "safetensors", "torch", "transformers", "triton"}
    modules = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in modules if path.stem in libraries]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def rank_pieces(): ...", {"pieces"}),
        ("class AttentionWatcher: ...", {"watcher"}),
        ("class TestTimeMemory: ...", {"TestTimeMemory"}),
        ("def decode(recited): ...", {"recited"}),
        ("self.told = 1", {"told"}),
        ("for said, _ in turns: ...", {"said"}),
        ("LONGEST = 3", {"longest"}),
        ("def pick_one(): ...", {"one"}),
        ("with open() as found: ...", {"found"}),
        ("try: ...\nexcept OSError as gone: ...", {"gone"}),
        ("spans = []", {"spans"}),
        ('"""The lifts of both."""', {"lifts"}),
        ('def recall():\n    """Watched."""', {"watched"}),
        ('raise ValueError(f"{n} pieces are too many")', {"pieces"}),
        ('say("Choosing heads ...")', {"choosing"}),
    ],
)
def test_a_coined_word_is_reported_with_a_better_one(source: str, words: set[str]) -> None:
    faults = coined_words(source, "backends/example.py")
    assert {word for _, word, _ in faults} == words
    assert all(better for _, _, better in faults)


@pytest.mark.parametrize(
    "source",
    [
        "class NotFoundError(Exception): ...",
        "neighbour_credit = 0.5",
        "one_line = text.strip()",
        f"from {SPAN_PACKAGE}.chunks import TokenSpan\nspans: list[TokenSpan] = []",
        'say("One match was found in at least two letters.")',
        'LABELS = {"piece": 1}',
    ],
)
def test_the_fields_words_and_plain_english_are_not_reported(source: str) -> None:
    assert not coined_words(source, "agent/example.py")
