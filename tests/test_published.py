"""Weights by open_clip's names: found on the disk without a network, and said to be missing at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from models import ModelError, published
from tests.conftest import ROOT

REPOSITORY = "models--timm--vit_base_patch32_clip_224.openai"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face's, and a server that is nowhere."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"https://{tmp_path.name}.invalid")  # answers are remembered
    return tmp_path


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A name server that takes long to give up, and what happens at it."""
    events: list[str] = []
    over = threading.Event()

    def resolve(*_: object, **__: object) -> object:
        events.append("asked")
        over.wait(20)
        events.append("gave up")
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    monkeypatch.setattr(published, "SECONDS_TO_ANSWER", 0.1)
    yield events
    over.set()


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_what_was_downloaded_before_is_found_without_a_network(cache: Path, silent: list[str], name: str) -> None:
    commit = "0" * 40
    file = cache / REPOSITORY / "snapshots" / commit / name
    file.parent.mkdir(parents=True)
    file.touch()
    (cache / REPOSITORY / "refs").mkdir()
    (cache / REPOSITORY / "refs" / "main").write_text(commit)
    found, config = published.locate("ViT-B-32", "openai")
    assert found.samefile(file)
    assert config["quick_gelu"]
    assert not silent


def test_a_silent_name_server_is_not_waited_for(silent: list[str]) -> None:
    with pytest.raises(
        ModelError, match=r"the weights openai of ViT-B-32 cannot be fetched: get https://\S+ViT-B-32\.pt"
    ):
        published.locate("ViT-B-32", "openai")
    assert silent == ["asked"]


def test_missing_weights_are_said_before_torch_is_imported(cache: Path) -> None:
    code = """
import sys, models
try:
    models.load("clip", image=True, text=True)
except models.ModelError:
    print(*{"torch", "open_clip"} & sys.modules.keys())
"""
    places = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": "https://nowhere.invalid", "CLIP_MODEL": "ViT-B/32"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=places, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def test_the_table_is_open_clips() -> None:
    import open_clip

    assert published.known("ViT-B-32") == [
        open_clip.get_pretrained_cfg("ViT-B-32", tag) for tag in open_clip.list_pretrained_tags_by_model("ViT-B-32")
    ]
    from safetensors.torch import load_file

    assert callable(load_file), "its stand-in is gone"
