"""``python -m bench.launch FILE …``: ``app.py …``, with its processes and acknowledgements noted in a file.

A document counts when the client's progress bar counts it: when its acknowledgement has arrived.
"""

from __future__ import annotations

import json
import sys
import time
from multiprocessing.process import BaseProcess

import app
from progress import Progress


def main() -> int:
    """Run the application; returns its exit code."""
    with open(sys.argv.pop(1), "a", buffering=1, encoding="utf-8") as notes:
        start, advance = BaseProcess.start, Progress.advance

        def noted_start(process: BaseProcess) -> None:
            start(process)
            print(json.dumps({"name": process.name, "pid": process.pid}), file=notes)

        def noted_advance(progress: Progress, steps: int = 1) -> None:
            print(json.dumps({"time": time.monotonic(), "documents": steps}), file=notes)
            advance(progress, steps)

        BaseProcess.start = noted_start  # type: ignore[assignment,method-assign]
        Progress.advance = noted_advance  # type: ignore[assignment,method-assign]
        return app.main()


if __name__ == "__main__":
    sys.exit(main())
