"""How points are chosen and curves are judged: what `options` names, as Optuna has it."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, PercentilePruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from papertrail.core.question.experiment import Experiment
from papertrail.sweep import space, trials
from papertrail.sweep.options import Dimension, Pruner, Sampler


def distributions(
    target: Experiment, dimensions: Mapping[str, Dimension]
) -> dict[str, BaseDistribution]:
    """Option -> what its values are drawn from; choices are the texts that would be typed."""
    return {name: _drawn(target, name, one) for name, one in sorted(dimensions.items())}


def _drawn(target: Experiment, option: str, one: Dimension) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution(space.choices(one))
    assert one.low is not None and one.high is not None
    if space.whole(target, option):
        step = 1 if one.step is None else int(one.step)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


class Seeded(BaseSampler):
    """A sampler whose choice is a function of its seed, of how many points came before, and of what
    they came to: so a sweep that was killed goes on as one that was not."""

    def __init__(self, options: Sampler) -> None:
        self._make, self._seed = _MAKERS[options.name], options.seed
        self._startup = options.startup
        self._inner = self._make(options.seed, options.startup)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        number = trials.ordinal(study, trial.number)
        mixed = hashlib.sha256(f"{self._seed} {number}".encode()).digest()
        self._inner = self._make(int.from_bytes(mixed[:4], "big"), self._startup)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Its random numbers do not depend on the process."""


_MAKERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, startup: TPESampler(seed=seed, n_startup_trials=startup),
    "gp": lambda seed, startup: GPSampler(seed=seed, n_startup_trials=startup),
    "nsgaii": lambda seed, startup: NSGAIISampler(seed=seed, population_size=max(2, startup)),
    "random": lambda seed, startup: RandomSampler(seed=seed),
    "grid": lambda seed, startup: RandomSampler(seed=seed),  # its points are in the queue already
}


def pruner(options: Pruner) -> BasePruner:
    """The pruner of these options."""
    if options.name == "none":
        return NopPruner()
    if options.name == "hyperband":
        smallest = max(1, options.warmup)
        return HyperbandPruner(min_resource=smallest, reduction_factor=options.reduction)
    percentile = 50.0 if options.name == "median" else options.percentile
    return PercentilePruner(percentile, options.startup, options.warmup)


def importances(study: Study, objective: int) -> dict[str, float]:
    """Option -> its share in how good a point is (PED-ANOVA), largest first; empty where too few
    points were complete, or all came to the same, to tell."""
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    sign = 1 if study.directions[objective] == optuna.study.StudyDirection.MINIMIZE else -1
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    values = {trial.values[objective] for trial in complete}
    varied = (
        [n for n in complete[0].params if len({t.params[n] for t in complete}) > 1]
        if complete
        else []
    )
    if len(values) < FEWEST or not varied:
        return {}
    found = optuna.importance.get_param_importances(
        study,
        evaluator=evaluator,
        params=varied,
        target=lambda trial: sign * trial.values[objective],
    )
    return {name: float(share) for name, share in found.items()}


FEWEST = 8
"""Different values below which importances are noise."""
