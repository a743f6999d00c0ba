"""What a model's name means: a registered model, a folder of this machine, or else a hub id.

mlflow is imported only where a registered model is named: any other typo answers at once.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from papertrail.core import digests

REGISTERED = "models:/"
"""How the address of a registered model begins: models:/NAME@ALIAS or models:/NAME/VERSION."""


def registered(name: str) -> bool:
    """Whether `name` is the address of a registered model."""
    return name.startswith(REGISTERED)


def folder(name: str) -> Path | None:
    """The folder of a registered or a local model; None for what may be a hub id.

    BadInput where nothing is registered under the address, Missing where its run is no answer.
    """
    if registered(name):
        from papertrail.core.reading.registry import find

        return find(name).folder
    local = Path(name).expanduser()
    return local if local.is_dir() else None


def content(address: str, chosen: Callable[[Collection[str]], Sequence[str]]) -> str:
    """One digest of the files of a registered model that `chosen` picks, in its order.

    That of the same files in a folder (`digests.of_named`): a model that was registered and one
    that was copied are the same question. Read from the run's manifest, nothing is downloaded.
    """
    from papertrail.core.reading.registry import find

    files = find(address).files
    return digests.of_pairs((name, files[name]) for name in chosen(files))
