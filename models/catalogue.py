"""The models that can be run on this machine: embedded in this repository, found on the disk, and to be downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

import models
from models import EMBEDDED, published
from models.clip import make

NOT_MEASURED = "not measured"
NOT_RUN = "not run here"
# A small, a usual and a large one, one for each purpose: the whole list is open_clip's.
RECOMMENDED = (
    ("ViT-B-32", "openai"),
    ("ViT-B-32", "datacomp_xl_s13b_b90k"),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"),
    ("ViT-B-16-SigLIP", "webli"),
    ("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"),
)


@dataclass(frozen=True)
class Entry:
    """One model of the list.

    Args:
        use: what to write on the command line.
        size: of its files in bytes; ``None``: not known before they are there.
        dimension: of its vectors.
        figures: what it reached on a test split, or that this was not measured.
    """

    use: str
    size: int | None
    dimension: int
    figures: str

    def __str__(self) -> str:
        size = f"{self.size / 1e6:,.0f} MB" if self.size is not None else "-"
        return f"  {self.use:<72} {size:>9} {self.dimension:>5}-d  {self.figures}"


def catalogue() -> Iterator[str]:
    """The lines of the list."""
    yield "embedded:"
    for folder in sorted(path for path in EMBEDDED.iterdir() if path.is_dir()):
        yield str(_embedded(folder))
    yield "found on the disk:"
    yield from list(_found()) or ["  none"]
    number, entries = _downloadable()
    yield f"downloadable, {number} weights by CLIP_MODEL and CLIP_PRETRAINED (open_clip.list_pretrained()), among them:"
    yield from map(str, entries)


def _embedded(folder: Path) -> Entry:
    config, clip = _read(folder / "config.json"), _read(folder / "open_clip_config.json")
    dimension = clip["model_cfg"]["embed_dim"] if clip else config["dimension"]
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Entry(f"-m {folder.name}", size, dimension, _figures(_read(folder / "figures.json")))


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _figures(content: dict[str, Any]) -> str:
    """Of a ``figures.json``: the split, and of each direction recall at 1, 5 and 10 in percent and MRR."""
    if not content:
        return NOT_MEASURED
    directions = (("text to image", "text_to_image"), ("image to text", "image_to_text"))
    parts = (
        f"{said} {' '.join(f'{name} {value}' for name, value in content[key].items())}" for said, key in directions
    )
    return f"{', '.join(parts)} ({content['split']})"


def _found() -> Iterator[str]:
    """What the environment names, and what open_clip has downloaded before."""
    named = (("clip", "CLIP_PRETRAINED"), ("vse", "VSE_CHECKPOINT"))
    for name, variable in named:
        path = Path(os.environ.get(variable, "")).expanduser()
        if os.environ.get(variable) and path.exists():
            use = f"{variable}={path} -m {name}"
            try:
                dimension = models.load(name, image=False, text=False).dimension
            except models.ModelError as error:
                yield f"  {use}  cannot be used: {error}"
                continue
            files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
            yield str(Entry(use, sum(file.stat().st_size for file in files), dimension, NOT_RUN))
    for architecture, tag in open_clip.list_pretrained():
        file = published.on_disk(open_clip.get_pretrained_cfg(architecture, tag))
        if file and not architecture.endswith("-quickgelu"):
            yield str(Entry(_use(architecture, tag), file.stat().st_size, _dimension(architecture), NOT_RUN))


def _downloadable() -> tuple[int, list[Entry]]:
    entries = [Entry(_use(*names), _size(names[0]), _dimension(names[0]), NOT_RUN) for names in RECOMMENDED]
    return len([name for name, _ in open_clip.list_pretrained() if not name.endswith("-quickgelu")]), entries


def _use(architecture: str, tag: str) -> str:
    return f"CLIP_MODEL={architecture} CLIP_PRETRAINED={tag} -m clip"


def _size(architecture: str) -> int | None:
    """Of the weights in float32, counted on a model without memory; only the network knows Hugging Face's towers."""
    config = open_clip.get_model_config(architecture) or {}
    if "hf_model_name" in config["text_cfg"]:
        return None
    with torch.device("meta"):
        return sum(4 * parameter.numel() for parameter in make(config, quick_gelu=False).parameters())


def _dimension(architecture: str) -> int:
    return int((open_clip.get_model_config(architecture) or {})["embed_dim"])
