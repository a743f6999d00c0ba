"""Models of the quick world, 2 layers of width 48, trained as one stack against one by one.

python benchmarks/world_stacked.py [STEPS]

Milliseconds per optimizer step and model, on one CPU thread or on a GPU where there is one; batches
of 128 rows of 20 tokens; 30 steps unless told. Both ways in turn, three times, after a warm-up;
medians. CPU time says the same where others use the machine.
"""

import os
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2ForCausalLM

from papertrail.world.model import build, parameter_groups, rate_at, summed_nll
from papertrail.world.options import Schedule, Transformer
from papertrail.world.stacked import train_stacked

MODELS = (1, 4, 8)
ROUNDS = 3
ROWS, TOKENS, VOCABULARY, EQUALS = 128, 20, 160, 4
SCHEDULE = Schedule()
Way = Callable[[list[Qwen2ForCausalLM], int], None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def batch(model: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * model + step)
    rows = torch.randint(5, VOCABULARY, (ROWS, TOKENS), generator=generator)
    rows[:, TOKENS // 2] = EQUALS
    return rows.to(DEVICE)


def stacked(models: list[Qwen2ForCausalLM], steps: int) -> None:
    numbers = range(len(models))
    lengths = [steps] * len(models)
    schedules = [SCHEDULE] * len(models)
    train_stacked(
        models, lambda step: [batch(n, step) for n in numbers], schedules, lengths, EQUALS
    )


def one_by_one(models: list[Qwen2ForCausalLM], steps: int) -> None:
    for number, model in enumerate(models):
        optimizer = AdamW(parameter_groups(model.train(), SCHEDULE), fused=True)
        rate = LambdaLR(optimizer, lambda step: rate_at(step, steps, SCHEDULE))
        for step in range(steps):
            nats, tokens = summed_nll(model, batch(number, step), EQUALS, SCHEDULE.loss)
            optimizer.zero_grad()
            (nats / tokens).backward()
            clip_grad_norm_(model.parameters(), SCHEDULE.clip)
            optimizer.step()
            rate.step()


def measured(way: Way, models: list[Qwen2ForCausalLM], steps: int) -> tuple[float, float]:
    """Milliseconds per optimizer step of one model: by the clock, and of CPU time."""
    copies = deepcopy(models)
    clock, cpu = time.perf_counter(), time.process_time()
    way(copies, steps)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    each = 1000 / (steps * len(models))
    return (time.perf_counter() - clock) * each, (time.process_time() - cpu) * each


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    options = Transformer(layers=2, width=48, heads=4, hidden=192)
    print(f"ms per step and model on {DEVICE:<10}{'one by one':>20}{'stacked':>20}   stacked is")
    for number in MODELS:
        models = [build(options, VOCABULARY, seed).to(DEVICE) for seed in range(number)]
        ways: tuple[Way, Way] = (one_by_one, stacked)
        for way in ways:
            measured(way, models, 3)
        rounds = [[measured(way, models, steps) for way in ways] for _ in range(ROUNDS)]
        found = [[median(r[w][kind] for r in rounds) for kind in (0, 1)] for w in (0, 1)]
        cells = "".join(f"{f'{clock:.2f} (CPU {cpu:.2f})':>20}" for clock, cpu in found)
        print(f"{number:>2} models{'':<26}{cells}   {found[0][1] / found[1][1]:.2f} x", flush=True)


if __name__ == "__main__":
    main()
