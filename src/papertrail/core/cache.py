"""One folder of this user for what can be had again: PAPERTRAIL_CACHE, else ~/.cache/papertrail."""

import os
from pathlib import Path

from papertrail.core.errors import BadInput


def cache_folder() -> Path:
    """Made when it is not there; BadInput where it cannot be made."""
    named = Path(os.environ.get("PAPERTRAIL_CACHE") or "~/.cache/papertrail")
    try:
        folder = named.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(
            f"PAPERTRAIL_CACHE: cannot make the folder ({named}: {reason}); "
            "name one that you can write to"
        ) from None
    return folder
