"""What may pass for a picture here: where its bytes may come from, how large it may be, how it is decoded."""

from __future__ import annotations

import base64
import binascii
import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 50 * 2**20
MAX_PIXELS = 100_000_000
# Only formats that Pillow decodes by itself: some others start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# The limit above is ours and an error; Pillow's own would be a warning on the console first.
Image.MAX_IMAGE_PIXELS = None


class PictureError(Exception):
    """A picture cannot be used; the message is one line that says why."""


def read(uri: str, root: Path | None) -> bytes:
    """The encoded file behind a URI.

    Args:
        uri: a base64 ``data:`` URI, or the path of a file.
        root: the folder below which files may be read, already resolved; ``None``: none may.

    Raises:
        PictureError: not one of these, outside ``root``, unreadable, or more than ``MAX_BYTES``.
    """
    data = _read_data_uri(uri) if uri[:5].lower() == "data:" else _read_file(uri, root)
    if not data:
        raise PictureError("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(f"the file has more than {MAX_BYTES // 2**20} MB")
    return data


def _read_data_uri(uri: str) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise PictureError("not a base64 data URI")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"not valid base64: {error}") from error


def _read_file(uri: str, root: Path | None) -> bytes:
    if root is None:
        raise PictureError("only data: URIs and pictures of this server are read, no paths and no addresses")
    try:
        path = Path(uri).resolve()
        if not path.is_relative_to(root):
            raise PictureError(f"lies outside the data set's folder {root}")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def inspect(data: bytes) -> str:
    """The MIME type of an encoded picture, from its head alone: nothing is decoded.

    Raises:
        PictureError: not a picture of a known format, or of more than ``MAX_PIXELS``.
    """
    with _open(data) as picture:
        # Several JPEGs in one file, as some cameras write them, are shown like the first of them.
        return "image/jpeg" if picture.format == "MPO" else Image.MIME[picture.format or "JPEG"]


def decode(data: bytes) -> Image.Image:
    """An encoded picture as upright pixels in its own colours; of several frames the first.

    Raises:
        PictureError: as ``inspect``, or the file is damaged.
    """
    with _open(data) as picture:
        try:
            return ImageOps.exif_transpose(picture)
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
            raise PictureError(f"a damaged {picture.format} file: {error}") from error


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings(action="ignore"):
            picture = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureError(f"not a picture ({', '.join(FORMATS)} are known)") from None
    except Exception as error:  # as above
        raise PictureError(f"a damaged picture: {error}") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width} x {height} pixels are more than {MAX_PIXELS // 10**6} million")
    return picture
