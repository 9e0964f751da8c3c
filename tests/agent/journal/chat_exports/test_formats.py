"""What each format becomes: sessions, roles, texts, times, and what is left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    messages_to_dict,
)

from memagent.agent.journal import Journal
from memagent.agent.journal.chat_exports import recognize
from memagent.agent.journal.proof import Source
from memagent.backends.errors import InputError
from tests.agent.journal.chat_exports import exports
from tests.agent.journal.chat_exports.conftest import Import
from tests.agent.journal.chat_exports.exports import BISCUIT


def rows(journal: Journal) -> list[tuple[str, str, str]]:
    return [(turn.session, turn.role, turn.text) for turn in journal.turns()]


def test_chatgpt_the_current_branch_of_each_conversation_the_oldest_first(
    journal: Journal, import_: Import
) -> None:
    done = import_("chatgpt", exports.chatgpt())
    assert rows(journal) == [
        ("Pets", "user", "I live in Porto."),
        ("Pets (2)", "user", BISCUIT),
        ("Pets (2)", "assistant", "A fine name ."),
        ("Pets (2)", "user", "Here is a photo."),
    ]
    assert done.summary.conversations == 2
    assert done.summary.left_out == {"on other branches": 2, "hidden by the program": 3, "without text": 1}
    times = [turn.created_at for turn in journal.turns()]
    assert times[1] == datetime(2024, 5, 1, 8, 0, 1, 250_000, UTC)
    assert times == sorted(times)
    assert journal.get([3])[0].in_view == (2,)


def test_chatgpt_without_a_current_node_the_branch_of_the_latest_message(
    journal: Journal, import_: Import
) -> None:
    nodes = (
        exports.chatgpt_node("u", None, "user", "Hello.", create_time=1.0),
        exports.chatgpt_node("late", "u", "assistant", "Welcome!", create_time=9.0),
        exports.chatgpt_node("early", "u", "assistant", "Hi.", create_time=5.0),
    )
    for id_, current in (("c1", None), ("c2", "not there")):
        import_("chatgpt", [exports.chatgpt_conversation(id_, id_, *nodes, current_node=current)])
    assert [text for _, _, text in rows(journal)] == ["Hello.", "Welcome!"] * 2


def test_chatgpt_one_conversation_alone(journal: Journal, import_: Import) -> None:
    import_("chatgpt", exports.chatgpt()[1])
    assert rows(journal) == [("Pets", "user", "I live in Porto.")]


def test_claude_the_current_branch_of_each_conversation(journal: Journal, import_: Import) -> None:
    done = import_("claude", exports.claude())
    assert rows(journal) == [
        ("claude 2024-01-01", "user", "I live in Porto."),
        ("Pets", "user", BISCUIT),
        ("Pets", "assistant", "A fine name.\n\nCongratulations!"),
    ]
    assert done.summary.left_out == {"on other branches": 1, "without text": 1}
    assert [turn.created_at.hour for turn in journal.turns()] == [22, 8, 8]


def test_claude_the_branch_of_the_current_leaf(journal: Journal, import_: Import) -> None:
    conversation = exports.claude()[0] | {"current_leaf_message_uuid": "m2"}
    import_("claude", [conversation])
    assert [text for _, _, text in rows(journal)] == [BISCUIT, "I do not care."]


def test_openai_messages_as_a_list_as_an_object_and_as_lines(journal: Journal, import_: Import) -> None:
    messages = exports.openai_messages()
    done = import_("openai-messages", messages, title="chat")
    expected = [
        ("chat", "user", BISCUIT),
        ("chat", "assistant", "A fine name."),
        ("chat", "user", "Here is a photo."),
    ]
    assert rows(journal) == expected
    assert done.summary.left_out == {"of other roles": 2, "without text": 1}
    lines = b"\n".join(json.dumps(message).encode() for message in messages)
    for content in ({"model": "m", "messages": messages}, lines, lines + b"\n\n", b"\xef\xbb\xbf" + lines):
        assert import_("openai-messages", content, title="chat").result.present == 3
    assert rows(journal) == expected


def test_roles_that_are_asked_for_are_imported(journal: Journal, import_: Import) -> None:
    import_("openai-messages", exports.openai_messages(), roles=("system", "tool"))
    assert [(role, text) for _, role, text in rows(journal)] == [
        ("system", "You are kind."),
        ("tool", "7 results"),
    ]


def test_several_conversations_of_messages(journal: Journal, import_: Import) -> None:
    hello, bye = [[{"role": "user", "content": text}] for text in ("Hello.", "Bye.")]
    expected = [("tuning", "user", "Hello."), ("tuning 2", "user", "Bye.")]
    objects = b"".join(json.dumps({"messages": messages}).encode() + b"\n" for messages in (hello, bye))
    for content in (objects, [hello, bye], [{"messages": hello}, {"messages": bye}]):
        import_("openai-messages", content, title="tuning")
        assert rows(journal) == expected


def test_messages_with_times(journal: Journal, import_: Import) -> None:
    times: list[object] = [1714550401, 1714550402000, "2024-05-01T08:00:03Z", "2024-05-01T08:00:04"]
    import_("openai-messages", [{"role": "user", "content": "x", "created_at": time} for time in times])
    assert [turn.created_at for turn in journal.turns()] == [
        datetime(2024, 5, 1, 8, 0, second, tzinfo=UTC) for second in (1, 2, 3, 4)
    ]


def test_langchain_messages(journal: Journal, import_: Import) -> None:
    done = import_("langchain", exports.langchain_messages(), title="thread")
    assert rows(journal) == [
        ("thread", "user", BISCUIT),
        ("thread", "assistant", "A fine name."),
        ("thread", "user", "Thank you."),
    ]
    assert done.summary.left_out == {"of other roles": 2}


@pytest.mark.parametrize(
    "write", [messages_to_dict, dumpd, lambda messages: [message.model_dump() for message in messages]]
)
def test_langchain_messages_as_the_library_writes_them(journal: Journal, import_: Import, write: Any) -> None:
    messages = [
        SystemMessage("You are kind."),
        HumanMessage(BISCUIT),
        AIMessage([{"type": "text", "text": "A fine name."}], id="run-1"),
        ChatMessage(content="Thank you.", role="user"),
        AIMessageChunk(content="You are welcome."),
    ]
    import_("langchain", write(messages))
    assert [text for _, _, text in rows(journal)] == [
        BISCUIT,
        "A fine name.",
        "Thank you.",
        "You are welcome.",
    ]


@pytest.mark.parametrize("content", [exports.mem0(), exports.mem0()["results"]])
def test_mem0_memories_the_oldest_first(journal: Journal, import_: Import, content: Any) -> None:
    import_("mem0", content)
    assert rows(journal) == [
        ("mem0", "user", "Has a dog called Biscuit"),
        ("mem0", "user", "Lives in Porto"),
        ("mem0 trip", "user", "Likes tea"),
    ]
    assert journal.get([2])[0].created_at == datetime(2025, 5, 1, 15, 0, 0, 123_456, UTC)


@pytest.mark.parametrize("name", exports.all_formats())
def test_each_format_is_recognized(name: str) -> None:
    format_ = recognize(Source("file", BytesIO(exports.all_formats()[name])))
    assert format_ is not None
    assert format_.name == name


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[1]", b'{"kind": "memagent"}', b"\xff\xfe", b"text", b"[[[]]]"]
)
def test_what_is_none_of_the_formats_is_not_recognized(content: bytes) -> None:
    assert recognize(Source("file", BytesIO(content))) is None


@pytest.mark.parametrize(
    ("format_", "content", "message"),
    [
        ("chatgpt", [{"title": "x"}], "item 1: mapping: Field required."),
        ("chatgpt", [1], "item 1: Input should be a valid object."),
        (
            "chatgpt",
            [exports.chatgpt()[0], {"mapping": []}],
            "item 2: mapping: Input should be a valid dictionary",
        ),
        (
            "chatgpt",
            [exports.chatgpt_conversation("c", "t", exports.chatgpt_node("a", "b", "user", "x"))],
            "item 1: mapping: node b is missing, the parent of a.",
        ),
        (
            "chatgpt",
            [
                exports.chatgpt_conversation(
                    "c",
                    "t",
                    exports.chatgpt_node("a", "b", "user", "x"),
                    exports.chatgpt_node("b", "a", "user", "x"),
                )
            ],
            "item 1: mapping: node b is its own ancestor.",
        ),
        (
            "chatgpt",
            [
                exports.chatgpt_conversation(
                    "c", "t", exports.chatgpt_node("a", None, "user", "x", create_time=1e40)
                )
            ],
            "is no time; expected seconds since 1970 or ISO 8601.",
        ),
        ("chatgpt", exports.claude(), "It looks like an export of Claude; use --from claude."),
        ("claude", exports.chatgpt(), "It looks like an export of ChatGPT; use --from chatgpt."),
        (
            "claude",
            [
                exports.claude_conversation(
                    "c", "t", exports.claude_message("m", "human", "x", created_at="May")
                )
            ],
            "item 1: 'May' is no time",
        ),
        (
            "claude",
            [exports.claude_conversation("c", "t", exports.claude_message("m", "nobody", "x"))],
            "item 1: sender: expected human or assistant, not 'nobody'.",
        ),
        (
            "claude",
            [exports.claude_conversation("c", "t", *[exports.claude_message("m", "human", "x")] * 2)],
            "two messages have the same uuid",
        ),
        (
            "claude",
            [
                exports.claude_conversation(
                    "c",
                    "t",
                    exports.claude_message("m", "human", "x", parent_message_uuid="n"),
                    exports.claude_message("n", "human", "x", parent_message_uuid="m"),
                )
            ],
            "is its own ancestor",
        ),
        ("openai-messages", [{"role": "king", "content": "x"}], "item 1: role: expected one of user,"),
        (
            "openai-messages",
            [{"role": "user", "content": 7}],
            "item 1: content: expected a text or a list, not int.",
        ),
        (
            "openai-messages",
            [[], {"role": "user", "content": "x"}],
            "item 2: expected a conversation like the first",
        ),
        (
            "openai-messages",
            b'{"role": "user", "content": "x"}\n{"role"',
            "export.json, line 2: not JSON, or cut off",
        ),
        ("langchain", [{"type": "human"}], "item 1: data: Field required."),
        ("langchain", exports.openai_messages(), "--from openai-messages"),
        ("mem0", {"results": [{"id": "1"}]}, "item 1: memory: Field required."),
        ("mem0", b"", "export.json is empty."),
        ("mem0", b'[{"memory": "x"}', "export.json is not JSON, or was cut off"),
        ("mem0", "[]".encode("utf-16"), "export.json is UTF-16; expected UTF-8"),
        ("mem0", b"PK\x03\x04", "export.json is a ZIP archive"),
        ("mem0", b"[" * 10_000, "nested more than 200 deep"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_nothing_is_imported(
    journal: Journal, import_: Import, format_: str, content: Any, message: str
) -> None:
    with pytest.raises(InputError) as raised:
        import_(format_, content)
    assert message in str(raised.value)
    assert journal.last() == (0, 0)
