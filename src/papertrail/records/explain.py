"""Why a run is, or is not, the answer: every check by name, and what sets the nearest run apart."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from papertrail.core import progress
from papertrail.core.answering.standing import Standing, drifted, standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli, drift
from papertrail.core.question.experiment import Experiment, experiments, narrow
from papertrail.core.question.identity import Identity, differences, identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing.owner import owner_of
from papertrail.core.writing.run import COMPLETE, INVALIDATED, parents_of
from papertrail.core.writing.track import QUESTION, conclude, options
from papertrail.records.commands import Why
from papertrail.records.radius import radius

SHOWN = 12  # differing keys; more than that is another question


@in_one_line()
def answer(command: Any, config: Why, execution: Any) -> None:
    """Print why `config.run` is (not) reused, or what stands of an experiment's options."""
    store = connect()
    if bool(config.run) == bool(config.experiment):
        raise BadInput("why: give run=ID, or experiment=NAME with its options")
    if config.run:
        try:
            of_run(query.by_id(config.run, store))
        except Missing as error:
            raise BadInput(f"run: {error}") from None
        conclude(store, f"why {config.run}", "")
    else:
        experiment = experiments()[config.experiment]
        of_question(experiment, narrow(config, experiment.schema), store)
        conclude(store, f"why {config.experiment}", "")


def of_run(record: Record) -> None:
    """Print the run, every check on it, and whether today's code asks the same question."""
    tags = record.tags
    name = tags.get("papertrail.experiment", "not a run of papertrail")
    print(f"run {record.run_id}  {name} {tags.get('papertrail.identity', '')}  {record.url}")
    for key in ("command", "git", "failure", "resumed_with", "continues", "answered_by"):
        if text := tags.get(f"papertrail.{key}"):
            print(f"  {key}: {text}")
    if owner := owner_of(tags):
        print(f"  computed by: {owner.name}, started {_started(record)}")
    for line in radius([record.run_id], record.store).lines:
        print(f"  printed in {line}")
    failed = print_checks(record)
    changed = _print_today(name, record)
    if failed or changed:
        print(f"\nIt is not reused: {failed or 'today the same options ask another question'}.")
    else:
        print("\nIt is reused for the same question.")


def of_question(experiment: Experiment, config: Any, store: Store) -> None:
    """Print which run answers, or why each that asked the same does not, or the nearest run."""
    found = standing(experiment, config, store)
    print(f"{experiment.name} {found.identity}: {found.state}")
    for record in query.by_identities([found.identity.digest], store)[found.identity.digest]:
        reason = record.unusable(found.identity)
        print(f"  run {record.run_id}  {'answers' if not reason else f'does not: {reason}'}")
    for text in filter(None, (found.blocked, found.doubled, found.orphaned)):
        print(f"  {text}")
    if found.usable is not None:
        print_checks(found.usable)
    elif found.last is None:
        print_nearest(experiment, config, found, store)
    if found.usable is None:
        print(f"\nto compute it:\n{cli.command(experiment, config)}")


def print_checks(record: Record) -> str:
    """Print each check with its result; the first that failed, empty when all hold."""
    first = ""
    for name, problem in _checks(record):
        print(f"  {'no ' if problem else 'yes'}  {name}" + (f": {problem}" if problem else ""))
        first = first or problem
    for doubt in _doubts(record):
        print(f"  ?    {doubt}")
    return first


def print_nearest(experiment: Experiment, config: Any, found: Standing, store: Store) -> None:
    """Print the run of this experiment that asked almost the same, and what sets it apart."""
    record = nearest(experiment, config, store)
    if record is None:
        print(f"  no run of {experiment.name} is in the store")
        return
    print(f"  nearest run {record.run_id} ({record.status}) differs in")
    keys = list(apart(record, experiment, config, found.identity, store))
    for line in keys[:SHOWN]:
        print(f"    {line}")
    if len(keys) > SHOWN:
        print(f"    and {len(keys) - SHOWN} more")


def on_a_miss(experiment: Experiment, config: Any, found: Standing, store: Store) -> None:
    """One line before computing: what the same command meant before, or the nearest run."""
    record = nearest(experiment, config, store)
    if record is None or found.state not in ("missing", "blocked"):
        return
    keys = list(apart(record, experiment, config, found.identity, store))
    text = "; ".join(keys[:3]) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")
    same = record.tags.get("papertrail.command") == cli.command(experiment, config)
    lead = "when run {} was computed, this command asked another question"
    lead = lead if same else "nothing stands under these options; the nearest is run {}"
    progress.say(f"{experiment.name}: {lead.format(record.run_id)} ({text})")


