"""What the report looks like: Markdown, JSON and a page that needs no other file, with pictures and curves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from executors import picture
from executors.protocol import data_uri

DIRECTIONS = {"text2image": "text to image", "image2text": "image to text"}
MEASURES = {"R@1": 1, "R@5": 1, "R@10": 1, "median rank": 0, "MRR": 3}
"""The columns of the table, and how many decimal places each has."""
SIDE = 144  # pixels of a thumbnail
WIDTH, HEIGHT = 560, 260  # of a curve's axes


def thumbnail(data: bytes) -> str:
    """An encoded picture as a small JPEG in a ``data:`` URI."""
    return data_uri("image/jpeg", picture.thumbnail(data, SIDE))


def templates(folder: Path) -> Environment:
    """The templates of a folder; what is put into those of HTML and SVG is escaped."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html", "svg"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def write_files(folder: Path, report: dict[str, Any], pictures: dict[str, str]) -> list[Path]:
    """Write ``report.md``, ``report.json`` and ``report.html`` into a folder.

    Args:
        report: what `evaluation.report` has measured.
        pictures: ``data:`` URIs by the ids of the examples' pictures.
    """
    environment = templates(Path(__file__).parent)
    environment.filters |= {"interval": _interval, "across": _across, "down": _down}
    names = {"directions": DIRECTIONS, "measures": MEASURES, "width": WIDTH, "height": HEIGHT}
    texts = {
        name: environment.get_template(name).render(**report, **names, pictures=pictures)
        for name in ("report.md", "report.html")
    }
    texts["report.json"] = json.dumps(report, indent=1) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _interval(figure: dict[str, float], places: int) -> str:
    return "{value:.{places}f} [{low:.{places}f}, {high:.{places}f}]".format(**figure, places=places)


def _across(k: int, largest: int) -> float:
    """Where k stands on the logarithmic axis."""
    return round(WIDTH * math.log(k) / math.log(max(largest, 2)), 1)


def _down(recall: float) -> float:
    return round(HEIGHT * (1 - recall / 100), 1)
