"""Names that come from elsewhere, a store, an archive, and must not lead out of their folder."""

from pathlib import Path, PurePosixPath

from papertrail.core.errors import BadInput


def checked(name: str) -> str:
    """The name of a file under some folder, with / between its parts; BadInput for any other."""
    path = PurePosixPath(name)
    plain = name == str(path) and name not in ("", ".") and not set(name) & {"\\", "\0"}
    if not plain or path.is_absolute() or ".." in path.parts:
        raise BadInput(f"name: leaves its folder or is none ({name!r}); use plain a/b.txt names")
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of `name` under `folder`; BadInput where it leads out, by a link too."""
    path = folder / checked(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(f"name: leads out of {folder} by a link ({name!r}); keep the file itself")
    return path
