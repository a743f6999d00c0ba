"""Known vulnerabilities in the pinned packages, by pip-audit.

Exit code 0: every package was looked up and none has any; 1: some have; 3: nobody could be asked.
pip-audit alone ends with 0, "no known vulnerabilities", where an index knows no advisories.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("requirements*.txt"))
FOUND, NOT_ASKED = 1, 3
OPTIONS = (
    "--no-deps",
    "--disable-pip",
    "--progress-spinner",
    "off",
    "--timeout",
    "15",
    "-f",
    "json",
)


def main() -> int:
    lines = [line.strip() for path in FILES for line in path.read_text().splitlines()]
    pins = sorted({line for line in lines if line and not line.startswith("#")})
    for asked in (pins[:1], pins):  # one package tells whether there is anybody to ask
        found, reason = audit(asked)
        if reason:
            print(f"audit-packages: {len(asked)} of {len(pins)} packages tried; {reason}")
            return NOT_ASKED
    hurt = [one for one in found if one["vulns"]]
    for one in hurt:
        names = ", ".join(vuln["id"] for vuln in one["vulns"])
        print(f"{one['name']} {one['version']}: {names}")
    print(f"audit-packages: {len(pins)} packages, {len(hurt)} with known vulnerabilities")
    return FOUND if hurt else 0


def audit(pins: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each package; or why it could say nothing of some."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "-r", file.name, *OPTIONS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return [], f"the advisories cannot be reached ({lines[-1][:300] if lines else 'no word'})"
    skipped = [one["skip_reason"] for one in found if "skip_reason" in one]
    return found, f"no advisories for {len(skipped)}: {skipped[0]}" if skipped else ""


if __name__ == "__main__":
    sys.exit(main())
