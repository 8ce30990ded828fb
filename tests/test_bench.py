"""The benchmark: a tiny part of it runs for real, and its table has the form that it promises; no time is judged."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest

from bench import report
from bench.figures import Goal, Row, difference, ratio
from bench.material import Vectors
from bench.processes import BenchError, members, started
from tests.conftest import PATIENCE, Result, process, run, wait_until

HEADER = "| figure | ours | contender | | ratio or difference | goal | met |"


class Bench(NamedTuple):
    """A run of the part that needs no Flow."""

    done: Result
    folder: Path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    workspace = tmp_path_factory.mktemp("bench")
    temporary = tmp_path_factory.mktemp("temporary")
    done = run("-m", "bench", "search", "--quick", workspace=workspace, TMPDIR=temporary)
    assert not os.listdir(temporary), "temporary folders are left"
    return Bench(done, workspace / "bench" / "results")


def test_a_quick_run_writes_its_files_and_says_where(bench: Bench) -> None:
    assert bench.done.code == 0, bench.done.err
    files = [bench.folder / name for name in ("results.md", "results.svg", "results.json")]
    assert bench.done.out.splitlines() == list(map(str, files))
    assert all(file.stat().st_size for file in files)


def test_the_table_has_all_columns_in_all_rows(bench: Bench) -> None:
    lines = (bench.folder / "results.md").read_text().splitlines()
    start = lines.index(HEADER)
    rows = [line for line in lines[start:] if line.startswith("|")]
    assert {row.count("|") for row in rows} == {HEADER.count("|")}
    assert any(
        re.match(r"\| exact search in 2,000 vectors \| [\d.,]+ ms \| memory bandwidth \| [\d.,]+ ms \|", row)
        for row in rows
    )


def test_json_holds_all_rounds_and_the_machine(bench: Bench) -> None:
    results: Any = json.loads((bench.folder / "results.json").read_text())
    assert results["machine"]["cores"] == str(os.cpu_count())
    assert results["versions"]["faiss-cpu"]
    exact = results["parts"]["search"]["rows"][0]
    assert len(exact["rounds"]["ours"]) == len(exact["rounds"]["theirs"]) == 2
    assert min(exact["rounds"]["ours"]) > 0
    assert exact["outcome"] == pytest.approx(np.median(np.divide(exact["rounds"]["ours"], exact["rounds"]["theirs"])))


def test_one_part_leaves_the_others_and_judges_goals(tmp_path: Path) -> None:
    fast = ratio("fast", "pairs/s", [30.0, 10.0, 20.0], "slow & plain", [3.0, 2.0, 1.0], Goal(5))
    slow = difference("slow", "ms", [30.0, 10.0], "alone", [10.0, 5.0], Goal(8, at_most=True))
    report.write(
        tmp_path, "one", {"how": "so"}, [fast, Row("absent", "ms", contender="peer", goal=Goal(5), note="not run: why")]
    )
    report.write(tmp_path, "two", {}, [slow])
    text = (tmp_path / "results.md").read_text()
    assert "| fast | 20.0 pairs/s | slow & plain | 2.00 pairs/s | 10.0 | ≥ 5 | yes |" in text
    assert "| slow | 20.0 ms | alone | 7.50 ms | 12.5 ms | ≤ 8 | no |" in text
    assert "| absent |  | peer |  | not run: why | ≥ 5 |  |" in text
    plot = ElementTree.parse(tmp_path / "results.svg").getroot()
    bars = {bar.get("fill") for bar in plot.iter("{http://www.w3.org/2000/svg}rect")}
    assert len(bars) == 2, "a goal that is met and one that is missed look different"


@pytest.mark.parametrize("overhead", [0.0, -1.0])
def test_no_overhead_at_all_is_drawn_as_more_than_its_goal(tmp_path: Path, overhead: float) -> None:
    row = difference("as fast as alone", "ms", [9 + overhead], "alone", [9.0], Goal(8, at_most=True))
    report.write(tmp_path, "one", {}, [row])
    [bar] = ElementTree.parse(tmp_path / "results.svg").getroot().iter("{http://www.w3.org/2000/svg}rect")
    assert float(bar.get("x", "")) == report.WIDTH / 2
    assert float(bar.get("width", "")) == report.WIDTH / 2


def test_vectors_are_the_same_in_every_run_and_have_neighbours() -> None:
    first, second = (np.concatenate(list(Vectors(64).blocks(12_000))) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    queries = Vectors(64).queries(50)
    nearest = (queries @ first.T).max(axis=1)
    random = np.random.default_rng(0).standard_normal((50, 64))
    by_chance = (random / np.linalg.norm(random, axis=1, keepdims=True) @ first.T).max(axis=1)
    assert nearest.min() > 0.5
    assert np.median(nearest) > np.median(by_chance) + 0.1
    assert nearest.max() < 1 - 1e-4, "a query is one of the vectors"


def test_a_program_that_fails_is_named_with_its_reason() -> None:
    with (
        pytest.raises(BenchError, match=r"bench.encoders .* ended: .*there is no model 'nothing'"),
        started("-m", "bench.encoders", "nothing", 0, 0) as failing,
    ):
        failing.ask(do="facts")


def test_a_program_that_ends_is_read_though_its_children_hold_its_output() -> None:
    talker = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0); sys.exit('why')"
    with started("-c", talker) as talking:
        wait_until(lambda: talking.popen.poll() is not None, "the program has ended")
        with pytest.raises(BenchError, match=r"ended: why$"):
            talking.require_alive()


def test_nothing_that_was_started_stays() -> None:
    pause = "import signal; signal.pause()"
    with started(
        "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{pause}']); {pause}"
    ) as parent:
        session = parent.popen.pid
        while len(members(session)) < 2:
            parent.require_alive()
    assert not members(session)


def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def workers() -> list[str]:
        commands = (read_command(entry) for entry in Path("/proc").glob("[0-9]*/cmdline"))
        return [command for command in commands if "bench.vectors" in command and str(tmp_path) in command]

    with process("-m", "bench", "search", "--quick", workspace=tmp_path / "workspace", TMPDIR=tmp_path) as running:
        wait_until(workers, "the process that searches has begun")
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not workers()
    assert [path.name for path in tmp_path.iterdir()] == ["workspace"]


def read_command(entry: Path) -> str:
    """The command line of a process, empty if it has ended."""
    try:
        return entry.read_text()
    except OSError:
        return ""


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = run("-m", "bench", "fast", workspace=tmp_path)
    assert done.code == 2
    assert "there is no part 'fast': choose from query, index, search, peers" in done.err
