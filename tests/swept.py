"""Targets that answer in milliseconds, for sweeps; also what their workers are started from."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conftest import ROOT
from pydantic import PositiveInt

from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """Where the ball lies."""

    x: float = 0.5
    """Along."""
    n: PositiveInt = 4
    """Times."""
    kind: str = "round"
    """round or flat; ragged breaks."""
    wide: bool = False
    """Whether it is wide."""


@dataclass(frozen=True, kw_only=True)
class BowlConfig:
    """How deep a bowl is at a point."""

    bowl: Bowl = field(default_factory=Bowl)
    """The point."""
    note: str = ""
    """What to do besides: a word of DOES, then what it needs."""
    device: str = "cpu"
    """Infrastructure."""

    def __post_init__(self) -> None:
        if self.bowl.n == 13:
            raise BadInput("bowl.n: brings bad luck (13); try bowl.n=12")


def roll(config: BowlConfig) -> None:
    from papertrail.core.writing import track

    one = config.bowl
    word, _, rest = config.note.partition(" ")
    if word:
        DOES[word](rest)
    if one.kind == "ragged":
        raise RuntimeError("the bowl is ragged")
    depth = (one.x - 0.3) ** 2 + 0.01 * one.n + (0.5 if one.kind == "flat" else 0.0)
    track.metrics({"depth": float("nan") if one.x > 0.99 else depth, "rim": 1 - one.x})


def _once(name: str) -> bool:
    """Whether this is the first call with this name, in whichever process."""
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _kill_once(name: str) -> None:
    if _once(name):
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_third(folder: str) -> None:
    """The process that comes third dies, nobody after it."""
    calls = len(list(Path(folder).glob("call-*")))
    (Path(folder) / f"call-{calls}").touch()
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def _break_once(name: str) -> None:
    if _once(name):
        raise RuntimeError("it broke once")


DOES = {
    "wait": lambda seconds: time.sleep(float(seconds)),
    "kill": _kill_once,
    "kill3": _kill_third,
    "break": _break_once,
}

BOWL = Experiment(
    name="bowl", study="toys", schema=BowlConfig, verb="swept:roll", infrastructure=("device",)
)
ADDRESS = "swept:BOWL"
SPACE = "{bowl.x: {low: 0.0, high: 0.9}, bowl.n: {low: 1, high: 8, log: true}}"


def entry_points(folder: Path) -> None:
    """An entry point for workers that find this module."""
    (folder / "entrypoints").mkdir()
    (folder / "entrypoints" / "sweep.py").write_text(
        f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
        "from papertrail.sweep.config import main\n"
        "if __name__ == '__main__': main()\n"
    )


def words(*more: str, space: str = SPACE, trials: int = 6) -> list[str]:
    """A sweep over the bowl."""
    return [
        f"--target={ADDRESS}", f"--space={space}", "--objectives={depth: minimize}",
        f"--trials={trials}", *more,
    ]  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """A sweep as a process of its own."""
    from papertrail.core.question import cli
    from papertrail.sweep.config import sweeping

    cli.launch(sweeping(BOWL), argv)


if __name__ == "__main__":
    main(sys.argv[1:])
