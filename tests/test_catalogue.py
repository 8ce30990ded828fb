"""The list of models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import app
from models import catalogue
from tests.test_clip import small_folder
from tests.test_clip_transformers import tiny_folder


@pytest.mark.parametrize(("make_folder", "dimension"), [(small_folder, 16), (tiny_folder, 32)])
def test_lists_what_can_be_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_folder: Callable[[Path], Path],
    dimension: int,
) -> None:
    folder = make_folder(tmp_path)
    monkeypatch.setenv("CLIP_PRETRAINED", str(folder))
    monkeypatch.setenv("VSE_CHECKPOINT", str(tmp_path / "absent"))
    assert app.list_models(app.parser().parse_args(["-t", "models"])) == 0
    out = capsys.readouterr().out
    embedded, _, rest = out.partition("found on the disk:")
    found, _, downloadable = rest.partition("downloadable")
    assert "-m vse" in embedded
    assert "1024-d" in embedded
    assert f"CLIP_PRETRAINED={folder} -m clip" in found
    assert f" {dimension}-d" in found
    assert "absent" not in found
    assert "CLIP_MODEL=ViT-B-32 CLIP_PRETRAINED=openai" in downloadable
    assert len(out.splitlines()) < 25


def test_weights_that_cannot_be_used_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").write_bytes(b"none")
    monkeypatch.setenv("CLIP_PRETRAINED", str(tmp_path / "weights.pt"))
    assert any("weights.pt" in line and "cannot be used" in line for line in catalogue.catalogue())


def test_figures_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text('{"dimension": 7}')
    monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
    assert next(line for line in catalogue.catalogue() if "-m own" in line).endswith("7-d  not measured")
    figures = {"R@1": 1.5, "R@5": 2, "R@10": 3, "MRR": 0.25}
    content = {"split": "a test split", "text_to_image": figures, "image_to_text": figures}
    (folder / "figures.json").write_text(json.dumps(content))
    said = "text to image R@1 1.5 R@5 2 R@10 3 MRR 0.25, image to text R@1 1.5 R@5 2 R@10 3 MRR 0.25 (a test split)"
    assert next(line for line in catalogue.catalogue() if "-m own" in line).endswith(said)
