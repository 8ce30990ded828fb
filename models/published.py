"""The weights that open_clip knows by name: what it knows of them, and getting them.

Torch, which takes seconds to import, is not needed here: what cannot be had is said before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from huggingface_hub import constants, get_session

from models import ModelError

SECONDS_TO_ANSWER = 4.0
_OPEN_CLIP = Path(cast(Any, importlib.util.find_spec("open_clip")).origin).parent
_SAFETENSORS = "safetensors.torch"


def _load_table() -> Any:
    """open_clip's own module of published weights, without the package around it, which imports torch."""
    package = ModuleType("open_clip_without_torch")
    package.__path__ = [str(_OPEN_CLIP)]
    sys.modules[package.__name__] = package
    before = sys.modules.get(_SAFETENSORS)
    sys.modules[_SAFETENSORS] = ModuleType(_SAFETENSORS)  # imports torch too, and is only asked whether it is there
    try:
        return importlib.import_module(f"{package.__name__}.pretrained")
    finally:
        del sys.modules[_SAFETENSORS]
        if before:
            sys.modules[_SAFETENSORS] = before


_TABLE = _load_table()


def asked_for() -> tuple[str, str]:
    """The architecture and the weights that the environment names, by default ViT-B/32 and OpenAI's."""
    architecture = os.environ.get("CLIP_MODEL") or "ViT-B-32"
    return architecture.replace("/", "-"), os.environ.get("CLIP_PRETRAINED") or "openai"


def known(architecture: str) -> list[dict[str, Any]]:
    """What open_clip knows of each of the published weights of an architecture."""
    return [_TABLE.get_pretrained_cfg(architecture, tag) for tag in _TABLE.list_pretrained_tags_by_model(architecture)]


def locate(architecture: str, pretrained: str) -> tuple[Path, dict[str, Any]]:
    """Find weights: a file or folder, or by open_clip's name, by which they are fetched if they are not there yet.

    Returns:
        The file or folder, and what open_clip knows of it if it was found by name.

    Raises:
        ModelError: there is nothing of that name, or it cannot be fetched.
    """
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return path.resolve(), {}
    if architecture not in {file.stem for file in _OPEN_CLIP.glob("model_configs/*.json")}:
        raise ModelError(
            f"open_clip has no model {architecture!r}: set CLIP_MODEL to one of its names, "
            "of which `python app.py -t models` shows some"
        )
    if path.is_file():
        return path, {}
    config = _TABLE.get_pretrained_cfg(architecture, pretrained)
    if not config:
        names = ", ".join(_TABLE.list_pretrained_tags_by_model(architecture))
        raise ModelError(f"CLIP_PRETRAINED={pretrained!r} is neither a file nor one of {architecture}'s: {names}")
    return on_disk(config) or _download(config, f"the weights {pretrained} of {architecture}"), config


def on_disk(config: dict[str, Any]) -> Path | None:
    """The file of published weights if it has been downloaded before."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        return Path(_TABLE.download_pretrained(config))
    except FileNotFoundError:
        return None
    finally:
        constants.HF_HUB_OFFLINE = before


def _download(config: dict[str, Any], name: str) -> Path:
    prefer_disk()
    try:
        return Path(_TABLE.download_pretrained(config))
    except Exception as error:  # of whatever the network libraries are made
        raise ModelError(
            f"{name} cannot be fetched: get {config.get('url') or config['hf_hub']} on another machine and set "
            "CLIP_PRETRAINED to the file, or use -m clip-small, which needs no download"
        ) from error


def prefer_disk() -> None:
    """Without a network look on the disk only, where Hugging Face's library would try for a minute."""
    constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)


@functools.cache
def _reachable(address: str) -> bool:
    """Whether a server answers at all, by the way that downloads take too: proxies, certificates."""
    answers: list[bool] = []

    def ask() -> None:
        with suppress(Exception):  # of whatever the network libraries are made
            answers.append(get_session().head(address, timeout=SECONDS_TO_ANSWER).status_code < 500)

    thread = threading.Thread(target=ask, daemon=True)  # no timeout holds for a name server that is silent
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return any(answers)
