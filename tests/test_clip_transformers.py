"""CLIP against transformers' ``CLIPModel``, on random weights in the folders that transformers writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import models.clip
import models.precision
from bench.random_weights import processor
from models import ModelError
from models.clip import ClipModel
from tests.conftest import ROOT
from tests.test_clip import small_folder

TEXTS = ["a dog", "a cat on a mat " * 60, "", "two children play at the sea, 3 o'clock"]
TINY: dict[str, dict[str, Any]] = {
    "text_config": {
        "hidden_size": 44,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 98,  # 44 * (98 / 44) is under 98
        "layer_norm_eps": 0.01,
        "max_position_embeddings": 20,
    },
    "vision_config": {
        "hidden_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "intermediate_size": 123,
        "layer_norm_eps": 0.02,
        "image_size": 64,
        "patch_size": 16,
    },
}


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, on whatever processor."""
    for module in (models.clip, models.precision):
        monkeypatch.setattr(module, "FAST_TYPE", torch.float32)


def save(folder: Path, **given: Any) -> Any:
    """Write a model whose weights are all random, also those that transformers sets to 0 and 1, and its processor."""
    torch.manual_seed(0)
    config: Any = transformers.CLIPConfig(**given)
    model: Any = transformers.CLIPModel(config)
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    processor(config.vision_config.image_size).save_pretrained(folder)
    return model


def tiny_folder(parent: Path) -> Path:
    """A small model as transformers saves it."""
    save(parent / "tiny", **TINY, projection_dim=32)
    return parent / "tiny"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("transformers"))


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny"))


def change(file: Path, edit: Callable[[Any], object]) -> None:
    """Change a file of JSON in place."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def encode(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What this project makes of a picture and the texts."""
    model = ClipModel("ViT-B-32", str(folder), image=True, text=True)
    return model.encode_images(model.preprocessing.crop(picture())[None]), model.encode_texts(TEXTS)


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 135, 3), np.uint8)).resize((540, 360))


