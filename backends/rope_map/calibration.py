"""Learning which heads of a model address memory, at which offset, and how much each is to be believed.

Done once for a model, on generated conversations (``generated.py``), and kept in the cache:

1. Every head of the lower half of the layers is asked alone, at one offset, how well the mass it pays ranks the turn
   that answers a question; the best ones are chosen, and for each of them the best offset.
2. Every head of all layers is asked in the same way how well the likeness of its values ranks that turn; the best ones are
   joined (``likeness.py``).
3. The weights of their evidence are fitted: a listwise softmax over all pieces of a conversation (Cao et al. 2007,
   ListNet) with the answering one as the target, and a penalty on large weights.
4. The threshold of abstention is laid where three in five remarks that need no memory stay below it.
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
from memagent.backends.rope_map import calibration_data as generated
from memagent.backends.rope_map import fitting
from memagent.backends.rope_map import head_selection as choosing
from memagent.backends.rope_map.addressing import NEIGHBOURS, Addressing, Head
from memagent.backends.rope_map.chunk_table import Catalogue
from memagent.backends.rope_map.fitting import Example
from memagent.backends.rope_map.head_selection import Heard, owners_of
from memagent.backends.rope_map.index import AddressIndex
from memagent.backends.rope_map.value_similarity import RIDGE, SHARPNESS, Likeness
from memagent.backends.shared.attention.chunks import Writer
from memagent.backends.shared.attention.encoder import Asked, KeysAndValues, Reader, Row
from memagent.backends.shared.tensors import save_tensors

FORMAT = 4
_SCENES = 4
_SEED = 0


def fingerprint(local: LocalModel, context: int) -> str:
    """Name what a calibration depends on: model, type of its numbers, context, material and recipe."""
    parts = [
        FORMAT,
        local.digest,
        str(local.model.dtype),
        context,
        hashlib.sha256(generated.SOURCE.read_bytes()).hexdigest(),
        (_SCENES, _SEED, SHARPNESS, RIDGE),
        choosing.RECIPE,
        fitting.RECIPE,
        sorted(NEIGHBOURS.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def calibrated(
    local: LocalModel,
    reader: Reader,
    writer: Writer,
    context: int,
    cache: Path | None,
    progress: Progress,
) -> Addressing:
    """Return a model's addressing: from the cache folder, else learnt now and kept there.

    Where the folder cannot be written to, it is learnt at every start.
    """
    path = None if cache is None else cache / f"rope_map-{fingerprint(local, context)}.safetensors"
    found = None if path is None else load(path)
    if found is None:
        found = calibrate(reader, writer, context, progress)
        if path is not None:
            with suppress(OSError):
                save(found, path)
    return found


def calibrate(reader: Reader, writer: Writer, context: int, progress: Progress) -> Addressing:
    """Learn a model's addressing; half a minute to some minutes.

    Args:
        context: pieces of its session that a piece is read after.
    """
    depth = max(1, reader.depth // 2)
    drawn = list(generated.scenes(_SCENES, _SEED))
    label = "Finding the heads that address memory (once for this model)"
    scenes = [
        _read(scene, reader, writer, context, depth)
        for scene in progress(drawn, total=len(drawn), label=label)
    ]
    talk = _small_talk(reader, writer)
    background = torch.cat([one.keys for one in talk])
    values = torch.cat([one.values for one in talk])
    heads = choosing.choose_heads(scenes, reader, background, depth)
    alike = choosing.choose_values(scenes, reader, values)
    keys = {(head.layer, head.head // reader.group) for head in heads}
    bare = Addressing(
        heads=heads,
        group=reader.group,
        likeness=alike,
        weights=torch.empty(0),
        threshold=0.0,
        background={key: background[:, key[0], key[1]].contiguous() for key in sorted(keys)},
        alike=alike(values).to(values.dtype),
        owners=owners_of(talk),
    )
    examples = [_example(scene, bare, reader.theta) for scene in scenes]
    return fitting.fit(bare, examples)


def save(addressing: Addressing, path: Path) -> None:
    """Write a calibration, readable by its owner only; a reader sees all of it or nothing.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = {
        "group": addressing.group,
        "threshold": addressing.threshold,
        "heads": [asdict(head) for head in addressing.heads],
        "value_heads": addressing.likeness.heads,
    }
    tensors = {f"background.{layer}.{head}": keys for (layer, head), keys in addressing.background.items()}
    tensors |= {"weights": addressing.weights, "owners": addressing.owners, "alike": addressing.alike}
    tensors |= {"mean": addressing.likeness.mean, "whitening": addressing.likeness.whitening}
    # Two users may learn the same model at the same time.
    fresh = path.with_name(f"{path.stem}.{uuid4().hex}.new")
    save_tensors(tensors, fresh, {"addressing": json.dumps(told)})
    fresh.replace(path)


