"""What an audit can be asked for: a table, how many of its cells, how equal is equal.

Imports neither torch nor mlflow, so that a typo answers at once.
"""

import sys
from dataclasses import dataclass, make_dataclass

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers
from papertrail.core.question.experiment import Experiment
from papertrail.tables.catalog import Table, find, rendering, tables


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which cells of a table are computed again, and what counts as the same result."""

    table: str
    """Whose cells; `-e audit -P table=?` lists the tables."""
    cells: PositiveInt = 5
    """Runs drawn at random from those of the table that stand; all of them if there are fewer."""
    audit_seed: NonNegativeInt = 0
    """Of the draw: the same seed draws the same cells, another seed others."""
    tolerance: NonNegativeFloat = 1e-9
    """Largest relative difference of a metric that passes. The default is for the same machine and
    number of threads, which reproduce to the last digit; others move perplexities by 0.1 % and what
    is counted or close to zero by more."""
    keep: str = ""
    """New folder for the recomputed runs, a store of its own; without one they are thrown away."""


def auditing(table: Table) -> Experiment:
    """The experiment whose run is an audit of `table`: as its rendering, it is about the grid."""
    drawn = rendering(table)
    return Experiment(
        name="audit",
        study=table.study,
        schema=make_dataclass(
            "AuditConfig", [], bases=(table.schema, Sampling), frozen=True, kw_only=True
        ),
        verb="papertrail.tables.audit:audit",
        show="papertrail.tables.audit:show",
        answer="papertrail.tables.audit:answer",
        label=lambda config: str(config.table),
        infrastructure=(*table.infrastructure, "keep"),
        neutral=table.neutral,
        upstream=drawn.upstream,
        data=table.data,
    )


def main() -> None:
    """Launch the audit of the table that `--table` names."""
    words = sys.argv[1:]
    try:
        table = find(layers.peek("audit", "table", words))
    except BadInput as error:
        if layers.HELP & set(words):
            print(f"tables: {', '.join(sorted(tables()))}\n--table=TABLE --help lists its options")
            return
        sys.exit(cli.complain("audit", error, cli.USAGE))
    cli.launch(auditing(table))
