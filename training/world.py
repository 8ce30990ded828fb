"""Pictures of what neither Flickr8k nor ImageNet shows: surfaces, the sky, coins, tissue, pages with writing.

``python -m training.world`` makes the folder ``data/world`` from the pictures of a few packages of Debian's and one of
PyPI's, and from pages that are written with their fonts. Each kind of thing is a folder with its names in
``names.txt``, one a line.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dataset import DATA
from models import ModelError
from progress import Progress

TEMPLATES = (
    *("{}", "a photo of {}", "a picture of {} .", "there is {}", "a close up of {}"),
    *("{} seen from above .", "a background of {} ."),
)
FOLDER = DATA / "world"
PACKAGES = (
    *("sweethome3d", "stellarium-data", "ufoai-textures", "tuxpaint-stamps-default"),
    *("fonts-dejavu-core", "fonts-liberation"),
    *("fonts-humor-sans", "fonts-breip", "fonts-femkeklaver", "fonts-rufscript", "fonts-dkg-handwriting", "fonts-bwht"),
)
MICROSCOPE = "stardist==0.9.2"  # of PyPI: segments cells, and brings one picture of some
PICTURES = 60  # of each kind; what has fewer is cut into several
SIDE = 400  # pixels of a picture's shorter side at most
LARGE = 1000  # pixels from which a picture is a map, of which only a part is seen at a time
GREY = 4  # every which picture loses its colours
HOME, UFO, SKY = r"sweethome3d/.*/textures/", r"textures\.pk3/textures/tex_", r"stellarium/"
NO_PICTURE = r"_(nm|gm|sm|glow)\.(png|jpg)$"  # what a game's renderer needs beside a texture
BODIES = "mercury|callisto|ganymede|rhea|dione|tethys|mimas|iapetus|oberon|umbriel|titania|vesta|ceres|phobos|deimos"


@dataclass(frozen=True)
class Kind:
    """One kind of thing.

    Args:
        names: what it is called.
        files: a regular expression of the paths of its pictures.
        in_rows: whether each of them is a small thing, of which many lie in rows.
    """

    names: tuple[str, ...]
    files: str
    in_rows: bool = False


KINDS = {
    "grass": Kind(("grass", "a lawn", "a meadow"), rf"{HOME}grass|{UFO}(nature|mattn|terrain)/grass(?!.*way)"),
    "gravel": Kind(
        ("gravel", "pebbles", "crushed stone", "small stones on the ground"), rf"{HOME}pebbles|{UFO}.*rockyground"
    ),
    "pavement": Kind(
        ("paving stones", "a pavement", "a paved street"), rf"{HOME}pavingStone|{UFO}(streets/.*pavement|mattn/street)"
    ),
    "bricks": Kind(("bricks", "a brick wall", "rows of bricks"), rf"{HOME}small.*Bricks|{UFO}.*brick"),
    "stone-wall": Kind(("a stone wall",), rf"{HOME}stone.*Wall"),
    "tiles": Kind(("tiles", "a tiled floor"), rf"{HOME}.*[tT]iles?\.|{UFO}.*tile"),
    "marble": Kind(("marble",), rf"{HOME}marble|{UFO}.*(marmor|marble)"),
    "wood": Kind(("wooden boards", "wood", "a wooden floor"), rf"{HOME}.*[wW]oodenFloor|{UFO}.*(wood0|floor_wood)"),
    "blue-sky": Kind(("the blue sky",), rf"{HOME}blueSky"),
    "clouds": Kind(("clouds", "a cloudy sky"), rf"{HOME}(cloudy|veryCloudy)"),
    "soil": Kind(("soil", "dirt", "bare earth"), rf"{UFO}.*(dirt|soil)\d"),
    "sand": Kind(("sand",), rf"{UFO}.*/sand"),
    "rock": Kind(("rock", "a rock face"), rf"{UFO}.*/(pj)?rock\d"),
    "desert": Kind(("a desert",), rf"{UFO}.*/desert"),
    "ice": Kind(("ice",), rf"{UFO}.*/(ice00|icefloor)"),
    "snow": Kind(("snow",), rf"{UFO}.*/snow0"),
    "bark": Kind(("the bark of a tree",), rf"{UFO}.*bark_?0"),
    "leaves": Kind(("leaves", "a hedge"), rf"{UFO}.*/(leaves|hedge)"),
    "straw": Kind(("straw", "hay"), rf"{UFO}.*/(straw|hay)"),
    "concrete": Kind(("concrete", "a concrete wall"), rf"{UFO}.*concrete"),
    "carpet": Kind(("a carpet",), rf"{UFO}.*carpet"),
    "wallpaper": Kind(("wallpaper",), rf"{UFO}.*wallpaper"),
    "rust": Kind(("rusty metal", "rust"), rf"{UFO}.*/(rust|metal_rust|yellow_rust)"),
    "metal": Kind(("metal", "a sheet of metal"), rf"{UFO}.*/(metal|stainless)"),
    "roof": Kind(("roof tiles", "a roof"), rf"{UFO}.*/roof"),
    "road": Kind(("asphalt", "a road"), rf"{UFO}streets/(street|2l)"),
    "books": Kind(("books", "a bookshelf"), rf"{UFO}.*/books"),
    "newspaper": Kind(("a newspaper", "a magazine"), rf"{UFO}.*/(newspaper|magazine|mag0)"),
    "window": Kind(("a window",), rf"{UFO}.*/window"),
    "door": Kind(("a door",), rf"{UFO}.*/door\d"),
    "water": Kind(("the surface of water",), rf"{UFO}nature/water"),
    "fence": Kind(("a wire fence",), rf"{UFO}.*/fence"),
    "crate": Kind(("a crate", "a box"), rf"{UFO}.*/(crate|box)0"),
    "barrel": Kind(("a barrel",), rf"{UFO}.*/barrel"),
    "sign": Kind(("a sign", "a warning sign"), rf"{UFO}.*/sign"),
    "screen": Kind(("a computer screen", "a monitor"), rf"{UFO}tech/(pc|screen|tv|laptop)"),
    "tire": Kind(("a tire",), rf"{UFO}.*/tire"),
    "pipes": Kind(("pipes", "wires"), rf"{UFO}.*/(pipes|wires|cable)"),
    "fruit": Kind(("fruit", "vegetables on a market"), rf"{UFO}shop/fruits"),
    "landscape": Kind(("a painted landscape",), rf"{UFO}pics/landsc"),
    "abstract": Kind(("abstract art", "an abstract painting"), rf"{UFO}pics/art_abstract"),
    "molecules": Kind(("molecules", "a model of a molecule"), rf"{UFO}pics/art_molecules"),
    "galaxy": Kind(
        (
            *("a galaxy", "galaxies", "a nebula", "stars in black space", "stars and galaxies", "a cluster of stars"),
            "the night sky through a telescope",
        ),
        rf"{SKY}nebulae/default/",
    ),
    "moon": Kind(
        ("the surface of the moon", "craters on the moon", "the moon", "a lunar landscape"),
        rf"{SKY}textures/moon(_4k)?\.",
    ),
    "craters": Kind(
        ("craters", "the surface of a planet", "the cratered surface of Mercury", "the surface of a moon of Saturn"),
        rf"{SKY}textures/({BODIES})\.",
    ),
    "jupiter": Kind(("the planet Jupiter",), rf"{SKY}textures/jupiter\."),
    "mars": Kind(("the surface of Mars",), rf"{SKY}textures/mars\."),
    "tissue": Kind(
        ("tissue under a microscope", "a microscope slide", "stained cells", "cell nuclei"), r"stardist/.*/histo\."
    ),
    "coins": Kind(
        ("coins", "money", "a collection of coins", "rows of coins"),
        r"stamps/symbols/money/.*(coins|japanese)/",
        in_rows=True,
    ),
}


@dataclass(frozen=True)
class Page:
    """One kind of page.

    Args:
        names: what it is called.
        fonts: a regular expression of the names of its fonts' files.
        words: what is on it.
        lined: whether its paper may have lines.
    """

    names: tuple[str, ...]
    fonts: str
    words: str
    lined: bool = False


HANDS = r"Humor|Breip|breip|femke|Rufscript|dkg|Because"
PRINT = r"(DejaVuSans|DejaVuSerif|LiberationSans|LiberationSerif)(-\w+)?\.ttf"
CODE = 'def return x = foo(bar) for in range(10): import if else: a[i] += 1 { } ; print("") np.array'
WORDS = (
    "the of and a in to is was that it for on with as his by at from which this be are an were not or their but had "
    "one water people house between under through morning winter language number river several because against "
    "method example result measured small large first second , . ; :"
)
MATHEMATICS = "x y z a b n k f(x) = + - / sin cos log 2 3 0 1 π ∑ ∫ √ ( ) ^2 dx < >"
PAGES = {
    "print": Page(
        ("a printed page", "a page of text", "a paragraph of printed text", "a page of a book"), PRINT, WORDS
    ),
    "code": Page(("lines of code", "source code", "a listing of a program"), r"Mono", CODE),
    "handwriting": Page(("handwriting", "a handwritten note", "a letter written by hand"), HANDS, WORDS, lined=True),
    "mathematics": Page(
        ("handwritten formulas", "equations written by hand", "mathematical notes"), HANDS, MATHEMATICS, lined=True
    ),
    "formula": Page(("a printed formula", "mathematical equations in print"), PRINT, MATHEMATICS),
}


def read_world(folder: Path) -> list[tuple[list[str], list[Path]]]:
    """The names and the pictures of each kind, in the order of the folders' names.

    Raises:
        ModelError: there are none.
    """
    kinds = [
        (file.read_text(encoding="utf-8").splitlines(), sorted(file.parent.glob("*.jpg")))
        for file in sorted(folder.glob("*/names.txt"))
    ]
    if not kinds:
        raise ModelError(f"no pictures at {folder}: run `python -m training.world` on Debian, 0.7 GB to download")
    return kinds


def make_world(folder: Path) -> None:
    """Fetch the packages and write the folder, the same one from the same packages.

    Raises:
        ModelError: the packages cannot be fetched.
    """
    random = np.random.default_rng(0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        packages, done = Path(place, "packages"), Path(place, "world")
        packages.mkdir()
        _fetch(packages)
        found: dict[str, list[tuple[str, bytes]]] = {kind: [] for kind in KINDS}
        for path, data in _files(packages):
            for kind, pictures in found.items():
                if re.search(KINDS[kind].files, path) and not re.search(NO_PICTURE, path):
                    pictures.append((path, data))
        with Progress("world", total=len(KINDS) + len(PAGES), unit="kinds") as progress:
            for kind, files in found.items():
                views = _rows if KINDS[kind].in_rows else _views
                _write(done / kind, KINDS[kind].names, views([data for _, data in sorted(files)], random))
                progress.advance()
            for kind, page in PAGES.items():
                fonts = [path for path in sorted(packages.rglob("*.[ot]tf")) if re.search(page.fonts, path.name)]
                pages = (write_page(page, fonts, random) for _ in range(2 * PICTURES))
                _write(done / kind, page.names, pages)
                progress.advance()
        done.rename(folder)


def _fetch(folder: Path) -> None:
    try:
        subprocess.run(["apt-get", "download", "-qq", *PACKAGES], cwd=folder, check=True)
        pip = (sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:")
        subprocess.run([*pip, MICROSCOPE], cwd=folder, check=True)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ModelError(f"the packages cannot be fetched ({error}): this needs apt-get, pip and a network") from error


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The pictures of the packages and of the archives in them, with their paths."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".jar", ".pk3", ".whl"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith((".png", ".jpg")):
                        yield f"{path.relative_to(folder)}/{name}", archive.read(name)
        elif path.suffix in (".png", ".jpg") and path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def _write(folder: Path, names: tuple[str, ...], pictures: Iterator[Image.Image]) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:03}.jpg", quality=92)
    (folder / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _views(files: list[bytes], random: np.random.Generator) -> Iterator[Image.Image]:
    chosen = random.permutation(len(files))[:PICTURES]
    for number in range(max(PICTURES, len(chosen)) if files else 0):
        with Image.open(io.BytesIO(files[chosen[number % len(chosen)]])) as file:
            picture = file.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")
        side = min(picture.size)
        part = random.uniform(0.15, 0.6) if side > LARGE else random.uniform(0.6, 1)
        width, height = (max(1, round(part * length)) for length in (side, side))
        left, top = int(random.integers(picture.width - width + 1)), int(random.integers(picture.height - height + 1))
        picture = picture.crop((left, top, left + width, top + height))
        picture.thumbnail((SIDE, SIDE))
        yield ImageOps.grayscale(picture).convert("RGB") if number % GREY == 0 else picture


def _rows(files: list[bytes], random: np.random.Generator) -> Iterator[Image.Image]:
    """Things in rows on a table of one colour, `PICTURES` times; the files show one each."""
    things = []
    for data in files:
        with Image.open(io.BytesIO(data)) as file:
            things.append(file.convert("RGBA"))
    for _ in range(PICTURES if files else 0):
        rows = int(random.integers(1, 6))
        columns = rows + int(random.integers(3))
        pitch = int(random.integers(50, 110))
        table = tuple(int(value) for value in random.integers(0, 120) + random.integers(0, 60, 3))
        picture = Image.new("RGB", (columns * pitch, rows * pitch), table)
        for place in range(rows * columns):
            thing = things[random.integers(len(things))]
            thing = thing.rotate(random.uniform(0, 360), Image.Resampling.BICUBIC, expand=True)
            thing.thumbnail((side := round(pitch * random.uniform(0.6, 0.95)), side))
            row, column = divmod(place, columns)
            left, top = (round(number * pitch + random.uniform(0, pitch - side)) for number in (column, row))
            picture.paste(thing, (left, top), thing)
        yield ImageOps.grayscale(picture).convert("RGB") if random.random() < 0.5 else picture


def write_page(page: Page, fonts: list[Path], random: np.random.Generator) -> Image.Image:
    """A page with a light paper, a dark ink, and the shade and the noise of a photograph."""
    width, height = random.integers(190, 420, 2)
    size = int(random.integers(11, 27))
    font = ImageFont.truetype(str(fonts[random.integers(len(fonts))]), size)
    paper = tuple(int(value) for value in random.integers(205, 256) - random.integers(0, 14, 3).cumsum())
    picture = Image.new("RGB", (int(width), int(height)), paper)
    draw = ImageDraw.Draw(picture)
    pitch = size * random.uniform(1.2, 1.6)
    if page.lined and random.random() < 0.6:
        for y in np.arange(pitch, height, pitch):
            draw.line((0, y, width, y), fill=(150, 170, 210))
    ink, longest = (int(random.integers(0, 70)),) * 3, int(width / size * random.uniform(0.6, 1.8))
    for y in np.arange(random.uniform(0, pitch), height - size, pitch):
        line = random.choice(page.words.split(), 30)
        indent = " " * (4 * int(random.integers(3)) if page.words is CODE else 0)
        draw.text((random.uniform(4, 14), y), (indent + " ".join(line))[:longest], font=font, fill=ink)
    picture = picture.rotate(random.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=paper)
    shade = np.linspace(random.uniform(0.6, 1), random.uniform(0.6, 1), picture.width)[:, None]
    pixels = np.asarray(picture) * shade + random.normal(0, 4, (picture.height, picture.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main() -> int:
    """Make the folder; exit code 1 after one line if that is not possible."""
    try:
        if FOLDER.exists():
            shutil.rmtree(FOLDER)
        make_world(FOLDER)
        print(f"{FOLDER}: {sum(len(pictures) for _, pictures in read_world(FOLDER)):,} pictures")
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
