"""Stage 7: the whole study, every arm under every seed, and what it says altogether."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from papertrail.core import progress
from papertrail.core.answering.launch import require_all
from papertrail.core.question.experiment import Question, narrow
from papertrail.core.reading import page, query
from papertrail.core.reading.record import Record
from papertrail.core.writing import track
from papertrail.monotone import findings, results, tables
from papertrail.monotone.checks import checks
from papertrail.monotone.config import TRAIN, study_runs
from papertrail.monotone.hotflip import documents
from papertrail.monotone.results import Found, of
from papertrail.monotone.schemas import StudyConfig, TrainConfig
from papertrail.tables import figures, grid, render
from papertrail.tables.catalog import Table

Asked = list[tuple[dict[str, Any], Question]]
Attacked = dict[str, list[pd.DataFrame]]
"""Arm -> rows of its pair under every seed."""
STAGES = (
    ("1_apply_monotonicity", ("monotonize",)),
    ("2_train_baseline", ("train baseline",)),
    ("3_train_monotonic", ("train",)),
    ("4_evaluate", ("perplexity", "weights", "benchmarks")),
    ("5_uat", ("uat",)),
    ("6_hotflip", ("hotflip", "gcg", "pgd")),
)
"""The original pipeline's stages, by the names of its completion flags, and what each runs."""
COMPARED = ("train", "perplexity", "hotflip")
"""The runs behind `findings.versus_baseline` and `findings.price`."""
DRAWN = (tables.SUMMARY, tables.ATTACK_SUCCESS, tables.ALL_ATTACKS)
WIDTH = 110  # characters of experiment_summary.txt


def study(config: StudyConfig) -> None:
    """Compute what is missing, stage by stage; then log tables, tests, figures and result files."""
    _set_up(config)
    found = list(_stages(config))
    # What is compared rests on these; another attack that failed is refused in its own table.
    failed = results.failed([one for one in found if one.experiment in COMPARED])
    if failed:
        track.gate("built_on", False, "; ".join(f"{run}: {why}" for run, why in failed.items()))
    attacked = _attacked(found)
    versus = _versus(found, attacked)
    for name, arms in results.compared(found, config.perplexity.split).items():
        for arm, value in arms.items():
            page.headline({name: value}, of=arm)
    for arm, numbers in versus.items():
        page.headline({"gap/perplexity": numbers["gap"]}, of=arm)
        track.metrics({f"versus/{arm}/{key}": value for key, value in numbers.items()})
    _files(found, config, versus)
    _figures(found, attacked, _transfers(config))
    _flag("7_aggregate")
    track.describe(
        f"The monotone study: arms {', '.join(config.arms)} under seeds "
        f"{', '.join(map(str, config.seeds))}."
    )


def show(record: Record, config: StudyConfig) -> None:
    """After `-e monotone`: the summary that the run keeps."""
    print(record.artifact("results/experiment_summary.txt").read_text(encoding="utf-8"))


def _set_up(config: StudyConfig) -> None:
    """Stage 0: what `-e setup` would say. What is missing stops the stage that needs it."""
    found = checks(config)
    for one in found:
        if one.state != "ok":
            progress.say(f"{one.name}: {one.sentence}")
    track.json_result("setup", {"schema": 1, "checks": [asdict(one) for one in found]})
    _flag("0_setup")


def _stages(config: StudyConfig) -> Iterator[Found]:
    """Every run of the study, stage after stage; a stage's flag is a tag set when it is whole."""
    waiting = _asked(config)
    done, total = 0, len(waiting)
    for flag, names in STAGES:
        now = [one for one in waiting if _belongs(one, names)]
        waiting = [one for one in waiting if not _belongs(one, names)]
        records = require_all([question for _, question in now])
        for (labels, question), record in zip(now, records, strict=True):
            yield Found(**labels, experiment=question.experiment.name, record=record)
        done += len(now)
        track.progress(done / total * 0.98)
        _flag(flag)
    assert not waiting, f"no stage runs {[q.experiment.name for _, q in waiting]}"


def _asked(config: StudyConfig) -> Asked:
    """The runs of the study, trainings as well: other runs build on them, and files quote them."""
    asked = list(study_runs(config))
    trained = [
        (labels, Question(TRAIN, narrow(question.config, TrainConfig)))
        for labels, question in asked
        if question.experiment.name == "perplexity"
    ]
    return [*trained, *asked]


def _belongs(one: tuple[dict[str, Any], Question], names: Sequence[str]) -> bool:
    labels, question = one
    name = question.experiment.name
    return name in names or f"{name} {labels['arm']}" in names


def _flag(stage: str) -> None:
    track.tags({f"stage_{stage}_complete": "true"})


