"""Folders of sentence encoders, made with a tiny random BERT; vectors are compared with ones computed by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from memagent.agent.models.embedding import fetch_embedder
from memagent.agent.models.runtime import torch, transformers
from memagent.agent.models.sentence_encoder import SentenceEncoder
from memagent.backends.errors import ModelError
from memagent.backends.protocol import Vectors
from tests.backends.tiny_tokenizers import KINDS

TOKENIZER = KINDS["word_pieces"]()
WIDTH, POSITIONS = 16, 40
SHORT, LONG = "a b", "the quick brown fox"
POOLING: dict[str, Callable[[Vectors], Vectors]] = {
    "cls": lambda states: states[0],
    "mean": lambda states: states.mean(axis=0),
    "max": lambda states: states.max(axis=0),
    "lasttoken": lambda states: states[-1],
}
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT with random weights, as transformers saves it."""
    folder = tmp_path_factory.mktemp("saved")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertModel(bert_config())
    model.save_pretrained(folder)
    TOKENIZER.backend_tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that folder, for one test to change."""
    return Path(shutil.copytree(saved, tmp_path / "encoder"))


def bert_config(**changes: Any) -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    options = {"vocab_size": len(TOKENIZER), "max_position_embeddings": POSITIONS} | sizes | changes
    return transformers.BertConfig(**options)


def write(folder: Path, file: str, content: Any) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


def write_modules(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> None:
    """Write ``modules.json`` as sentence-transformers does, and the config of pooling."""
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(["Transformer", *kinds])
    ]  # fmt: skip
    write(folder, "modules.json", modules)
    write(folder, "1_Pooling/config.json", {FLAGS["mean"]: True} if pooling is None else pooling)


def write_dense(folder: Path, place: int, weight: Any, activation: str, bias: Any = None) -> None:
    write(folder, f"{place}_Dense/config.json", {"activation_function": f"torch.nn.modules.{activation}"})
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / f"{place}_Dense" / "model.safetensors")


def encoder(folder: Path) -> SentenceEncoder:
    return SentenceEncoder("tiny", lambda: folder)


def hidden_states(folder: Path, ids: Sequence[int]) -> Vectors:
    """The last hidden states of one text, without any padding."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states: Vectors = model(torch.tensor([list(ids)])).last_hidden_state[0].numpy()
    return states


def states_of(folder: Path, text: str) -> Vectors:
    return hidden_states(folder, TOKENIZER(text)["input_ids"])


def unit(vector: Any) -> Vectors:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def same(one: Vectors, other: Vectors) -> bool:
    return np.allclose(one, other, atol=1e-5)


# pooling


@pytest.mark.parametrize("mode", POOLING)
@pytest.mark.parametrize("style", ["flags", "name"])
def test_states_are_pooled_as_the_folder_says(folder: Path, mode: str, style: str) -> None:
    flags = {flag: flag == FLAGS[mode] for flag in FLAGS.values()}
    write_modules(
        folder, "Pooling", "Normalize", pooling=flags if style == "flags" else {"pooling_mode": mode}
    )
    vectors = encoder(folder).embed([SHORT, LONG])  # the short text is padded on the right
    for text, vector in zip([SHORT, LONG], vectors, strict=True):
        assert same(vector, unit(POOLING[mode](states_of(folder, text))))


def test_a_folder_that_names_no_modules_is_pooled_by_the_mean(folder: Path) -> None:
    assert same(encoder(folder).embed([LONG])[0], unit(states_of(folder, LONG).mean(axis=0)))


@pytest.mark.parametrize("mode", POOLING)
def test_a_vector_does_not_depend_on_what_is_embedded_with_it(folder: Path, mode: str) -> None:
    write_modules(folder, "Pooling", pooling={"pooling_mode": mode})
    texts = [LONG, SHORT, "", *(f"{letter} fox" * 3 for letter in "abcdefghijklmnopqrstuvwxyz" * 2)]
    tiny = encoder(folder)
    together = tiny.embed(texts)
    assert together.shape == (len(texts), WIDTH)
    assert same(np.linalg.norm(together, axis=1), np.ones(len(texts), dtype=np.float32))
    for place in (0, 1, 2, 40):
        assert same(together[place], tiny.embed([texts[place]])[0])


