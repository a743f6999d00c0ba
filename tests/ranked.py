"""Work that several ranks do together, for tests in which one of them goes away."""

from torch import distributed

from papertrail.core.training.ranks import Place


def waits(place: Place) -> None:
    """Each waits for all."""
    distributed.barrier()
