"""Documents and digest of whatever the one option `data.text` names.

"enwik8", a text file, a folder, or a hub dataset id. Rules for local files: a line of a .jsonl is
a document (its "text"); any other file is cut at the first blank line after every 5,000
characters, so that a split by document is possible within one long file; a piece with no blank
line before 10,000 ends at a line end, a space, or there. Concatenated, the pieces are the file.
"""

import codecs
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from math import ceil
from pathlib import Path

from papertrail.core import digests
from papertrail.core.errors import BadInput, Missing

BUILT_IN = "enwik8"
SUFFIXES = (".txt", ".md", ".jsonl")
SHORTEST_PIECE, LONGEST_PIECE = 5_000, 10_000  # characters
ENDS = (re.compile(r"\n[ \t\r]*\n\s*"), re.compile(r"\n"), re.compile(r"\s"))  # best first
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
ACCEPTED = "'enwik8', a text file, a folder of .txt, .md or .jsonl files, or a hub dataset id"


def documents(source: str, megabytes: float, revision: str) -> Iterator[str]:
    """The documents of `source` in a fixed order, from the first `megabytes` (10^6 bytes) of it.

    What a smaller cap yields is a prefix of what a larger cap yields. `revision` is for the hub.
    BadInput, with one line, for a wrong path, no text, or bytes that are not UTF-8.
    """
    if source == BUILT_IN:
        from papertrail.data.enwik8 import articles  # brings the network along; digest needs none

        return articles(megabytes)
    files = _files(source)
    if files is None:
        return _of_hub(source, megabytes, revision)
    return _of_files(source, files, megabytes)


@digests.seen_once
def digest(source: str, revision: str) -> str:
    """What identifies the content of `source`: the same bytes in the same order, wherever they lie.

    A hub dataset is identified by its id and revision: name a commit to fix its content.
    """
    if source == BUILT_IN:
        from papertrail.data.enwik8 import CONTENT_SHA256

        return f"enwik8:{CONTENT_SHA256}"
    files = _files(source)
    if files is None:
        return f"hub:{source}@{revision}"
    try:
        contents = digests.of_each(files)
    except OSError as error:  # not ours to read, or gone since it was listed
        raise BadInput(f"data.text: cannot be read ({error.filename}: {error.strerror})") from None
    total = hashlib.sha256()
    for file, content in zip(files, contents, strict=True):
        total.update(f"{'jsonl' if _is_jsonl(file) else 'text'} {content}\n".encode())
    return f"text:{total.hexdigest()}"


def _files(source: str) -> list[Path] | None:
    """The files behind a local `source` in reading order; nothing for a hub id."""
    try:
        path = Path(source).expanduser()
        there = bool(source.strip()) and path.exists()
        files = [] if not there else _inside(path) if path.is_dir() else [path]
        empty = not any(file.stat().st_size for file in files)
    except (OSError, RuntimeError) as error:  # too long, not ours to read, ~nobody
        raise BadInput(f"data.text: cannot be read ({source}: {error}); give {ACCEPTED}") from None
    if not there and _may_be_on_the_hub(source):
        return None
    if not there:
        raise BadInput(f"data.text: no such file or folder ({source!r}); {_hint(path)}")
    if not files:
        raise BadInput(f"data.text: no {', '.join(SUFFIXES)} file in the folder ({source})")
    if empty:
        raise BadInput(f"data.text: empty ({source}); give {ACCEPTED}")
    return files


def _inside(folder: Path) -> list[Path]:
    """Text files below `folder`, hidden ones left out, sorted by their path below it.

    Sorted as if composed (NFC): some systems decompose the accents in the names that they copy.
    """
    below = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    names = {file.relative_to(folder).as_posix(): file for file in below if file.is_file()}
    ordered = sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))
    return [names[name] for name in ordered if not re.search(r"(^|/)\.", name)]