def _versus(found: Sequence[Found], attacked: Attacked) -> dict[str, dict[str, float]]:
    """Each arm against the baseline, over seeds: attack and price."""
    versus = findings.versus_baseline(attacked)
    for arm, numbers in versus.items():
        base, mine = (of(found, "perplexity", name) for name in ("baseline", arm))
        pairs = [
            (documents(a.record), documents(b.record)) for a, b in zip(base, mine, strict=True)
        ]
        numbers |= findings.named("gap", findings.price(pairs))
    return versus


def _attacked(found: Sequence[Found]) -> Attacked:
    rows: Attacked = {}
    for one in of(found, "hotflip"):
        read = pd.read_parquet(one.record.artifact("samples/attacks.parquet"))
        rows.setdefault(one.arm, []).append(read)
    return rows


def _files(
    found: Sequence[Found], config: StudyConfig, versus: dict[str, dict[str, float]]
) -> None:
    """The four result files of the original study, and the summary for people."""
    flipped = results.hotflip(found)
    evaluated = results.evaluation(found, config)
    hoped = {
        arm: findings.indicators(
            numbers["gap"],
            _reduction(flipped["results"], arm),
            evaluated["pile_test"][results.title(arm)]["perplexity"],
        )
        for arm, numbers in versus.items()
    }
    track.json_result("evaluation_results", evaluated)
    track.json_result("hotflip_results", flipped)
    track.json_result("uat_results", results.uat(found))
    track.json_result("final_results", results.final(found, config, versus, hoped))
    track.run().text("results/experiment_summary.txt", _summary(config, versus, hoped))


def _reduction(sides: Any, arm: str) -> float | None:
    """Relative fall of HotFlip's success (NLL +15 %); None where the baseline never falls."""
    before, after = (sides[results.title(name)]["success_rate"] for name in ("baseline", arm))
    return None if before == 0 else 1 - after / before


def _summary(config: StudyConfig, versus: dict[str, dict[str, float]], hoped: Any) -> str:
    """Tables, what each arm costs and buys, and what the original hoped for beside it."""
    texts = [render.to_text(_drawn(table, config), WIDTH) for table in DRAWN]
    for arm, one in versus.items():
        texts.append(
            f"{arm} against the baseline, {one['seeds']:.0f} seeds x {one['texts']:.0f} texts: "
            f"perplexity {one['gap']:+.1%} [{one['gap/low']:+.1%}, {one['gap/high']:+.1%}]; "
            f"HotFlip success {one['perplexity']:+.1%} "
            f"[{one['perplexity/low']:+.1%}, {one['perplexity/high']:+.1%}], rise "
            f"{one['rise']:+.3f} [{one['rise/low']:+.3f}, {one['rise/high']:+.3f}] nats per token, "
            f"Wilcoxon p = {one['wilcoxon_p_holm']:.3g} (Holm)."
        )
        for line in hoped[arm]:
            met = {True: "yes", False: "no", None: "undefined"}[line["met"]]
            texts.append(f"  {line['hoped']}: {met} ({line['measured']})")
    return "\n".join(texts) + "\n"


def _drawn(table: Table, config: StudyConfig) -> Any:
    """A paper table from the runs that stand now."""
    return table.draw(grid.tidy(grid.plan(table, config, track.run().store)))


def _transfers(config: StudyConfig) -> pd.DataFrame:
    """Success of every arm's texts on every arm, means over seeds; most stand since stage 6."""
    needs = tables.transfer_runs(config)
    records = require_all([need.question for need in needs])
    rows = [
        (need.labels["source"], need.labels["arm"], record.metrics["attack/success_perplexity"])
        for need, record in zip(needs, records, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["row", "column", "value"])
    return frame.groupby(["row", "column"], sort=False, as_index=False).mean()


def _figures(found: Sequence[Found], attacked: Attacked, transfers: pd.DataFrame) -> None:
    """Budget curves and transfers over seeds, and how training recovered."""
    with track.file("figures/transfer_matrix.png") as path:
        figures.save(figures.heatmap(transfers, "Success", "Read by", "Made on"), path)
    with track.file("figures/budget_curves.png") as path:
        figures.save(figures.budget_curves(findings.budget_curves(attacked)), path)
    with track.file("figures/training_curves.png") as path:
        trained = {results.key(one): one.record.run_id for one in of(found, "train")}
        figures.save(figures.training_curves(validation_curves(trained)), path)


def validation_curves(runs: Mapping[str, str]) -> pd.DataFrame:
    """Validation loss of every arm while it was trained, for the figure.

    `runs` as final_results.json names them: "train baseline seed 42" -> run id, and others.
    """
    rows = []
    for name, run_id in runs.items():
        experiment, arm, _, seed = name.split()
        if experiment == "train":
            curve = query.by_id(run_id).curve("val/loss")
            rows += [(arm, "validation", int(seed), step, value) for step, value in curve]
    return pd.DataFrame(rows, columns=["model", "split", "seed", "step", "value"])
