"""The index of the MeMo memory: sparse keys and codes, counts instead of sums."""

from __future__ import annotations

import numpy as np
import pytest

from memagent.backends.memo.config import COLUMNS, MEANING_ROWS, ROWS
from memagent.backends.memo.index import SegmentIndex, active, index_words
from memagent.backends.memo.segments import Segment
from memagent.backends.protocol import Vectors


def segment(seq: int) -> Segment:
    return Segment(f"id {seq}", seq, 0, 0, 1, 1, "", "")


def written(texts: list[str], embeddings: Vectors) -> tuple[SegmentIndex, list[Segment]]:
    index, segments = SegmentIndex(0), [segment(seq) for seq in range(len(texts))]
    for item, text, embedding in zip(segments, texts, embeddings, strict=True):
        rows = {"words": index.word_rows(text), "meaning": index.meaning_rows(embedding)}
        index.write([(item, rows)])
    return index, segments


@pytest.mark.parametrize("count", [1, 4, 64])
def test_active_places_are_different_and_depend_on_the_name_alone(count: int) -> None:
    places = active("a name", COLUMNS, count)
    assert places == sorted(set(places)) == active("a name", COLUMNS, count)
    assert len(places) == count
    assert all(0 <= place < COLUMNS for place in places)
    assert places != active("another name", COLUMNS, count)


def test_the_ends_of_words_do_not_count_but_those_of_codes_do() -> None:
    assert index_words("She painted, he was painting") == index_words("paintings")
    assert index_words("E401234") != index_words("E401299")


def test_words_find_the_segments_that_hold_them_and_rare_ones_count_more() -> None:
    draw = np.random.default_rng(0)
    texts = ["the common apple", *[f"the common pear{number}" for number in range(200)]]
    embeddings = draw.standard_normal((len(texts), 32)).astype(np.float32)
    index, segments = written(texts, embeddings)
    columns = np.array([index.columns(item) for item in segments])
    words, _ = index.search("common apple", embeddings[0], segments, columns)
    assert words.argmax() == 0
    assert (words[1:] > 0).all(), "every other segment has the common word"
    assert words[0] > 3 * np.median(words[1:])


def test_the_meaning_of_a_text_finds_what_is_near() -> None:
    draw = np.random.default_rng(1)
    embeddings = draw.standard_normal((200, 32)).astype(np.float32)
    index, segments = written([f"text{number}" for number in range(200)], embeddings)
    columns = np.array([index.columns(item) for item in segments])
    near = embeddings[17] + 0.3 * draw.standard_normal(32).astype(np.float32)
    _, meaning = index.search("nothing", near, segments, columns)
    assert meaning.argmax() == 17
    assert len(index.meaning_rows(near)) == MEANING_ROWS
    assert max(index.meaning_rows(near)) < ROWS


def test_a_text_without_words_has_no_matrix_of_words() -> None:
    index, _ = written(["?!"], np.ones((1, 8), np.float32))
    assert set(index.matrices) == {("meaning", 0)}
