"""Flickr8k (Hodosh, Young, Hockenmaier, JAIR 2013) with all five captions, in its official parts."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from dataset import DATA, split_file
from models import ModelError

CAPTIONS = 5  # of each picture


@dataclass(frozen=True)
class Split:
    """Pictures with five captions each."""

    pictures: list[Path]
    captions: list[list[str]]

    def digest(self, *others: object) -> str:
        """12 hexadecimal digits that stand for the pictures' places and sizes, and whatever else JSON can hold."""
        parts = ([(str(path.resolve()), path.stat().st_size) for path in self.pictures], *others)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def read_split(name: str, part: str) -> Split:
    """The ``train``, ``dev`` or ``test`` part of ``f8k`` or of a folder of the same layout.

    Raises:
        ModelError: the data set is not there, or not complete.
    """
    folder = DATA / "f8k" if name == "f8k" else Path(name)
    try:
        captions = _read_captions(folder / "captions.txt")
        names = split_file(name, part).read_text(encoding="utf-8").split()
    except OSError as error:
        raise ModelError(f"no Flickr8k with its splits ({error.filename} is absent): run `bash get_data.sh`") from error
    pictures = [folder / "images" / name for name in names]
    for picture in pictures:
        if len(captions[picture.name]) != CAPTIONS or not picture.exists():
            raise ModelError(f"{picture} or one of its five captions is absent: run `bash get_data.sh`")
    return Split(pictures, [captions[name] for name in names])


def _read_captions(file: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = defaultdict(list)
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            captions[row["image"]].append(row["caption"])
    return captions
