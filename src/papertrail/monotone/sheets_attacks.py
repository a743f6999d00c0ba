"""Every attack on every arm, and whose texts fool whom, as sheets: pure functions of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from papertrail.monotone.config import GCG, HOTFLIP, PERPLEXITY, PGD, UAT
from papertrail.monotone.sheets import (
    arms_in,
    cell,
    counts,
    hotflip_rows,
    of,
    perplexity_cells,
    seed_footnote,
)

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Sheet


def all_attacks(frame: pd.DataFrame) -> Sheet:
    """Rise per scored token under every attack, from the weakest control to the upper bound."""
    from papertrail.tables.sheet import Column, Format, Sheet

    by = {name: frame[frame["experiment"] == name] for name in frame["experiment"].unique()}
    scored, flipped, triggered = by[PERPLEXITY.name], by[HOTFLIP.name], by[UAT.name]
    titles = {
        "random": "Random", "transfer": "Transfer", "query": "Query", "hotflip": "HotFlip",
        "gcg": "GCG", "pgd": "PGD", "uat": "UAT",
    }  # fmt: skip
    columns = (
        Column(key="arm", title="Model"),
        Column(key="perplexity", title="PPL", better="lower", help="Clean, per token."),
        *(
            Column(key=key, title=title, better="lower", help=f"{title}: nats per scored token.")
            for key, title in titles.items()
        ),
    )
    nats, rows = Format(digits=3), []
    for arm in arms_in(frame):
        pair, side = hotflip_rows(flipped, arm)
        twin, other = hotflip_rows(triggered, arm)
        known = perplexity_cells(scored, arm)
        row = {"arm": known["arm"], "perplexity": known["perplexity"]}
        for key in ("random", "transfer", "query", "hotflip"):
            row[key] = cell(pair, f"attack/{side}/{key}/rise", nats)
        for experiment in (GCG, PGD):
            row[experiment.name] = cell(of(by[experiment.name], arm), "attack/rise", nats)
        row["uat"] = cell(twin, f"uat/{other}/rise", nats)
        rows.append(row)
    return Sheet(
        name="all_attacks",
        title="Every attack on every arm",
        caption="Mean rise of the NLL, nats per scored token. Random flips, transferred texts, "
        "query search and HotFlip replace equally many tokens; GCG may replace every token of the "
        "attackable half, PGD moves embeddings by the largest of its radii (no text); UAT puts "
        "one trigger in front of all texts.",
        columns=columns,
        rows=tuple(rows),
        footnotes=(*counts(flipped), *seed_footnote(frame)),
    )


def transfer_matrix(frame: pd.DataFrame) -> Sheet:
    """Rows: the arm on which HotFlip made the texts; columns: the arm that reads them."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    targets = arms_in(frame)
    share = Format(digits=1, percent=True)
    rows = [
        {"source": Cell(value=str(source))}
        | {
            f"on_{target}": cell(of(some, target), "attack/success_perplexity", share)
            for target in targets
        }
        for source, some in frame.groupby("source", sort=False)
    ]
    return Sheet(
        name="transfer_matrix",
        title="Whose adversarial texts fool whom",
        caption="Share of texts made 15 % more perplexing; the diagonal is the white-box attack.",
        columns=(
            Column(key="source", title="Made on"),
            *(Column(key=f"on_{t}", title=t, help=f"Read by {t}.") for t in targets),
        ),
        rows=tuple(rows),
        footnotes=seed_footnote(frame),
    )
