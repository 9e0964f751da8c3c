"""Embeddings of chunks in Chroma: keys and vectors only, never text.

On disk Chroma is for one process at a time and does not check what it reads (a flipped byte may crash
it), so it only ever works on a private copy. A server by URL serves several machines.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np

from memagent.backends.errors import CheckpointError, SettingError, StorageError
from memagent.backends.protocol import Vectors
from memagent.backends.shared.full_text import DISK_CODES

if TYPE_CHECKING:
    from chromadb.api.client import Client
    from chromadb.api.collection_configuration import CreateHNSWConfiguration
    from chromadb.api.models.Collection import Collection as ChromaCollection

_BATCH = 1000
_SERVER_SECONDS = 5.0
_MAX_EXACT = 1000
"""Vectors up to which a search compares all of them."""
# Chroma's Rust code panics at some damage, which Python sees as a BaseException of this module.
_RUST = "pyo3_runtime"
# hnswlib's header: version, offset of level 0, most elements, elements, bytes of an element.
_HEADER = struct.Struct("<iQQQQ")
_SQLITE_CODE = re.compile(r"\(code: (\d+)\)")
# Inner product of unit vectors is their cosine; Chroma's own "cosine" would renormalise what we store.
_HNSW: CreateHNSWConfiguration = {
    "space": "ip",
    "max_neighbors": 16,
    "ef_construction": 100,
    "ef_search": 200,
    "num_threads": 1,
    "batch_size": _BATCH,
    "sync_threshold": _BATCH,
}


class VectorIndex:
    """An approximate nearest-neighbour index (HNSW) of unit vectors under string keys.

    Cost: about 2 KB a vector on disk; a query at 100,000 vectors takes a few milliseconds.

    Args:
        location: a folder for the embedded store, or the URL of a Chroma server.
        collection: name of the collection; tells users apart on a shared server.

    Raises:
        CheckpointError: the folder's content cannot be opened.
        StorageError: the disk or the server fails.
    """

    def __init__(self, location: Path | str, collection: str = "chunks") -> None:
        self._location = location
        self._name = collection
        self._kept_vectors: dict[str, Vectors] | None = None
        self._open()

    @property
    def embedded(self) -> bool:
        """Whether the store is a folder of this machine, not a server."""
        return isinstance(self._location, Path)

    def add(self, keys: Sequence[str], vectors: Vectors) -> None:
        """Add or replace vectors ``[len(keys), dimension]``."""
        self._kept_vectors = None
        for start in range(0, len(keys), _BATCH):
            batch = slice(start, start + _BATCH)
            self._collection.upsert(ids=list(keys[batch]), embeddings=vectors[batch])
        if isinstance(self._location, Path):
            clear_unused_bytes(self._location)

    def nearest(self, vector: Vectors, limit: int, keys: Collection[str] | None = None) -> dict[str, float]:
        """Return the keys most similar to ``vector`` ``[dimension]`` with their cosines, best first.

        Up to 1,000 vectors all are compared, so the answer is exact; beyond, Chroma's graph answers, whose
        near-equals depend on the random order it was built in. Equal cosines come in order of their keys.

        Args:
            vector: of the query.
            limit: most keys returned.
            keys: all of these are compared, and no others; None: all.
        """
        if keys is not None or self.count() <= _MAX_EXACT:
            compared = self._all_vectors() if keys is None else self.get(keys)
            hits = [(key, min(1.0, float(stored @ vector))) for key, stored in compared.items()]
        else:
            hits = self._approximate(vector, limit)
        return dict(sorted(hits, key=lambda hit: (-round(hit[1], 6), hit[0]))[:limit])

    def _all_vectors(self) -> dict[str, Vectors]:
        """Return all vectors by key. Those of a folder are kept in memory until they change: Chroma takes 80 ms for 1,000."""
        if not self.embedded:
            return self.get(self.all_keys())
        if self._kept_vectors is None:
            self._kept_vectors = self.get(self.all_keys())
        return self._kept_vectors

    def _approximate(self, vector: Vectors, limit: int) -> list[tuple[str, float]]:
        """Return the keys that Chroma's graph finds near a vector, with their cosines."""
        result = self._collection.query(
            query_embeddings=vector.reshape(1, -1), n_results=limit, include=["distances"]
        )
        distances = result["distances"] or [[]]
        return [
            (key, min(1.0, 1.0 - distance))
            for key, distance in zip(result["ids"][0], distances[0], strict=True)
        ]

    def get(self, keys: Collection[str]) -> dict[str, Vectors]:
        """Return the vectors of those keys that are here."""
        return dict(self._read(list(keys)))

    def all_keys(self) -> list[str]:
        """Return the keys of all vectors here."""
        return list(self._collection.get(include=[])["ids"])

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the keys that are not here."""
        present: set[str] = set()
        for start in range(0, len(keys), _BATCH):
            present.update(self._collection.get(ids=list(keys[start : start + _BATCH]), include=[])["ids"])
        return [key for key in keys if key not in present]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove vectors; keys not here are ignored. In a folder, ``rewrite`` removes their bytes too."""
        self._kept_vectors = None
        for start in range(0, len(keys), _BATCH):
            self._collection.delete(ids=list(keys[start : start + _BATCH]))

    def rewrite(self) -> None:
        """Build an embedded store again from its vectors: Chroma leaves the bytes of deleted ones on disk.

        Cost: about 5,000 vectors a second. A server's files are its operator's to compact.
        """
        if not isinstance(self._location, Path):
            return
        remaining = self.get(self.all_keys())
        self.close()
        old, self._location = self._location, new_store_folder(self._location.parent)
        shutil.rmtree(old)
        self._open()
        if remaining:
            self.add(list(remaining), np.stack(list(remaining.values())))

    def copy_to(self, folder: Path) -> None:
        """Copy the embedded store's files, closed and whole, into ``folder``."""
        if isinstance(self._location, Path):
            self.close()
            shutil.copytree(self._location, folder)
            self._open()

    def count(self) -> int:
        """Return the number of vectors."""
        return self._collection.count()

    def close(self) -> None:
        """Close the store's files, or the connection to its server."""
        self._client.close()

    def _open(self) -> None:
        """Open the folder's store, which is made if it is missing, or connect to the server."""
        if not isinstance(self._location, Path):
            self._client = _server_client(self._location)
            self._collection = self._get_or_create()
            return
        stored = self._location.exists()
        client: Client | None = None
        try:
            self._client = client = _embedded_client(self._location)
            self._collection = self._get_or_create()
        except BaseException as error:
            if client is not None:
                client.close()
            if isinstance(error, Exception) or type(error).__module__ == _RUST:
                raise _unusable(self._location, error, stored=stored) from error
            raise

    def _get_or_create(self) -> ChromaCollection:
        return self._client.get_or_create_collection(
            self._name, embedding_function=None, configuration={"hnsw": _HNSW}
        )

    def _read(self, keys: list[str]) -> Iterator[tuple[str, Vectors]]:
        """Yield keys that are here with their vectors, a batch at a time."""
        for start in range(0, len(keys), _BATCH):
            result = self._collection.get(ids=keys[start : start + _BATCH], include=["embeddings"])
            if result["ids"]:
                yield from zip(result["ids"], np.asarray(result["embeddings"], dtype=np.float32), strict=True)


