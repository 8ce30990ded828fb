"""Small versions of the stored pictures: made once each, kept as files, made again if they are gone."""

import os
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Callable, Iterable

from executors.picture import thumbnail

SIDE = 320
"""Pixels of a thumbnail's longer side at most."""
MIME_TYPE = "image/jpeg"


class Thumbnails:
    """The thumbnails of one shard. Several threads and processes may ask for the same one at once.

    Args:
        folder: where the files are kept; made with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, id_: str, picture: Callable[[], bytes]) -> bytes:
        """One thumbnail as a JPEG file.

        Args:
            id_: of the picture, in hexadecimal.
            picture: gives the encoded picture; called only if the thumbnail is not there yet.

        Raises:
            PictureError: the picture cannot be decoded.
        """
        path = self._path(id_)
        with suppress(OSError):
            if data := path.read_bytes():  # a power failure may leave an empty file
                return data
        data = thumbnail(picture(), SIDE)
        unfinished = path.with_suffix(f".{os.getpid()}-{get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(path)  # under this name it is whole or not there
        except OSError:  # a full disk is no reason not to show it
            with suppress(OSError):
                unfinished.unlink()
        return data

    def remove(self, ids: Iterable[str]) -> None:
        """Delete the thumbnails of pictures that are gone, also what a kill left unfinished."""
        for id_ in ids:
            for file in self._path(id_).parent.glob(f"{id_}.*"):
                file.unlink(missing_ok=True)

    def _path(self, id_: str) -> Path:
        return self.folder / id_[:2] / f"{id_}.jpg"