# prompts


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_prompts_stand_before_questions_and_stored_texts(folder: Path, name: str) -> None:
    bare = encoder(folder)
    questions, texts = bare.embed(["find: a", "find: fox"]), bare.embed(["text: a", "text: fox"])
    write(folder, "config_sentence_transformers.json", {"prompts": {"query": "find: ", name: "text: "}})
    tiny = encoder(folder)
    assert same(tiny.embed_queries(["a", "fox"]), questions)
    assert same(tiny.embed(["a", "fox"]), texts)
    assert not same(questions, texts)


def test_the_default_prompt_stands_before_what_has_none_of_its_own(folder: Path) -> None:
    expected = encoder(folder).embed(["any: a", "a"])
    prompts = {"query": "", "any": "any: "}
    write(folder, "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": "any"})
    assert same(encoder(folder).embed(["a"])[0], expected[0])
    assert same(encoder(folder).embed_queries(["a"])[0], expected[1])


@pytest.mark.parametrize("content", [{}, {"prompts": None}, {"prompts": {"query": None, "other": "x"}}])
def test_without_prompts_questions_are_embedded_as_any_text(folder: Path, content: dict[str, Any]) -> None:
    write(folder, "config_sentence_transformers.json", content)
    tiny = encoder(folder)
    assert same(tiny.embed_queries([LONG]), tiny.embed([LONG]))


# dense layers


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("activation.Tanh", np.tanh),
        ("linear.Identity", lambda values: values),
        ("activation.GELU", lambda values: torch.nn.functional.gelu(torch.tensor(values)).numpy()),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_a_dense_layer_follows_pooling(
    folder: Path, activation: str, function: Callable[[Any], Any], kind: Any
) -> None:
    weight, bias = torch.randn(6, WIDTH).to(kind), torch.randn(6).to(kind)
    write_modules(folder, "Pooling", "Dense", "Normalize")
    write_dense(folder, 2, weight, activation, bias)
    tiny = encoder(folder)
    mean = states_of(folder, LONG).mean(axis=0)
    expected = unit(function(weight.float().numpy() @ mean + bias.float().numpy()))
    assert tiny.dimension == 6
    assert same(tiny.embed([LONG])[0], expected)


def test_dense_layers_stand_in_the_order_of_the_modules(folder: Path) -> None:
    first, second = torch.randn(6, WIDTH), torch.randn(3, 6)
    write_modules(folder, "Pooling", "Dense", "Dense")
    write_dense(folder, 2, first, "activation.Tanh")
    write_dense(folder, 3, second, "linear.Identity")
    mean = states_of(folder, LONG).mean(axis=0)
    tiny = encoder(folder)
    assert tiny.dimension == 3
    assert same(tiny.embed([LONG])[0], unit(second.numpy() @ np.tanh(first.numpy() @ mean)))


# lengths


def test_a_text_is_read_up_to_max_seq_length(folder: Path) -> None:
    write(folder, "sentence_bert_config.json", {"max_seq_length": 6, "do_lower_case": False})
    tiny = encoder(folder)
    vectors = tiny.embed(["a b c d", "a b c d e f", "a b c"])
    assert tiny.max_tokens == 6
    assert same(vectors[0], vectors[1])  # [CLS] a b c d [SEP]
    assert not same(vectors[0], vectors[2])


@pytest.mark.parametrize("limit", [None, 1000])
def test_no_text_is_longer_than_the_models_positions(folder: Path, limit: int | None) -> None:
    write(folder, "sentence_bert_config.json", {"max_seq_length": limit})
    tiny = encoder(folder)
    assert tiny.max_tokens == POSITIONS
    assert same(tiny.embed(["a " * 500]), tiny.embed(["a " * 400]))


# the letters of a text


def test_control_tokens_in_a_text_are_letters(folder: Path) -> None:
    write(folder, "config_sentence_transformers.json", {"prompts": {"query": "[MASK] "}})
    sep, mask = (["[", name[0], *(f"##{letter}" for letter in name[1:]), "]"] for name in ("sep", "mask"))
    for embed, tokens in (
        (encoder(folder).embed, ["[CLS]", "a", *sep, "[SEP]"]),
        (encoder(folder).embed_queries, ["[CLS]", *mask, "a", *sep, "[SEP]"]),
    ):
        states = hidden_states(folder, TOKENIZER.convert_tokens_to_ids(tokens))
        assert same(embed(["a [SEP]"])[0], unit(states.mean(axis=0)))


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud83d", "caf\udce9", "😀", "漢字"])
def test_odd_texts_have_finite_vectors(folder: Path, text: str) -> None:
    tiny = encoder(folder)
    for embed in (tiny.embed, tiny.embed_queries):
        vectors = embed([text, "a"])
        assert same(np.linalg.norm(vectors, axis=1), np.ones(2, dtype=np.float32))
        assert same(vectors[1], embed(["a"])[0])


