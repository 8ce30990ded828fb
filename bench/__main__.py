"""``python -m bench [PART …]``: measure, and write a table, all figures and a plot."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

import flow as flows
from bench import material, report
from bench.processes import BenchError
from bench.size import FULL, QUICK

PARTS = ("query", "index", "search", "peers")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few and small rounds, written into the workspace")
    return parser


def main() -> int:
    """Measure; returns the exit code."""
    options = parser().parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        print(f"bench: there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}", file=sys.stderr)
        return 2
    flows.quiet()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # what was started is killed on the way out
    folder = material.cache() / "results" if options.quick else report.FOLDER
    size = QUICK if options.quick else FULL
    try:
        for name in options.parts or PARTS:
            part = importlib.import_module(f"bench.{name}")
            for file in report.write(folder, name, part.settings(size), part.measure(size)):
                print(file)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
