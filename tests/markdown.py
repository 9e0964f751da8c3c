"""What a Markdown page holds for its tests: snippets, inline code, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_NOT_RUN = re.compile(r"<!-- not run: .+? -->\s*$", re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A fenced or indented block of code.

    Attributes:
        place: ``file:line`` of its first line.
        language: the word after the fence; empty for none.
        runs: False if a comment ``<!-- not run: REASON -->`` stands right before the fence.
    """

    place: str
    language: str
    text: str
    runs: bool


@dataclass(frozen=True)
class Page:
    """One Markdown file.

    Attributes:
        code: inline code, as written between the backticks.
        links: targets of links and images.
        anchors: what ``#name`` may say, as GitHub makes it of the headings.
    """

    path: Path
    snippets: list[Snippet] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


def read(path: Path) -> Page:
    """Read a Markdown file."""
    page = Page(path)
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    for place, token in enumerate(tokens):
        if token.type in ("fence", "code_block"):
            page.snippets.append(_snippet(path, token, tokens[place - 1] if place else None))
        elif token.type == "inline":
            _read_inline(page, token, heading=tokens[place - 1].type == "heading_open")
    return page


def _snippet(path: Path, token: Token, before: Token | None) -> Snippet:
    assert token.map is not None
    first, _ = token.map
    comment = ""
    if (
        before is not None
        and before.type == "html_block"
        and before.map is not None
        and before.map[1] == first
    ):
        comment = before.content
    runs = _NOT_RUN.search(comment) is None
    return Snippet(f"{path.name}:{first + 1}", token.info.strip(), token.content, runs)


def _read_inline(page: Page, token: Token, *, heading: bool) -> None:
    for part in _parts(token):
        if part.type == "code_inline":
            page.code.append(part.content)
        for name in ("href", "src"):
            if name in part.attrs:
                page.links.append(str(part.attrs[name]))
    if heading:
        shown = "".join(part.content for part in _parts(token) if part.type in ("text", "code_inline"))
        page.anchors.add(re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-"))


def _parts(token: Token) -> Iterator[Token]:
    for part in token.children or ():
        yield part
        yield from _parts(part)
