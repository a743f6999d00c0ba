"""The study's paper tables: the grid each one needs, and how it is drawn. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from papertrail.core.compute import INFRASTRUCTURE, Compute
from papertrail.core.experiment import Question, narrow
from papertrail.data.config import Data
from papertrail.monotone.config import (
    HOTFLIP,
    NEUTRAL,
    PERPLEXITY,
    Attack,
    Constraint,
    HotFlipConfig,
    Model,
    Perplexity,
    PerplexityConfig,
    Schedule,
    TrainConfig,
    arms,
    data_digests,
)
from papertrail.tables.catalog import Need, Table

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.core.record import Record
    from papertrail.tables.sheet import Cell, Column, Sheet

ARMS = ("baseline", "monotone")


@dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """The whole comparison, once per training seed."""

    data: Data = field(default_factory=Data)
    """The text."""
    model: Model = field(default_factory=Model)
    """The model."""
    pretrain: Schedule = field(default_factory=Schedule)
    """Training from scratch."""
    train: Schedule = field(default_factory=lambda: TrainConfig().train)
    """The budget of each arm."""
    constraint: Constraint = field(default_factory=Constraint)
    """The monotone arm."""
    perplexity: Perplexity = field(default_factory=Perplexity)
    """The evaluation."""
    attack: Attack = field(default_factory=Attack)
    """The attack."""
    compute: Compute = field(default_factory=Compute)
    """How a Trainer computes."""
    seeds: tuple[int, ...] = (42,)
    """Training seeds: the unit of replication."""


def perplexity_runs(config: PaperConfig) -> list[Need]:
    """Both arms under every training seed."""
    return [
        Need({"arm": arm, "seed": seed}, Question(PERPLEXITY, one))
        for seed in config.seeds
        for arm, one in arms(config, PerplexityConfig, seed=seed).items()
    ]


def attack_runs(config: PaperConfig) -> list[Need]:
    """The perplexities, and the attack on both arms, under every training seed."""
    attacks = [
        Need(
            {"arm": "both", "seed": seed},
            Question(HOTFLIP, narrow(config, HotFlipConfig, seed=seed)),
        )
        for seed in config.seeds
    ]
    return [*perplexity_runs(config), *attacks]


def draw_perplexity_gap(frame: pd.DataFrame) -> Sheet:
    """Clean perplexity of both arms, and what the constraint costs."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        *_perplexity_columns(),
        Column(key="unigram", title="Unigram PPL", help="Perplexity of token frequencies alone."),
        Column(key="tokens", title="Tokens", help="Scored tokens of the test documents."),
    )
    rows = []
    for arm in ARMS:
        mine = frame[frame["arm"] == arm]
        rows.append(
            {"arm": Cell(value=arm), **_perplexity_cells(frame, arm)}
            | {
                "unigram": _cell(mine, "test/unigram_perplexity", Format(digits=1)),
                "tokens": _cell(mine, "test/tokens", Format(digits=0)),
            }
        )
    return Sheet(
        name="perplexity_gap",
        title="Clean perplexity and the cost of non-negative weights",
        caption="Token-weighted perplexity on held-out documents; gap relative to the baseline "
        "of the same training seed.",
        columns=columns,
        rows=tuple(rows),
        footnotes=_seed_footnote(frame),
    )


def draw_attack_success(frame: pd.DataFrame) -> Sheet:
    """The main result: clean perplexity beside the success of every attack on both arms."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    attacks = {
        "hotflip": "HotFlip",
        "random": "Random flips",
        "query": "Query search",
        "transfer": "Transfer",
    }
    columns = (
        Column(key="arm", title="Model"),
        *_perplexity_columns(),
        *(
            Column(key=key, title=title, better="lower", help=f"Success of {title}: PPL +15 %.")
            for key, title in attacks.items()
        ),
        Column(
            key="rise", title="ΔNLL", better="lower", latex=r"$\Delta$NLL",
            help="Mean rise of HotFlip, nats per scored token.",
        ),
        Column(key="relative", title="HotFlip rel.", help="Success of HotFlip: NLL +15 %."),
        Column(key="absolute", title="HotFlip abs.", help="Success of HotFlip: nats per token."),
    )  # fmt: skip
    attacked = frame[frame["experiment"] == HOTFLIP.name]
    scored = frame[frame["experiment"] == PERPLEXITY.name]
    rows = []
    for arm in ARMS:
        row = {"arm": Cell(value=arm), **_perplexity_cells(scored, arm)}
        for key in attacks:
            metric = f"attack/{arm}/{key}/success_perplexity"
            row[key] = _cell(attacked, metric, Format(digits=1, percent=True))
        row["rise"] = _cell(attacked, f"attack/{arm}/hotflip/rise", Format(digits=3))
        for key in ("relative", "absolute"):
            metric = f"attack/{arm}/hotflip/success_{key}"
            row[key] = _cell(attacked, metric, Format(digits=1, percent=True))
        rows.append(row)
    return Sheet(
        name="attack_success",
        title="Attack success on the baseline and the monotone model",
        caption="Share of texts whose scored half an attack makes 15 % more perplexing, with its "
        "95 % interval; every attack flips the same number of tokens of the same texts.",
        columns=columns,
        rows=tuple(rows),
        footnotes=(*_paired_footnotes(attacked), *_seed_footnote(frame)),
    )


def show(record: Record, config: HotFlipConfig) -> None:
    """After `-e hotflip`: the paper's table, drawn by querying the runs behind it."""
    from papertrail.tables.order import ordered
    from papertrail.tables.order import show as show_table

    show_table(ordered(ATTACK_SUCCESS, narrow(config, PaperConfig, seeds=(config.seed,))), config)


