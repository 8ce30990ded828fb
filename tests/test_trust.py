"""The harness of ``make trust``: a short form of each of its parts runs for real, and what is broken is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.conftest import Result, run
from trust import __main__ as command
from trust import report
from trust.files import TARGETS
from trust.report import Row
from trust.serving import Watch

PARTS = ("storm", "load", "fuzz")


@pytest.fixture(scope="module", params=PARTS)
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result, Path]:
    """A part, its short run, and its results."""
    workspace = tmp_path_factory.mktemp("trust")
    done = run("-m", "trust", request.param, "--quick", "--seed", 1, workspace=workspace)
    return request.param, done, workspace / "bench" / "trust"


def test_a_quick_run_keeps_all_promises(quick: tuple[str, Result, Path]) -> None:
    part, done, folder = quick
    assert done.code == 0, done.out + done.err
    rows = json.loads((folder / "results.json").read_text())["parts"][part]["rows"]
    assert all(row["ok"] for row in rows)
    assert {"storm": 3, "load": 3, "fuzz": len(TARGETS) + 1}[part] == len(rows)
    table = (folder / "results.md").read_text()
    for row in rows:
        assert f"| {part} | {row['what']} | {row['tried']} |" in table


@pytest.mark.parametrize("target", TARGETS)
def test_a_run_is_repeated_by_its_seed(target: str, tmp_path: Path) -> None:
    outs = {run("-m", "trust.files", target, 7, 20, workspace=tmp_path).out for _ in range(2)}
    assert outs == {"20\n"}


def test_what_is_broken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(seed: int, quick: bool) -> list[Row]:
        return [Row("a promise", f"seed {seed}, quick {quick}", "a document | two", False)]

    monkeypatch.setattr("trust.fuzz.measure", measure)
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["trust", "fuzz", "--seed", "3"])
    report.write(tmp_path, "storm", [Row("another", "once", "0", True)], seed=2)
    assert command.main() == 1
    assert "BROKEN: a promise: seed 3, quick False; a document | two" in capsys.readouterr().out
    table = (tmp_path / "results.md").read_text()
    assert "| fuzz | a promise | seed 3, quick False | a document \\| two | **no** | 3 |" in table
    assert "| storm | another | once | 0 | yes | 2 |" in table


def test_no_such_part(tmp_path: Path) -> None:
    done = run("-m", "trust", "prayer", workspace=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "there is no part 'prayer'" in done.err


def test_the_slope_is_that_of_the_second_half() -> None:
    watch = Watch.__new__(Watch)
    watch.samples = [0.0, 500.0, 900.0, *[1000.0 + number for number in range(3)]]
    assert watch.slope() == pytest.approx(2 * 3600)  # 1 MB each half second
