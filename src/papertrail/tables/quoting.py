"""The tables that a paper declares, drawn from what stands in the store; nothing is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store
from papertrail.tables import grid
from papertrail.tables.catalog import HOW, Table, find, rendering
from papertrail.tables.manuscript import Declaration
from papertrail.tables.planned import Planned
from papertrail.tables.tex import Quoted


@dataclass(frozen=True)
class Drawn:
    """A declared table as the store has it now."""

    declaration: Declaration
    planned: tuple[Planned, ...]
    quoted: Quoted

    @property
    def lacking(self) -> list[Planned]:
        """Runs of its grid that have no result."""
        return [one for one in self.planned if one.standing.usable is None]


def drawn(declared: Sequence[Declaration], store: Store) -> list[Drawn]:
    """Every declared table, in order; BadInput, before the store is read, where one is none."""
    orders = [_order(one) for one in declared]
    return [_draw(one, *order, store) for one, order in zip(declared, orders, strict=True)]


def _order(one: Declaration) -> tuple[Table, Experiment, Any]:
    try:
        table = find(one.table)
        experiment = rendering(table)
        for option in one.options:
            key = option.partition("=")[0]
            if key in (*HOW, "name") or key.startswith("run."):
                raise BadInput(f"{key}: a paper only reads what stands; leave it out")
        words = [f"--name={table.name}", *(f"--{option}" for option in one.options)]
        return table, experiment, cli.parse(experiment, words)[0]
    except BadInput as error:
        raise BadInput(f"{one.where}: {error}") from None


def _draw(
    one: Declaration, table: Table, experiment: Experiment, config: Any, store: Store
) -> Drawn:
    try:
        planned = grid.plan(table, config, store)
        identity = identify(experiment, config).digest
    except BadInput as error:
        raise BadInput(f"{one.where}: {error}") from None
    sheet = table.draw(grid.tidy(planned))
    return Drawn(one, planned, Quoted(one.name, sheet, one.order, identity))
