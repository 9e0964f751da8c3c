"""Calibration: which heads of a model address memory, at which offset, and with which weights.

It runs once per model, on generated dialogues (``calibration_data.py``), and is kept in the cache folder.
The background that chunks must exceed is generated small talk (``addressing.py``):

1. Each query head of the lower half of the layers ranks the turns that answer questions by its attention mass alone, at one
   offset. The best heads are selected, and for each of them the best offset.
2. Each key/value head of all layers ranks the same turns by the similarity of its values alone. The best ones are joined
   (``value_similarity.py``).
3. The weights of their evidence are fitted by a listwise softmax over all chunks of a dialogue (``fitting.py``).
4. The threshold of abstention is set so that three in five remarks that need no memory stay below it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from memagent.backends.protocol import LocalModel, Progress
from memagent.backends.records import Turn
from memagent.backends.rope_map import calibration_data, fitting
from memagent.backends.rope_map.addressing import CalibratedHeads, QueryHead
from memagent.backends.rope_map.chunk_table import ChunkTable
from memagent.backends.rope_map.fitting import Example
from memagent.backends.rope_map.head_selection import (
    EncodedDialogue,
    segment_ids,
    select_query_heads,
    select_value_heads,
)
from memagent.backends.rope_map.index import AddressingIndex
from memagent.backends.rope_map.tuning import DEFAULT_TUNING, Tuning
from memagent.backends.rope_map.value_similarity import ValueSimilarity
from memagent.backends.shared.attention.chunks import TurnTokenizer
from memagent.backends.shared.attention.encoder import AttentionEncoder, EncodedQueries, KeysAndValues
from memagent.backends.shared.tensors import save_tensors

FORMAT = 5


def fingerprint(local: LocalModel, context: int, tuning: Tuning = DEFAULT_TUNING) -> str:
    """Return a name for what a calibration depends on: model, type of its numbers, context, dialogues and constants."""
    parts = [
        FORMAT,
        local.digest,
        str(local.model.dtype),
        context,
        hashlib.sha256(calibration_data.SOURCE.read_bytes()).hexdigest(),
        asdict(tuning),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def calibration_path(cache: Path, local: LocalModel, context: int) -> Path:
    """Return the file of a model's calibration in the cache folder."""
    return cache / f"rope_map-{fingerprint(local, context)}.safetensors"


def load_or_calibrate(
    local: LocalModel,
    encoder: AttentionEncoder,
    tokenizer: TurnTokenizer,
    context: int,
    cache: Path | None,
    progress: Progress,
) -> CalibratedHeads:
    """Return a model's calibrated heads from the cache folder, or calibrate them now and keep them there.

    Args:
        local: the model.
        encoder: of the model.
        tokenizer: of the model.
        context: how many chunks of its session the model reads before a chunk.
        cache: where it is None or cannot be written to, every start calibrates anew.
        progress: wraps the loop over dialogues.
    """
    path = None if cache is None else calibration_path(cache, local, context)
    heads = None if path is None else load(path)
    if heads is None:
        heads = calibrate(encoder, tokenizer, context, progress)
        if path is not None:
            with suppress(OSError):
                save(heads, path)
    return heads


