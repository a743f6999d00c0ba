"""What a sweep came to: every trial, the best, what mattered; as JSON, tables, presets, figures."""

import warnings
from collections.abc import Sequence
from typing import Literal

import pandas as pd
import yaml
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, Field

from papertrail.core.errors import Missing
from papertrail.core.reading import page
from papertrail.core.reading.query import by_ids
from papertrail.core.writing import track
from papertrail.sweep import figures, trials
from papertrail.sweep.attempt import Swept
from papertrail.sweep.methods import importances
from papertrail.tables.figures import save

State = Literal["complete", "pruned", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip


class Tried(BaseModel):
    """One trial: an attempt at a point."""

    number: int
    state: State
    point: dict[str, int | float | str]
    """Option -> value; choices as they are typed."""
    values: dict[str, float]
    """Objective -> value; of pruned trials the last one reported."""
    run_id: str
    """Empty where no run was begun."""
    reused: bool
    """Whether its run, or its twin in this sweep, stood already."""
    seconds: float
    last_step: int | None
    """Of the last validation that was reported."""
    attempt: int
    """1, or 2 and 3 where the same point failed before."""
    why: str
    """Why it is not complete."""


class Result(BaseModel):
    """`results/sweep.json`."""

    version: Literal[1] = Field(1, alias="schema")
    target: str
    objectives: dict[str, Literal["minimize", "maximize"]]
    sampler: str
    pruner: str
    best: list[int]
    """Numbers of the best trial, or of those on the Pareto front."""
    importance: dict[str, dict[str, float]]
    """Objective -> option -> share (PED-ANOVA); empty where too few trials are complete."""
    trials: list[Tried]

    def of(self, number: int) -> Tried:
        """The trial of that number."""
        return next(one for one in self.trials if one.number == number)

    def count(self, state: State) -> int:
        """How many trials ended so."""
        return sum(one.state == state for one in self.trials)


def result(swept: Swept, study: Study) -> Result:
    """All that is known when the budget is spent; Missing if no trial was complete."""
    names = sorted(swept.config.objectives)
    found = [trial for trial in trials.real(study) if trial.state in STATES]
    if not any(trial.state == TrialState.COMPLETE for trial in found):
        raise Missing(
            f"no trial of {len(found)} was complete; widen the space or set pruner.name=none"
        )
    return Result(
        schema=1,
        target=swept.target.name,
        objectives=dict(swept.config.objectives),
        sampler=swept.config.sampler.name,
        pruner=swept.config.pruner.name,
        best=[trial.number for trial in _best(study)],
        importance={name: _importances(study, place) for place, name in enumerate(names)},
        trials=[_tried(trial, names) for trial in found],
    )


def _best(study: Study) -> Sequence[FrozenTrial]:
    """Of several that mean the same, the first."""
    found = [study.best_trial] if len(study.directions) == 1 else study.best_trials
    first = {tuple(sorted(one.params.items())): one for one in reversed(found)}
    return sorted(first.values(), key=lambda one: one.values)


def _importances(study: Study, objective: int) -> dict[str, float]:
    with warnings.catch_warnings():  # that low values are asked for: they are
        warnings.simplefilter("ignore", UserWarning)
        return importances(study, objective)


def _tried(trial: FrozenTrial, names: Sequence[str]) -> Tried:
    ran = trial.user_attrs.get(trials.RAN, {})
    values = trial.values if trial.values is not None else []
    complete = trial.state == TrialState.COMPLETE
    why = trial.user_attrs.get(trials.WHY, "")
    if trial.state == TrialState.PRUNED and not why:
        why = f"pruned at step {trial.last_step}"
    return Tried(
        number=trial.number,
        state=STATES[trial.state],
        point=dict(trial.params),
        values=dict(zip(names, values, strict=True)) if len(values) == len(names) else {},
        run_id=ran.get("run_id", ""),
        reused=ran.get("reused", False),
        seconds=ran.get("seconds", 0.0),
        last_step=trial.last_step,
        attempt=1 + len(trials.attempts(trial)),
        why="" if complete else why or "it gave no sign of life",
    )


def log(swept: Swept, study: Study) -> None:
    """Metrics, tables, presets and figures of the sweep to its open run."""
    found = result(swept, study)
    track.run().built_on(
        *dict.fromkeys(one.run_id for one in found.trials if one.state == "complete")
    )
    page.headline(_metrics(found))
    track.json_result("sweep", found.model_dump(by_alias=True))
    track.parquet("trials", frame(found))
    for number in found.best:
        track.run().text(preset_name(found, number), preset(swept, found.of(number)))
    for name, figure in figures.all_of(found, swept.config.space).items():
        with track.file(f"figures/{name}.png") as path:
            save(figure, path)
    _gate(swept, found)


def _metrics(found: Result) -> dict[str, float]:
    counts = {
        "n_complete": float(found.count("complete")),
        "n_pruned": float(found.count("pruned")),
        "n_failed": float(found.count("failed")),
        "n_reused": float(sum(one.reused for one in found.trials)),
    }
    if len(found.objectives) == 1:  # what people compare has the name that it has in the trials
        return counts | found.of(found.best[0]).values
    return counts | {"n_pareto": float(len(found.best))}


def _gate(swept: Swept, found: Result) -> None:
    """A best trial whose run failed a control of its own is no finding."""
    ids = [found.of(number).run_id for number in found.best]
    failed = {r.run_id: r.failed_gates for r in by_ids(ids, swept.store).values() if r.failed_gates}
    sentence = "; ".join(f"run {run_id}: {gates}" for run_id, gates in failed.items())
    track.gate("best_passed_its_own", not failed, sentence)


def frame(found: Result) -> pd.DataFrame:
    """One row per trial: its state, its point by option, its values by objective."""
    rows = [
        {
            **one.model_dump(exclude={"point", "values"}),
            **{
                option: one.point.get(option)
                for option in sorted({o for t in found.trials for o in t.point})
            },
            **{name: one.values.get(name) for name in sorted(found.objectives)},
        }
        for one in found.trials
    ]
    return pd.DataFrame(rows)


def preset_name(found: Result, number: int) -> str:
    """Artifact of the preset of one of the best trials."""
    return "best.yaml" if len(found.objectives) == 1 else f"pareto/trial-{number:03d}.yaml"


def preset(swept: Swept, one: Tried) -> str:
    """A point as a preset: sections and options of the target, for every experiment with those."""
    tree: dict[str, object] = {}
    for option, value in sorted(one.point.items()):
        *sections, name = option.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})  # type: ignore[assignment]
        node[name] = yaml.safe_load(value) if isinstance(value, str) else value
    came = ", ".join(f"{name} {value:.6g}" for name, value in one.values.items())
    about = f"# {swept.target.name}: {came} (trial {one.number} of sweep {swept.run_id}).\n"
    return about + yaml.safe_dump(tree, sort_keys=False)