def _perplexity_columns() -> tuple[Column, ...]:
    from papertrail.tables.sheet import Column

    return (
        Column(key="perplexity", title="PPL", better="lower", help="Clean, per token."),
        Column(key="bits", title="Bits/byte", better="lower", help="Clean; any tokenizer."),
        Column(key="gap", title="Gap", help="Perplexity against the baseline.", better="lower"),
    )


def _perplexity_cells(scored: pd.DataFrame, arm: str) -> dict[str, Cell]:
    """Perplexity, bits per byte and gap of one arm; the gap pairs arms of one training seed."""
    from papertrail.tables.sheet import Cell, Format

    mine = scored[scored["arm"] == arm]
    cells = {
        "perplexity": _cell(mine, "test/perplexity", Format(digits=2)),
        "bits": _cell(mine, "test/bits_per_byte", Format(digits=3)),
        "gap": Cell(value="reference"),
    }
    if arm != "baseline":
        gaps = mine.assign(gap=_gap(mine, scored[scored["arm"] == "baseline"]))
        cells["gap"] = _cell(gaps, "gap", Format(digits=1, percent=True, sign=True))
    return cells


def _gap(mine: pd.DataFrame, baseline: pd.DataFrame) -> pd.Series[float]:
    """PPL / PPL of the baseline of the same seed - 1; missing where either is."""
    import pandas as pd

    metric = "test/perplexity"
    if metric not in mine:
        return pd.Series(index=mine.index, dtype=float)
    reference = mine["seed"].map(baseline.set_index("seed")[metric])
    return mine[metric] / reference - 1


def _cell(rows: pd.DataFrame, metric: str, format: Any) -> Cell:
    from papertrail.tables.cells import over_seeds

    return over_seeds(rows, metric, format)


def _paired_footnotes(attacked: pd.DataFrame) -> tuple[str, ...]:
    """What the same texts say of the difference between the arms; one line per training seed."""
    lines = []
    for row in attacked.to_dict("records"):
        if not row["run_id"] or "paired/rise_difference" not in row:
            continue
        lines.append(
            f"Seed {row['seed']}, {row['attack/texts']:.0f} texts, {row['attack/flips']:.0f} flips"
            f": McNemar p = {row['paired/mcnemar_p_perplexity']:.3g} (PPL +15 %); HotFlip adds "
            f"{row['paired/rise_difference']:+.3f} nats per token to the monotone model beyond the "
            f"baseline [{row['paired/rise_difference/low']:+.3f}, "
            f"{row['paired/rise_difference/high']:+.3f}]."
        )
    return tuple(lines)


def _seed_footnote(frame: pd.DataFrame) -> tuple[str, ...]:
    seeds = sorted({int(seed) for seed in frame["seed"]})
    gaps = sorted({int(seed) for seed in frame["seed"][frame["run_id"] == ""]})
    lacking = f" Runs of seed {', '.join(map(str, gaps))} are missing." if gaps else ""
    if len(seeds) > 1:
        named = ", ".join(map(str, seeds))
        return (f"Mean ± standard deviation over training seeds {named}.{lacking}",)
    return (f"One training seed ({seeds[0]}): intervals are over texts, not over trainings.",)


def _table(name: str, needs: Any, draw: Any) -> Table:
    return Table(
        name=name, study="monotone", schema=PaperConfig, needs=needs, draw=draw,
        infrastructure=INFRASTRUCTURE, neutral=NEUTRAL, data=data_digests,
    )  # fmt: skip


PERPLEXITY_GAP = _table("perplexity_gap", perplexity_runs, draw_perplexity_gap)
ATTACK_SUCCESS = _table("attack_success", attack_runs, draw_attack_success)
TABLES = (PERPLEXITY_GAP, ATTACK_SUCCESS)
