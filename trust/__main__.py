"""``python -m trust [PART …]``: break, load and misuse the application on purpose, and write what was lost."""

from __future__ import annotations

import argparse
import importlib
import secrets
import signal
import sys

import flow as flows
from bench import material
from bench.processes import BenchError
from trust import report

PARTS = ("crash", "storm", "load", "fuzz")
"""Modules of this package. Each has ``measure(seed: int, quick: bool) -> list[Row]``, which does not raise for what
is lost but reports it; ``BenchError`` says that nothing could be measured."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m trust", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--seed", type=int, help="of everything random, to repeat a run (default: another each time)")
    parser.add_argument("--quick", action="store_true", help="seconds instead of hours, written into the workspace")
    return parser


def main() -> int:
    """Try; returns the exit code: 1 if anything was lost or wrong."""
    options = parser().parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        print(f"trust: there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}", file=sys.stderr)
        return 2
    flows.quiet()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is killed
    folder = material.cache() / "trust" if options.quick else report.FOLDER
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    kept = True
    try:
        for name in options.parts or PARTS:
            rows = importlib.import_module(f"trust.{name}").measure(seed, options.quick)
            report.write(folder, name, rows, seed=seed)
            for row in rows:
                print(f"{'kept' if row.ok else 'BROKEN'}: {row.what}: {row.tried}; {row.lost_or_wrong}", flush=True)
            kept = kept and all(row.ok for row in rows)
    except BenchError as error:
        print(f"trust: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"seed {seed}: {folder / 'results.md'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
