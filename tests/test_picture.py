"""What a picture's head says, its thumbnail, and the files in which thumbnails are kept."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataset import open_data_set
from executors.picture import PictureError, decode, inspect, thumbnail
from executors.thumbnails import SIDE, Thumbnails

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(kind: str, orientation: int) -> bytes:
    """30 x 10 pixels that are to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.new("RGB", (30, 10), "red"), kind, exif=exif)


# ------------------------------------------------------------------------------------------------------- the head


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_upright_picture(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    head = inspect(data)
    assert (head.width, head.height) == decode(data).size == ((30, 10) if orientation < 5 else (10, 30))
    assert head.mime_type == f"image/{kind.lower()}"
    assert Image.open(BytesIO(thumbnail(data, SIDE))).size == (head.width, head.height)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_size_needs_no_pixels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (30, 10)), kind)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert inspect(data)[1:] == (30, 10)


def test_a_head_with_damaged_metadata() -> None:
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n4\nno digits")
    with pytest.raises(PictureError, match="damaged PNG"):
        inspect(encoded(Image.new("RGB", (10, 10)), "PNG", pnginfo=info))


# ------------------------------------------------------------------------------------------------------- thumbnails


def test_a_page_of_photographs_is_light() -> None:
    """50 of them move less than 1.5 MB, on the average of those that come with the program."""
    data_set = open_data_set("toy")
    paths = {pair.path for pair in data_set.pairs(limit=100, skip=lambda *_: None)}
    sizes = [len(thumbnail(path.read_bytes(), SIDE)) for path in paths]
    assert len(sizes) > 10
    assert 50 * np.mean(sizes) < 1.5e6


@pytest.mark.parametrize(
    ("size", "small"), [((4000, 1000), (320, 80)), ((7, 2000), (1, 320)), ((300, 320), (300, 320))]
)
def test_proportions_are_kept(size: tuple[int, int], small: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        assert Image.open(BytesIO(thumbnail(encoded(Image.new("RGB", size), kind), SIDE))).size == small


def test_metadata_is_left_out() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker of the camera"
    data = encoded(Image.new("RGB", (10, 10)), "JPEG", exif=exif, comment=b"a comment", icc_profile=b"a profile" * 99)
    assert b"a profile" in data
    for text in (b"maker", b"comment", b"profile", b"Exif"):
        assert text not in thumbnail(data, SIDE)


def test_a_damaged_picture() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for kind in ("JPEG", "PNG"):
        data = encoded(noise, kind)
        with pytest.raises(PictureError, match="damaged"):
            thumbnail(data[: len(data) // 2], SIDE)


# ------------------------------------------------------------------------------------------------------- their files


ID = "ab" + "0" * 38


def once(data: bytes) -> Callable[[], bytes]:
    """Gives a picture, but not twice."""
    left = [data]
    return left.pop


def red(side: int = 8) -> bytes:
    return encoded(Image.new("RGB", (side, side), "red"), "PNG")


def test_a_thumbnail_is_made_once(tmp_path: Path) -> None:
    thumbnails, picture = Thumbnails(tmp_path), once(red())
    first = thumbnails.get(ID, picture)
    assert thumbnails.get(ID, picture) == Thumbnails(tmp_path).get(ID, picture) == first == thumbnail(red(), SIDE)
    assert [path.read_bytes() for path in tmp_path.rglob("*.*")] == [first]


def test_a_kill_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off while it writes; the next one makes it anew, and the remains go with the picture."""
    write = Path.write_bytes

    def write_half(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    thumbnails = Thumbnails(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        thumbnails.get(ID, once(red()))
    monkeypatch.undo()
    [unfinished] = tmp_path.rglob("*.*")
    unfinished.rename(unfinished.with_suffix(".1-1"))  # of a process that is no more
    assert thumbnails.get(ID, once(red())) == thumbnail(red(), SIDE)
    thumbnails.remove([ID])
    assert list(tmp_path.rglob("*.*")) == []


def test_an_empty_file_is_none(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path)
    thumbnails.get(ID, once(red()))
    [path] = tmp_path.rglob("*.jpg")
    path.write_bytes(b"")
    assert thumbnails.get(ID, once(red())) == path.read_bytes() == thumbnail(red(), SIDE)


def test_a_disk_that_is_full_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "thumbnails").touch()  # no folder can be made
    assert Thumbnails(tmp_path / "thumbnails").get(ID, once(red())) == thumbnail(red(), SIDE)


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    Thumbnails(tmp_path / "absent").remove([ID])