def _may_be_on_the_hub(source: str) -> bool:
    """Whether a name that is no path here reads like OWNER/NAME rather than like a slip of it."""
    owner, _, name = source.partition("/")
    a_path = Path(owner).is_dir() or name.lower().endswith(SUFFIXES)
    return bool(HUB_ID.fullmatch(source)) and not a_path


def _hint(path: Path) -> str:
    """The nearest name beside a path that is not there."""
    beside = {BUILT_IN: BUILT_IN} if path.parent == Path() else {}
    if path.parent.is_dir():
        beside |= {entry.name: str(entry) for entry in path.parent.iterdir()}
    near = get_close_matches(path.name, beside, n=1)
    return f"did you mean {beside[near[0]]}?" if near else f"give {ACCEPTED}"


def _is_jsonl(file: Path) -> bool:
    return file.suffix.lower() == ".jsonl"


def _of_files(source: str, files: list[Path], megabytes: float) -> Iterator[str]:
    bytes_left = ceil(megabytes * 1e6)
    found = False
    for file in files:
        with file.open("rb") as stream:
            block = stream.read(bytes_left)
            whole = not stream.read(1)
        bytes_left -= len(block)
        text = _decoded(block, file, whole)
        for document in _records(text, file, whole) if _is_jsonl(file) else pieces(text, whole):
            if document.strip():
                found = True
                yield document
        if not bytes_left:
            break
    if not found:
        raise BadInput(
            f"data.text: not one document in the first {megabytes:g} MB ({source}); "
            "give more text, or raise data.megabytes"
        )


def _decoded(block: bytes, file: Path, whole: bool) -> str:
    """Text of a file's first bytes; a character that the cap cuts is left out, a BOM too."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(block, final=whole)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"data.text: not UTF-8 ({file}: byte 0x{block[error.start]:02x} at offset "
            f"{error.start}); convert it with iconv, or leave it out"
        ) from None
    return text.removeprefix("\ufeff")


def pieces(text: str, whole: bool = True) -> Iterator[str]:
    """Cut a file's text where the module docstring says; concatenated, the pieces are the text.

    Where `text` is only the beginning of a file (not `whole`), the last pieces, whose ends could
    depend on what follows, are left out.
    """
    start = 0
    while start < len(text) if whole else start + LONGEST_PIECE < len(text):
        least, most = start + SHORTEST_PIECE, start + LONGEST_PIECE
        ends = (end.search(text, least, most) for end in ENDS)
        stop = most if most < len(text) else len(text)
        cut = next((match.end() for match in ends if match), stop)
        yield text[start:cut]
        start = cut


def _records(text: str, file: Path, whole: bool) -> Iterator[str]:
    """The "text" of every line; the line that the cap cuts is left out."""
    lines = text.split("\n")
    for number, line in enumerate(lines if whole else lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            document = row["text"]
            document.encode()  # half a surrogate pair is valid JSON, but no text
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(
                f'data.text: not a JSON object with a "text" string ({file}, line {number}); '
                "write one such object per line"
            ) from None
        yield document


def _of_hub(source: str, megabytes: float, revision: str) -> Iterator[str]:
    """Stream the "text" column of the train split."""
    from datasets import load_dataset

    bytes_left = megabytes * 1e6
    try:
        for row in load_dataset(source, revision=revision, split="train", streaming=True):
            document = row["text"]
            bytes_left -= len(document.encode())
            if bytes_left < 0:
                return
            if document.strip():
                yield document
    except KeyError:
        raise BadInput(
            f'data.text: the dataset has no "text" column ({source}: {", ".join(row)})'
        ) from None
    except ConnectionError as error:
        raise Missing(f"data.text: {_here_or_there(source, revision, error)}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"data.text: {_here_or_there(source, revision, error)}") from None


def _here_or_there(source: str, revision: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200]
    return (
        f"neither a file or folder here nor a dataset the hub gives ({source}@{revision}: "
        f"{reason}); give {ACCEPTED}"
    )
