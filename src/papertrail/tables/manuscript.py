"""What a LaTeX paper says: the tables it declares, the numbers it quotes, what is still to be done.

% papertrail: main = attack_success scale=quick seeds=[42,1337]
\\pt{main.monotone.hotflip}   \\ptcheck{main.monotone.hotflip}{98.8\\,\\%}   \\pttable{main}
monotone & 24.3 & 98.8\\% \\\\ %pt main.monotone.perplexity main.monotone.hotflip
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from papertrail.core.errors import BadInput
from papertrail.tables.literal import printed, quantities
from papertrail.tables.source import Paper, Source, blank, braced

DECLARED = re.compile(r"%+\s*papertrail:(?P<rest>.*)")
TIED = re.compile(r"%pt\s+(?P<rest>\S.*)")
USED = re.compile(r"\\(papertrail|pttable|ptcheck|pt)(?![A-Za-z@])")
DEFINING = r"\\(?:(?:re)?new|provide)command\*?\s*\{?\\"
OWN_PT = re.compile(rf"(?:{DEFINING}|\\(?:[egx]?def|let)\s*\\)pt(?![A-Za-z@])")
RED = r"\\(?:text)?color\s*(?:\[[^\]]*\])?\{\s*[rR]ed(?:![^}]*)?\s*\}"
PLACEHOLDER = re.compile(
    rf"{RED}|\\(?:todo|TODO|fixme|FIXME|tbd|TBD)(?![A-Za-z@])"
    r"|(?<![A-Za-z])(?:TODO|FIXME|TBD|XXX+)(?![A-Za-z])"
    r"|(?<![A-Za-z])X+\.X+(?![A-Za-z])|(?<![A-Za-z])X+\s*(?:\\,)?\\%|\?\?+"
)
"""Red text, to-do notes, and X.X, XX\\% or ?? where a number will stand."""
MACRO = re.compile(
    rf"{DEFINING}(?P<name>[A-Za-z@]+)\}}?\s*(?:\[\d\])?(?:\[[^\]]*\])?(?=\{{)"
    r"|\\[egx]?def\\(?P<def>[A-Za-z@]+)[^{\n]*(?=\{)"
)
SETUP = re.compile(r"\\(?:lstset|lstdefinestyle\{[^}]*\}|hypersetup|tikzset|pgfplotsset)(?=\{)")
NO_PROSE = re.compile(
    r"\\(?:[a-zA-Z]*ref|label|[a-zA-Z]*cite[a-zA-Z]*|includegraphics|input|include|usepackage"
    r"|documentclass|begin|end|bibliography\w*|vspace|hspace|setlength|addtolength|definecolor"
    r"|cmidrule|cline|rule|resizebox|scalebox|pt|papertrail|pttable|ptcheck)\*?(?![A-Za-z@])"
    r"(?:\s*\([^)]*\)|\s*\[[^\]]*\]|\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})*"
    r"|[-+]?[\d.]+\s*(?:pt|em|ex|cm|mm|in|bp|sp|pc)(?![A-Za-z])|[-+]?[\d.]*\\\w*(?:width|height|skip|sep)"
)
"""Commands whose arguments are names and lengths, not results."""


@dataclass(frozen=True)
class Declaration:
    """A table that the paper quotes: a name of the paper's own, and the order as typed."""

    path: Path
    line: int
    name: str
    table: str
    options: tuple[str, ...]

    @property
    def order(self) -> str:
        """As the paper says it."""
        return shlex.join([self.table, *self.options])

    @property
    def where(self) -> str:
        """FILE:LINE, as editors open it."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Use:
    """One place that speaks of one key."""

    path: Path
    line: int
    key: str
    """Of a cell, or table:NAME."""
    written: str
    """How it stands in the paper."""
    literal: str | None = None
    """The number as printed in the paper itself; None where the macro prints it."""
    problem: str = ""
    """Why it cannot be checked, whatever the store says."""
    needs_macros: bool = True
    """Whether it would not compile without the results."""


@dataclass(frozen=True)
class Place:
    """A line, and what stands there."""

    path: Path
    line: int
    what: str


def declarations(paper: Paper) -> list[Declaration]:
    """Every table that a comment of the paper declares; BadInput where one cannot be read."""
    found: dict[str, Declaration] = {}
    for source in paper.sources:
        for comment in source.comments:
            if match := DECLARED.fullmatch(comment.text):
                one = _declaration(source.path, source.line(comment.offset), match["rest"])
                if one.name in found:
                    before = found[one.name].where
                    raise BadInput(
                        f"{one.where}: declared twice ({one.name}, before at {before}); give each "
                        "table a name of its own"
                    )
                found[one.name] = one
    if not found:
        raise BadInput(
            f"{paper.main.path}: no table is declared; write a line such as "
            "% papertrail: main = attack_success scale=quick"
        )
    return list(found.values())


def _declaration(path: Path, line: int, rest: str) -> Declaration:
    name, equals, order = rest.partition("=")
    try:
        words = shlex.split(order)
    except ValueError as error:
        raise BadInput(f"{path}:{line}: {str(error).lower()} ({order.strip()})") from None
    if not (equals and words and re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name.strip())):
        raise BadInput(
            f"{path}:{line}: no declaration ({rest.strip()}); write % papertrail: NAME = TABLE "
            "option=value, NAME of letters, digits, - and _"
        )
    odd = [word for word in words[1:] if not re.match(r"[\w.]+=", word)]
    if odd:
        raise BadInput(f"{path}:{line}: unexpected word ({odd[0]}); options are key=value")
    return Declaration(path, line, name.strip(), words[0], tuple(words[1:]))


def uses(paper: Paper) -> list[Use]:
    """Every key that the paper quotes, file by file, top to bottom."""
    own_pt = any(OWN_PT.search(source.text) for source in paper.sources)
    found = []
    for source in paper.sources:
        here = [*_macros(source, own_pt), *_ties(source)]
        found += sorted(here, key=lambda use: use.line)
    return found


def _macros(source: Source, own_pt: bool) -> Iterator[Use]:
    for match in USED.finditer(source.text):
        argument = braced(source.text, match.end())
        if argument is None or (match[1] == "pt" and own_pt):
            continue
        key, literal, line = argument[0], None, source.line(match.start())
        problem = "its key has an argument of a macro; write the key out" if "#" in key else ""
        written = rf"\{match[1]}{{{key}}}"
        if match[1] == "ptcheck":
            second = braced(source.text, argument[1])
            literal = second[0] if second else ""
            written += f"{{{literal}}}"
        if match[1] == "pttable":
            key = f"table:{key}"
        yield Use(source.path, line, key, " ".join(written.split()), literal, problem)


def _ties(source: Source) -> Iterator[Use]:
    """`%pt KEY ...`: the last numbers of the line, one for each key; `-` leaves one out."""
    for comment in source.comments:
        match = TIED.fullmatch(comment.text)
        if match is None:
            continue
        keys, line = match["rest"].split(), source.line(comment.offset)
        numbers = _printed(source.line_before(comment.offset))
        problem = ""
        if len(numbers) < len(keys):
            problem = f"{len(keys)} keys, and {len(numbers)} numbers before them on the line"
        literals = numbers[-len(keys) :] if not problem else [""] * len(keys)
        for key, literal in zip(keys, literals, strict=True):
            if key != "-":
                yield Use(source.path, line, key, f"%pt {key}", literal, problem, False)


def _printed(line: str) -> list[str]:
    """The numbers of a line as text that reads back as the same numbers."""
    return printed(NO_PROSE.sub(lambda match: blank(match[0]), line))


def placeholders(paper: Paper) -> Iterator[Place]:
    """What says that a number is still to come. Wrappers such as \\red{...} count where used."""
    wrappers = {name for source in paper.sources for name in _wrappers(source)}
    names = "|".join(map(re.escape, sorted(wrappers)))
    wrapped = re.compile(rf"\\(?:{names})(?![A-Za-z@])") if names else None
    for source in paper.sources:
        text = _without(source.text, SETUP)
        text = _without(text, MACRO, lambda body: "#" in body)
        found = [*PLACEHOLDER.finditer(text), *(wrapped.finditer(text) if wrapped else ())]
        lines: dict[int, str] = {}
        for match in sorted(found, key=lambda match: match.start()):
            lines.setdefault(source.line(match.start()), match[0])
        for line, what in lines.items():
            yield Place(source.path, line, what)


def _wrappers(source: Source) -> Iterator[str]:
    """Names of macros with an argument that set it in red."""
    for match in MACRO.finditer(source.text):
        body = braced(source.text, match.end())
        if body and "#" in body[0] and re.search(RED, body[0]):
            yield match["name"] or match["def"]


def _without(text: str, what: re.Pattern[str], where: object = None) -> str:
    """`text` with the commands that match, and their argument in braces, blanked."""
    out, position = [], 0
    for match in what.finditer(text):
        body = braced(text, match.end())
        if match.start() < position or body is None or (callable(where) and not where(body[0])):
            continue
        out += [text[position : match.start()], blank(text[match.start() : body[1]])]
        position = body[1]
    return "".join([*out, text[position:]])


def unbacked(paper: Paper, backed: Sequence[Use]) -> Iterator[Place]:
    """Decimals and percentages in the body that are tied to no cell: perhaps results."""
    tied = {(use.path, use.line) for use in backed if not use.needs_macros}
    for source in paper.sources:
        start = source.text.find(r"\begin{document}") if source is paper.main else 0
        text = blank(source.text[: max(start, 0)]) + source.text[max(start, 0) :]
        text = NO_PROSE.sub(lambda match: blank(match[0]), text)
        for line, words in enumerate(text.split("\n"), 1):
            if (source.path, line) in tied:
                continue
            for one in quantities(words):
                numbers = [x for x in (one.value, one.low) if x is not None]
                if one.percent or any(x != int(x) or "." in str(x) for x in numbers):
                    yield Place(source.path, line, str(numbers[0]) + ("%" if one.percent else ""))
