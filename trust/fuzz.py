"""Part ``fuzz``: input that is generated from a seed, for every reader of files and for the server."""

from __future__ import annotations

from bench.processes import BenchError, started
from trust import files
from trust.report import Row
from trust.serving import post, search, serving

CASES = {
    "pictures": 10_000,
    "addresses": 2000,
    "captions": 2000,
    "sentences": 2000,
    "vocabularies": 2000,
    "checkpoints": 2000,
}
"""Of each target of `trust.files`, in a whole run."""
QUICK = 100
"""Of each, in a quick one."""


REQUESTS = 6000


def measure(seed: int, quick: bool) -> list[Row]:
    """Try every target in a process of its own, so that none that crashes takes the others with it."""
    rows = [_tried(name, seed, QUICK if quick else cases) for name, cases in CASES.items()]
    with serving(encodes=False) as (port, process):
        before = post(port, "/search", search("red"))
        row = _asked(port, seed, QUICK if quick else REQUESTS)
        stands = process.popen.poll() is None and before.status == post(port, "/search", search("red")).status == 200
    return [*rows, row if stands else row._replace(lost_or_wrong="the server does not answer any more", ok=False)]


def _asked(port: int, seed: int, cases: int) -> Row:
    what = "bad requests: what the server's description lets one ask, and what it does not"
    try:
        with started("-m", "trust.requests", port, seed, cases) as process:
            process.wait()
            assert process.popen.stdout
            return Row(what, f"{int(process.popen.stdout.read()):,} requests", "0", True)
    except BenchError as error:
        return Row(what, f"{cases:,} requests", str(error), False)


def _tried(name: str, seed: int, cases: int) -> Row:
    what = f"bad {name}: {(files.TARGETS[name].__doc__ or '').splitlines()[0].rstrip('.')}"
    try:
        with started("-m", "trust.files", name, seed, cases) as process:
            process.wait()
            assert process.popen.stdout
            return Row(what, f"{int(process.popen.stdout.read()):,} files", "0", True)
    except BenchError as error:
        return Row(what, f"{cases:,} files", str(error), False)