def load(path: Path) -> Addressing | None:
    """Read a calibration; None if there is none, or none that can be read: it can be made again."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["addressing"])
            names = [name for name in file.keys() if name.startswith("background.")]  # noqa: SIM118
            return Addressing(
                heads=tuple(Head(**head) for head in told["heads"]),
                group=told["group"],
                likeness=Likeness(
                    tuple((layer, head) for layer, head in told["value_heads"]),
                    file.get_tensor("mean"),
                    file.get_tensor("whitening"),
                ),
                weights=file.get_tensor("weights"),
                threshold=told["threshold"],
                alike=file.get_tensor("alike"),
                owners=file.get_tensor("owners"),
                background={_key(name): file.get_tensor(name) for name in names},
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _key(name: str) -> tuple[int, int]:
    _, layer, head = name.split(".")
    return int(layer), int(head)


def _read(scene: generated.Scene, reader: Reader, writer: Writer, context: int, depth: int) -> Heard:
    catalogue = Catalogue(writer)
    numbers = catalogue.add(scene.turns)
    rows = [
        Row(writer.before(catalogue.before(number, context)), catalogue[number].ids) for number in numbers
    ]
    asked = [Row(*writer.question(one.text)) for one in scene.asked]
    return Heard(
        catalogue,
        list(reader.read(rows)),
        list(reader.ask(asked, range(depth), reader.depth)),
        [one.answer for one in scene.asked],
    )


def _small_talk(reader: Reader, writer: Writer) -> list[KeysAndValues]:
    turns = [
        Turn(place + 1, f"{place:032x}", "small talk", "user", text, generated.LONG_AGO)
        for place, text in enumerate(generated.background())
    ]
    rows = [Row(writer.before([]), piece.ids) for turn in turns for piece in writer.cut(turn)]
    return list(reader.read(rows))


def _example(scene: Heard, bare: Addressing, theta: Tensor) -> Example:
    index = AddressIndex(bare, theta, device="cpu")
    index.insert(enumerate(scene.stored))
    pieces, size = len(scene.stored), 2 * (len(bare.heads) + 1)
    own = torch.zeros(len(scene.asked), pieces, size)
    background = []
    for place, one in enumerate(scene.asked):
        found = index.find(Asked(one.queries[bare.layers], one.values))
        own[place, found.pieces] = found.evidence
        background.append(found.background)
    target = torch.zeros(len(scene.asked), pieces)
    for place, answer in enumerate(scene.answers):
        if answer is not None:
            target[place, scene.catalogue.numbers([answer + 1])] = 1
    given = torch.zeros_like(own)
    for shift, share in NEIGHBOURS.items():
        given += share * _shifted(own, scene.catalogue, shift)
    return Example(own, given, torch.stack(background), target)


def _shifted(own: Tensor, catalogue: Catalogue, shift: int) -> Tensor:
    """Give each piece the evidence of the piece ``shift`` places after it in its dialogue."""
    given = torch.zeros_like(own)
    for number in range(own.shape[1]):
        other = catalogue.around(number, shift)
        if other is not None:
            given[:, number] = own[:, other]
    return given
