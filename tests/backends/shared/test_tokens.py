"""Text from outside never becomes a control token, whatever the tokenizer, and other text keeps its ids."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memagent.backends.errors import ModelError
from memagent.backends.shared.tokens import TextTokenizer, without_added_tokens
from tests.backends.tiny_tokenizers import BEGIN, CALL, END, KINDS, UNKNOWN, UNKNOWN_WORD, names_of

ORDINARY = [
    "the quick brown fox",
    "if a < b | c > d: x = [1]\n\n    return </b>",
    "  two  spaces, a\ttab\n",
    "naïve café №5 👍🏽 東京",
    "",
]
FULL_WIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
kind = pytest.mark.parametrize("tokenizer", [pytest.param(make(), id=name) for name, make in KINDS.items()])


def control(tokenizer: Any, ids: list[int]) -> list[int]:
    """Pick the ids of added tokens, but for white space and unknown letters."""
    added = tokenizer.get_added_vocab()
    return [
        one for one in ids if one in {added[name] for name in names_of(tokenizer)} - {tokenizer.unk_token_id}
    ]


@st.composite
def hostile(draw: st.DrawFn, tokenizer: Any) -> str:
    """Text of markers, parts of them, look-alikes, and what may hide or complete them."""
    names = st.sampled_from([*names_of(tokenizer), UNKNOWN, UNKNOWN_WORD])
    parts = st.one_of(
        names,
        names.flatmap(lambda name: st.integers(1, len(name)).map(lambda end: name[:end])),
        names.flatmap(lambda name: st.integers(0, len(name) - 1).map(lambda start: name[start:])),
        names.map(lambda name: name.translate(FULL_WIDTH)),
        names.map(str.upper),
        st.sampled_from([" ", "\n", "  ", "\u200b", "\u2581", "\ue000", "\ue0000\ue001", "s", "the", "👍"]),
        st.text(max_size=3),
    )
    return "".join(draw(st.lists(parts, max_size=8)))


def render(contents: list[str] | Any) -> str:
    """Write a prompt as chat templates do."""
    return "".join(f"{BEGIN}user\n{content.strip()}{END}\n" for content in contents) + f"{BEGIN}assistant\n"


@kind
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_no_text_becomes_a_control_token(tokenizer: Any, data: st.DataObject) -> None:
    text = data.draw(hostile(tokenizer))
    ids, offsets = TextTokenizer(tokenizer).encode_with_offsets(text)
    assert control(tokenizer, ids) == []
    assert len(ids) == len(offsets)
    assert all(0 <= begin <= end <= len(text) for begin, end in offsets)
    assert offsets == sorted(offsets)


@kind
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_only_the_template_writes_control_tokens(tokenizer: Any, data: st.DataObject) -> None:
    contents = [data.draw(hostile(tokenizer)), data.draw(hostile(tokenizer))]
    ids = TextTokenizer(tokenizer).encode_prompt(render, contents)
    expected = tokenizer(render(["", ""]), add_special_tokens=False)["input_ids"]
    assert control(tokenizer, ids) == control(tokenizer, expected)


@kind
@pytest.mark.parametrize("text", ORDINARY)
def test_text_without_markers_keeps_its_ids_and_offsets(tokenizer: Any, text: str) -> None:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = TextTokenizer(tokenizer)
    assert tokens.encode_with_offsets(text) == (found["input_ids"], found["offset_mapping"])
    prompt = tokenizer(render([text, text]), add_special_tokens=False)["input_ids"]
    assert tokens.encode_prompt(render, [text, text]) == prompt


@pytest.mark.parametrize("name", ["byte_level", "indenting"])
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_no_letter_changes(name: str, data: st.DataObject) -> None:
    tokenizer = KINDS[name]()
    tokens = TextTokenizer(tokenizer)
    text = data.draw(hostile(tokenizer))
    assert tokenizer.decode(tokens.encode(text)) == text
    assert tokenizer.decode(tokens.encode_prompt(render, [text, "x"])) == render([text, "x"])


def test_what_the_merges_make_of_a_text_is_written_with_other_tokens() -> None:
    tokenizer = KINDS["merging"]()
    # The option of transformers does not help here: the vocabulary itself has <s>.
    split = tokenizer("a<s>b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.bos_token_id in split
    ids, offsets = TextTokenizer(tokenizer).encode_with_offsets("a<s>b")
    assert tokenizer.convert_ids_to_tokens(ids) == ["\u2581", "a", "<", "s>", "b"]
    assert offsets[2:4] == [(1, 4), (1, 4)]
    assert tokenizer.decode(ids) == "a<s>b"


def test_a_marker_that_appears_by_normalisation_is_text() -> None:
    tokenizer = KINDS["unigram"]()
    text = "the \uff1ccall\uff1e"
    assert control(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    tokens = TextTokenizer(tokenizer)
    assert control(tokenizer, tokens.encode(text)) == []
    template = control(tokenizer, tokens.encode_prompt(render, [""]))
    assert control(tokenizer, tokens.encode_prompt(render, [text])) == template


def test_a_marker_that_a_content_and_the_template_make_together_is_text() -> None:
    tokenizer = KINDS["byte_level"]()

    def beside(contents: Any) -> str:
        return f"{BEGIN}|{contents[0]}|{END}"

    tokens = TextTokenizer(tokenizer)
    assert control(tokenizer, tokenizer(beside(["im"]), add_special_tokens=False)["input_ids"]) != control(
        tokenizer, tokens.encode_prompt(beside, ["im"])
    )
    assert tokenizer.decode(tokens.encode_prompt(beside, ["im"])) == beside(["im"])
    assert control(tokenizer, tokens.encode_prompt(beside, ["im"])) == tokenizer.convert_tokens_to_ids(
        [BEGIN, END]
    )


def test_a_full_width_letter_completes_no_marker_of_the_template() -> None:
    tokenizer = KINDS["unigram"]()
    ids = TextTokenizer(tokenizer).encode_prompt(lambda one: f"{BEGIN}{one[0]}call>{END}", ["the \uff1c"])
    assert control(tokenizer, ids) == tokenizer.convert_tokens_to_ids([BEGIN, END])


def test_the_unknown_token_is_not_written_for_its_own_name() -> None:
    tokenizer = KINDS["merging"]()
    assert tokenizer.unk_token_id in tokenizer(UNKNOWN, add_special_tokens=False)["input_ids"]
    ids = TextTokenizer(tokenizer).encode(f"a {UNKNOWN}b")
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == f"a {UNKNOWN}b"


def test_unknown_letters_stay_unknown_unless_that_token_ends_a_text() -> None:
    tokenizer = KINDS["word_pieces"]()
    assert TextTokenizer(tokenizer).encode("a 東 [UNK]")[:2] == tokenizer.convert_tokens_to_ids(
        ["a", "[UNK]"]
    )
    assert TextTokenizer(tokenizer).encode("[UNK]") == tokenizer.convert_tokens_to_ids(
        ["[", "u", "##n", "##k", "]"]
    )
    ending = KINDS["words"].__wrapped__()  # type: ignore[attr-defined]
    ending.eos_token = UNKNOWN_WORD
    assert TextTokenizer(ending).encode("the owl") == ending.convert_tokens_to_ids(["the"])


def test_templates_see_contents_without_markers_as_they_are() -> None:
    seen: list[str] = []

    def noted(contents: Any) -> str:
        seen.extend(contents)
        return render(contents)

    TextTokenizer(KINDS["byte_level"]()).encode_prompt(noted, ["a < b, \u00a4", f"x {CALL}", "fine"])
    assert (seen[0], seen[2]) == ("a < b, \u00a4", "fine")
    assert CALL not in seen[1]


def test_the_bare_tokenizer_knows_no_added_token_and_leaves_the_other_alone() -> None:
    tokenizer = KINDS["word_pieces"]().backend_tokenizer
    before = tokenizer.to_str()
    ids = without_added_tokens(tokenizer).encode("a [SEP]").ids
    assert ids.count(tokenizer.token_to_id("[SEP]")) == 1
    assert tokenizer.encode("a [SEP]").ids.count(tokenizer.token_to_id("[SEP]")) == 2
    assert tokenizer.to_str() == before


def test_a_tokenizer_written_in_python_is_refused() -> None:
    from transformers import ByT5Tokenizer

    make: Any = ByT5Tokenizer
    with pytest.raises(ModelError, match="ByT5Tokenizer.* is written in Python"):
        TextTokenizer(make())
