"""Data sets as streams of (picture, caption) pairs: Flickr8k, Flickr30k, a toy set and any folder of pictures."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import os
import posixpath
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

DATA = Path(__file__).resolve().parent / "data"
# Pillow cannot read HEIC: such files are listed all the same, so that the loader names them.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".pbm"),
)
CAPTION_FILES = ("captions.txt", "captions.csv")
HEADER = ["image", "caption"]
LONGEST_LINE = 65_536  # bytes; Flickr8k's longest is under 300
MOST_JOINED_LINES = 20  # a quoted caption may hold line breaks; an unclosed quotation mark must not swallow the file
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
KNOWN = ("f8k", "f30k", "toy")
F30K_KEYS = frozenset({"images", "filename", "split", "sentences", "raw"})

Skip = Callable[[str, str], None]


class DataError(Exception):
    """A data set that cannot be used: one line that names it and says what to do."""


class Pair(NamedTuple):
    """A picture and one of its captions.

    ``path`` is absolute; ``source`` is relative to the data set's root, "/"-separated; ``caption`` is ``None`` for a
    picture without one.
    """

    path: Path
    source: str
    caption: str | None


class _Line(NamedTuple):
    """One caption as it was read, or why it could not be."""

    where: str
    name: str = ""
    caption: str = ""
    problem: str = ""


class _Entry(NamedTuple):
    """A picture with all captions that are wanted of it, or something that is passed over."""

    where: str
    source: str = ""
    captions: Sequence[str | None] = ()
    problem: str = ""


class DataSet:
    """Pictures below one folder, with their captions; made by `open_data_set`.

    Attributes:
        name: what the user called it.
        root: the resolved folder below which all pictures are.
    """

    def __init__(self, name: str, *, root: Path, entries: list[_Entry]) -> None:
        self.name, self.root, self._entries = name, root, entries

    def __len__(self) -> int:
        """The number of pairs, those with unreadable pictures included."""
        return sum(len(entry.captions) for entry in self._entries)

    def pairs(self, *, limit: int | None = None, skip: Skip) -> Iterator[Pair]:
        """Yield the pairs one by one; pictures are not opened for longer than it takes to see that they can be.

        Args:
            limit: the most pairs to yield; ``None`` for all.
            skip: called with (name, reason) once for everything that is passed over.
        """
        return islice(self._all_pairs(skip), limit)

    def _all_pairs(self, skip: Skip) -> Iterator[Pair]:
        for entry in self._entries:
            problem = entry.problem or _picture_problem(entry.source, self.root)
            if problem:
                skip(entry.where, problem)
                continue
            for caption in entry.captions:
                yield Pair(self.root / entry.source, entry.source, caption)


def open_data_set(name: str, *, data: Path = DATA) -> DataSet:
    """Open ``f8k``, ``f30k``, ``toy`` or the folder ``name``; ``data`` holds the first three.

    Raises:
        DataError: the data set is absent, holds no picture, or its captions cannot be read at all.
    """
    known = {"f8k": _open_f8k, "f30k": _open_f30k, "toy": _open_toy}
    return known[name](data) if name in known else _open_folder(name)


def split_file(name: str, part: str, *, data: Path = DATA) -> Path:
    """The file with the names of the pictures of a data set's ``train``, ``dev`` or ``test`` part, if there is one.

    Flickr8k's own division (Hodosh, Young, Hockenmaier, JAIR 2013) is part of this repository, as Kaggle's archive does
    not hold it.
    """
    folder = data if name == "f8k" else data / name if name in KNOWN else Path(name)
    return folder / "splits" / f"Flickr_8k.{part}Images.txt"


def open_test_split(name: str, *, data: Path = DATA) -> DataSet | None:
    """The pictures that a data set's own division keeps for testing, each with all its captions as they stand.

    ``None`` where there is no division.

    Raises:
        DataError: the division names pictures that are not there or have no captions, or cannot be read.
    """
    file = split_file(name, "test", data=data)
    if not file.exists():
        return None
    try:
        names = set(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{_shown_path(file)} cannot be read: it must hold one picture's name a line") from error
    whole = open_data_set(str(data / name if name in KNOWN else name))
    entries = [entry for entry in whole._entries if posixpath.basename(entry.source) in names and any(entry.captions)]
    absent = names - {posixpath.basename(entry.source) for entry in entries}
    if absent or not names:
        what = f"{_shown(min(absent))}, which has no picture or no caption" if absent else "nothing"
        raise DataError(f"{_shown_path(file)} names {what}: correct it, or move it away")
    return DataSet(name, root=whole.root, entries=entries)


def _open_f8k(data: Path) -> DataSet:
    """Flickr8k: the first caption of each picture, lower-cased, in the file's order."""
    folder, captions = data / "f8k", data / "f8k" / "captions.txt"
    images = _images_folder(folder)
    if images is None or not os.path.exists(captions):
        raise DataError(
            f"no Flickr8k at {_shown_path(folder)}: run `bash get_data.sh`, "
            "or link a folder that holds images/ and captions.txt to it"
        )
    lines = (line._replace(caption=line.caption.lower()) for line in _read_captions(captions))
    entries = [entry._replace(captions=entry.captions[:1]) for entry in _group(lines)]
    return DataSet("f8k", root=_root_with_pictures(images), entries=entries)


