"""An experiment that takes no time, for tests of what happens around one. Also an entry point."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path

from papertrail.core.digests import sha256
from papertrail.core.question.experiment import Experiment, Question


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
    """finish, or one of DOES."""
    text: str = ""
    """Any text."""
    seed: int = 0
    """Random seed."""
    device: str = "cpu"
    """Infrastructure."""


def toy(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    track.metrics({"before": 1.0})
    track.run().flush()
    print(f"working {os.getpid()} {track.run().run_id}", flush=True)
    if config.do != "finish":
        DOES[config.do](config)
    track.metrics({"size": config.part.size, "rate": config.part.rate})
    track.json_result("toy", {"text": config.text})


def break_(config: ToyConfig) -> None:
    raise RuntimeError("the toy broke")


def break_loudly(config: ToyConfig) -> None:
    raise RuntimeError("the toy broke " + 2_000 * "very, very ")


def leave_a_checkpoint(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    folder = track.run().folder / "checkpoints"
    folder.mkdir(exist_ok=True)
    (folder / "step-00000001.ckpt").write_text("half of it")
    print(f"left {[path.name for path in folder.iterdir()]}", flush=True)


def leave_a_checkpoint_and_wait(config: ToyConfig) -> None:
    leave_a_checkpoint(config)
    time.sleep(60)


def leave_a_checkpoint_and_break(config: ToyConfig) -> None:
    leave_a_checkpoint(config)
    raise RuntimeError("the toy broke")


class Signalled:
    """Is asked to stop while its finalizer runs, out of which no exception comes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def stop_in_a_finalizer(config: ToyConfig) -> None:
    Signalled()
    time.sleep(60)


def swallow(config: ToyConfig) -> None:
    """Code as it is found: whatever happens, go on."""
    try:
        time.sleep(60)
    except:  # noqa: E722
        print("swallowed", flush=True)


def handle(config: ToyConfig) -> None:
    """Code that answers SIGTERM itself, by leaving its loop early and tidying up."""
    stopped = []
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    while not stopped:
        time.sleep(0.05)
    signal.signal(signal.SIGTERM, before)
    print("swallowed", flush=True)


def catch_an_exit(config: ToyConfig) -> None:
    try:
        sys.exit(1)
    except SystemExit:
        print("swallowed", flush=True)


def start_others(config: ToyConfig) -> None:
    """A subprocess, and a fork that ends badly: neither is this run."""
    subprocess.run(["/bin/sh", "-c", 'echo "inherited [$MLFLOW_RUN_ID]"'], check=True)
    child = os.fork()
    if child == 0:
        raise RuntimeError("only a copy broke")
    assert os.waitpid(child, 0)[1] != 0


def fork_and_return(config: ToyConfig) -> None:
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] != 0


def fork_and_log(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    child = os.fork()
    if child == 0:
        assert track.current() is None
        track.metrics({"stray": 1.0})
    assert os.waitpid(child, 0)[1] != 0


def stop_a_worker(config: ToyConfig) -> None:
    """What a pool of workers does at its end: SIGTERM to each of them, new as they may be."""
    for _ in range(20):
        child = os.fork()
        if child == 0:
            time.sleep(60)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM


def stop_a_worker_that_answers(config: ToyConfig) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        os.write(writer, b"ready")
        time.sleep(60)
    os.read(reader, 5)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def keep_a_worker(config: ToyConfig) -> None:
    """A worker that outlives its killed parent."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(f"worker {child}", flush=True)
    time.sleep(60)


def log_a_large_file(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    with track.file("samples/large.bin") as path:
        path.write_bytes(bytes(LARGE))


def log_much(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    for part in range(40):
        track.metrics({f"part{part}/number{n}": 1.0 for n in range(200)})
    track.run().flush()


def log_very_much(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    for step in range(100_000):
        track.metrics({"one/metric/with/a/long/name": 1.0, "another/of/that/kind": 2.0}, step)


def log_steps(config: ToyConfig) -> None:
    from papertrail.core.writing import track

    for step in range(100):
        track.metrics({"last": step}, step)
    print("logged", flush=True)


def log_and_die(config: ToyConfig) -> None:
    log_steps(config)
    os.kill(os.getpid(), signal.SIGKILL)


def log_and_wait(config: ToyConfig) -> None:
    log_steps(config)
    time.sleep(60)


def log_for_a_while(config: ToyConfig) -> None:
    """30 steps of 0.05 s; says which, and what the longest call took."""
    from papertrail.core.writing import track

    longest = 0.0
    for step in range(30):
        begin = time.monotonic()
        track.metrics({"loss": step / 7}, step)
        if step == 10:
            track.tags({"half": "way"})
            track.dataset("numbers", "0" * 36, "nowhere", "training")
            with track.file("samples/middle.bin") as path:
                path.write_bytes(bytes(range(256)) * 4096)
        longest = max(longest, time.monotonic() - begin)
        print(f"step {step}", flush=True)
        time.sleep(0.05)
    print(f"longest {longest:.3f}", flush=True)


def spoil_its_data(config: ToyConfig) -> None:
    with Path(config.text).open("a") as file:
        file.write("one more line")


LARGE = 32 << 20  # bytes
DOES: dict[str, Callable[[ToyConfig], None]] = {
    "raise": break_,
    "raise loudly": break_loudly,
    "exit": lambda config: sys.exit(1),
    "exit well": lambda config: sys.exit(0),
    "vanish": lambda config: os._exit(0),
    "kill": lambda config: os.kill(os.getpid(), signal.SIGKILL),
    "wait": lambda config: time.sleep(60),
    "second": lambda config: time.sleep(1),
    "slow": lambda config: time.sleep(2),
    "checkpoint and wait": leave_a_checkpoint_and_wait,
    "checkpoint and raise": leave_a_checkpoint_and_break,
    "stop in a finalizer": stop_in_a_finalizer,
    "swallow": swallow,
    "handle": handle,
    "catch an exit": catch_an_exit,
    "start others": start_others,
    "fork and return": fork_and_return,
    "fork and log": fork_and_log,
    "stop a worker": stop_a_worker,
    "stop a worker that answers": stop_a_worker_that_answers,
    "keep a worker": keep_a_worker,
    "log a large file": log_a_large_file,
    "log much": log_much,
    "log very much": log_very_much,
    "log for a while": log_for_a_while,
    "log and die": log_and_die,
    "log and wait": log_and_wait,
    "spoil its data": spoil_its_data,
}


def sum_of_toys(config: ToyConfig) -> None:
    from papertrail.core.answering.require import require
    from papertrail.core.writing import track

    record = require(TOY, config)
    track.metrics({"double": 2 * record.metrics["size"]})


def stubborn(config: ToyConfig) -> None:
    """Goes on whatever happens to what it builds on."""
    from papertrail.core.answering.require import require

    try:
        require(TOY, config)
    except:  # noqa: E722
        print("swallowed", flush=True)


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

READER = replace(TOY, name="reader", data=lambda config: {"text": sha256(Path(config.text))})
"""A toy whose text is the path of its data."""
TREBLE = replace(DOUBLE, name="treble")
STUBBORN = replace(DOUBLE, name="stubborn", verb="toy:stubborn")
BY_NAME = {one.name: one for one in (TOY, DOUBLE, TREBLE, STUBBORN, READER, ECHO)}
"""What a process finds by the name that somebody typed."""

if __name__ == "__main__":
    from papertrail.core.question.cli import launch

    launch(DOUBLE if "double" in sys.argv[0] else TOY)