def nearest(experiment: Experiment, config: Any, store: Store) -> Record | None:
    """The run of `experiment` that differs in the fewest options; the newest of several.

    A run that was asked for by the same command goes first: then it is code, data or a default
    that changed.
    """
    table = query.runs_table(
        store, experiment=experiment.name, params=None, metrics=[], tags=["papertrail.command"]
    )
    if table.empty:
        return None
    wanted = {f"params.{key}": text for key, text in options(config).items()}
    left_out = {f"params.cfg.{path}" for path in experiment.infrastructure}
    keys = [key for key in wanted if key in table and key not in left_out]
    distance = (table[keys] != [wanted[key] for key in keys]).sum(axis=1)
    other_command = table["tags.papertrail.command"] != cli.command(experiment, config)
    order = table.assign(other=other_command, distance=distance).sort_values(
        ["other", "distance", "start_time"], ascending=[True, True, False]
    )
    return query.by_id(str(order.iloc[0]["run_id"]), store)


def apart(
    record: Record, experiment: Experiment, config: Any, identity: Identity, store: Store
) -> Iterator[str]:
    """The keys in which a run's question differs, those of the runs it was built on included."""
    try:
        stored = json.loads(record.artifact(QUESTION).read_text(encoding="utf-8"))
    except Missing as error:
        yield f"unknown: {error}"
        return
    upstream = experiment.upstream(config)
    said = set()
    for line in differences(stored, identity.form):
        role = line.partition(":")[0].removeprefix("upstream.")
        needed = upstream.get(role) if line.startswith("upstream.") else None
        old = _first(stored["upstream"].get(role, ""), store) if needed else None
        if needed is None or old is None:
            said.add(line)
            yield line
            continue
        below = identify(needed.experiment, needed.config)
        for inner in apart(old, needed.experiment, needed.config, below, store):
            if inner not in said:  # an option is handed down: once is enough
                said.add(inner)
                yield inner if inner.startswith("config.") else f"{role}: {inner}"


def _first(digest: str, store: Store) -> Record | None:
    """Any run of that identity: all of them asked the same."""
    found = query.by_identities([digest], store)[digest] if digest else []
    return found[0] if found else None


def _checks(record: Record) -> Iterator[tuple[str, str]]:
    """Every check that a run must pass to be an answer, with what is wrong."""
    tags, info = record.tags, record.run.info
    deleted = info.lifecycle_stage != "active"
    yield "not deleted", "it was deleted in the store" if deleted else ""
    failure = tags.get("papertrail.failure", "no reason was kept")
    yield "FINISHED", "" if record.status == "FINISHED" else f"{record.status} ({failure})"
    yield "completion mark", "" if COMPLETE in tags else "it ended before its mark was written"
    yield "not invalidated", tags.get(INVALIDATED, "")
    try:
        yield "every artifact there, with its digest", record.incomplete(thorough=True)
    except Missing as error:
        yield "every artifact there, with its digest", str(error)


def _doubts(record: Record) -> Iterator[str]:
    """What speaks against a run without making it unusable."""
    if modules := drifted(record):
        yield f"code changed since: {', '.join(modules)}{_diff(record, modules)}"
    if record.failed_gates:
        yield f"failed gates: {record.failed_gates}"
    parents = parents_of(record.tags)
    known = query.by_ids(parents, record.store)
    for run_id in parents:
        if run_id not in known or known[run_id].run.info.lifecycle_stage != "active":
            yield f"it was built on run {run_id}, which is gone"


def _diff(record: Record, modules: list[str]) -> str:
    """The command that shows the change, where the commit says what the code was."""
    commit = record.tags.get("papertrail.git", "")
    if not commit or commit.endswith("-dirty"):
        return ""
    return f"\n         git diff {commit[:12]} -- {' '.join(map(drift.place, modules))}"


def _print_today(name: str, record: Record) -> list[str]:
    """Print whether today's code makes the same question of the run's own options; what differs."""
    try:
        identity, experiment, config = _asked_today(name, record)
    except (BadInput, Missing) as error:  # options that are no more, data that are gone
        print(f"  ?    what its options ask today cannot be told: {error}")
        return []
    if identity.digest == record.tags.get("papertrail.identity"):
        print("  yes  today's code asks the same question")
        return []
    keys = list(apart(record, experiment, config, identity, record.store))
    print("  no   today's code asks another question:")
    for line in keys[:SHOWN]:
        print(f"         {line}")
    return keys


def _asked_today(name: str, record: Record) -> tuple[Identity, Experiment, Any]:
    """The question that the run's own config means to the code of today."""
    experiment = experiments().get(name)
    if experiment is None:
        raise Missing(f"{name} is declared in no study's config")
    config, _ = cli.parse(experiment, [f"--config={record.artifact('config.yaml')}"])
    return identify(experiment, config), experiment, config


def _started(record: Record) -> str:
    return datetime.fromtimestamp(record.run.info.start_time / 1000).isoformat(" ", "seconds")