@pytest.mark.parametrize("mode", POOLING)
def test_a_text_without_tokens_has_a_vector_of_zeros(folder: Path, mode: str) -> None:
    write_modules(folder, "Pooling", pooling={"pooling_mode": mode})
    KINDS["words"]().backend_tokenizer.save(str(folder / "tokenizer.json"))  # adds no special tokens
    tiny = encoder(folder)
    vectors = tiny.embed(["", "the fox"])
    assert not vectors[0].any()
    assert same(vectors[1], tiny.embed(["the fox"])[0])
    assert not tiny.embed([" "]).any()


def test_no_texts_make_no_vectors(folder: Path) -> None:
    assert encoder(folder).embed([]).shape == encoder(folder).embed_queries([]).shape == (0, WIDTH)


# other models


def test_sizes_that_a_config_names_in_its_own_way_are_understood(folder: Path) -> None:
    config = transformers.DistilBertConfig(
        vocab_size=len(TOKENIZER), dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=12
    )
    transformers.DistilBertModel(config).save_pretrained(folder)
    tiny = encoder(folder)
    assert (tiny.dimension, tiny.max_tokens) == (8, 12)
    assert tiny.embed([LONG]).shape == (1, 8)


def test_a_model_with_a_decoder_is_refused(folder: Path) -> None:
    config = transformers.T5Config(
        vocab_size=len(TOKENIZER), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    transformers.T5Model(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="tiny is an encoder with a decoder; expected an encoder alone"):
        encoder(folder).embed([LONG])


# the digest


def test_the_digest_is_that_of_the_files_wherever_they_are(folder: Path, saved: Path) -> None:
    assert encoder(folder).digest == encoder(saved).digest


def change_a_weight(folder: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7, 3] += 1
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        lambda folder: write(folder, "1_Pooling/config.json", {FLAGS["cls"]: True}),
        lambda folder: write(folder, "config_sentence_transformers.json", {"prompts": {"query": "find: "}}),
        lambda folder: write(folder, "sentence_bert_config.json", {"max_seq_length": 9}),
        lambda folder: write_modules(folder, "Pooling", "Normalize"),
        lambda folder: write_dense(folder, 2, torch.zeros(6, WIDTH), "activation.Tanh"),
        lambda folder: write_dense(folder, 2, torch.ones(6, WIDTH), "linear.Identity"),
        lambda folder: KINDS["words"]().backend_tokenizer.save(str(folder / "tokenizer.json")),
    ],
    ids=["weights", "pooling", "prompt", "length", "modules", "dense weights", "activation", "tokenizer"],
)
def test_the_digest_changes_with_whatever_changes_a_vector(
    folder: Path, change: Callable[[Path], None]
) -> None:
    write_modules(folder, "Pooling", "Dense")
    write_dense(folder, 2, torch.ones(6, WIDTH), "activation.Tanh")
    before = encoder(folder).digest
    change(folder)
    assert encoder(folder).digest != before


# what is refused


def refusals(folder: Path) -> set[str]:
    """What embedding says, and what fetching says before a stored memory is touched."""
    messages = set()
    for refuse in (
        lambda: SentenceEncoder(str(folder), lambda: folder).embed(["a"]),
        lambda: SentenceEncoder(str(folder), lambda: folder).embed_queries(["a"]),
        lambda: fetch_embedder(folder, str(folder), notify=pytest.fail),
    ):
        with pytest.raises(ModelError) as caught:
            refuse()
        messages.add(str(caught.value).replace(str(folder), "FOLDER"))
    return messages


@pytest.mark.parametrize(
    ("kinds", "made_of"),
    [
        (["WeightedLayerPooling", "Pooling"], "Transformer, WeightedLayerPooling, Pooling"),
        (["Pooling", "CNN"], "Transformer, Pooling, CNN"),
        (["Pooling", "Normalize", "Dense"], "Transformer, Pooling, Normalize, Dense"),
        ([], "Transformer"),
    ],
)
def test_modules_of_another_kind_are_refused(folder: Path, kinds: list[str], made_of: str) -> None:
    write_modules(folder, *kinds)
    (refusal,) = refusals(folder)
    assert refusal.startswith(
        f"FOLDER is made of {made_of}; expected Transformer, Pooling, any Dense, and Norm"
    )
    assert refusal.endswith("Choose another embedder.")


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens"),
        ({FLAGS["cls"]: True, FLAGS["mean"]: True}, "cls and mean"),
        ({FLAGS["mean"]: False}, "nothing"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({FLAGS["mean"]: True, "include_prompt": False}, "mean"),
    ],
)
def test_pooling_of_another_kind_is_refused(folder: Path, pooling: dict[str, Any], modes: str) -> None:
    write_modules(folder, "Pooling", pooling=pooling)
    (refusal,) = refusals(folder)
    assert refusal.startswith(f"FOLDER pools by {modes}; expected one of cls, mean, max, lasttoken, over the")
    assert refusal.endswith("Choose another embedder.")