def _embedded_client(folder: Path) -> Client:
    """Open Chroma in this process on a folder, which is made if it is missing; no network, no telemetry."""
    import chromadb.config
    from chromadb.api.client import Client

    folder.mkdir(mode=0o700, exist_ok=True)
    # Everything spelled out: Chroma would otherwise take settings from the environment and ./.env.
    return Client(
        settings=chromadb.config.Settings(
            chroma_api_impl="chromadb.api.rust.RustBindingsAPI",
            chroma_otel_collection_endpoint="",
            allow_reset=False,
            migrations="apply",
            is_persistent=True,
            persist_directory=str(folder.resolve()),
            anonymized_telemetry=False,
        )
    )


def new_store_folder(parent: Path) -> Path:
    """Return a new path for a store: Chroma remembers each path of a process, also one that it has closed."""
    return parent / f"chroma-{uuid4().hex}"


def clear_unused_bytes(folder: Path) -> None:
    """Overwrite what Chroma's index files hold beyond their elements.

    hnswlib writes room for elements to come as it got it from the allocator: with whatever the process had freed, such
    as the text of a turn that was forgotten since. Their header names the elements and the size of each.
    """
    for header in folder.glob("*/header.bin"):
        content = header.read_bytes()
        if len(content) < _HEADER.size:
            continue
        _, _, _, elements, element_bytes = _HEADER.unpack_from(content)
        for name, size in (("data_level0.bin", element_bytes), ("length.bin", 4)):
            file = header.with_name(name)
            unused = file.stat().st_size - elements * size if file.exists() else 0
            if unused > 0:
                with file.open("r+b") as opened:
                    opened.seek(elements * size)
                    opened.write(bytes(unused))


def _unusable(folder: Path, error: BaseException, *, stored: bool) -> CheckpointError | StorageError:
    """Return the error of a folder that Chroma cannot open: of the stored content, or of the disk."""
    code_text = _SQLITE_CODE.search(str(error))
    code = int(code_text[1]) & 0xFF if code_text else 0
    if stored and code not in DISK_CODES:
        return CheckpointError(f"Chroma cannot read its files: {error}")
    return StorageError(
        f"Chroma cannot open {folder}: {error}. If the disk is full or cannot be written, mend that first."
    )


def _server_client(url: str) -> Client:
    """Connect to a Chroma server, after it has answered within 5 seconds.

    Raises:
        SettingError: the URL is not a server's address.
        StorageError: the server does not answer.
    """
    import chromadb
    import httpx
    from chromadb.config import Settings

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingError(f"url={url!r} is not a Chroma server's address: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingError(
            f"url={url!r} is not a Chroma server's address; expected http://host:port or https://host."
        )
    secure = parts.scheme == "https"
    port = port or (443 if secure else 8000)
    try:
        # With a time limit, before Chroma's own client, which waits for a mute server for ever.
        httpx.get(
            f"{parts.scheme}://{parts.hostname}:{port}/api/v2/heartbeat", timeout=_SERVER_SECONDS
        ).raise_for_status()
        client = chromadb.HttpClient(
            host=parts.hostname, port=port, ssl=secure, settings=Settings(anonymized_telemetry=False)
        )
    except (httpx.HTTPError, ValueError) as error:
        raise StorageError(
            f"The Chroma server at {url} does not answer ({error}). Start it, on its machine with "
            f"`chroma run --host {parts.hostname} --port {port} --path FOLDER`, or leave out --set url=... "
            "The journal is kept apart from it, and the memory reads there what it lacks when it is next used."
        ) from error
    return client  # type: ignore[return-value]