def _open_f30k(data: Path) -> DataSet:
    """Flickr30k: every sentence of the `test` split of Karpathy and Fei-Fei (CVPR 2015)."""
    folder, captions = data / "f30k", data / "f30k" / "dataset_flickr30k.json"
    images = _images_folder(folder)
    if images is None:
        raise DataError(
            f"no Flickr30k at {_shown_path(folder)}: run `bash get_data.sh f30k`, or link a folder with images/ to it"
        )
    if not os.path.exists(captions):
        raise DataError(
            f"no {_shown_path(captions)}: put the file of that name from Karpathy's caption data sets there"
        )
    entries = _group(_read_karpathy(captions))
    return DataSet("f30k", root=_root_with_pictures(images), entries=entries)


def _open_toy(data: Path) -> DataSet:
    """The photographs in scikit-image's wheel, with captions of our own."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the data set toy needs scikit-image's pictures: install the package scikit-image")
    captions = data / "toy" / "captions.txt"
    if not os.path.exists(captions):
        raise DataError(f"no {_shown_path(captions)}: restore it from the repository")
    entries = _group(_read_captions(captions))
    return DataSet("toy", root=_root_with_pictures(Path(spec.submodule_search_locations[0], "data")), entries=entries)


def _open_folder(name: str) -> DataSet:
    """Every picture below a folder, with the captions that the folder's own file gives."""
    folder = Path(name)
    if not name or not os.path.exists(folder):
        raise DataError(f"no data set {_shown(name)!r}: give f8k, f30k, toy or the path of a folder of pictures")
    if not folder.is_dir():
        raise DataError(f"{_shown(name)} is a file: give the folder that it is in")
    root = folder.resolve()
    found = _walk(root)
    pictures = {entry.source for entry in found if not entry.problem}
    if not pictures:
        raise DataError(_no_picture(name, found))
    files = (root / file for file in CAPTION_FILES if os.path.exists(root / file))
    captions = next((file for file in files if not _place_problem(file, root)), None)
    return DataSet(name, root=root, entries=_merge(found, _group(_read_captions(captions)) if captions else []))


def _no_picture(name: str, found: list[_Entry]) -> str:
    """The one line for a folder without pictures; it names the first thing that was passed over."""
    message = f"no picture below {_shown(name)}: give a folder that holds JPEG, PNG, WebP, GIF, BMP or TIFF files"
    return message + (f" ({found[0].where} was passed over: {found[0].problem})" if found else "")


def _merge(found: list[_Entry], captioned: list[_Entry]) -> list[_Entry]:
    """Problems first, then every picture that was found, with its captions or ``None``."""
    captions: dict[str, list[str | None]] = {entry.source: [] for entry in found if not entry.problem}
    problems = [entry for entry in found if entry.problem]
    reported = {entry.source for entry in problems}
    for entry in captioned:
        names = [entry.source, f"images/{entry.source}", f"Images/{entry.source}"]
        source = next((name for name in names if name in captions), None)
        if entry.problem:
            problems.append(entry)
        elif source is not None:
            captions[source] += entry.captions
        elif reported.isdisjoint(names):
            problems.append(_Entry(entry.where, problem="there is no such picture"))
    return problems + [_Entry(_shown(source), source, texts or [None]) for source, texts in captions.items()]


