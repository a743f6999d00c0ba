"""The files of a LaTeX paper as TeX sees them: comments, verbatim and what follows the end blanked.

Blanked, not cut: an offset in the text is an offset in the file, so that a line can be named.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from papertrail.core.errors import BadInput

VERBATIM = r"verbatim|Verbatim|BVerbatim|LVerbatim|lstlisting|minted|comment|filecontents|alltt"
HIDDEN = re.compile(
    rf"""
      \\(?:verb|lstinline)(?![A-Za-z@])\*?(?P<bar>[^\sA-Za-z*\[{{]).*?(?P=bar)
    | \\begin\{{(?P<env>(?:{VERBATIM})\*?)\}}(?s:.*?)(?:\\end\{{(?P=env)\}}|\Z)
    | (?P<fragment>\\(?:url|path|nolinkurl)\{{|\\href\{{)(?:[^{{}}\n]|\{{[^{{}}\n]*\}})*\}}
    | (?P<iffalse>\\iffalse)(?![A-Za-z@])
    | (?P<end>\\end\{{document\}}|\\endinput(?![A-Za-z@]))
    | (?P<comment>%.*)
    | \\(?s:.)
    """,
    re.VERBOSE,
)
CONDITIONAL = re.compile(r"\\(?:(fi)|if(?!f(?![A-Za-z@])|thenelse)[A-Za-z@]*)(?![A-Za-z@])")
INPUT = re.compile(
    r"\\(?:(?:input|include|subfile|InputIfFileExists)\s*\{\s*(?P<name>[^{}]+?)\s*\}"
    r"|(?:import|subimport)\s*\{(?P<folder>[^{}]*)\}\s*\{(?P<inner>[^{}]+)\}"
    r"|input\s+(?P<bare>[^\s\\{}%]+))"
)


@dataclass(frozen=True)
class Comment:
    """A comment from its first percent sign to the end of the line."""

    offset: int
    text: str


@dataclass(frozen=True)
class Source:
    """One file: what TeX reads of it, and its comments."""

    path: Path
    """As a person would type it."""
    text: str
    comments: tuple[Comment, ...]

    @cached_property
    def _starts(self) -> list[int]:
        lengths = (len(line) for line in self.text.splitlines(keepends=True))
        return list(accumulate(lengths, initial=0))

    def line(self, offset: int) -> int:
        """Number of the line, from 1, at an offset."""
        return bisect_right(self._starts, offset)

    def line_before(self, offset: int) -> str:
        """What TeX reads of a line up to an offset."""
        return self.text[self.text.rfind("\n", 0, offset) + 1 : offset]

    def inputs(self) -> Iterator[tuple[int, str]]:
        """Offset and name of each file that this one reads."""
        for match in INPUT.finditer(self.text):
            name = match["name"] or match["bare"] or f"{match['folder']}/{match['inner']}"
            yield match.start(), name.strip('"')


@dataclass(frozen=True)
class Paper:
    """All files of a paper, in the order in which TeX reads them first."""

    sources: tuple[Source, ...]
    results: Path
    """Where its numbers are defined; never among the sources."""
    results_input: bool
    """Whether the paper reads them."""

    @property
    def main(self) -> Source:
        return self.sources[0]


def read(tex: Path, results: str) -> Paper:
    """The paper at `tex`; files that are not beside it belong to TeX and are left alone.

    BadInput where a file is no readable UTF-8 text.
    """
    where = tex.parent / results
    if where.resolve() == tex.resolve():
        raise BadInput(f"results: it would replace the paper ({results}); name another file")
    found: dict[Path, Source] = {}
    waiting, seen_results = [tex], False
    while waiting:
        path = waiting.pop(0)
        if path.resolve() in found:
            continue
        source = found[path.resolve()] = parse(path, text_of(path))
        named = [located(tex.parent, name) for _, name in source.inputs()]
        seen_results |= any(one and one.resolve() == where.resolve() for one in named)
        seen_results |= any(_is(tex.parent / name, where) for _, name in source.inputs())
        inner = [one for one in named if one and one.resolve() != where.resolve()]
        waiting = [*inner, *waiting]
    return Paper(tuple(found.values()), where, seen_results)


def located(folder: Path, name: str) -> Path | None:
    """The file that TeX would read from the paper's folder; None if it lies elsewhere."""
    tries = (folder / f"{name}.tex", folder / name)
    return next((path for path in tries if path.is_file()), None)


def _is(named: Path, results: Path) -> bool:
    """Whether a file that is not written yet is meant."""
    return results.resolve() in (named.resolve(), Path(f"{named}.tex").resolve())


def text_of(path: Path) -> str:
    """The text of a file; BadInput in one line where there is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"tex: cannot read it ({path}: {error.strerror})") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = raw[error.start]
        raise BadInput(
            f"{path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        ) from None
    # Only \n ends a line from here on: str.splitlines would also count a form feed.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", " ", text)


def parse(path: Path, text: str) -> Source:
    """`text` with what TeX does not typeset as words blanked out."""
    out, comments, position = [], [], 0
    while match := HIDDEN.search(text, position):
        out.append(text[position : match.start()])
        stop = match.end()
        if match["comment"]:
            comments.append(Comment(match.start(), match["comment"]))
        if match["iffalse"]:
            stop = _end_of_conditional(text, stop)
        if match["end"]:
            stop = len(text)
        kept = not any(
            match[name] for name in ("bar", "env", "fragment", "iffalse", "end", "comment")
        )
        out.append(match[0] if kept else blank(text[match.start() : stop]))
        position = stop
    return Source(path, "".join(out) + text[position:], tuple(comments))


def _end_of_conditional(text: str, start: int) -> int:
    depth = 1
    for match in CONDITIONAL.finditer(text, start):
        depth += -1 if match[1] else 1
        if depth == 0:
            return match.end()
    return len(text)


def blank(text: str) -> str:
    """As many spaces, on as many lines."""
    return re.sub(r"[^\n]", " ", text)


def braced(text: str, start: int) -> tuple[str, int] | None:
    """The argument in braces that begins at or after `start`, and where it ends; None if none."""
    opening = re.compile(r"\s*\{").match(text, start)
    if opening is None:
        return None
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return text[opening.end() : match.start()], match.end()
    return None
