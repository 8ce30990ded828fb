"""Known vulnerabilities of the locked packages, as the registries tell them; what is accepted is in SECURITY.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 180.0
"""Seconds after which a registry does not answer."""
ACCEPTED = {
    "CVE-2025-50181": "urllib3: of programs that forbid redirects of a pool, which none of ours does",
    "CVE-2025-66418": "urllib3: a hostile web server; the server here asks none",
    "CVE-2025-66471": "urllib3: as the one before",
    "CVE-2026-21441": "urllib3: as the one before",
}
"""Advisories that do not reach this program, and why in short."""


def main() -> int:
    """Ask both registries; returns the exit code."""
    found = [*_python(), *_page()]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _python() -> list[str]:
    files = [argument for file in ("requirements.txt", "requirements-dev.txt") for argument in ("-r", file)]
    answer = _json(sys.executable, "-m", "pip_audit", *files, "--no-deps", "--disable-pip", "-f", "json")
    packages = answer.get("dependencies", [])
    if all("skip_reason" in package for package in packages):
        print("pip-audit: skipped, the advisories are out of reach")
        return []
    return [
        f"{package['name']} {package['version']}: {problem['id']}, mended in {problem['fix_versions']}"
        for package in packages
        for problem in package.get("vulns", [])
        if not ACCEPTED.keys() & {problem["id"], *problem["aliases"]}
    ]


def _page() -> list[str]:
    answer = _json("npm", "audit", "--json")
    if "vulnerabilities" not in answer:
        print("npm audit: skipped, the advisories are out of reach")
        return []
    return [f"{name}: {problem['severity']}" for name, problem in answer["vulnerabilities"].items()]


def _json(*command: str) -> dict[str, Any]:
    """What a program prints; nothing if it cannot say anything."""
    path = f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}"  # the venv has an npm too
    folder = ROOT / "web" if command[0] == "npm" else ROOT
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, timeout=PATIENCE, check=False
        )
        return dict(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


if __name__ == "__main__":
    sys.exit(main())
