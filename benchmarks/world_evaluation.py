"""Greedy answers of a world model: rows per second, ours against `generate` of transformers.

python benchmarks/world_evaluation.py

The small world of the quick scale (2 layers x 48, words) and the published shape (6 x 128,
characters), each after a few steps of training, so that answers look like answers. Theirs answers
one row at a time, and all at once, padded on the left, as published; interleaved in one process;
CPU seconds, medians. The bound is what the matrix products of the rows alone take, as measured
here. Row by row, every answer must be the same.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2ForCausalLM

from papertrail.world.cities import cities
from papertrail.world.decoding import greedy, new_tokens, questions
from papertrail.world.model import build
from papertrail.world.options import Task, Transformer, World
from papertrail.world.spelling import PAD, Spelling, spelling
from papertrail.world.tasks import draw

TASKS: tuple[Task, ...] = ("distance", "perimeter")
ROUNDS = 3
STEPS, ROWS_PER_STEP, LR = 40, 16, 1e-3


@dataclass(frozen=True)
class Scale:
    world: World
    shape: Transformer
    num_rows: int

    @property
    def spelt(self) -> Spelling:
        return spelling(self.world)

    def rows(self, task: Task, seed: int, num: int) -> np.ndarray:
        found = draw(task, cities(self.world), "real", num, np.random.default_rng(seed))
        return self.spelt.encode(found)


SCALES = {
    "quick": Scale(World(), Transformer(), 500),
    "paper": Scale(
        World(cities=1_000, unit=0.1, spelling="characters"),
        Transformer(layers=6, width=128, heads=4, hidden=512),
        100,
    ),
}


def model_of_few_steps(scale: Scale) -> Qwen2ForCausalLM:
    """It has learnt what an answer looks like, and no map."""
    model = build(scale.shape, scale.spelt.size, seed=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for step in range(STEPS):
        rows = scale.rows(TASKS[step % 2], step + 1, ROWS_PER_STEP)
        asked = questions(rows, scale.spelt.equals)[0]
        labels = torch.from_numpy(np.where(asked == PAD, rows, PAD).astype(np.int64))[:, 1:]
        logits = model(torch.from_numpy(rows.astype(np.int64))[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def theirs(
    model: Qwen2ForCausalLM, rows: np.ndarray, equals: int, most: int, batch: int
) -> np.ndarray:
    """`generate`, `batch` rows at a time."""
    asked, lengths = questions(rows, equals)
    found = np.full((len(rows), most), PAD, np.uint8)
    for start in range(0, len(rows), batch):
        some = slice(start, start + batch)
        width = lengths[some].max()
        behind = width - lengths[some]
        moved = [np.roll(row[:width], n) for row, n in zip(asked[some], behind, strict=True)]
        tokens = torch.from_numpy(np.array(moved, np.int64))
        said = model.generate(
            tokens, attention_mask=(tokens != PAD).long(), do_sample=False, max_new_tokens=most
        )[:, width:]
        found[some, : said.shape[1]] = said
    return found


def bound(rows: np.ndarray, shape: Transformer) -> float:
    """CPU seconds of the blocks' matrix products over every token but the last of each row."""
    tokens = int((rows != PAD).sum()) - len(rows)
    width, hidden = shape.width, shape.hidden
    shapes = [(width, width)] * 4 + [(width, hidden)] * 2 + [(hidden, width)]
    products = [(torch.randn(tokens, into), torch.randn(into, out)) for into, out in shapes]
    return shape.layers * min(timed(lambda: [x @ W for x, W in products])[0] for _ in range(5))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def measure(model: Qwen2ForCausalLM, name: str, task: Task) -> None:
    scale, most = SCALES[name], new_tokens(task)
    rows, equals = scale.rows(task, 0, scale.num_rows), scale.spelt.equals
    ways = {
        "generate, row by row": lambda: theirs(model, rows, equals, most, 1),
        "generate, all at once": lambda: theirs(model, rows, equals, most, len(rows)),
        "papertrail": lambda: greedy(model, rows, equals=equals, most=most, batch=512),
    }
    ways["papertrail"]()
    rounds = [{way: timed(work) for way, work in ways.items()} for _ in range(ROUNDS)]
    seconds = {way: median(one[way][0] for one in rounds) for way in ways}
    alone, together, mine = (rounds[0][way][1] for way in ways)
    assert (mine == alone).all(), f"{(mine != alone).any(1).sum()} rows differ"
    tokens, same = (mine != PAD).sum(1).mean(), (together == mine).all(1).sum()
    print(
        f"{name} {task}: {len(rows)} rows, {tokens:.1f} tokens an answer; row by row all equal, ",
        end="",
    )
    print(f"all at once {same}")
    for way, taken in seconds.items():
        print(f"  {way:22} {len(rows) / taken:8,.0f} rows/s   x{taken / seconds['papertrail']:.1f}")
    share = bound(rows, scale.shape) / seconds["papertrail"]
    print(f"  {'matrix products alone':22} we reach {share:.0%}")


def main() -> None:
    for name, scale in SCALES.items():
        model = model_of_few_steps(scale)
        for task in TASKS:
            measure(model, name, task)
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
