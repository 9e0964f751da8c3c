"""What a LangGraph store does with values and namespaces: the text that memories search, filters, and conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memagent.backends.errors import MissingExtraError

try:
    from langgraph.store.base import MatchCondition
    from langgraph.store.base.embed import get_text_at_path, tokenize_path
except ModuleNotFoundError as error:
    raise MissingExtraError("MemagentStore", error.name or "langgraph", "langchain") from error

WHOLE = "$"
"""The path of the whole value."""


def item_text(value: Mapping[str, Any], paths: Sequence[str]) -> str:
    """Return the text that memories search for a value.

    A whole value becomes a line "path: text" for each of its texts and numbers; if it has only one, that is the text.

    Args:
        value: of the item.
        paths: fields as LangGraph writes them, such as ``memory``, ``a.b`` or ``messages[*].content``; ``$``: the whole value.
    """
    lines: list[str] = []
    for path in paths:
        if path == WHOLE:
            leaves = list(_leaves(value))
            lines += [leaves[0][1]] if len(leaves) == 1 else [f"{where}: {text}" for where, text in leaves]
        else:
            lines += get_text_at_path(value, tokenize_path(path))
    return "\n".join(lines)


def matches(value: Mapping[str, Any], conditions: Mapping[str, Any] | None) -> bool:
    """Say whether a value fulfils a filter: each field equals what is asked for, or fulfils operators such as ``$gt``.

    Raises:
        ValueError: an operator is none of ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``.
    """
    return all(_fulfils(value.get(field), wanted) for field, wanted in (conditions or {}).items())


def matches_namespace(namespace: tuple[str, ...], condition: MatchCondition) -> bool:
    """Say whether a namespace begins or ends as a condition says; ``*`` stands for any label.

    Raises:
        ValueError: the condition is neither ``prefix`` nor ``suffix``.
    """
    path = condition.path
    if condition.match_type not in ("prefix", "suffix"):
        raise ValueError(f"Unsupported match type: {condition.match_type}; expected prefix or suffix.")
    if len(namespace) < len(path):
        return False
    start = 0 if condition.match_type == "prefix" else len(namespace) - len(path)
    return all(
        wanted in ("*", label)
        for wanted, label in zip(path, namespace[start : start + len(path)], strict=True)
    )


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of everything in a value that is no container and says something."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part, path)
    elif isinstance(value, str):
        if value.strip():
            yield path, value
    elif value is not None:
        yield path, json.dumps(value, default=str)


def _fulfils(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(key).startswith("$") for key in wanted):
            return all(_compare(value, operator, bound) for operator, bound in wanted.items())
        return isinstance(value, Mapping) and all(
            _fulfils(value.get(key), part) for key, part in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(_fulfils, value, wanted))
        )
    return bool(value == wanted)


def _compare(value: Any, operator: str, bound: Any) -> bool:
    """Apply one operator. What has no order fulfils none of the operators of order."""
    if operator in ("$eq", "$ne"):
        return bool(value == bound) is (operator == "$eq")
    if operator not in ("$gt", "$gte", "$lt", "$lte"):
        raise ValueError(f"Unsupported operator: {operator}; expected $eq, $ne, $gt, $gte, $lt or $lte.")
    try:
        first, second = float(value), float(bound)
    except (TypeError, ValueError, OverflowError):
        if not (isinstance(value, str) and isinstance(bound, str)):
            return False
        # Dates as ISO texts have the order of texts.
        order = (value > bound) - (value < bound)
    else:
        if math.isnan(first) or math.isnan(second):
            return False
        order = (first > second) - (first < second)
    return order > 0 if operator == "$gt" else order < 0 if operator == "$lt" else _or_equal(order, operator)


def _or_equal(order: int, operator: str) -> bool:
    return order >= 0 if operator == "$gte" else order <= 0
