"""The pictures of docs/ui.md, made anew: `make screenshots`.

Computes a small study at smoke scale into build/screenshots (a second call finds it there), shows
it through a real `mlflow server` and takes each picture in a headless Chromium.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from browser import Browser, absent, browser
from PIL import Image, ImageDraw

from papertrail.core.reading import page, query
from papertrail.core.storage.store import Store, connect

ROOT = Path(__file__).parents[1]
FOLDER, IMAGES = ROOT / "build" / "screenshots", ROOT / "docs" / "images"
BESIDE_MENU = 198  # pixels from the left that MLflow's own menu takes
PATH_ROW = (516, 166, 4000, 195)
TEXT = FOLDER / "text.txt"
SMOKE = ("scale=smoke", f"data.text={TEXT}")
COMPUTED = (
    ("hotflip", *SMOKE),
    ("hotflip", *SMOKE, "constraint.kind=projected"),
    ("hotflip", *SMOKE, "seed=7"),
    ("sweep", "target=train", "sweep=lr", "trials=6", *SMOKE),
)
"""Entry points and their options."""


def main() -> None:
    """Compute what is missing, then take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="take pictures whose name contains this")
    only = parser.parse_args().only
    if reason := absent():
        sys.exit(f"screenshots: {reason}; install Debian's chromium")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not TEXT.exists():
        sources = sorted(Path(argparse.__file__).parent.glob("[a-h]*.py"))
        TEXT.write_text("\n\n".join(one.read_text(encoding="utf-8") for one in sources))
    uri = f"sqlite:///{FOLDER / 'mlflow.db'}"
    for entry, *options in COMPUTED:
        _compute(uri, entry, options)
    with browser(uri) as found:
        for name, (where, size, box) in pages(connect(uri)).items():
            if only in name:
                take(found, name, where, size, box)


def pages(store: Store) -> dict[str, tuple[str, tuple[int, int], tuple[int, int, int, int]]]:
    """Name of a picture -> page, size of the window, and what of it is kept."""
    pair = query.usable("hotflip", store, {"seed": 42, "constraint.kind": "softplus"})[0]
    group = pair.run.info.experiment_id
    view = f"experiments/{group}/runs?viewStateShareKey={page.VIEW}"
    table = query.usable("tables", store)[0]
    scored = [
        record.run_id
        for record in query.usable("perplexity", store, {"seed": 42})
        if record.config["constraint.kind"] in ("none", "softplus")
    ]
    compared = f"compare-runs?runs={_listed(scored)}&experiments={_listed([group])}"
    sweep = query.usable("sweep", store)[0]
    return {
        "ui-headline": (view, (1900, 660), (BESIDE_MENU, 0, 1900, 560)),
        "ui-charts": (f"{view}&compareRunsMode=CHART", (1500, 950), (BESIDE_MENU, 0, 1500, 760)),
        "ui-run": (
            f"experiments/{group}/runs/{pair.run_id}", (1400, 900), (BESIDE_MENU, 0, 1400, 640)
        ),
        "ui-report": (
            f"experiments/{group}/runs/{table.run_id}/artifacts/tables/report.html",
            (1700, 800), (BESIDE_MENU, 0, 1700, 720),
        ),
        "ui-compare": (
            compared, (1300, 2000), (BESIDE_MENU, 0, 1300, 900)
        ),
        "ui-sweep": (
            f"experiments/{group}/runs/{sweep.run_id}", (1400, 900), (BESIDE_MENU, 0, 1400, 640)
        ),
        "ui-sweep-figure": (
            f"experiments/{group}/runs/{sweep.run_id}/artifacts/figures/parallel_val_loss.png",
            (1400, 900), (BESIDE_MENU, 0, 1400, 740),
        ),
    }  # fmt: skip


def _listed(names: list[str]) -> str:
    return quote(json.dumps(names))


def take(seen: Browser, name: str, where: str, size: tuple[int, int], box: tuple[int, ...]) -> None:
    """One picture, cut to `box` and in few enough colours for a small file."""
    path = FOLDER / f"{name}.png"
    seen.page(where, path, size, seconds=25)
    with Image.open(path) as whole:
        drawn = whole.convert("RGB")
    if "/artifacts/" in where:  # where the store lies on this machine says nothing to others
        ImageDraw.Draw(drawn).rectangle(PATH_ROW, fill="white")
    kept = drawn.crop(box).quantize(128)
    IMAGES.mkdir(exist_ok=True)
    kept.save(IMAGES / path.name, optimize=True)
    print(f"{name}: {(IMAGES / path.name).stat().st_size / 1024:.0f} kB")


def _compute(uri: str, entry: str, options: list[str]) -> None:
    words = [f"--{option}" for option in options]
    file = ROOT / "entrypoints" / f"{entry}.py"
    config = ROOT / "conf" / f"{entry}.yaml"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_RUN")}
    environment = kept | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri}
    subprocess.run(
        [sys.executable, file, "--config", config, *words],
        env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


if __name__ == "__main__":
    main()
