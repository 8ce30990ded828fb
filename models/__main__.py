"""``python -m models NAME``: whether a model can be loaded here; fetches what it needs, or says why not in one line."""

import sys

import models


def main() -> int:
    """Print its fingerprint, or why it cannot be loaded with exit code 1."""
    try:
        print(models.load(sys.argv[1], image=False, text=False).fingerprint)
    except models.ModelError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
