"""``python -m bench.plain MODEL PRETRAINED``: indexing as people write it with open_clip, in float32, all defaults."""

from __future__ import annotations

import sys

import faiss
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.worker import Worker, timed

BATCH = 32


class Pairs(Dataset):  # type: ignore[type-arg]
    """Pictures as the model wants them, with the tokens of their captions."""

    def __init__(self, paths: list[str], texts: list[str], preprocess: object, tokenizer: object) -> None:
        self.paths, self.texts, self.preprocess, self.tokenizer = paths, texts, preprocess, tokenizer

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.preprocess(Image.open(self.paths[place]))  # type: ignore[operator]
        return image, self.tokenizer(self.texts[place])[0]  # type: ignore[operator]


def main() -> None:
    """Load, and answer."""
    worker = Worker()
    _, name, pretrained = sys.argv
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained or None)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()

    @timed
    def pairs(paths: list[str], texts: list[str]) -> None:
        """Index pairs of pictures and captions."""
        indexes: list[faiss.IndexFlatIP] = []
        with torch.no_grad():
            for images, tokens in DataLoader(Pairs(paths, texts, preprocess, tokenizer), batch_size=BATCH):
                vectors = [model.encode_image(images), model.encode_text(tokens)]
                indexes = indexes or [faiss.IndexFlatIP(vector.shape[1]) for vector in vectors]
                for index, vector in zip(indexes, vectors, strict=True):
                    index.add((vector / vector.norm(dim=-1, keepdim=True)).numpy())

    worker.serve({"pairs": pairs})


if __name__ == "__main__":
    main()
