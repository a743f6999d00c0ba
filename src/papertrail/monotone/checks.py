"""Stage 0 of the study: is everything there that it needs? Looks, and changes nothing."""

import importlib.metadata
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from papertrail.core import machine
from papertrail.core.cache import cache_folder
from papertrail.core.machine import Machine
from papertrail.core.project import ROOT
from papertrail.core.reading.record import Record
from papertrail.core.storage.reach import Hub, Place, tracking
from papertrail.core.storage.store import connect
from papertrail.core.writing.owner import Owner, owner_of
from papertrail.monotone import footprint
from papertrail.monotone.estimate import Size
from papertrail.monotone.footprint import Memory
from papertrail.monotone.inputs import inputs
from papertrail.monotone.plan import Plan, plan
from papertrail.monotone.schemas import StudyConfig
from papertrail.monotone.setup import Check, Input, State, amount

TIGHT = 0.9  # of what there is: beyond it, an estimate is no promise
LARGE = 200_000_000  # parameters that no CPU trains in a reasonable time
MOST_NAMED = 4  # packages, in one sentence


@dataclass(frozen=True)
class Sight:
    """Everything that one look found."""

    checks: tuple[Check, ...]
    inputs: tuple[Input, ...]
    plan: Plan
    machine: Machine

    def missing(self) -> list[Check]:
        return [check for check in self.checks if check.state == "missing"]


def checks(config: StudyConfig) -> Sequence[Check]:
    """What the study needs and how it is about it, in reading order."""
    return look(config).checks


def look(config: StudyConfig) -> Sight:
    """One look at machine, store and inputs. BadInput where arms or options do not fit."""
    place = tracking()
    store = connect(place.uri) if place.stands and not place.trouble else None
    found = plan(config, store)
    taken, size = inputs(config, Hub(), found.corpus_run())
    found = replace(found, size=size)
    here = machine.look()
    every = [
        python_check(ROOT / "pyproject.toml"),
        packages_check((ROOT / "requirements.txt").read_text(encoding="utf-8")),
        *(one.check for one in taken),
        *disk_checks(_needs(place, found, config, taken)),
        memory_check(config, size, here),
        device_check(config, size, here),
        *_quantization(config, here),
        store_check(place),
        *_running(found),
    ]
    return Sight(tuple(every), tuple(taken), found, here)


# -- software --------------------------------------------------------------------------------------


