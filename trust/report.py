"""What was tried and what was lost, in files: a table in Markdown, and the same in JSON, to which parts are added."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import machine, versions
from evaluation.page import templates

FOLDER = Path(__file__).with_name("results")


class Row(NamedTuple):
    """One line of the table."""

    what: str
    """The promise, such as "kill -9 while indexing"."""
    tried: str
    """How often and how hard, in words: "100 kills at random moments"."""
    lost_or_wrong: str
    """What was lost or wrong, "0" where nothing was; measured figures may follow."""
    ok: bool
    """Whether the promise was kept."""


def write(folder: Path, part: str, rows: list[Row], *, seed: int) -> list[Path]:
    """Put the rows of one part into the results of a folder, whose other parts stay; returns the written files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "results.json"
    parts: dict[str, Any] = json.loads(data.read_text(encoding="utf-8"))["parts"] if data.exists() else {}
    parts[part] = {"date": date.today().isoformat(), "seed": seed, "rows": [row._asdict() for row in rows]}
    results = {"machine": machine(), "versions": versions(), "parts": parts}
    table = folder / "results.md"
    table.write_text(templates(Path(__file__).parent).get_template("table.md").render(**results), encoding="utf-8")
    data.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [table, data]
