"""Train a model: ``python train.py -m vse -d f8k``. Killed and started again, it goes on where it was."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from pathlib import Path

from models import ModelError
from training.flickr8k import read_split

WORKSPACE = Path("workspace/training")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin stop each other when the machine is shared


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model_name", choices=["vse"], default="vse", help="the model to train")
    parser.add_argument("-d", "--data_set", default="f8k", help="f8k, or the path of a folder of the same layout")
    parser.add_argument("-o", "--output", type=Path, default=Path("models/weights/vse"), help="folder for the weights")
    parser.add_argument("--epochs", type=int, default=10, help="rounds over all captions (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (default 0)")
    parser.add_argument(
        "--word_vectors", choices=["minilm", "none"], default="minilm", help="what the word vectors start from"
    )
    return parser.parse_args(arguments)


def keep_memory() -> None:
    """Let the process keep what it has freed: fresh pages from the kernel are a third of the time of a step."""
    libc = ctypes.CDLL(None)
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(parameter, 2**31 - 1)


def main() -> int:
    """Train, write the weights and report how they do; exit code 1 after one line if something is absent."""
    arguments = parse_arguments()
    keep_memory()
    try:
        train, dev, test = (read_split(arguments.data_set, part) for part in ("train", "dev", "test"))
        from models.vse import VseModel  # after the data set is known to be there: torch costs seconds
        from training.vse import Recipe, Training, describe, evaluate, write_weights

        recipe = Recipe(seed=arguments.seed, epochs=arguments.epochs, word_vectors=arguments.word_vectors)
        training = Training(train, dev, recipe=recipe, workspace=WORKSPACE)
        write_weights(arguments.output, *training.run(), training.vocabulary)
        model = VseModel.load_own(arguments.output)
        for name, split in (("dev", dev), ("test", test)):
            print(f"{name}: {describe(evaluate(model, split))}", flush=True)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
