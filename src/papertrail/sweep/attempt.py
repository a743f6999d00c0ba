"""One attempt at one point: its config, its run, what came out.

The run is asked for as anybody would ask: one that stands is reused, so trials that mean the same
compute once. Each is marked as a trial, except where it stood already.
"""

import difflib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import TrialPruned
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from papertrail.core import progress, stopping
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.digests import one_look
from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import identify
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import parts, pruning, track
from papertrail.core.writing.pruning import Pruned, Trying
from papertrail.sweep import space, trials
from papertrail.sweep.methods import distributions


@dataclass(frozen=True)
class Swept:
    """A sweep as every worker of it knows it."""

    target: Experiment
    config: Any
    base: Any
    """The target's config as its options stand."""
    study: str
    """Name of the study."""
    store: Store
    run_id: str
    """The sweep's own run."""

    def budget(self, study: Study) -> int:
        """Trials that are to be complete or pruned: of a grid, all points that can be."""
        if self.config.sampler.name != "grid":
            return int(self.config.trials)
        return self._points - sum(trials.final(one) for one in trials.real(study))

    @cached_property
    def _points(self) -> int:
        return len(space.grid(self.target, self.config.space))

    @cached_property
    def drawn(self) -> Mapping[str, BaseDistribution]:
        """What the values of each option are drawn from."""
        return distributions(self.target, self.config.space)

    @cached_property
    def ordinary(self) -> frozenset[str]:
        """Identities of what the target builds on where its options stand: no trial's own."""
        with one_look():
            return frozenset(_below(self.target, self.base))


class _Over(Exception):
    """Ends an attempt: optuna lets no other exception through to us."""


def attempt(swept: Swept, study: Study) -> None:
    """Try one point, and have it tried again if it failed; Interrupted if we were stopped."""
    numbers, stopped = list[int](), list[BaseException]()

    def objective(trial: Trial) -> list[float]:
        numbers.append(trial.number)
        trials.begun(study, trial)
        try:
            with stopping.at_once():
                return _tried(swept, study, trial)
        except (Interrupted, KeyboardInterrupt, SystemExit) as error:
            stopped.append(error)
            trials.mark(study, trial, {trials.WHY: "it was stopped"})
            raise _Over from error
        except (TrialPruned, _Over):
            raise
        except Exception as error:
            trials.mark(study, trial, {trials.WHY: f"{type(error).__name__}: {error}"[:500]})
            raise

    with stopping.between_steps():  # optuna cannot be left while it writes down what came out
        study.optimize(objective, n_trials=1, catch=(Exception,))
    done = study.get_trials(deepcopy=False)[numbers[0]]
    _tell(swept, done)
    if done.state != TrialState.FAIL or done.user_attrs.get(trials.SURPLUS):
        return
    if stopped and not isinstance(stopped[0], SystemExit):
        trials.put_back(study, study.trials[numbers[0]])
        raise stopped[0]
    trials.retry(study, study.trials[numbers[0]])


def _tried(swept: Swept, study: Study, trial: Trial) -> list[float]:
    if trials.is_surplus(study, trial.number, swept.budget(study)):
        trials.mark(study, trial, {trials.SURPLUS: True})
        raise _Over
    chosen = {name: _suggested(trial, name, one) for name, one in swept.drawn.items()}
    try:
        config = space.point(swept.target, swept.base, chosen)
        identity = identify(swept.target, config).digest
    except BadInput as error:  # values that do not go together: no second attempt would help
        trials.mark(study, trial, {trials.WHY: str(error), trials.FINAL: True})
        raise _Over from error
    return _Attempt(swept, study, trial, config, identity).values()


def _suggested(trial: Trial, name: str, one: BaseDistribution) -> space.Value:
    if isinstance(one, FloatDistribution):
        return trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
    if isinstance(one, IntDistribution):
        return trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
    return str(trial.suggest_categorical(name, one.choices))  # type: ignore[attr-defined]


