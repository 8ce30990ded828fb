"""``python -m trust.launch FILE …``: ``app.py …``, with its processes and what reaches its client noted in a file.

A document is acknowledged when the client sees that every indexer holds it.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.process import BaseProcess

import app
import flow as flows


def main() -> int:
    """Run the application; returns its exit code."""
    flows.quiet()
    import client
    from executors.document import Document, is_held

    with open(sys.argv.pop(1), "a", buffering=1, encoding="utf-8") as notes:
        start = BaseProcess.start

        def noted_start(process: BaseProcess) -> None:
            start(process)
            print(json.dumps({"name": process.name, "pid": process.pid}), file=notes)

        def noted_is_held(doc: Document) -> bool:
            held = is_held(doc)
            if held and not doc.error:
                print(json.dumps({"acknowledged": doc.id}), file=notes)
            return held

        BaseProcess.start = noted_start  # type: ignore[assignment,method-assign]
        client.is_held = noted_is_held  # type: ignore[attr-defined]
        return app.main()


if __name__ == "__main__":
    sys.exit(main())
