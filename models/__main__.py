"""``python -m models NAME``: whether a model can be loaded here; fetches what it needs, or says why not in one line."""

import sys

import models


def main() -> int:
    """Exit code 0 if the model is ready, 1 after one line on standard output if not."""
    try:
        models.load(sys.argv[1], image=False, text=False)
    except models.ModelError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
