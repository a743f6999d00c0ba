"""Clean perplexity, its price, and attack success, as sheets. Pure functions of tidy frames.

A frame has one row per run: `arm`, `side` (what the run calls that arm), `seed`, its experiment
and its metrics. A run of `hotflip` belongs to an arm and holds the baseline's numbers besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from papertrail.monotone.config import HOTFLIP, PERPLEXITY, TRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from papertrail.tables.sheet import Cell, Column, Sheet

BASELINE = "baseline"
ATTACKS = {
    "hotflip": "HotFlip",
    "random": "Random flips",
    "query": "Query search",
    "transfer": "Transfer",
}


def perplexity_gap(frame: pd.DataFrame) -> Sheet:
    """Clean perplexity of every arm, and what the constraint costs."""
    from papertrail.tables.sheet import Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        *perplexity_columns(),
        Column(key="unigram", title="Unigram PPL", help="Perplexity of token frequencies alone."),
        Column(key="tokens", title="Tokens", help="Scored tokens of the test documents."),
    )
    rows = [
        perplexity_cells(frame, arm)
        | {
            "unigram": cell(of(frame, arm), "test/unigram_perplexity", Format(digits=1)),
            "tokens": cell(of(frame, arm), "test/tokens", Format(digits=0)),
        }
        for arm in arms_in(frame)
    ]
    return Sheet(
        name="perplexity_gap",
        title="Clean perplexity and the cost of non-negative weights",
        caption="Token-weighted perplexity on held-out documents; gap relative to the baseline "
        "of the same training seed.",
        columns=columns,
        rows=tuple(rows),
        footnotes=seed_footnote(frame),
    )


def attack_success(frame: pd.DataFrame) -> Sheet:
    """The main result: clean perplexity beside the success of every attack on every arm."""
    from papertrail.tables.sheet import Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        *perplexity_columns(),
        *(
            Column(key=key, title=title, better="lower", help=f"Success of {title}: PPL +15 %.")
            for key, title in ATTACKS.items()
        ),
        Column(
            key="rise", title="ΔNLL", better="lower", latex=r"$\Delta$NLL",
            help="Mean rise of HotFlip, nats per scored token.",
        ),
        Column(key="relative", title="HotFlip rel.", help="Success of HotFlip: NLL +15 %."),
        Column(key="absolute", title="HotFlip abs.", help="Success of HotFlip: nats per token."),
    )  # fmt: skip
    attacked, scored = (_by(frame, experiment) for experiment in (HOTFLIP, PERPLEXITY))
    share = Format(digits=1, percent=True)
    rows = []
    for arm in arms_in(frame):
        mine, side = hotflip_rows(attacked, arm)
        row = perplexity_cells(scored, arm)
        for key in ATTACKS:
            row[key] = cell(mine, f"attack/{side}/{key}/success_perplexity", share)
        row["rise"] = cell(mine, f"attack/{side}/hotflip/rise", Format(digits=3))
        for key in ("relative", "absolute"):
            row[key] = cell(mine, f"attack/{side}/hotflip/success_{key}", share)
        rows.append(row)
    return Sheet(
        name="attack_success",
        title="Attack success on the baseline and the monotone model",
        caption="Share of texts whose scored half an attack makes 15 % more perplexing, with its "
        "95 % interval; every attack flips the same number of tokens of the same texts.",
        columns=columns,
        rows=tuple(rows),
        footnotes=(*paired_footnotes(attacked), *counts(attacked), *seed_footnote(frame)),
    )


def summary(frame: pd.DataFrame) -> Sheet:
    """The paper's row format: Model, Params, PPL, its change, attack success."""
    from papertrail.tables.sheet import Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        Column(key="parameters", title="Params", help="All parameters of the model."),
        Column(key="perplexity", title="PPL", better="lower", help="Clean, per token."),
        Column(key="gap", title="ΔPPL%", latex=r"$\Delta$PPL\%", help="Against the baseline."),
        Column(key="hotflip", title="Attack success", better="lower", help="HotFlip: PPL +15 %."),
    )
    attacked, scored, trained = (_by(frame, one) for one in (HOTFLIP, PERPLEXITY, TRAIN))
    rows = []
    for arm in arms_in(frame):
        mine, side = hotflip_rows(attacked, arm)
        metric = f"attack/{side}/hotflip/success_perplexity"
        known = perplexity_cells(scored, arm)
        rows.append(
            {key: known[key] for key in ("arm", "perplexity", "gap")}
            | {
                "parameters": cell(of(trained, arm), "model/parameters", Format(digits=0)),
                "hotflip": cell(mine, metric, Format(digits=1, percent=True)),
            }
        )
    return Sheet(
        name="summary",
        title="Perplexity and attack success",
        caption="Clean perplexity, its change against the baseline of the same training seed, and "
        "the share of texts that HotFlip makes 15 % more perplexing.",
        columns=columns,
        rows=tuple(rows),
        footnotes=(*counts(attacked), *seed_footnote(frame)),
    )


