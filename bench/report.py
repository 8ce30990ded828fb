"""The results in files: a table in Markdown, all rounds in JSON, and a plot of the goals."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import Row
from evaluation.page import templates

FOLDER = Path(__file__).with_name("results")
PACKAGES = (
    "jina",
    "docarray",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "faiss-cpu",
    "numpy",
    "pillow",
)
WIDTH, STEP = 320, 26  # pixels of the plot's axis, and of one of its lines
MOST = 10.0  # the axis goes from a tenth of a goal to ten times it


def write(folder: Path, part: str, settings: dict[str, Any], rows: list[Row]) -> list[Path]:
    """Put the rows of one part into the results of a folder, whose other parts stay; returns the written files."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "results.json"
    parts = json.loads(data.read_text(encoding="utf-8"))["parts"] if data.exists() else {}
    parts[part] = {"date": date.today().isoformat(), "settings": settings, "rows": [_plain(row) for row in rows]}
    results = {"machine": machine(), "versions": versions(), "parts": parts}
    environment = templates(Path(__file__).parent)
    environment.filters |= {"figure": _figure, "across": _across}
    judged = [row for one in parts.values() for row in one["rows"] if row["fulfilment"] is not None]
    names = {"judged": judged, "width": WIDTH, "step": STEP}
    texts = {
        f"results{Path(name).suffix}": environment.get_template(name).render(**results, **names)
        for name in ("table.md", "plot.svg")
    }
    texts["results.json"] = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = re.search(r"model name\s*: (.*)", about)
    flags = set(" ".join(re.findall(r"^flags\s*: (.*)", about, re.MULTILINE)[:1]).split())
    total = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
    return {
        "processor": name[1] if name else platform.machine(),
        "cores": str(os.cpu_count()),
        "bfloat16": ", ".join(sorted(flags & {"avx512_bf16", "amx_bf16"})) or "not in hardware",
        "memory": f"{int(total[1]) / 2**20:.0f} GB" if total else "",
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide the speed."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def _plain(row: Row) -> dict[str, Any]:
    goal = str(row.goal) if row.goal else ""
    fulfilment = row.goal.fulfilment(row.outcome) if row.goal and row.outcome is not None else None
    return asdict(row) | {"goal": goal, "met": row.met, "fulfilment": fulfilment}


def _figure(value: float | None, unit: str = "") -> str:
    """Three significant digits, and whole numbers from 100 on."""
    if value is None:
        return ""
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{places}f} {unit}".strip()


def _across(fulfilment: float) -> float:
    """Where it stands on the logarithmic axis, in pixels."""
    bounded = min(max(fulfilment, 1 / MOST), MOST)
    return round(WIDTH * (math.log(bounded, MOST) + 1) / 2, 1)
