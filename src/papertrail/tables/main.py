"""The entry point of all tables: which one is ordered decides which options there are."""

import sys

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers
from papertrail.tables.catalog import find, rendering, tables


def main() -> None:
    """Launch the rendering of the table that `--name` names."""
    try:
        table = find(layers.peek("tables", "name", sys.argv[1:]))
    except BadInput as error:
        if layers.HELP & set(sys.argv[1:]):
            print(f"tables: {', '.join(sorted(tables()))}\n--name=TABLE --help lists its options")
            return
        sys.exit(cli.complain("tables", error, cli.USAGE))
    cli.launch(rendering(table))
