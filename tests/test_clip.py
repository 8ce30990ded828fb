"""CLIP through open_clip, on random weights: what is tested is the way from a file to vectors, not a model."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tokenizers
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

import models.clip
import models.precision
from models import ModelError
from models.clip import ClipModel, make
from models.clip_source import WEIGHTS
from models.preprocessing import Preprocessing

ARCHITECTURE = "ViT-S-32-alt"  # the smallest of open_clip's: what is tested holds for all
TEXTS = ["a dog", "a cat on a mat " * 60, "", "🐈 猫 &amp; café"]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, on whatever processor."""
    for module in (models.clip, models.precision):
        monkeypatch.setattr(module, "FAST_TYPE", torch.float32)


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.manual_seed(0)
    return open_clip.create_model(ARCHITECTURE).eval()


@pytest.fixture(scope="module")
def weights(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clip") / "weights.pt"
    torch.save(reference.state_dict(), file)
    return file


def test_vectors_are_those_of_open_clip(reference: Any, weights: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    transform = open_clip.image_transform(
        224, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    with torch.inference_mode():
        images = reference.encode_image(
            torch.stack([transform(Image.fromarray(one)) for one in pixels]), normalize=True
        )
        texts = reference.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(TEXTS), normalize=True)
    model = ClipModel(ARCHITECTURE, str(weights), image=True, text=True)
    np.testing.assert_allclose(model.encode_images(pixels), images.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), texts.numpy(), atol=1e-5)


def test_towers_share_one_fingerprint(weights: Path) -> None:
    image = ClipModel(ARCHITECTURE, str(weights), image=True, text=False)
    text = ClipModel(ARCHITECTURE, str(weights), image=False, text=True)
    assert image.fingerprint == text.fingerprint
    assert image.fingerprint.startswith(f"clip {ARCHITECTURE} {image.dimension}-d ")
    with pytest.raises(ModelError):
        image.encode_texts(["a dog"])


def test_other_weights_have_another_fingerprint(reference: Any, weights: Path, tmp_path: Path) -> None:
    state = reference.state_dict()
    state["logit_scale"] = state["logit_scale"] + 1
    torch.save(state, tmp_path / "other.pt")
    prints = [
        ClipModel(ARCHITECTURE, str(file), image=False, text=False).fingerprint
        for file in (weights, tmp_path / "other.pt")
    ]
    assert prints[0] != prints[1]


def test_preprocessing_is_clips_own() -> None:
    """To the pixel what open_clip makes of a picture."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (333, 517, 3), np.uint8))
    ours = Preprocessing(
        size=224,
        resize=224,
        interpolation="bicubic",
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    ).crop(picture)
    transform = open_clip.image_transform(224, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    theirs = (transform(picture) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("architecture", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", "no model 'ViT-B-33'"),
        ("ViT-B-32", "no/such/file.pt", "'no/such/file.pt' is neither a file nor"),
    ],
)
def test_unknown_names_are_refused(architecture: str, pretrained: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ClipModel(architecture, pretrained, image=False, text=False)


def test_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, file)
    with pytest.raises(ModelError, match=r"other\.pt does not fit CLIP_MODEL=ViT-S-32-alt"):
        ClipModel(ARCHITECTURE, str(file), image=True, text=False)


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("models.published.constants.ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr("models.published.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("models.published.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match="set CLIP_PRETRAINED to the file, or use -m clip-small"):
        ClipModel("ViT-B-32", "openai", image=False, text=False)


class Attack:
    """Runs a command where a pickle is loaded that holds it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.proof}",)


def attack_state_dict(file: Path, proof: Path) -> None:
    torch.save({"state_dict": Attack(proof)}, file)


def attack_old_format(file: Path, proof: Path) -> None:
    torch.save({"state_dict": Attack(proof)}, file, _use_new_zipfile_serialization=False)


def attack_bare_pickle(file: Path, proof: Path) -> None:
    file.write_bytes(pickle.dumps(Attack(proof), protocol=2))


