"""The trials of a study: whose turn it is, who died, and what is tried again.

A point has up to three attempts, each a trial of its own. What a trial was is kept as its
attributes: `BEGUN` by whom and under which command, what it `RAN`, `WHY` it failed.
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from papertrail.core.question import cli
from papertrail.core.writing import heartbeat
from papertrail.core.writing.owner import Owner

BEGUN, RAN, WHY = "begun", "ran", "why"
SURPLUS = "surplus"
"""It began when the budget was spoken for, and was nobody's turn."""
FINAL, FATAL = "final", "fatal"
"""Its point cannot be tried; no point can."""
RETRIES = 2
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
OPEN = (TrialState.RUNNING, TrialState.WAITING)


def real(study: Study) -> list[FrozenTrial]:
    """All trials that were anybody's turn, in order."""
    return [one for one in study.get_trials(deepcopy=False) if not one.user_attrs.get(SURPLUS)]


def num(trials: Sequence[FrozenTrial], states: Sequence[TrialState]) -> int:
    """How many of these are in one of these states."""
    return sum(one.state in states for one in trials)


def places(study: Study, budget: int) -> int:
    """How many workers there is something to do for: points that wait, and points not asked for."""
    found = real(study)
    waiting = num(found, [TrialState.WAITING])
    return waiting + max(0, budget - num(found, (*DONE, *OPEN)))


def begun(study: Study, trial: Trial) -> None:
    """Note who is at a trial."""
    owner, order = str(Owner.current()), os.environ.get(cli.ORDER, "")
    mark(study, trial, {BEGUN: {"owner": owner, "order": order}})


def is_surplus(study: Study, number: int, budget: int) -> bool:
    """Whether the budget is spoken for by trials that began before this one."""
    before = [one for one in real(study) if one.number < number]
    return num(before, (*DONE, *OPEN)) >= budget


def ordinal(study: Study, number: int) -> int:
    """The how-manieth new point a trial is: attempts at old ones do not count."""
    return sum(one.number < number and not attempts(one) for one in real(study))


def attempts(trial: FrozenTrial) -> list[int]:
    """Numbers of the trials that tried this point before."""
    again = "failed_trial" in trial.system_attrs
    return _history(trial) or ([trial.system_attrs["failed_trial"]] if again else [])


def hopeless(study: Study, failures: int) -> str:
    """Why it makes no sense to go on, in this command; empty if it does."""
    order = os.environ.get(cli.ORDER, "")
    mine = [t for t in real(study) if t.user_attrs.get(BEGUN, {}).get("order") == order]
    fatal = next((t.user_attrs[WHY] for t in mine if t.user_attrs.get(FATAL)), "")
    failed = [one for one in mine if final(one)]
    if fatal or len(failed) < failures:
        return str(fatal)
    why = failed[-1].user_attrs.get(WHY, "it gave no sign of life")
    return f"{len(failed)} points failed for good, the last of them as {why}"


def final(trial: FrozenTrial) -> bool:
    """Whether its point failed for good with this attempt."""
    if trial.state != TrialState.FAIL:
        return False
    return bool(trial.user_attrs.get(FINAL)) or len(_history(trial)) >= RETRIES


def _history(trial: FrozenTrial) -> list[int]:
    found: list[int] = trial.system_attrs.get("retry_history", [])
    return found


def retry(study: Study, trial: FrozenTrial) -> None:
    """Have the point of a failed or dead trial tried again, unless it was tried three times."""
    if final(trial) or not trial.distributions:  # without: it died before it had a point
        return
    trial.user_attrs = {}  # above all not the old owner, who is dead
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        again = RetryHeartbeatStaleTrialCallback(
            max_retry=RETRIES, inherit_intermediate_values=True
        )
    again(study, trial)


def put_back(study: Study, trial: FrozenTrial) -> None:
    """Have the point of a trial that was stopped tried again: it did not fail."""
    if not trial.distributions:
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs={"failed_trial": trial.number, **trial.system_attrs},
            intermediate_values=trial.intermediate_values,
        )
    )


def revive(study: Study) -> None:
    """Have the points of dead workers tried again, as far as their death can be told from here.

    Those of other machines are found by their heartbeat, when the next trial begins.
    """
    for trial in _dead(study):
        try:
            mark(study, trial, {WHY: "its process died"})
            study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            continue  # another worker found it first
        retry(study, study.trials[trial.number])


def _dead(study: Study) -> Iterator[FrozenTrial]:
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        owner = trial.user_attrs.get(BEGUN, {}).get("owner")
        if owner is None and _age(trial) > heartbeat.SILENCE * heartbeat.interval():
            yield trial  # killed in the moment between its begin and its first word
        elif owner is not None and Owner.parse(owner).alive() is False:
            yield trial


def _age(trial: FrozenTrial) -> float:
    assert trial.datetime_start is not None
    return time.time() - trial.datetime_start.timestamp()


def mark(study: Study, trial: FrozenTrial | Trial, words: Mapping[str, object]) -> None:
    """Words on a trial that has not ended: afterwards a study takes none."""
    for key, value in words.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)