def python_check(project: Path, mine: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """The interpreter against the oldest one that the project declares."""
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["requires-python"]
    least = tuple(int(part) for part in re.findall(r"\d+", wanted))
    told = f"{'.'.join(map(str, mine))}, wanted {wanted}"
    if mine >= least:
        return Check("python", "ok", told)
    return Check("python", "missing", f"{told}; use the environment of conda.yaml")


def packages_check(requirements: str) -> Check:
    """What is installed against the pins; a build of the pinned version counts as that version."""
    lines = (line.strip() for line in requirements.splitlines())
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    gone, other = [], []
    for name, pin in pins.items():
        try:
            mine = importlib.metadata.version(name.partition("[")[0])
        except importlib.metadata.PackageNotFoundError:
            gone.append(f"{name}=={pin}")
            continue
        if mine.partition("+")[0] != pin:
            other.append(f"{name} {mine}, pinned {pin}")
    remedy = "pip install -r requirements.txt"
    if gone:
        return Check("packages", "missing", f"not installed: {_some(gone)}; {remedy}")
    if other:
        return Check("packages", "warning", f"{_some(other)}; {remedy}")
    return Check("packages", "ok", f"all {len(pins)} at their pinned versions")


def _some(items: Sequence[str]) -> str:
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# -- disk ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskNeed:
    """What will be written to one folder."""

    what: str
    folder: Path
    num_bytes: float | None
    """None where it cannot be said."""


def _needs(
    place: Place, found: Plan, config: StudyConfig, taken: Iterable[Input]
) -> Iterator[DiskNeed]:
    if place.folder is not None:
        yield DiskNeed("results", place.folder, found.num_bytes)
    scratch = (
        None
        if found.size is None
        else footprint.scratch(config, found.size)
        if found.trains
        else 0.0
    )
    yield DiskNeed("checkpoints while training", place.work, scratch)
    yield DiskNeed("downloads", cache_folder(), math.fsum(one.num_bytes for one in taken))


def disk_checks(needs: Iterable[DiskNeed]) -> list[Check]:
    """One for each file system: what will be written to it against what is free."""
    groups: dict[int, list[DiskNeed]] = {}
    free: dict[int, int] = {}
    for need in needs:
        device, num_bytes = machine.free_disk(need.folder)
        groups.setdefault(device, []).append(need)
        free[device] = num_bytes
    return [disk_check(some, free[device]) for device, some in groups.items()]


def disk_check(needs: Sequence[DiskNeed], free: int | float) -> Check:
    """What will be written to one file system against its free bytes."""
    where = needs[0].folder
    known = [need.num_bytes for need in needs if need.num_bytes is not None]
    if len(known) < len(needs):
        told = f"{amount(free)} free at {where}; how much is needed is not known without the model"
        return Check("disk", "warning", told)
    parts = ", ".join(
        f"{amount(need.num_bytes or 0)} {need.what}" for need in needs if need.num_bytes
    )
    told = f"{amount(free)} free at {where}, about {amount(sum(known))} needed" + (
        f" ({parts})" if parts else ""
    )
    unwritable = [str(need.folder) for need in needs if not machine.writable(need.folder)]
    if unwritable:
        return Check("disk", "missing", f"{told}; cannot write to {', '.join(unwritable)}")
    if sum(known) > free:
        return Check("disk", "missing", f"{told}; free some, or set MLFLOW_TRACKING_URI and "
                     "PAPERTRAIL_WORK to a larger disk")  # fmt: skip
    state: State = "warning" if sum(known) > TIGHT * free else "ok"
    return Check("disk", state, told)


# -- memory and device -----------------------------------------------------------------------------


def memory_check(config: StudyConfig, size: Size | None, here: Machine) -> Check:
    """The largest step of the study against the memory of the device that takes it."""
    if size is None:
        return Check("memory", "warning", "what is needed is not known without the model")
    need = footprint.memory(config, size)
    if uses_accelerator(config, here):
        one = here.accelerators[0]
        return fits(need, one.memory_bytes, one.memory_bytes, one.name, config)
    copies = config.compute.devices if need.what == "training" else 1
    return fits(need.times(copies), here.memory_bytes, here.free_bytes, "RAM", config)


def fits(need: Memory, total: int, free: int, where: str, config: StudyConfig) -> Check:
    """Bytes needed against bytes there are, all and free ones."""
    told = (
        f"{need.what} needs about {amount(need.total)} of {amount(total)} {where} (weights and "
        f"what belongs to them {amount(need.state)}, activations {amount(need.activations)}, the "
        f"process itself {amount(need.process)})"
    )
    if need.total > total:
        return Check("memory", "missing", f"{told}; {_smaller(need, config)}")
    if need.total > TIGHT * total:
        return Check("memory", "warning", f"{told}; if it runs out, {_smaller(need, config)}")
    if need.total > free:
        return Check("memory", "warning", f"{told}, of which {amount(free)} are free now")
    return Check("memory", "ok", told)


def _smaller(need: Memory, config: StudyConfig) -> str:
    """What makes the largest step smaller without changing its question, where that helps."""
    if need.what != "training":
        return "set load.quantization=int8, or use a device with more memory"
    if need.state > need.activations:
        return "use a device with more memory or a smaller model: weights alone take most of it"
    if not config.compute.gradient_checkpointing:
        return "set compute.gradient_checkpointing=true"
    return f"raise compute.accumulate (now {config.compute.accumulate})"


def uses_accelerator(config: StudyConfig, here: Machine) -> bool:
    """Whether a Trainer will take a GPU."""
    return config.compute.accelerator != "cpu" and bool(here.accelerators)


def device_check(config: StudyConfig, size: Size | None, here: Machine) -> Check:
    """What computes, and whether it suits the precision and the size."""
    compute = config.compute
    if uses_accelerator(config, here):
        names = ", ".join(f"{one.name} {amount(one.memory_bytes)}" for one in here.accelerators)
        if compute.devices > len(here.accelerators):
            few = f"compute.devices={compute.devices}, but there are {len(here.accelerators)}"
            return Check("device", "missing", f"{names}; {few}")
        if compute.precision == "bf16-mixed" and not here.accelerators[0].bf16:
            slow = "no bfloat16 in hardware; set compute.precision=16-mixed or 32-true"
            return Check("device", "warning", f"{names}; {slow}")
        return Check("device", "ok", names)
    cpu = f"no GPU, {here.threads} CPU threads"
    if compute.accelerator == "gpu":
        return Check("device", "missing", f"{cpu}; set compute.accelerator=auto, or use another "
                     "machine")  # fmt: skip
    if compute.precision != "32-true":
        return Check("device", "warning", f"{cpu}; {compute.precision} is slower than float32 "
                     "here, set compute.precision=32-true")  # fmt: skip
    if size is not None and size.parameters > LARGE:
        return Check("device", "warning", f"{cpu}: too slow to train a model of this size")
    return Check("device", "ok", cpu)


def _quantization(config: StudyConfig, here: Machine) -> Iterator[Check]:
    kind = config.load.quantization
    if kind == "none":
        return
    try:
        version = importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError:
        yield Check("quantization", "missing", f"{kind} needs bitsandbytes; pip install it, or set "
                    "load.quantization=none")  # fmt: skip
        return
    if here.accelerators:
        yield Check("quantization", "ok", f"{kind} with bitsandbytes {version}")
    else:
        yield Check("quantization", "warning", f"{kind} with bitsandbytes {version}: on a CPU it "
                    "saves memory and takes longer")  # fmt: skip


# -- the store -------------------------------------------------------------------------------------


def store_check(place: Place) -> Check:
    """Whether runs can be kept where the environment says."""
    if place.trouble:
        remedy = "start or free it, or name another by MLFLOW_TRACKING_URI"
        return Check("store", "missing", f"{place.uri}: {place.trouble}; {remedy}")
    if not place.stands:
        return Check("store", "ok", f"{place.uri}: the first run makes it")
    return Check("store", "ok", f"{place.uri}: answers")


def _running(found: Plan) -> Iterator[Check]:
    """Runs of this study that somebody else is computing now."""
    me = Owner.current().name
    busy = [one for one in found.runs if (r := one.standing.running) and _owner(r) != me]
    if busy:
        record = busy[0].standing.running
        assert record is not None
        first = f"{busy[0].title} by {_owner(record)}"
        more = f" and {len(busy) - 1} more" if len(busy) > 1 else ""
        wait = "the study waits for what others compute"
        yield Check("running", "warning", f"{first}{more}; {wait}")


def _owner(record: Record) -> str:
    owner = owner_of(record.tags)
    return owner.name if owner else f"run {record.run_id}"
