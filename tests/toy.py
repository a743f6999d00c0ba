"""An experiment that takes no time, for tests of what happens around one. Also an entry point."""

import os
import signal
import sys
import time
from dataclasses import dataclass, field, make_dataclass

from papertrail.core.experiment import Experiment, Question


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section."""

    size: int = 3
    """How large."""
    rate: float = 0.5
    """How fast."""


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """What the toy does."""

    part: Part = field(default_factory=Part)
    """A section."""
    do: str = "finish"
    """finish, raise, exit, wait, kill or slow."""
    text: str = ""
    """Any text."""
    seed: int = 0
    """Random seed."""
    device: str = "cpu"
    """Infrastructure."""


def toy(config: ToyConfig) -> None:
    from papertrail.core import track

    track.metrics({"before": 1.0})
    track.run().flush()
    print(f"working {os.getpid()} {track.run().run_id}", flush=True)
    if config.do == "raise":
        raise RuntimeError("the toy broke")
    if config.do == "exit":
        sys.exit(1)
    if config.do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.do == "wait":
        time.sleep(60)
    if config.do == "slow":
        time.sleep(2)
    track.metrics({"size": config.part.size, "rate": config.part.rate})
    track.json_result("toy", {"text": config.text})


def sum_of_toys(config: ToyConfig) -> None:
    from papertrail.core import track
    from papertrail.core.require import require

    record = require(TOY, config)
    track.metrics({"double": 2 * record.metrics["size"]})


TOY = Experiment(
    name="toy",
    study="toys",
    schema=ToyConfig,
    verb="toy:toy",
    infrastructure=("device",),
)
DOUBLE = Experiment(
    name="double",
    study="toys",
    schema=ToyConfig,
    verb="toy:sum_of_toys",
    infrastructure=("device",),
    upstream=lambda config: {"toy": Question(TOY, config)},
)

EchoConfig = make_dataclass(
    "EchoConfig", [(f"t{n:02d}", str, "") for n in range(18)], frozen=True, kw_only=True
)
ECHO = Experiment(name="echo", study="toys", schema=EchoConfig, verb="toy:toy")

if __name__ == "__main__":
    from papertrail.core.cli import launch

    launch(DOUBLE if "double" in sys.argv[0] else TOY)
