"""A few rows of each benchmark in the columns of the hub's sets, and how to write them as files."""

import json
from pathlib import Path
from typing import Any

ENDINGS = ("swims to the shore.", "[step] folds  the map", "is a kettle of brass", "sings")
ROWS: dict[str, list[dict[str, Any]]] = {
    "lambada": [
        {"text": f"The {a} met the {b} by the river, and the {b} said: good day, dear {a}"}
        for a, b in (("miller", "baker"), ("fox", "crow"), ("nurse", "clerk"), ("monk", "smith"))
    ]
    + [{"text": "One line.\n\n“And a second,” he said, looking for the\ncafé"}],
    "hellaswag": [
        {
            "activity_label": label,
            "ctx_a": "A man stands at a river.",
            "ctx_b": ctx_b,
            "endings": [*ENDINGS[shift:], *ENDINGS[:shift]],
            "label": str(3 - shift),  # "sings", the likeliest as it is the shortest
        }
        for shift, (label, ctx_b) in enumerate(
            (("Rowing", "he"), ("Cooking [title] Soup", "the MAN"), ("Sawing", ""), ("Tea", "then"))
        )
    ],
    "winogrande": [
        {"sentence": f"Ann lent Beth a {x} because _ had two of them.", "option1": a, "option2": b,
         "answer": answer}
        for x, a, b, answer in (
            ("saw", "Ann", "Beth", "1"), ("pot", "Beth", "Ann", "2"), ("long red coat", "Ann",
            "Beth", "1"),
        )
    ]
    + [{"sentence": "_ ran.", "option1": "The dog", "option2": "Soup", "answer": "1"}],
    "truthfulqa": [
        {
            "question": f"What do {who} eat?",
            "mc1_targets": {"choices": ["Plants.", "Stones.", "Bank notes."], "labels": [1, 0, 0]},
            "mc2_targets": {
                "choices": ["Plants.", "Leaves, mostly.", "Stones."], "labels": [1, 1, 0],
            },
        }
        for who in ("cows", "sheep", "goats in the high mountains")
    ],
}  # fmt: skip


def write(folder: Path, *tasks: str) -> Path:
    for task in tasks:
        lines = (json.dumps(row) + "\n" for row in ROWS[task])
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