@dataclass
class _Attempt:
    """An attempt whose config is known."""

    swept: Swept
    study: Study
    trial: Trial
    config: Any
    identity: str
    began: float = 0.0

    def values(self) -> list[float]:
        """What came out, by objective; TrialPruned where it was ended, or came to no number."""
        self.began = time.monotonic()
        found = standing(self.swept.target, self.config, self.swept.store).usable
        if found is None:
            self._end_as_its_twin()
        record = self._required() if found is None else found
        self._ran(record.run_id, reused=found is not None)
        if self._judged and not self._frozen.intermediate_values:
            self._report(record)
        return self._of(record)

    @property
    def _frozen(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self.trial.number]

    @property
    def _judged(self) -> bool:
        return bool(self.swept.config.pruner.name != "none")

    def _required(self) -> Record:
        try:
            with _order_of(len(trials.attempts(self._frozen))), pruning.trying(self._trying()):
                return require(self.swept.target, self.config, "reuse", self.swept.store)
        except Pruned as error:
            # Nobody goes on with it: hundreds of such checkpoints would fill the disk.
            parts.discard(self.swept.store.folder(self.identity))
            raise TrialPruned(str(error)) from None

    def _trying(self) -> Trying:
        swept = self.swept
        return Trying(
            identity=self.identity,
            tags={
                pruning.SWEEP: swept.run_id,
                pruning.NUMBER: str(self.trial.number),
                "mlflow.runName": f"trial {self.trial.number}: {_spelled(self.trial.params)}",
            },
            ordinary=swept.ordinary - {self.identity},
            metric=next(iter(swept.config.objectives)) if self._judged else "",
            judge=self._judge(),
        )

    def _judge(self) -> Any:
        known = set(
            self._frozen.intermediate_values
        )  # of an attempt before, which this one resumes

        def judge(value: float, step: int) -> str:
            if step in known:
                return ""
            self.trial.report(value, step)
            if not self.trial.should_prune():
                return ""
            self._ran(track.run().run_id, reused=False)
            metric = next(iter(self.swept.config.objectives))
            return f"{metric} {value:.4g} in trial {self.trial.number} of sweep {self.swept.run_id}"

        return judge

    def _end_as_its_twin(self) -> None:
        """Where the same config was pruned before, it would be again."""
        for other in self.study.get_trials(deepcopy=False, states=[TrialState.PRUNED]):
            ran = other.user_attrs.get(trials.RAN, {})
            if ran.get("identity") == self.identity:
                for step, value in other.intermediate_values.items():
                    self.trial.report(value, step)
                self._ran(ran["run_id"], reused=True)
                raise TrialPruned(f"as trial {other.number}")

    def _report(self, record: Record) -> None:
        """The curve of a run that stood: others are compared with it."""
        for step, value in record.curve(next(iter(self.swept.config.objectives))):
            self.trial.report(value, step)

    def _ran(self, run_id: str, reused: bool) -> None:
        facts = {
            "run_id": run_id,
            "identity": self.identity,
            "reused": reused,
            "seconds": round(time.monotonic() - self.began, 3),
        }
        trials.mark(self.study, self.trial, {trials.RAN: facts})

    def _of(self, record: Record) -> list[float]:
        found = record.metrics
        values = [found.get(name) for name in sorted(self.swept.config.objectives)]
        if None in values:
            why = no_metric(self.swept.config.objectives, found, f"run {record.run_id}")
            marks = {trials.WHY: why, trials.FINAL: True, trials.FATAL: True}
            trials.mark(self.study, self.trial, marks)
            raise _Over
        if not all(math.isfinite(value) for value in values):  # type: ignore[arg-type]
            trials.mark(self.study, self.trial, {trials.WHY: "it diverged"})
            raise TrialPruned("it diverged")
        return [float(value) for value in values]  # type: ignore[arg-type]


def no_metric(wanted: Mapping[str, Any], found: Mapping[str, float], where: str) -> str:
    """What to say of objectives that a run has not logged."""
    absent = next(name for name in sorted(wanted) if name not in found)
    near = difflib.get_close_matches(absent, sorted(found), n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(found))}"
    return f"objectives: {where} has no metric {absent}; {hint}"


def _below(target: Experiment, config: Any) -> Iterator[str]:
    for need in target.upstream(config).values():
        yield identify(need.experiment, need.config).digest
        yield from _below(need.experiment, need.config)


@contextmanager
def _order_of(attempts: int) -> Iterator[None]:
    """One command tries a question once; a second attempt counts as another command."""
    before = os.environ.get(cli.ORDER)
    if attempts:
        os.environ[cli.ORDER] = f"{before or ''}.{attempts}"
    try:
        yield
    finally:
        os.environ.pop(cli.ORDER, None)
        os.environ |= {} if before is None else {cli.ORDER: before}


def _tell(swept: Swept, trial: FrozenTrial) -> None:
    """One line for people as each attempt ends."""
    if trial.user_attrs.get(trials.SURPLUS):
        return
    names = sorted(swept.config.objectives)
    came: Mapping[TrialState, Callable[[], str]] = {
        TrialState.COMPLETE: lambda: " ".join(
            f"{name} {value:.5g}" for name, value in zip(names, trial.values, strict=True)
        ),
        TrialState.PRUNED: lambda: (
            trial.user_attrs.get(trials.WHY) or f"pruned at step {trial.last_step}"
        ),
        TrialState.FAIL: lambda: str(trial.user_attrs.get(trials.WHY, "stopped")),
    }
    progress.say(f"trial {trial.number}: {came[trial.state]()} ({_spelled(trial.params)})")


def _spelled(point: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shown(value)}" for name, value in point.items())


def shown(value: space.Value) -> str:
    """A value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