def attack_script(file: Path, proof: Path) -> None:
    """A TorchScript archive whose module is replaced by a command."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(proof), protocol=2))
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("attack", [attack_state_dict, attack_old_format, attack_bare_pickle, attack_script])
def test_code_in_a_file_is_not_run(tmp_path: Path, attack: Callable[[Path, Path], None]) -> None:
    file, proof = tmp_path / "attack.pt", tmp_path / "ran"
    attack(file, proof)
    with pytest.raises(ModelError, match=r"attack\.pt") as refusal:
        ClipModel(ARCHITECTURE, str(file), image=True, text=False)
    assert "\n" not in str(refusal.value)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Attack(proof)))
    assert proof.exists(), "the attack itself must work"


def test_attack_in_a_folder_is_not_run(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    attack_state_dict(folder / "open_clip_pytorch_model.bin", tmp_path / "ran")
    with pytest.raises(ModelError, match=r"open_clip_pytorch_model\.bin is refused"):
        ClipModel("", str(folder), image=False, text=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["safetensors", "wrapped", "parallel", "old"])
def test_formats_are_told_apart_by_content(reference: Any, weights: Path, tmp_path: Path, kind: str) -> None:
    file, state = tmp_path / "weights", reference.state_dict()
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "name": "a run", "state_dict": state}, file)
    elif kind == "parallel":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=False)
    one, other = (ClipModel(ARCHITECTURE, str(path), image=False, text=True) for path in (file, weights))
    np.testing.assert_array_equal(one.encode_texts(TEXTS), other.encode_texts(TEXTS))


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 no archive"])
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "damaged.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.pt") as refusal:
        ClipModel(ARCHITECTURE, str(tmp_path / "damaged.pt"), image=False, text=False)
    assert "\n" not in str(refusal.value)


def save_tokenizer(folder: Path) -> None:
    """A tokeniser of a few words in the files of Hugging Face."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "dog", "cat", "un", "chien"]
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    wrap: Any = transformers.PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def save_folder(folder: Path, model: dict[str, Any], preprocessing: dict[str, Any]) -> Path:
    """Random weights in the layout of open_clip's folders."""
    folder.mkdir(exist_ok=True)
    save_tokenizer(folder)
    config = {"model_cfg": model, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    absolute = model["text_cfg"] | ({"hf_model_name": str(folder)} if "hf_model_name" in model["text_cfg"] else {})
    torch.manual_seed(0)
    made = make(model | {"text_cfg": absolute}, quick_gelu=False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file({name: tensor.contiguous() for name, tensor in made.state_dict().items()}, folder / WEIGHTS[0])
    return folder


ONE_LAYER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def small_folder(parent: Path) -> Path:
    """EfficientNet-Lite0 and a BERT of one layer."""
    transformers.BertConfig(vocab_size=9, **ONE_LAYER).save_pretrained(parent / "small")
    image = {"timm_model_name": "tf_efficientnet_lite0", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    text = {"hf_model_name": ".", "hf_tokenizer_name": ".", "hf_proj_type": "linear", "context_length": 16}
    model = {"embed_dim": 16, "vision_cfg": image, "text_cfg": text}
    return save_folder(parent / "small", model, {"mean": [0.5] * 3, "std": [0.5] * 3})


def multilingual_folder(parent: Path) -> Path:
    """A small vision transformer and an XLM-R of one layer."""
    transformers.XLMRobertaConfig(vocab_size=9, pad_token_id=0, **ONE_LAYER).save_pretrained(parent / "multilingual")
    image = {"image_size": 64, "layers": 1, "width": 64, "patch_size": 32}
    text = {"hf_model_name": ".", "hf_tokenizer_name": ".", "hf_pooler_type": "mean_pooler", "context_length": 16}
    return save_folder(parent / "multilingual", {"embed_dim": 16, "vision_cfg": image, "text_cfg": text}, {})


def siglip_folder(parent: Path) -> Path:
    """SigLIP's way: a timm tower with attention pooling, no causal mask, the last token, a bias, squashed pictures."""
    image = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 224}
    text = {"hf_tokenizer_name": ".", "context_length": 16, "vocab_size": 9, "width": 64, "heads": 2, "layers": 1}
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    model = {"embed_dim": 192, "init_logit_bias": -10, "custom_text": True, "vision_cfg": image, "text_cfg": text}
    preprocessing = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    return save_folder(parent / "siglip", model, preprocessing)


@pytest.mark.parametrize("make_folder", [small_folder, multilingual_folder, siglip_folder])
def test_folders_give_what_open_clip_gives(tmp_path: Path, make_folder: Callable[[Path], Path]) -> None:
    folder = make_folder(tmp_path)
    model = ClipModel("", str(folder), image=True, text=True)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(folder)} if (folder / "config.json").exists() else {}
    reference = make(config["model_cfg"], quick_gelu=False).eval()
    reference.load_state_dict(load_file(folder / WEIGHTS[0]))
    transform = image_transform_v2(
        PreprocessCfg(**config["preprocess_cfg"], size=config["model_cfg"]["vision_cfg"]["image_size"]), False
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8))
    texts = ["a dog", "un chien " * 100, "cat"]
    with torch.inference_mode():
        image = reference.encode_image(transform(picture)[None], normalize=True)
        text = reference.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
    np.testing.assert_allclose(model.encode_images(model.preprocessing.crop(picture)[None]), image.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(texts), text.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no open_clip_config.json or config.json"),
        ({"config.json": '{"model_type": "clip"}'}, "has no weights"),
        ({"open_clip_config.json": "{", "model.safetensors": ""}, "open_clip_config.json: it cannot be used"),
        ({"open_clip_config.json": '{"model_cfg": {"embed_dim": 4, "text_cfg": {}}}'}, "has no weights"),
    ],
)
def test_folders_that_lack_something_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=message):
        ClipModel("", str(tmp_path), image=False, text=False)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(333, 517), (517, 333), (40, 41), (7, 300)])
def test_resize_modes_are_open_clips(mode: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8))
    nothing, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    ours = Preprocessing(size=64, resize=64, interpolation="bicubic", mean=nothing, std=one, mode=mode).crop(picture)
    transform = open_clip.image_transform(64, is_train=False, mean=nothing, std=one, resize_mode=mode)
    np.testing.assert_array_equal(ours, (transform(picture) * 255).round().byte().permute(1, 2, 0).numpy())
