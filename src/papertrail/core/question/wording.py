"""What the option parser says, as people read it: one line, and types as they are written."""

import re
from collections.abc import Mapping


def explain(message: str, given: Mapping[str, str]) -> str:
    """jsonargparse's and pydantic's words as one line: the option, what it takes, what it got."""
    noise = r"\d+ validation errors?.*\n|\[type=.*|For further.*|Parser key |Got value:.*|typing\."
    noise += r"|Problem with given class_path '[\w.]+':"
    line = " ".join(re.sub(noise, " ", message).replace('"', "").split()).rstrip(". ")
    key, colon, reason = line.partition(":")
    value = given.get(key.strip())
    if not colon or value is None:
        return line
    if value == "--":  # to argparse, the end of all options, wherever it stands
        return f"{key.strip()}: two dashes alone are no value ({value}); give another"
    reason = re.sub(r"<class '(\w+)'>", r"\1", reason.strip())
    reason = re.sub(r"a <class '[\w.]+\.Mapping'>", "{name: value}", reason)
    reason = re.sub(
        r"Not a valid subclass of (\w+)\. .*",
        r"expected the options of a \1 in braces, {name: value}",
        reason,
    )
    return f"{key.strip()}: {reason[:1].lower()}{reason[1:]} ({value})"


def readable(help_text: str) -> str:
    """Types as people write them: `int > 0`, not `Annotated[int, Gt(gt=0)]`."""
    signs = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}

    def bounds(found: re.Match[str]) -> str:
        parts = re.findall(r"(Gt|Ge|Lt|Le)\(\w+=([\d.]+)\)", found[2])
        return f"{found[1]} " + " and ".join(f"{signs[sign]} {limit}" for sign, limit in parts)

    text = re.sub(r"Annotated\[(\w+),([^\]]*)\]", bounds, help_text)
    text = re.sub(r" +--\S+\.help\n +Show the help for \w+ and exit\.\n", "", text)
    return text.replace("Path to a configuration file.", "A preset's name or a YAML file.")
