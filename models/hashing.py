"""Hashes of files, by which weights are told apart."""

import hashlib
from pathlib import Path


def file_hash(*files: Path) -> str:
    """The SHA-256 of a file, or of the SHA-256 of each of several, in 64 hexadecimal digits.

    Raises:
        OSError: one cannot be read.
    """
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(one.digest() for one in digests))).hexdigest()
