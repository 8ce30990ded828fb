"""The pictures of packages that clip-small is trained on too, from packages made here."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from models import ModelError
from training import world
from training.world import KINDS, PAGES, make_world, read_world


def png(colour: str, size: int) -> bytes:
    stream = BytesIO()
    Image.new("RGBA", (size, size), colour).save(stream, "PNG")
    return stream.getvalue()


def fill(packages: Path) -> None:
    """What unpacked packages look like: archives of textures, a map of the moon, a coin, fonts."""
    names = ("ufoai/base", "stellarium/textures", "stamps/symbols/money/us/coins", "fonts")
    textures, sky, money, fonts = (packages / name for name in names)
    for folder in (textures, sky, money, fonts):
        folder.mkdir(parents=True)
    coin = Image.new("RGBA", (80, 80))
    ImageDraw.Draw(coin).ellipse((0, 0, 79, 79), fill="white")
    coin.save(money / "penny.png")
    coin.save(money.parent / "dollar-sign.png")
    with zipfile.ZipFile(textures / "0textures.pk3", "w") as archive:
        archive.writestr("textures/tex_mattn/brick01.png", png("red", 64))
        archive.writestr("textures/tex_mattn/brick01_nm.png", png("blue", 64))
    (sky / "moon.png").write_bytes(png("white", 1200))
    font = ImageFont.load_default(12)
    assert isinstance(font, ImageFont.FreeTypeFont)
    for name in ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "Humor-Sans.ttf"):
        (fonts / name).write_bytes(font.font_bytes)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(world, "_fetch", fill)
    monkeypatch.setattr(world, "KINDS", {name: KINDS[name] for name in ("bricks", "moon", "coins")})
    monkeypatch.setattr(world, "PICTURES", 4)
    make_world(tmp_path / "world")
    return tmp_path / "world"


def test_kinds_have_their_names_and_pictures(made: Path) -> None:
    kinds = {tuple(names): pictures for names, pictures in read_world(made)}
    assert set(kinds) == {
        KINDS["bricks"].names,
        KINDS["moon"].names,
        KINDS["coins"].names,
        *(page.names for page in PAGES.values()),
    }
    assert len(kinds[KINDS["bricks"].names]) == 4
    assert len(kinds[PAGES["code"].names]) == 8


def test_textures_keep_their_colour_but_for_every_fourth(made: Path) -> None:
    first, *others = (np.asarray(Image.open(path)).mean(axis=(0, 1)) for path in read_world(made)[0][1])
    assert np.ptp(first) < 3
    for colour in others:  # red: the blue file is for a renderer
        np.testing.assert_allclose(colour, (254, 0, 0), atol=3)


def test_of_a_map_parts_are_seen(made: Path) -> None:
    moon = next(pictures for names, pictures in read_world(made) if "the moon" in names)
    assert all(max(Image.open(path).size) <= world.SIDE for path in moon)


def test_coins_lie_in_rows_on_a_dark_table(made: Path) -> None:
    pictures = next(pictures for names, pictures in read_world(made) if names == list(KINDS["coins"].names))
    assert len(pictures) == 4
    for path in pictures:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert 0.2 < (pixels > 230).mean() < 0.8  # the discs cover 28 to 71 % of their squares
        assert max(pixels[0, 0], pixels[-1, -1]) < 185


def test_pages_have_ink_on_paper(made: Path) -> None:
    pages = next(pictures for names, pictures in read_world(made) if names == list(PAGES["print"].names))
    for path in pages:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert np.median(pixels) > 100 > np.quantile(pixels, 0.005)


def test_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"python -m training\.world"):
        read_world(tmp_path)


def test_missing_tool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="apt-get") as error:
        make_world(tmp_path / "world")
    assert str(error.value).count("\n") == 0
    assert not any(tmp_path.iterdir())
