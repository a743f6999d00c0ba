"""Where the project lies: the checkout that runs, its presets, its source."""

from pathlib import Path

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"
PACKAGE = Path(__file__).parents[1]