# -- what several sheets share ---------------------------------------------------------------------


def arms_in(frame: pd.DataFrame) -> list[str]:
    """The arms of the grid, in its order."""
    return [str(arm) for arm in frame["arm"].unique()]


def of(frame: pd.DataFrame, arm: str) -> pd.DataFrame:
    """The runs of one arm."""
    return frame[frame["arm"] == arm]


def _by(frame: pd.DataFrame, experiment: Any) -> pd.DataFrame:
    some: pd.DataFrame = frame[frame["experiment"] == experiment.name]
    return some


def hotflip_rows(attacked: pd.DataFrame, arm: str) -> tuple[pd.DataFrame, str]:
    """The pair runs that hold the numbers of `arm`, and what they call it.

    The baseline's are in every pair, the same numbers: those of the first pair count.
    """
    if arm != BASELINE or attacked.empty:
        mine = of(attacked, arm)
        return mine, str(mine["side"].iloc[0]) if len(mine) else arm
    return of(attacked, arms_in(attacked)[0]), BASELINE


def cell(rows: pd.DataFrame, metric: str, format: Any) -> Cell:
    """`tables.cells.over_seeds`, imported when a table is drawn."""
    from papertrail.tables.cells import over_seeds

    return over_seeds(rows, metric, format)


def perplexity_columns() -> tuple[Column, ...]:
    """Columns of `perplexity_cells`."""
    from papertrail.tables.sheet import Column

    return (
        Column(key="perplexity", title="PPL", better="lower", help="Clean, per token."),
        Column(key="bits", title="Bits/byte", better="lower", help="Clean; any tokenizer."),
        Column(key="gap", title="Gap", help="Perplexity against the baseline.", better="lower"),
    )


def perplexity_cells(scored: pd.DataFrame, arm: str) -> dict[str, Cell]:
    """Name, perplexity, bits per byte and gap of one arm; the gap pairs arms of one seed."""
    from papertrail.tables.sheet import Cell, Format

    mine = of(scored, arm)
    cells = {
        "arm": Cell(value=arm),
        "perplexity": cell(mine, "test/perplexity", Format(digits=2)),
        "bits": cell(mine, "test/bits_per_byte", Format(digits=3)),
        "gap": Cell(value="reference"),
    }
    if arm != BASELINE:
        gaps = mine.assign(gap=_gap(mine, of(scored, BASELINE)))
        cells["gap"] = cell(gaps, "gap", Format(digits=1, percent=True, sign=True))
    return cells


def _gap(mine: pd.DataFrame, baseline: pd.DataFrame) -> pd.Series[float]:
    """PPL / PPL of the baseline of the same seed - 1; missing where either is."""
    import pandas as pd

    metric = "test/perplexity"
    if metric not in mine:
        return pd.Series(index=mine.index, dtype=float)
    reference = mine["seed"].map(baseline.set_index("seed")[metric])
    return mine[metric] / reference - 1


def paired_footnotes(attacked: pd.DataFrame) -> tuple[str, ...]:
    """What the same texts say of an arm against the baseline; one line per arm and seed."""
    lines = []
    for row in attacked.to_dict("records"):
        if not row["run_id"] or "paired/rise_difference" not in row:
            continue
        lines.append(
            f"{_named(row)}Seed {row['seed']}, {row['attack/texts']:.0f} texts, "
            f"{row['attack/flips']:.0f} flips"
            f": McNemar p = {row['paired/mcnemar_p_perplexity']:.3g} (PPL +15 %); HotFlip adds "
            f"{row['paired/rise_difference']:+.3f} nats per token to the {row['arm']} model beyond "
            f"the baseline [{row['paired/rise_difference/low']:+.3f}, "
            f"{row['paired/rise_difference/high']:+.3f}]."
        )
    return tuple(lines)


def _named(row: Mapping[Any, Any]) -> str:
    return "" if row["arm"] == "monotone" else f"{row['arm']}: "


def counts(attacked: pd.DataFrame) -> tuple[str, ...]:
    """How many texts stand behind a rate, and that none was left out for want of memory."""
    metrics = [column for column in attacked if str(column).endswith("/oom_retries")]
    done = attacked[attacked["run_id"] != ""]
    if done.empty or not metrics or "attack/texts" not in done:
        return ()
    retries = int(done[metrics].sum().sum())
    texts = sorted({int(n) for n in done["attack/texts"].dropna()})
    return (
        f"n = {', '.join(map(str, texts))} texts per arm and seed, none left out; "
        f"{retries} batches did not fit into memory and were done in halves.",
    )


def seed_footnote(frame: pd.DataFrame) -> tuple[str, ...]:
    """What the numbers are means over, and which seeds lack runs."""
    from papertrail.tables.cells import which_seeds

    return which_seeds(frame, "intervals are over texts, not over trainings")
