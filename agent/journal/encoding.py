"""The encoding of a file that somebody brings: UTF-8, with or without a byte-order mark."""

from __future__ import annotations

import codecs
from typing import BinaryIO

from memagent.backends.errors import InputError

_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ZIP = b"PK\x03\x04"


def text_start(name: str, file: BinaryIO) -> int:
    """Return the offset at which the text of a file begins: after a byte-order mark of UTF-8, if there is one.

    Args:
        name: of the file, for messages.
        file: seekable; its position changes.

    Raises:
        InputError: it is UTF-16, UTF-32 or a ZIP archive; the message says what to do.
    """
    try:
        file.seek(0)
        head = file.read(4)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error
    if head.startswith(_ZIP):
        raise InputError(
            f"{name} is a ZIP archive. Unpack it and import the file with the conversations, often conversations.json."
        )
    for mark, encoding in _ENCODINGS:
        # Without a mark, the zero byte beside an ASCII character tells UTF-16 from UTF-8.
        if head.startswith(mark) or (encoding == "UTF-16" and _is_unmarked(head)):
            raise InputError(
                f"{name} is {encoding}; expected UTF-8. Convert it first, for instance with "
                f"`iconv -f {encoding} -t UTF-8`."
            )
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def _is_unmarked(head: bytes) -> bool:
    """Return whether a file begins with one ASCII character in UTF-16 without a byte-order mark."""
    return len(head) >= 2 and (head[0] == 0) != (head[1] == 0) and 0 < head[0] + head[1] < 128
