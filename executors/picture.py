"""What may pass for a picture here: where its bytes may come from, how large it may be, how it is decoded."""

from __future__ import annotations

import base64
import binascii
import os
import warnings
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from executors.limits import MAX_PICTURE, MAX_PIXELS

# Only formats that Pillow decodes by itself: some others start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# The limit above is ours and an error; Pillow's own would be a warning on the console first.
Image.MAX_IMAGE_PIXELS = None


class PictureError(Exception):
    """A picture cannot be used; the message is one line that says why."""


class Head(NamedTuple):
    """What the beginning of an encoded picture says: its MIME type, and its size in pixels when it stands upright."""

    mime_type: str
    width: int
    height: int


def data_root() -> str:
    """The folder below which this Flow may read files; empty: none may.

    It does not come through a YAML file, where Jina would replace what a folder's name has of dollar signs.
    """
    return os.environ.get("JINA_DATA_ROOT", "")


def read(uri: str, root: Path | None) -> bytes:
    """The encoded file behind a URI.

    Args:
        uri: a base64 ``data:`` URI, or the path of a file.
        root: the folder below which files may be read, already resolved; ``None``: none may.

    Raises:
        PictureError: not one of these, outside ``root``, unreadable, or more than ``MAX_PICTURE``.
    """
    data = _read_data_uri(uri) if uri[:5].lower() == "data:" else _read_file(uri, root)
    if not data:
        raise PictureError("the file is empty")
    if len(data) > MAX_PICTURE:
        raise PictureError(f"the file has more than {MAX_PICTURE // 2**20} MB")
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
            return file.read(MAX_PICTURE + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def inspect(data: bytes) -> Head:
    """What an encoded picture is, from its head alone: nothing is decoded.

    Raises:
        PictureError: not a picture of a known format, or of more than ``MAX_PIXELS``.
    """
    with _open(data) as picture:
        # Several JPEGs in one file, as some cameras write them, are shown like the first of them.
        mime_type = "image/jpeg" if picture.format == "MPO" else Image.MIME[picture.format or "JPEG"]
        try:
            # A PNG's own method would decode it, to look behind the pixels too.
            orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation)
        except Exception as error:  # as in _upright
            raise PictureError(f"a damaged {picture.format} file: {error}") from error
        width, height = picture.size
        lies = orientation in (5, 6, 7, 8) and picture.format != "TIFF"  # whose size Pillow has turned already
        return Head(mime_type, height, width) if lies else Head(mime_type, width, height)


def decode(data: bytes) -> Image.Image:
    """An encoded picture as upright pixels in its own colours; of several frames the first.

    Raises:
        PictureError: as ``inspect``, or the file is damaged.
    """
    with _open(data) as picture:
        return _upright(picture)


def thumbnail(data: bytes, side: int) -> bytes:
    """A small version of an encoded picture: an upright JPEG, on white where the picture is transparent.

    Args:
        side: pixels of the longer side at most; a smaller picture keeps its size.

    Raises:
        PictureError: as ``decode``.
    """
    with _open(data) as picture:
        # A large JPEG is decoded at a fraction of its size: still twice as large, so that it can be smoothed.
        picture.draft(None, (2 * side, 2 * side))
        small = _upright(picture)
    colours = "RGBA" if small.has_transparency_data else "RGB"
    if small.mode != colours:
        small = small.convert(colours)
    small.thumbnail((side, side), reducing_gap=2.0)
    white = Image.new("RGB", small.size, "white")  # without the picture's metadata
    white.paste(small, mask=small if colours == "RGBA" else None)
    file = BytesIO()
    white.save(file, "JPEG", quality=80, optimize=True)
    return file.getvalue()


def _upright(picture: Image.Image) -> Image.Image:
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
