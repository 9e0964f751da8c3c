"""Small benchmark files in the official formats, made by the tests themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LOCOMO: list[dict[str, Any]] = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ana",
            "speaker_b": "Ben",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ana", "dia_id": "D1:1", "text": "My dog is called Biscuit."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "Mine chases squirrels."},
                {"speaker": "Ana", "dia_id": "D1:3", "text": "Look!", "blip_caption": "a red bicycle"},
            ],
            "session_2_date_time": "9:05 am on 1 June, 2023",
            "session_2": [
                {"speaker": "Ben", "dia_id": "D2:1", "text": "I moved to Lisbon."},
                {"speaker": "Ana", "dia_id": "D2:2", "text": "Biscuit likes the beach."},
            ],
            "session_10_date_time": "12:00 am on 2 July, 2023",
            "session_10": [
                {"speaker": "Ana", "dia_id": "D10:1", "text": "I adopted a kitten named Olive."},
            ],
            "session_11_date_time": "12:00 am on 3 July, 2023",
        },
        "qa": [
            {"question": "What is the dog called?", "category": 4, "evidence": ["D1:1"], "answer": "Biscuit"},
            {
                "question": "What do Biscuit and Olive share?",
                "category": 1,
                "evidence": ["D1:1; D2:2", "D10:1 D99:7"],
                "answer": "Ana",
            },
            {
                "question": "When did Ben move to Lisbon?",
                "category": 2,
                "evidence": ["D2:1"],
                "answer": 2023,
            },
            {"question": "Has Ana a boat?", "category": 3, "evidence": [], "answer": "No"},
            {
                "question": "Which parrot did Ben adopt?",
                "category": 5,
                "evidence": ["D10:1"],
                "adversarial_answer": "Olive",
            },
        ],
    },
    {
        "sample_id": "conv-2",
        "conversation": {
            "speaker_a": "Cleo",
            "speaker_b": "Dan",
            "session_1_date_time": "3:00 pm on 4 May, 2023",
            "session_1": [
                {"speaker": "Cleo", "dia_id": "D1:1", "text": "I bake rye bread on Sundays."},
                {"speaker": "Dan", "dia_id": "D1:2", "text": "I swim in the lake."},
            ],
        },
        "qa": [
            {"question": "Which bread does Cleo bake?", "category": 4, "evidence": ["D1:1"], "answer": "rye"},
        ],
    },
]

LONGMEMEVAL: list[dict[str, Any]] = [
    {
        "question_id": "gpt4_1",
        "question_type": "multi-session",
        "question": "How many bicycles do I own?",
        "question_date": "2023/06/01 (Thu) 10:00",
        "answer": 2,
        "answer_session_ids": ["answer_a"],
        "haystack_dates": ["2023/05/25 (Thu) 11:00", "2023/05/20 (Sat) 02:21", "2023/05/20 (Sat) 02:20"],
        "haystack_session_ids": ["answer_a", "noise", "answer_a"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "I bought a second bicycle.", "has_answer": True},
                {"role": "assistant", "content": "Congratulations!", "has_answer": False},
            ],
            [{"role": "user", "content": "Tell me about squirrels."}],
            [
                {"role": "assistant", "content": "  "},
                {"role": "user", "content": "I own a\0 bicycle.", "has_answer": True},
            ],
        ],
    },
    {
        "question_id": "gpt4_2_abs",
        "question_type": "single-session-user",
        "question": "What is my parrot called?",
        "question_date": "2023/06/01 (Thu) 10:00",
        "answer": "You did not mention a parrot.",
        "answer_session_ids": ["answer_b"],
        "haystack_dates": ["2023/05/25 (Thu) 11:00"],
        "haystack_session_ids": ["answer_b"],
        "haystack_sessions": [[{"role": "user", "content": "My cat is called Olive."}]],
    },
]


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def locomo_file(folder: Path) -> Path:
    return write(folder / "locomo10.json", LOCOMO)