def encode_by_transformers(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    text, vision = model.config.text_config, model.config.vision_config
    inputs = processor(vision.image_size)(
        text=TEXTS,
        images=picture(),
        return_tensors="pt",
        padding="max_length",
        truncation=True,
        max_length=text.max_position_embeddings,
    )
    with torch.inference_mode():
        images = model.get_image_features(inputs["pixel_values"])
        texts = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    return images.pooler_output, texts.pooler_output


def least_cosine(ours: tuple[np.ndarray, ...], theirs: tuple[torch.Tensor, ...]) -> float:
    unit = [torch.nn.functional.normalize(one, dim=-1).numpy() for one in theirs]
    return min(float((one * other).sum(1).min()) for one, other in zip(ours, unit, strict=True))


@pytest.mark.parametrize(
    ("sizes", "activation"),
    [(TINY, "quick_gelu"), (TINY, "gelu"), ({}, "quick_gelu")],
    ids=["tiny", "gelu", "ViT-B-32"],
)
def test_vectors_are_those_of_transformers(tmp_path: Path, sizes: dict[str, dict[str, Any]], activation: str) -> None:
    parts = {part: sizes.get(part, {}) | {"hidden_act": activation} for part in ("text_config", "vision_config")}
    reference = save(tmp_path, **parts, projection_dim=32 if sizes else 512)
    cosine = least_cosine(encode(tmp_path), encode_by_transformers(reference))
    print(f"{activation}: cosine {cosine:.7f}")
    assert cosine >= 0.99999


def as_pickle(folder: Path) -> Path:
    torch.save(transformers.CLIPModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def as_in_2021(folder: Path) -> Path:
    """What OpenAI's models look like that were published first."""
    as_pickle(folder)
    state = torch.load(folder / "pytorch_model.bin")
    for tower, length in (("text_model", 20), ("vision_model", 17)):
        state[f"{tower}.embeddings.position_ids"] = torch.arange(length)[None]
    torch.save(state, folder / "pytorch_model.bin")
    change(folder / "config.json", lambda config: config["text_config"].update(eos_token_id=2, bos_token_id=0))
    content = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "preprocessor_config.json").write_text(json.dumps(content | {"size": 64, "crop_size": 64}))
    (folder / "processor_config.json").unlink()
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer.json").unlink()
    return folder


def as_half(folder: Path) -> Path:
    model: Any = transformers.CLIPModel.from_pretrained(folder)
    model.half().save_pretrained(folder)
    return folder


def as_file(folder: Path) -> Path:
    return folder / "model.safetensors"


def as_pickle_file(folder: Path) -> Path:
    return as_pickle(folder).joinpath("pytorch_model.bin").rename(folder / "weights")


@pytest.mark.parametrize("form", [as_pickle, as_in_2021, as_half, as_file, as_pickle_file])
def test_forms_of_one_model(tiny: Path, folder: Path, form: Callable[[Path], Path]) -> None:
    expected = encode(tiny)
    for ours, theirs in zip(encode(form(folder)), expected, strict=True):
        assert (ours * theirs).sum(1).min() >= 0.99999


def test_fingerprint(folder: Path) -> None:
    """It knows the weights and all that vectors depend on beside them."""

    def fingerprint() -> str:
        prints = {ClipModel("", str(folder), image=image, text=not image).fingerprint for image in (True, False)}
        assert len(prints) == 1
        return prints.pop()

    prints = [fingerprint()]
    assert prints[0].startswith("clip folder-quickgelu 32-d 64px/64 bicubic ")
    change(folder / "processor_config.json", lambda content: content["image_processor"].update(image_mean=[0.5] * 3))
    prints.append(fingerprint())
    change(folder / "config.json", lambda config: config["vision_config"].update(layer_norm_eps=1e-6))
    prints.append(fingerprint())
    as_half(folder)
    prints.append(fingerprint())
    assert len(set(prints)) == 4


def test_preprocessing_is_read(folder: Path) -> None:
    given = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    change(folder / "processor_config.json", lambda content: content["image_processor"].update(given))
    preprocessing = ClipModel("", str(folder), image=False, text=False).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert preprocessing.interpolation == "bilinear"


def test_nothing_but_the_model_is_needed(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path)
    for ours, theirs in zip(encode(tmp_path), encode(tiny), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "part", "given", "message"),
    [
        ("config.json", "", {"model_type": "siglip"}, "has the model_type 'siglip': of transformers' models only"),
        ("config.json", "", {"model_type": None}, "has the model_type None"),
        ("config.json", "", {"projection_dim": 33}, "does not fit its config.json: text.text_projection is"),
        ("config.json", "", {"text_config": "none"}, "config.json: it cannot be used"),
        ("config.json", "vision_config", {"hidden_size": 160}, "does not fit its config.json: visual.class_embedding"),
        (
            "config.json",
            "vision_config",
            {"num_hidden_layers": 2},
            "visual.transformer.resblocks.2.* absent in the model",
        ),
        ("config.json", "vision_config", {"image_size": 96}, "pixels"),
        ("config.json", "vision_config", {"num_channels": 1, "patch_size": 8}, "does not fit its config.json"),
        ("config.json", "vision_config", {"num_attention_heads": 0}, "config.json: it cannot be used"),
        ("config.json", "vision_config", {"hidden_act": "gelu"}, "hidden_act is 'quick_gelu' for texts and 'gelu' for"),
        ("config.json", "text_config", {"intermediate_size": 102}, "does not fit its config.json: text.transformer"),
        ("config.json", "text_config", {"eos_token_id": 5}, "eos_token_id 5 and vocab_size 49408 are not of CLIP's"),
        ("config.json", "text_config", {"eos_token_id": [2, 5]}, "eos_token_id"),
        ("config.json", "text_config", {"vocab_size": 100}, "eos_token_id 49407 and vocab_size 100 are not of CLIP's"),
        ("processor_config.json", "image_processor", {"resample": 0}, "not how CLIP prepares a picture: .* 64 pixels"),
        ("processor_config.json", "image_processor", {"do_normalize": False}, "not how CLIP prepares a picture"),
        (
            "processor_config.json",
            "image_processor",
            {"size": {"shortest_edge": 70}},
            "not how CLIP prepares a picture",
        ),
        ("processor_config.json", "image_processor", {"crop_size": 60}, "not how CLIP prepares a picture"),
        ("processor_config.json", "image_processor", {"image_std": [0.5, 0.5]}, "are not those of three colours"),
        (
            "processor_config.json",
            "image_processor",
            {"image_mean": "none"},
            "processor_config.json: it cannot be used",
        ),
        ("tokenizer.json", "model", {"vocab": {"a": 1}}, "tokenizer.json is not CLIP's own tokeniser.* '!' differs"),
        ("processor_config.json", "", {"image_processor": []}, "processor_config.json: it cannot be used"),
        ("tokenizer.json", "model", {"vocab": None}, "tokenizer.json: it cannot be used"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, name: str, part: str, given: dict[str, Any], message: str) -> None:
    change(folder / name, lambda content: (content[part] if part else content).update(given))
    assert_refused(folder, message)


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        ClipModel("ViT-B-32", str(path), image=False, text=False)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_missing_weights_are_named(folder: Path) -> None:
    state = transformers.CLIPModel.from_pretrained(folder).state_dict()
    missing = "vision_model.encoder.layers.1.self_attn.k_proj.weight"
    torch.save({name: tensor for name, tensor in state.items() if name != missing}, folder / "weights.bin")
    assert_refused(folder / "weights.bin", "layers.1.self_attn.q_proj.weight lacks keys or values of the same shape")


def test_file_without_its_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert_refused(folder / "model.safetensors", "of transformers, which wrote a config.json too: it belongs beside it")


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_folder_that_asks_to_run_its_code_is_refused(folder: Path, name: str) -> None:
    proof = add_attack(folder, name)
    assert_refused(folder, rf"{name} is refused: its auto_map asks to run code")
    assert not proof.exists()


def add_attack(folder: Path, name: str) -> Path:
    """Code that leaves a file behind, and a request to run it in one of the folder's configurations."""
    proof = folder / "ran"
    (folder / "attack.py").write_text(f"open({str(proof)!r}, 'w')\n")
    auto = {
        "AutoConfig": "attack.C",
        "AutoModel": "attack.C",
        "AutoProcessor": "attack.C",
        "AutoTokenizer": ["attack.C"] * 2,
    }
    change(folder / name, lambda content: content.update(auto_map=auto))
    return proof


def test_an_open_clip_folder_that_asks_to_run_its_code_is_refused(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    proof = add_attack(folder, "config.json")
    change(folder / "config.json", lambda config: config.update(model_type="unknown"))
    assert_refused(folder, "config.json is refused: its auto_map asks to run code")
    assert not proof.exists()


def test_the_attack_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody trusts it; else the tests of attacks would not show anything."""
    folder = small_folder(tmp_path)
    proof = add_attack(folder, "config.json")
    change(folder / "config.json", lambda config: config.update(model_type="unknown"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    with pytest.raises(AttributeError):
        transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert proof.exists()


def test_nobody_is_asked_whether_to_run_code(tmp_path: Path) -> None:
    """A folder may name a model of somebody else's on Hugging Face."""
    folder = small_folder(tmp_path)
    snapshot = tmp_path / "hub" / "models--somebody--model" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    proof = add_attack(snapshot, "config.json")
    change(snapshot / "config.json", lambda config: config.update(model_type="unknown"))
    change(
        folder / "open_clip_config.json",
        lambda content: content["model_cfg"]["text_cfg"].update(hf_model_name="somebody/model"),
    )
    places = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "models", "clip"],
        cwd=ROOT,
        env=os.environ | places | {"CLIP_PRETRAINED": str(folder)},
        input="y\n" * 9,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1), done
    assert "its model cannot be made" in done.stdout
    assert not proof.exists()