def _group(lines: Iterable[_Line]) -> list[_Entry]:
    """One entry for each picture, at its first caption's place, and one for each problem."""
    captions: dict[str, list[str]] = {}
    entries: list[_Entry] = []
    for line in lines:
        source = posixpath.normpath(line.name)
        if line.problem:
            entries.append(_Entry(line.where, problem=line.problem))
        elif source in captions:
            captions[source].append(line.caption)
        else:
            captions[source] = [line.caption]
            entries.append(_Entry(f"{line.where}: {_shown(source)}", source, captions[source]))
    return entries


def _read_captions(file: Path) -> list[_Line]:
    """Read a file in Flickr8k's format; what is wrong with one line leaves its neighbours alone.

    Raises:
        DataError: the file cannot be read, or no line of it can be used.
    """
    if not os.path.isfile(file):
        raise DataError(f"{_shown_path(file)} is not a file: it must be CSV with the header image,caption")
    try:
        with file.open("rb") as stream:
            lines = _judge_header(list(_records(list(_physical_lines(stream)), file.name)))
    except OSError as error:
        raise DataError(f"{_shown_path(file)} cannot be read: {error.strerror}") from error
    if all(line.problem for line in lines):
        reason = f"{lines[0].where}: {lines[0].problem}" if lines else "it has no captions"
        raise DataError(f"{_shown_path(file)} cannot be used, it must be CSV with the header image,caption ({reason})")
    return lines


def _judge_header(lines: list[_Line]) -> list[_Line]:
    """Take the header away, or put what is wrong with it in its place."""
    if not lines or lines[0].problem:
        return lines
    first = lines[0]
    if [first.name.strip().lower(), first.caption.lower()] == HEADER:
        return lines[1:]
    if _has_picture_extension(first.name):
        return [
            _Line(first.where, problem="the header image,caption is missing: the line is taken as a caption"),
            *lines,
        ]
    return [_Line(first.where, problem="the header must be image,caption"), *lines[1:]]


def _physical_lines(stream: BinaryIO) -> Iterator[str | None]:
    """Yield the lines of a file with their ends; ``None`` for one that is too long or not UTF-8."""
    if stream.read(len(BOM_UTF8)) != BOM_UTF8:
        stream.seek(0)
    while line := stream.readline(LONGEST_LINE):
        short = line.endswith(b"\n") or len(line) < LONGEST_LINE
        while not line.endswith(b"\n") and (rest := stream.readline(LONGEST_LINE)):
            line = rest
        try:
            yield line.decode() if short else None
        except UnicodeDecodeError:
            yield None


def _records(lines: list[str | None], file: str) -> Iterator[_Line]:
    """Parse CSV records of one or more lines; blank lines are nothing."""
    start = 0
    while start < len(lines):
        where = f"{file}, line {start + 1}"
        count, columns = _record(lines[start : start + MOST_JOINED_LINES])
        start += count
        if isinstance(columns, str):
            yield _Line(where, problem=columns)
        elif len(columns) == len(HEADER):
            yield _checked(_Line(where, columns[0], columns[1].strip()))
        elif columns:
            yield _Line(where, problem=f"{len(columns)} columns, not 2 (image,caption): quote a caption with a comma")


def _record(lines: list[str | None]) -> tuple[int, list[str] | str]:
    """The number of lines of the first record, and its columns or what is wrong with it."""
    text = ""
    for count, line in enumerate(lines, start=1):
        # A line that starts like a record ends the search for a closing quotation mark.
        if line is None or (text and _has_picture_extension(line.partition(",")[0])):
            break
        text += line
        try:
            return count, next(csv.reader([text], strict=True))
        except csv.Error:
            continue
    return 1, f"not UTF-8, or longer than {LONGEST_LINE} bytes" if lines[
        0
    ] is None else "a quotation mark is not closed"


def _read_karpathy(file: Path) -> list[_Line]:
    """Read the sentences of the ``test`` split from Karpathy's JSON.

    Raises:
        DataError: the file cannot be read or has no such sentences.
    """
    try:
        tree = json.loads(file.read_bytes(), object_hook=_wanted)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{_shown_path(file)} cannot be read as JSON: fetch it again") from error
    images = tree.get("images") if isinstance(tree, dict) else None
    numbered = enumerate(images if isinstance(images, list) else [], start=1)
    lines = [line for number, image in numbered for line in _sentences(image, f"{file.name}, image {number}")]
    if all(line.problem for line in lines):
        raise DataError(f"{_shown_path(file)} has no sentences of the split `test`: fetch it again")
    return lines


