"""Train a model: ``python train.py -m vse -d f8k``. Killed and started again, it goes on where it was."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

from models import ModelError
from training.flickr8k import read_split
from training.world import FOLDER, read_world

MODELS = ("vse", "clip-small")
WORKSPACE = Path("workspace/training")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin stop each other when the machine is shared


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is left to the model's recipe is absent."""
    parser = argparse.ArgumentParser(description=__doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("-m", "--model_name", choices=MODELS, default="vse", help="the model to train (default vse)")
    parser.add_argument("-d", "--data_set", default="f8k", help="f8k, or the path of a folder of the same layout")
    parser.add_argument("-o", "--output", type=Path, help="folder for the weights (default models/weights/<model>)")
    parser.add_argument("--epochs", type=int, help="rounds over all captions (default: 10 of vse, 30 of clip-small)")
    parser.add_argument("--seed", type=int, help="of everything that is random (default 0)")
    parser.add_argument(
        "--word_vectors", choices=["minilm", "none"], help="vse only: what they start from (default minilm)"
    )
    options = parser.parse_args(arguments)
    if options.model_name != "vse" and "word_vectors" in options:
        parser.error(f"{options.model_name} has no word vectors: leave --word_vectors out")
    return options


def keep_memory() -> None:
    """Let the process keep what it has freed: fresh pages from the kernel are a third of the time of a step."""
    libc = ctypes.CDLL(None)
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 2**31 - 1)


def main() -> int:
    """Train, write the weights and report how they do; exit code 1 after one line if something is absent."""
    options = vars(parse_arguments())
    model_name, data_set = options.pop("model_name"), options.pop("data_set")
    output = options.pop("output", Path("models/weights", model_name))
    keep_memory()
    try:
        train, dev, test = (read_split(data_set, part) for part in ("train", "dev", "test"))
        more = {"world": read_world(FOLDER)} if model_name == "clip-small" else {}
        from training import loop  # after the data is known to be there: torch costs seconds

        module = importlib.import_module(f"training.{model_name.replace('-', '_')}")
        training = module.Training(train, dev, recipe=module.Recipe(**options), workspace=WORKSPACE, **more)
        training.run()
        training.write(output)
        model = module.load(output)
        print(f"dev: {loop.describe(loop.evaluate(model, dev))}", flush=True)
        results = loop.evaluate(model, test)
        print(f"test: {loop.describe(results)}", flush=True)
        title = "Flickr8k" if data_set == "f8k" else Path(data_set).resolve().name
        captions = sum(map(len, test.captions))
        figures = loop.figures(results, f"{title} test, {len(test.pictures):,} pictures, {captions:,} captions")
        (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print("toy: {} of {} captions find their picture first".format(*loop.evaluate_toy(model)), flush=True)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
