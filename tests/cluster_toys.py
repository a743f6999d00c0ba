"""Experiments for jobs of a cluster: they take steps, keep checkpoints, and build on each other."""

import os
import signal
import time
from dataclasses import dataclass

from papertrail.core.question.experiment import Experiment, Question


@dataclass(frozen=True, kw_only=True)
class StepsConfig:
    """What a run does."""

    steps: int = 1
    """Steps, each with a checkpoint."""
    seconds: float = 0.0
    """Of each step."""
    do: str = "finish"
    """finish, raise, kill or eat memory at the last step of the first try."""
    seed: int = 0
    """Random seed."""


def steps(config: StepsConfig) -> None:
    """Go on from the newest checkpoint; step n logs n."""
    from papertrail.core.writing import track

    folder = track.run().folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    begin = max((int(path.stem.split("-")[1]) for path in folder.glob("*.ckpt")), default=0)
    print(f"begins at {begin}", flush=True)
    track.tags({f"began_at.{begin}": os.environ.get("SLURM_RESTART_COUNT", "0")})
    for step in range(begin, config.steps):
        time.sleep(config.seconds)
        track.metrics({"step": step}, step)
        if step == config.steps - 1:
            end(config, begin)
        (folder / f"step-{step + 1:08d}.ckpt").touch()
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
    track.tags({"gpu": gpu, "lightning": seen_by_lightning()})
    track.metrics({"answer": config.seed})


def end(config: StepsConfig, begin: int) -> None:
    if config.do == "raise":
        raise RuntimeError("the toy broke")
    if config.do == "kill" and begin == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.do == "eat" and begin == 0:
        b"x" * (4 << 30)


def seen_by_lightning() -> str:
    """What Lightning would take the machine for, found as it finds it."""
    names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_NODEID")
    return "SLURM" if any(name in os.environ for name in names) else "no SLURM"


def after(config: StepsConfig) -> None:
    from papertrail.core.answering.require import require
    from papertrail.core.writing import track

    track.metrics({"answer": require(STEPS, config).metrics["answer"] + 1000})


STEPS = Experiment(name="steps", study="toys", schema=StepsConfig, verb="cluster_toys:steps")
AFTER = Experiment(
    name="after", study="toys", schema=StepsConfig, verb="cluster_toys:after",
    upstream=lambda config: {"steps": Question(STEPS, config)},
)  # fmt: skip
BY_NAME = {one.name: one for one in (STEPS, AFTER)}
