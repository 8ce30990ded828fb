"""CLIP on the whole path: real Flows index, answer and evaluate, with random weights in the formats of real ones."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip.model import CLIP

from flow import free_port
from tests.conftest import COLOURS, Indexed, Result, held, paint, run, server, taken_port
from tests.test_clip import multilingual_folder, siglip_folder
from tests.test_clip_openai import SIZES, save_archive
from tests.test_clip_transformers import tiny_folder

OWN_BOXES = dict.fromkeys(("JINA_NORMALIZER", "JINA_IMAGE_ENCODER", "JINA_TEXT_ENCODER"), "")


def openai_archive(parent: Path) -> Path:
    """ViT-B/32 as OpenAI publishes it."""
    torch.manual_seed(0)
    save_archive(CLIP(*SIZES["ViT-B-32"]).eval(), SIZES["ViT-B-32"], parent / "ViT-B-32.pt")
    return parent / "ViT-B-32.pt"


@pytest.mark.parametrize(
    ("make_weights", "architecture"),
    [
        (openai_archive, "ViT-B-32"),
        (multilingual_folder, ""),
        (siglip_folder, ""),
        (tiny_folder, ""),
    ],
)
def test_index_query_evaluate(tmp_path: Path, make_weights: Callable[[Path], Path], architecture: str) -> None:
    pictures = paint(tmp_path / "pictures", {f"{colour}.png": colour for colour in COLOURS})
    settings: dict[str, Any] = {
        **OWN_BOXES,
        "workspace": tmp_path / "workspace",
        "CLIP_MODEL": architecture,
        "CLIP_PRETRAINED": make_weights(tmp_path),
    }
    indexed = run("app.py", "-t", "index", "-d", pictures, "-m", "clip", **settings)
    assert indexed.code == 0, indexed
    with server(**settings) as searching:
        assert len(searching.search("a dog", "un chien")[1]) == len(COLOURS)
    options = ("-e", "image2text", "-i", "0", "-n", len(COLOURS), "-d", pictures, "-m", "clip")
    evaluated = run("evaluate.py", *options, **settings)
    assert evaluated.out.splitlines()[-1].startswith("MeanReciprocalRank is: "), evaluated


@pytest.mark.parametrize("kind", ["no server", "dead proxy", "silent proxy"])
def test_without_a_network_one_line_says_so(tmp_path: Path, kind: str) -> None:
    with taken_port() as (_, silent):
        proxy = {"no server": "", "dead proxy": f"127.0.0.1:{free_port()}", "silent proxy": f"127.0.0.1:{silent}"}[kind]
        network = {"https_proxy": f"http://{proxy}"} if proxy else {"HF_ENDPOINT": "https://nowhere.invalid"}
        places = {"HF_HUB_CACHE": tmp_path, **network, **OWN_BOXES}
        before = processor_seconds()
        result = run("app.py", "-t", "index", "-d", "toy", "-m", "clip", workspace=tmp_path / "workspace", **places)
    assert_one_line(result, "the weights openai of ViT-B-32 cannot be fetched")
    assert processor_seconds() - before < 2.5


def test_an_index_is_not_erased_for_a_model_that_is_not_there(indexed: Indexed, tmp_path: Path) -> None:
    workspace = Path(shutil.copytree(indexed.workspace, tmp_path / "workspace"))
    places = {"HF_ENDPOINT": "https://nowhere.invalid", "HF_HUB_CACHE": tmp_path, **OWN_BOXES}
    result = run(
        "app.py", "-t", "index", "-d", indexed.folder, "-m", "clip", "--overwrite", workspace=workspace, **places
    )
    assert_one_line(result, "the weights openai of ViT-B-32 cannot be fetched")
    assert len(held(workspace, "text_indexer")) == len(COLOURS)


def processor_seconds() -> float:
    """Of all programs that have been run so far and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_file_of_another_architecture_is_one_line(tmp_path: Path) -> None:
    torch.save(CLIP(256, 224, 1, 64, 32, 77, 49408, 64, 1, 1).state_dict(), tmp_path / "weights.pt")
    given = {"CLIP_MODEL": "ViT-B-32", "CLIP_PRETRAINED": tmp_path / "weights.pt", **OWN_BOXES}
    result = run("app.py", "-t", "index", "-d", "toy", "-m", "clip", workspace=tmp_path / "workspace", **given)
    assert_one_line(result, "weights.pt does not fit CLIP_MODEL=ViT-B-32")


def assert_one_line(result: Result, message: str) -> None:
    assert result.code == 1, result
    assert message in result.err
    assert len(result.err.splitlines()) == 1, result.err
    assert not result.out
