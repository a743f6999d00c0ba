"""Option -> text: what was typed, over presets, over conf/NAME.yaml. Types come later.

A preset is a file of conf/GROUP, and of conf/GROUP/STUDY, that fills the section GROUP, or, where
no section is called so (scale, sweep, tuned, launcher, tracking), options of several.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from papertrail.core.errors import BadInput
from papertrail.core.project import CONF as CONF
from papertrail.core.question.experiment import Command
from papertrail.core.question.identity import spelled

HELP = {"-h", "--help"}


def paired(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of each option; the word after --key is its value even if it begins with -."""
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            raise BadInput(f"unexpected word ({word}); options are --key=value")
        key, given, value = word[2:].partition("=")
        if not given:
            found = next(words, None)
            if found is None:
                raise BadInput(f"{key}: no value was given; write --{key}=VALUE")
            value = found
        yield key, value


def layered(
    typed: Command, words: Sequence[tuple[str, str]], known: Sequence[str]
) -> dict[str, str]:
    """Option -> text after conf file, presets and single values have been laid over each other."""
    conf = dict(words).get("config") or str(CONF / f"{typed.name}.yaml")
    headline = read(Path(conf), must="config" in dict(words))
    options = [(key, value) for key, value in words if key != "config"]
    groups = {key: value for key, value in headline.items() if isinstance(value, str)}
    groups = {k: v for k, v in groups.items() if k not in known and is_group(k)}
    singles: dict[str, str] = {}
    for key, value in options:
        if is_group(key) and key not in known:
            groups[key] = value
        else:
            check_known(key, known)
            singles[key] = value
    base = {k: v for k, v in headline.items() if k not in groups}
    layers = _flat(base, known, conf)
    # `scale` overlays several sections, so it goes under a preset that fills one; and it sorts
    # before `sweep` and `tuned`, which speak of few options.
    for group in sorted(groups, key=lambda name: (name in _sections(known), name)):
        layers |= _preset(typed, group, groups[group], known)
    return layers | singles


def _preset(typed: Command, group: str, name: str, known: Sequence[str]) -> dict[str, str]:
    """The options that a preset sets: of its own section, or of every section we have."""
    if name.endswith((".yaml", ".yml")):
        paths = [Path(name)]
        if not paths[0].is_file():
            raise BadInput(f"{group}: no such file ({name}); give a preset or a YAML file")
    else:
        presets = preset_files(typed, group)
        if name not in presets:
            hint = f"; or set {group}.name={name}" if f"{group}.name" in known else ""
            near = ", ".join(presets) or "none"
            raise BadInput(f"{group}: no preset ({name}); conf/{group} has {near}{hint}")
        paths = presets[name]
    out: dict[str, str] = {}
    for path in paths:
        tree = read(path, must=True)
        if group in _sections(known):
            tree = {group: tree}
        else:  # a scale speaks of a whole study; this experiment takes the sections it has
            tree = {k: v for k, v in tree.items() if k in _sections(known) or k in known}
        out |= _flat(tree, known, str(path))
    return out


def preset_files(typed: Command, group: str) -> dict[str, list[Path]]:
    """Files of each preset of a group: what all studies share, then what this study adds."""
    found: dict[str, list[Path]] = {}
    for folder in (CONF / group, CONF / group / typed.study):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return found


def is_group(key: str) -> bool:
    return bool(re.fullmatch(r"\w+", key)) and (CONF / key).is_dir()


def _sections(known: Sequence[str]) -> set[str]:
    return {name.partition(".")[0] for name in known if "." in name}


def read(path: Path, must: bool) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must:
            raise BadInput(f"config: no such file ({path})") from None
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree or {}, dict):
        raise BadInput(f"{path}: expected sections and options, got {type(tree).__name__}")
    return tree or {}


def _flat(tree: Mapping[str, Any], known: Sequence[str], source: str) -> dict[str, str]:
    """Leaves of a YAML tree as option -> text; BadInput for a key that is no option."""
    out: dict[str, str] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict) and key not in known:
                walk(value, f"{key}.")
            else:
                check_known(key, known, f"{source}: ")
                try:
                    out[key] = spelled(value)
                except (TypeError, ValueError):  # a date; NaN and infinity
                    raise BadInput(f"{source}: {key}: no finite number or text ({value})") from None

    walk(tree, "")
    return out


def check_known(key: str, known: Sequence[str], where: str = "") -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    if not near and key in _sections(known):
        near = [name for name in known if name.startswith(f"{key}.")][:1]
    hint = f"did you mean {near[0]}?" if near else "--help lists the options"
    raise BadInput(f"{where}no option {key}; {hint}")


def peek(name: str, key: str, argv: Sequence[str], below: Mapping[str, Any] | None = None) -> str:
    """The text of one option before its schema is known; BadInput if neither conf/NAME.yaml has it
    nor the preset `below`, which stands above that file."""
    typed = dict(paired([word for word in argv if word not in HELP]))
    conf = typed.get("config") or str(CONF / f"{name}.yaml")
    found = (read(Path(conf), must=False) | dict(below or {}) | typed).get(key)
    if found is None:
        raise BadInput(f"{key}: not given; write --{key}=VALUE")
    return str(found)


def peek_preset(name: str, group: str, argv: Sequence[str]) -> dict[str, Any]:
    """What the preset of `group` sets, before the schema is known; empty if none is chosen."""
    try:
        chosen = peek(name, group, argv)
    except BadInput:
        return {}
    known = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    path = Path(chosen) if chosen.endswith((".yaml", ".yml")) else known.get(chosen)
    if path is None or not path.is_file():
        raise BadInput(f"{group}: no preset ({chosen}); conf/{group} has {', '.join(known)}")
    return read(path, must=True)