def calibrate(
    encoder: AttentionEncoder,
    tokenizer: TurnTokenizer,
    context: int,
    progress: Progress,
    tuning: Tuning = DEFAULT_TUNING,
) -> CalibratedHeads:
    """Calibrate the heads of a model; takes half a minute to some minutes.

    Args:
        encoder: of the model.
        tokenizer: of the model.
        context: how many chunks of its session the model reads before a chunk.
        progress: wraps the loop over dialogues.
        tuning: the constants.
    """
    num_layers = max(1, encoder.num_layers // 2)
    generated = list(calibration_data.dialogues(tuning))
    label = "Finding the heads that address memory (once for this model)"
    dialogues = [
        _encode_dialogue(dialogue, encoder, tokenizer, context, num_layers)
        for dialogue in progress(generated, total=len(generated), label=label)
    ]
    background = _encode_background(encoder, tokenizer, tuning)
    keys = torch.cat([chunk.keys for chunk in background])
    values = torch.cat([chunk.values for chunk in background])
    query_heads = select_query_heads(dialogues, encoder, keys, num_layers, tuning)
    similarity = select_value_heads(dialogues, encoder, values, tuning)
    key_heads = sorted({(head.layer, head.head // encoder.group_size) for head in query_heads})
    unfitted = CalibratedHeads(
        query_heads=query_heads,
        group_size=encoder.group_size,
        value_similarity=similarity,
        weights=torch.empty(0),
        threshold=0.0,
        background_keys={(layer, head): keys[:, layer, head].contiguous() for layer, head in key_heads},
        background_values=similarity.embed(values).to(values.dtype),
        background_segment_ids=segment_ids(background),
        tuning=tuning,
    )
    return fitting.fit(unfitted, [_example(dialogue, unfitted, encoder.theta) for dialogue in dialogues])


def save(heads: CalibratedHeads, path: Path) -> None:
    """Write calibrated heads to a file that its owner alone can read. Readers see the whole file or none.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    metadata = {
        "group_size": heads.group_size,
        "threshold": heads.threshold,
        "query_heads": [asdict(head) for head in heads.query_heads],
        "value_heads": heads.value_similarity.heads,
    }
    tensors = {
        f"background_keys.{layer}.{head}": keys for (layer, head), keys in heads.background_keys.items()
    }
    tensors |= {
        "weights": heads.weights,
        "background_values": heads.background_values,
        "background_segment_ids": heads.background_segment_ids,
        "mean": heads.value_similarity.mean,
        "whitening": heads.value_similarity.whitening,
    }
    # Two processes may calibrate the same model at the same time.
    temporary = path.with_name(f"{path.stem}.{uuid4().hex}.new")
    save_tensors(tensors, temporary, {"heads": json.dumps(metadata)})
    temporary.replace(path)


def load(path: Path, tuning: Tuning = DEFAULT_TUNING) -> CalibratedHeads | None:
    """Read what ``save`` wrote; None if the file is missing or damaged, because a calibration can be made again.

    Args:
        path: of the file.
        tuning: the constants of the calibration. The file's name depends on them (``fingerprint``).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["heads"])
            names = [name for name in file.keys() if name.startswith("background_keys.")]  # noqa: SIM118
            return CalibratedHeads(
                query_heads=tuple(QueryHead(**head) for head in metadata["query_heads"]),
                group_size=metadata["group_size"],
                value_similarity=ValueSimilarity(
                    tuple((layer, head) for layer, head in metadata["value_heads"]),
                    file.get_tensor("mean"),
                    file.get_tensor("whitening"),
                ),
                weights=file.get_tensor("weights"),
                threshold=metadata["threshold"],
                background_keys={_key_head(name): file.get_tensor(name) for name in names},
                background_values=file.get_tensor("background_values"),
                background_segment_ids=file.get_tensor("background_segment_ids"),
                tuning=tuning,
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _key_head(name: str) -> tuple[int, int]:
    _, layer, head = name.split(".")
    return int(layer), int(head)


def _encode_dialogue(
    dialogue: calibration_data.Dialogue,
    encoder: AttentionEncoder,
    tokenizer: TurnTokenizer,
    context: int,
    num_layers: int,
) -> EncodedDialogue:
    """Encode a dialogue's chunks and questions; queries come from the first ``num_layers`` layers."""
    table = ChunkTable(tokenizer)
    numbers = table.add(dialogue.turns)
    chunks = [tokenizer.chunk_span(table[number], table.preceding(number, context)) for number in numbers]
    questions = [tokenizer.question(question.text) for question in dialogue.questions]
    return EncodedDialogue(
        table,
        list(encoder.encode(chunks)),
        list(encoder.encode_queries(questions, range(num_layers), encoder.num_layers)),
        [question.answer for question in dialogue.questions],
    )


def _encode_background(
    encoder: AttentionEncoder, tokenizer: TurnTokenizer, tuning: Tuning
) -> list[KeysAndValues]:
    """Encode the generated small talk that chunks must exceed, with the model."""
    turns = [
        Turn(place + 1, f"{place:032x}", "small talk", "user", text, calibration_data.CREATED_AT)
        for place, text in enumerate(calibration_data.small_talk(tuning))
    ]
    chunks = [tokenizer.chunk_span(chunk, []) for turn in turns for chunk in tokenizer.split(turn)]
    return list(encoder.encode(chunks))


def _example(dialogue: EncodedDialogue, heads: CalibratedHeads, theta: Tensor) -> Example:
    """Collect the evidence on a dialogue's chunks for each of its questions."""
    index = AddressingIndex(heads, theta, device="cpu")
    index.insert(enumerate(dialogue.chunks))
    num_questions, num_chunks = len(dialogue.questions), len(dialogue.chunks)
    own_evidence = torch.zeros(num_questions, num_chunks, 2 * (len(heads.query_heads) + 1))
    background = []
    for place, question in enumerate(dialogue.questions):
        result = index.search(EncodedQueries(question.queries[heads.query_layers], question.values))
        own_evidence[place, result.chunks] = result.evidence
        background.append(result.background)
    targets = torch.zeros(num_questions, num_chunks)
    for place, answer in enumerate(dialogue.answers):
        if answer is not None:
            targets[place, dialogue.table.numbers([answer + 1])] = 1
    evidence = torch.zeros_like(own_evidence)
    for shift, share in heads.tuning.neighbour_credit:
        evidence += share * _neighbour_evidence(own_evidence, dialogue.table, shift)
    return Example(own_evidence, evidence, torch.stack(background), targets)


def _neighbour_evidence(own_evidence: Tensor, table: ChunkTable, shift: int) -> Tensor:
    """Return for each chunk the evidence on the chunk ``shift`` places after it in its dialogue; 0 where there is none."""
    evidence = torch.zeros_like(own_evidence)
    for number in range(own_evidence.shape[1]):
        other = table.neighbour(number, shift)
        if other is not None:
            evidence[:, number] = own_evidence[:, other]
    return evidence
