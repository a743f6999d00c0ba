"""Give a trained model a name that lasts: a registered version, and aliases that point at it."""

import re
from typing import Any

from papertrail.core import progress
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment, experiments, narrow
from papertrail.core.reading import query, registry
from papertrail.core.reading.address import REGISTERED
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing.track import conclude
from papertrail.records.commands import Registration, find

NEWEST = "newest"
"""Alias of the version that was registered last; `latest` is MLflow's own word."""
KEPT = ("experiment", "study", "identity", "seed", "git")


def answer(command: Any, config: Registration, execution: Any) -> None:
    """Register the run that `config` means, and print how its model is loaded."""
    with in_one_line():
        store = connect()
        record = _asked(config, store)
        _refuse(record)
        name = _checked("name", config.name or _name(record), registry.NAME)
        alias = _checked("alias", config.alias or _alias(record), registry.ALIAS)
        _refuse_to_move(store, name, alias, record, config.move)
        version = _registered(record, name, alias)
    address = f"{REGISTERED}{name}@{alias}"
    note = f"{address} is version {version}: [run {record.run_id}]({record.url})"
    conclude(store, f"registered {name}@{alias}", note)
    print(f"{address} is version {version}, run {record.run_id}\n")
    print("load it in Python:")
    print("  from papertrail.nn.language_model import from_pretrained")
    print(f'  model = from_pretrained("{address}")')
    if "tokenizer.json" in registry.files_of(record):
        print("begin another run with it:")
        print(f"  mlflow run . -e train -P model.name={address}")


def _asked(config: Registration, store: Store) -> Record:
    if bool(config.run) == bool(config.experiment):
        raise BadInput("register: give run=ID, or experiment=NAME with its options")
    if config.run:
        try:
            return query.by_id(config.run, store)
        except Missing as error:
            raise BadInput(f"run: {error}") from None
    experiment = find(config.experiment)
    asked: Any = narrow(config, experiment.schema)
    found = standing(experiment, asked, store)
    if found.usable is None:
        compute = cli.command(experiment, asked)
        raise Missing(f"{experiment.name} {found.identity}: {found.why or 'never computed'}; "
                      f"compute it first: {compute}")  # fmt: skip
    return found.usable


def _refuse(record: Record) -> None:
    """Missing unless the run is an answer, passed its own gates and exported plain weights."""
    if reason := record.unusable():
        raise Missing(f"run {record.run_id}: not registered, {reason}")
    if record.failed_gates:
        raise Missing(f"run {record.run_id}: not registered, it failed {record.failed_gates}")
    files = registry.files_of(record)
    if "config.json" not in files or not any(name.endswith(".safetensors") for name in files):
        kind = record.tags.get(query.EXPERIMENT, "other")
        raise Missing(
            f"run {record.run_id}: not registered, a run of {kind} exports no "
            f"{registry.FOLDER}/ with config.json and safetensors; register the training itself"
        )


def _name(record: Record) -> str:
    """STUDY.MODEL.WHICH, from the run's own options; BadInput where today's code has none."""
    experiment, config = _declared(record)
    model = record.config.get("model.name", "").rpartition("/")[2].partition("@")[0]
    which = _which(experiment.label(config), model) or experiment.name
    return ".".join(filter(None, map(_slug, (experiment.study, model, which))))


def _which(label: str, model: str) -> str:
    """What tells a run from others of its model: its label, without its seed and that model."""
    words = re.split(r"[\s,]+", re.sub(r"\bseed -?\d+", "", label))
    return " ".join(word for word in words if word not in ("", model))


def _declared(record: Record) -> tuple[Experiment, Any]:
    name = record.tags.get(query.EXPERIMENT, "")
    experiment = experiments().get(name)
    if experiment is None:
        raise BadInput(f"name: none follows from a run of {name or 'others'}; write -P name=...")
    try:
        config, _ = cli.parse(experiment, [f"--config={record.artifact('config.yaml')}"])
    except BadInput as error:  # it was computed when its options were others
        raise BadInput(f"name: none follows from the run ({error}); write -P name=...") from None
    return experiment, config


def _alias(record: Record) -> str:
    seed = record.tags.get("papertrail.seed", "")
    if not seed:
        raise BadInput(f"alias: run {record.run_id} has no seed; write -P alias=...")
    return f"seed{seed}"


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _checked(option: str, text: str, allowed: re.Pattern[str]) -> str:
    if allowed.fullmatch(text):
        return text
    near = re.sub(r"[^\w.-]+", ".", text).strip(".") if option == "name" else _slug(text)
    advice = f"try {near}" if allowed.fullmatch(near) else "latest and v1, v2, ... are MLflow's own"
    raise BadInput(f"{option}: MLflow registers none such ({text}); {advice}")


def _refuse_to_move(store: Store, name: str, alias: str, record: Record, move: bool) -> None:
    """BadInput where the alias is another run's: what was addressed by it would change silently."""
    versions = registry.versions_of(store, name)
    held = registry.aliases_of(store, name).get(alias) if versions is not None else None
    run_id = next((one.run_id for one in versions or () if int(one.version) == held), None)
    if run_id in (None, record.run_id) or move:
        return
    raise BadInput(
        f"alias: {name}@{alias} is run {run_id}; give another name or alias, or -P move=true"
    )


def _registered(record: Record, name: str, alias: str) -> int:
    tags = {f"papertrail.{key}": record.tags.get(f"papertrail.{key}", "") for key in KEPT}
    note = f"{record.tags.get('mlflow.runName', name)}, [run {record.run_id}]({record.url})"
    known = {one.run_id for one in registry.versions_of(record.store, name) or ()}
    version = registry.register(record, name, tags, note)
    now = registry.aliases_of(record.store, name)
    # Registering again what is there changes nothing: `newest` moves with a new version only.
    wanted = [alias, *([NEWEST] if record.run_id not in known or NEWEST not in now else [])]
    for one in wanted:
        if now.get(one) != version:
            registry.point(record.store, name, one, version)
            moved = f" (was version {now[one]})" if one in now else ""
            progress.say(f"{name}@{one} -> version {version}{moved}")
    return version