def _wanted(json_object: dict[str, Any]) -> dict[str, Any]:
    """Drop the tokens and ids while parsing: they are most of the file."""
    return {key: value for key, value in json_object.items() if key in F30K_KEYS}


def _sentences(image: Any, where: str) -> Iterator[_Line]:
    """Yield one image's sentences if it is of the ``test`` split."""
    if not isinstance(image, dict):
        yield _Line(where, problem="is not an object")
    elif image.get("split") == "test":
        name, sentences = image.get("filename"), image.get("sentences")
        if not isinstance(name, str) or not isinstance(sentences, list):
            yield _Line(where, problem="has no filename or no sentences")
            return
        for sentence in sentences:
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            yield _checked(_Line(where, name, raw.strip() if isinstance(raw, str) else ""))


def _checked(line: _Line) -> _Line:
    """The line itself, or what is wrong with its name or caption."""
    problem = _text_problem("picture's name", line.name) or _text_problem("caption", line.caption)
    if not problem and (posixpath.isabs(line.name) or ".." in line.name.split("/")):
        problem = f"{_shown(line.name)} leads out of the folder: names must be relative to it"
    return _Line(line.where, problem=problem) if problem else line


def _text_problem(what: str, text: str) -> str:
    """Why a text cannot be used or sent on as UTF-8, or nothing."""
    if not text:
        return f"the {what} is empty"
    if "\0" in text:
        return f"the {what} holds a NUL byte"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the {what} is not valid Unicode"
    return ""


def _walk(root: Path) -> list[_Entry]:
    """Every picture below ``root``, sorted, and what is passed over; hidden names and other files are not mentioned."""
    entries: list[_Entry] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as items:
                visible = [item for item in items if not item.name.startswith(".")]
        except OSError as error:
            entries.append(_Entry(_shown(folder or "."), folder, problem=f"cannot be read: {error.strerror}"))
            continue
        for item in visible:
            source = posixpath.join(folder, item.name)
            if item.is_dir(follow_symlinks=False):
                folders.append(source)
            elif problem := _text_problem("name", source) or (item.is_symlink() and _link_problem(root / source, root)):
                entries.append(_Entry(_shown(source), source, problem=problem))
            elif _looks_like_picture(root / source):
                entries.append(_Entry(_shown(source), source))
    return sorted(entries, key=lambda entry: entry.source)


def _link_problem(path: Path, root: Path) -> str:
    """Why a symbolic link is not followed, or nothing."""
    if problem := _place_problem(path, root):
        return problem
    return "is a link to a folder of the data set, which is read at its own place" if path.is_dir() else ""


def _place_problem(path: Path, root: Path) -> str:
    """Why the place that a path really leads to cannot be used, or nothing."""
    try:
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        return (
            "its symbolic links run in a circle" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        )
    return "" if real.is_relative_to(root) else "its symbolic link leads out of the data set's folder"


def _picture_problem(source: str, root: Path) -> str:
    """Why a picture's file cannot be opened, or nothing. Its content is the loader's business."""
    path = root / source
    if problem := _place_problem(path, root):
        return problem
    if not path.is_file():
        return "is not a regular file"
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "" if _looks_like_picture(path) else "is not a picture"


def _has_picture_extension(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _looks_like_picture(path: Path) -> bool:
    """Whether the name or, for a regular file of another name, the first bytes are a picture's."""
    if _has_picture_extension(path.name):
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            start = stream.read(12)
    except OSError:
        return False
    return start.startswith(MAGIC) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _images_folder(folder: Path) -> Path | None:
    """The data set's folder of pictures: ``images/``, or ``Images/`` as in the archive."""
    return next((folder / name for name in ("images", "Images") if os.path.isdir(folder / name)), None)


def _root_with_pictures(images: Path) -> Path:
    """Resolve the folder of a known data set.

    Raises:
        DataError: it cannot be read or holds no picture.
    """
    try:
        with os.scandir(images) as items:
            if any(_has_picture_extension(item.name) for item in items):
                return images.resolve()
    except OSError as error:
        raise DataError(f"{_shown_path(images)} cannot be read: {error.strerror}") from error
    raise DataError(f"no picture in {_shown_path(images)}: put the data set's pictures there")


def _shown(text: str) -> str:
    """A name that stays on one line and cannot command a terminal."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _shown_path(path: Path) -> str:
    """A path as the user would type it."""
    here = Path.cwd()
    return _shown(str(path.relative_to(here) if path.is_relative_to(here) else path))
