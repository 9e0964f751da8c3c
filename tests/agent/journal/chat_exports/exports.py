"""Exports of other programs as their users get them, written by hand."""

from __future__ import annotations

import json
from typing import Any

BISCUIT = "My dog is called Biscuit."


def chatgpt_node(
    name: str, parent: str | None, role: str = "user", text: str | None = "", /, **message: Any
) -> dict[str, Any]:
    """A node of ChatGPT's tree; without a text it has no message."""
    if text is None:
        return {"id": name, "message": None, "parent": parent, "children": []}
    fields: dict[str, Any] = {
        "id": name,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": None,
        "update_time": None,
        "content": {"content_type": "text", "parts": [text]},
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
    }
    return {"id": name, "message": fields | message, "parent": parent, "children": []}


def chatgpt_conversation(
    id_: str, title: str | None, *nodes: dict[str, Any], **fields: Any
) -> dict[str, Any]:
    conversation: dict[str, Any] = {
        "title": title,
        "create_time": 1714550400.5,
        "update_time": 1714550500.5,
        "mapping": {node["id"]: node for node in nodes},
        "moderation_results": [],
        "current_node": nodes[-1]["id"] if nodes else None,
        "conversation_id": id_,
        "id": id_,
        "is_archived": False,
    }
    return conversation | fields


def chatgpt() -> list[dict[str, Any]]:
    """The newest conversation stands first, as the program writes it."""
    pets = chatgpt_conversation(
        "c-pets",
        "Pets",
        chatgpt_node("root", None, "", None),
        chatgpt_node("s", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
        chatgpt_node("u1", "s", "user", BISCUIT, create_time=1714550401.25),
        chatgpt_node("old", "u1", "assistant", "I do not care.", create_time=1714550402.0),
        chatgpt_node("old-2", "old", "user", "Be kind!", create_time=1714550403.0),
        chatgpt_node("t", "u1", "assistant", "", content={"content_type": "thoughts", "thoughts": []}),
        chatgpt_node("call", "t", "assistant", "search('dog')", recipient="web"),
        chatgpt_node("result", "call", "tool", "7 results"),
        chatgpt_node(
            "a1",
            "result",
            "assistant",
            "A fine name \ue200cite\ue202turn0search1\ue201.",
            create_time=1714550410.0,
        ),
        chatgpt_node(
            "u2",
            "a1",
            "user",
            create_time=1714550420.0,
            content={
                "content_type": "multimodal_text",
                "parts": [
                    {"content_type": "image_asset_pointer", "asset_pointer": "file://1"},
                    "Here is a photo.",
                ],
            },
        ),
        chatgpt_node(
            "u3",
            "u2",
            "user",
            content={"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}]},
        ),
    )
    home = chatgpt_conversation(
        "c-home", "Pets", chatgpt_node("x1", None, "user", "I live in Porto."), create_time=1614550400.0
    )
    return [pets, home]


def claude_message(uuid: str, sender: str, text: str, **fields: Any) -> dict[str, Any]:
    message = {
        "uuid": uuid,
        "text": text,
        "content": [{"type": "text", "text": text, "citations": []}],
        "sender": sender,
        "created_at": "2025-05-01T08:00:00.123456Z",
        "updated_at": "2025-05-01T08:00:00.123456Z",
        "attachments": [],
        "files": [],
    }
    return message | fields


def claude_conversation(uuid: str, name: str, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    conversation = {
        "uuid": uuid,
        "name": name,
        "created_at": "2025-05-01T07:59:59Z",
        "updated_at": "2025-05-01T09:00:00Z",
        "account": {"uuid": "account-of-ana"},
        "chat_messages": list(messages),
    }
    return conversation | fields


def claude() -> list[dict[str, Any]]:
    blocks = [
        {"type": "thinking", "thinking": "The user has a dog."},
        {"type": "text", "text": "A fine name."},
        {"type": "tool_use", "name": "web_search", "input": {"query": "dog"}},
        {"type": "tool_result", "content": [{"type": "text", "text": "7 results"}]},
        {"type": "text", "text": "Congratulations!"},
    ]
    pets = claude_conversation(
        "c-pets",
        "Pets",
        claude_message("m1", "human", BISCUIT, parent_message_uuid="00000000-0000-4000-8000-000000000000"),
        claude_message("m2", "assistant", "I do not care.", parent_message_uuid="m1"),
        claude_message("m3", "assistant", "Not supported.", parent_message_uuid="m1", content=blocks),
        claude_message("m4", "human", "", parent_message_uuid="m3", attachments=[{"file_name": "a.txt"}]),
    )
    home = claude_conversation(
        "c-home",
        "",
        claude_message(
            "h1", "human", "I live in Porto.", created_at="2024-01-01T00:00:00+02:00", content=None
        ),
        created_at="2024-01-01T00:00:00Z",
    )
    return [pets, home, claude_conversation("c-empty", "Nothing")]


def openai_messages() -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": BISCUIT},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "7 results"},
        {"role": "assistant", "content": "A fine name."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here is a photo."},
                {"type": "image_url", "image_url": {"url": "x"}},
            ],
        },
    ]


def langchain_messages() -> list[dict[str, Any]]:
    """Written by ``messages_to_dict`` of langchain-core, and shortened."""
    return [
        {"type": "system", "data": {"content": "You are kind.", "type": "system", "id": None}},
        {
            "type": "human",
            "data": {"content": BISCUIT, "type": "human", "name": None, "id": "h1", "example": False},
        },
        {
            "type": "ai",
            "data": {
                "content": [{"type": "text", "text": "A fine name."}],
                "type": "ai",
                "id": "run-1",
                "tool_calls": [],
            },
        },
        {"type": "tool", "data": {"content": "7 results", "type": "tool", "tool_call_id": "1"}},
        {"type": "chat", "data": {"content": "Thank you.", "type": "chat", "role": "user"}},
    ]


def mem0() -> dict[str, Any]:
    return {
        "results": [
            {
                "id": "m-2",
                "memory": "Lives in Porto",
                "hash": "1",
                "metadata": None,
                "created_at": "2025-05-01T08:00:00.123456-07:00",
                "updated_at": None,
                "user_id": "ana",
            },
            {
                "id": "m-1",
                "memory": "Has a dog called Biscuit",
                "created_at": "2024-05-01T08:00:00Z",
                "user_id": "ana",
            },
            {"id": "m-3", "memory": "Likes tea", "created_at": None, "user_id": "ana", "run_id": "trip"},
        ],
        "relations": [{"source": "ana", "relationship": "owns", "target": "biscuit"}],
    }


def all_formats() -> dict[str, bytes]:
    """One file of each format, by the format's name."""
    contents = {
        "chatgpt": chatgpt(),
        "claude": claude(),
        "openai-messages": openai_messages(),
        "langchain": langchain_messages(),
        "mem0": mem0(),
    }
    return {name: json.dumps(content).encode() for name, content in contents.items()}