def test_another_activation_is_refused(folder: Path) -> None:
    write_modules(folder, "Pooling", "Dense")
    write_dense(folder, 2, torch.ones(6, WIDTH), "activation.Softshrink")
    assert refusals(folder) == {
        "FOLDER uses the activation torch.nn.modules.activation.Softshrink; expected Tanh, Identity, GELU."
    }


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", "FOLDER holds no .safetensors file; expected a model folder as transformers saves it."),
        ("config.json", "FOLDER holds no config.json; expected a model folder as transformers saves it."),
        ("tokenizer.json", "The tokenizer FOLDER/tokenizer.json cannot be loaded: Exception: "),
        ("1_Pooling/config.json", "FOLDER/1_Pooling/config.json is damaged: it is empty or missing; expected how"),
        ("2_Dense/model.safetensors", "The weights FOLDER/2_Dense/model.safetensors cannot be read: FileNotFound"),
    ],
)  # fmt: skip
def test_a_missing_file_is_named(folder: Path, file: str, message: str) -> None:
    write_modules(folder, "Pooling", "Dense")
    write_dense(folder, 2, torch.ones(6, WIDTH), "activation.Tanh")
    (folder / file).unlink()
    assert all(refusal.startswith(message) for refusal in refusals(folder))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize(
    "file",
    ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "config.json"]
    + ["1_Pooling/config.json", "2_Dense/config.json", "tokenizer.json"],
)
def test_damaged_json_is_refused_by_the_name_of_its_file(folder: Path, file: str, content: bytes) -> None:
    write_modules(folder, "Pooling", "Dense")
    write_dense(folder, 2, torch.ones(6, WIDTH), "activation.Tanh")
    (folder / file).write_bytes(content)
    assert all(f"FOLDER/{file} " in refusal for refusal in refusals(folder))


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("modules.json", {}, "expected a JSON array"),
        ("modules.json", ["Transformer"], "expected a type and a path for each module"),
        ("1_Pooling/config.json", [], "expected a JSON object"),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "expected max_seq_length in tokens, not 'many'"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length is 2, and special tokens take 2"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length is -1, and special tokens take 2"),
        ("config_sentence_transformers.json", {"prompts": ["find: "]}, "expected prompts by name"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": 5, "document": 5}},
            "expected a prompt in quotes, not 5",
        ),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(folder: Path, file: str, content: Any, problem: str) -> None:
    write_modules(folder, "Pooling")
    write(folder, file, content)
    assert refusals(folder) == {f"FOLDER/{file} is damaged: {problem}. Fetch it again."}


@pytest.mark.parametrize("path", ["/etc", "../elsewhere", "1_Pooling/../.."])
def test_modules_outside_the_folder_are_refused(folder: Path, path: str) -> None:
    write_modules(folder, "Pooling")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = path
    write(folder, "modules.json", modules)
    assert refusals(folder) == {
        f"FOLDER/modules.json is damaged: {path} is outside the folder. Fetch it again."
    }


def test_a_dense_layer_of_another_width_is_refused(folder: Path) -> None:
    write_modules(folder, "Pooling", "Dense")
    write_dense(folder, 2, torch.ones(6, WIDTH + 1), "activation.Tanh")
    (refusal,) = refusals(folder)
    assert "cannot be read: ValueError: expected a matrix for 16 numbers, not [6, 17]" in refusal


def test_weights_that_lack_a_layer_are_refused(folder: Path) -> None:
    bert_config(num_hidden_layers=3).save_pretrained(folder)
    with pytest.raises(ModelError, match="its files lack the weights encoder.layer.2"):
        encoder(folder).embed(["a"])


def test_nothing_is_loaded_before_the_first_text(folder: Path) -> None:
    def refuse() -> Path:
        pytest.fail("the folder was asked for")

    assert SentenceEncoder("tiny", refuse).name == "tiny"
    loaded = SentenceEncoder("tiny", lambda: folder)
    loaded.check()
    assert "_model" not in vars(loaded)
