"""Our coordinate search against nanogcg 0.3.0 on one task: CPU seconds and best loss.

    python benchmarks/attack.py

Same model, strings, start, steps, width, top-k and filter, one thread. CPU seconds of this process,
median over seeds, runs interleaved. nanogcg is run as shipped (it collects garbage after every
batch of candidates) and once more with gc.collect switched off. Under two minutes.
"""

import argparse
import gc
import itertools
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import nanogcg.gcg
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from papertrail.attacks.candidates import evaluate_ids
from papertrail.attacks.gcg import gcg
from papertrail.attacks.objectives import spans
from papertrail.attacks.tokens import round_trips

BEFORE = '    """Return the mean of the values. Raise an error if '
OPTIM = " x x x x x x x x"
TARGET = ' is not None:\n        raise ValueError("'


class Outcome(NamedTuple):
    """One run: CPU seconds and the best loss, re-computed from its string by one function."""

    cpu_seconds: float
    best_loss: float


def corpus() -> list[str]:
    """Source text of the standard library: real, the same on every machine of one Python."""
    folder = Path(statistics.__file__).parent
    names = ("statistics", "argparse", "ast", "dataclasses", "inspect", "pathlib", "typing")
    return [(folder / f"{name}.py").read_text(encoding="utf-8") for name in names]


def trained_tokenizer(texts: list[str]) -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token="<|endoftext|>"
    )


def trained_model(tokenizer: Any, texts: list[str], steps: int) -> Any:
    """A small GPT-NeoX, trained just long enough that the target can be made likely."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=256,
    )
    model = GPTNeoXForCausalLM(config)
    stream = torch.tensor(list(itertools.chain(*tokenizer(texts)["input_ids"])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        starts = torch.randint(len(stream) - 64, (16, 1))
        batch = stream[starts + torch.arange(64)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()  # type: ignore[no-untyped-call]


def task(tokenizer: Any, optim: str) -> tuple[torch.Tensor, range, range]:
    """Ids of the whole text, and where the attacked and the target string lie in it."""
    parts = [tokenizer(text)["input_ids"] for text in (BEFORE, optim, TARGET)]
    start, attacked, end = itertools.accumulate(len(part) for part in parts)
    return (
        torch.tensor([list(itertools.chain(*parts))]),
        range(start, attacked),
        range(attacked, end),
    )


def ours(model: Any, tokenizer: Any, args: argparse.Namespace, seed: int) -> str:
    ids, attacked, target = task(tokenizer, OPTIM)
    found = gcg(
        model,
        spans(ids, attacked, target),
        steps=args.steps,
        width=args.width,
        top_k=args.top_k,
        survives=lambda texts: round_trips(tokenizer, texts[:, attacked.start : attacked.stop]),
        seed=seed,
    )
    text: str = tokenizer.decode(found.ids[0, attacked.start : attacked.stop])
    return text


def theirs(model: Any, tokenizer: Any, args: argparse.Namespace, seed: int) -> str:
    config = nanogcg.gcg.GCGConfig(
        num_steps=args.steps,
        optim_str_init=OPTIM,
        search_width=args.width,
        topk=args.top_k,
        use_prefix_cache=False,  # its prefix cache raises TypeError under transformers 5
        allow_non_ascii=True,
        filter_ids=True,
        seed=seed,
        verbosity="ERROR",
    )
    search = nanogcg.gcg.GCG(model, tokenizer, config)
    text: str = search.run(BEFORE + "{optim_str}", TARGET).best_string
    torch.use_deterministic_algorithms(False)  # nanogcg switches it on for the whole process
    return text


def theirs_without_collecting(
    model: Any, tokenizer: Any, args: argparse.Namespace, seed: int
) -> str:
    with patch.object(gc, "collect", lambda *_: 0):
        return theirs(model, tokenizer, args, seed)


def measured(
    run: Callable[..., str], model: Any, tokenizer: Any, args: argparse.Namespace, seed: int
) -> Outcome:
    start = time.process_time()
    text = run(model, tokenizer, args, seed)
    seconds = time.process_time() - start
    ids, attacked, target = task(tokenizer, text)
    objective = spans(ids, attacked, target)
    loss = evaluate_ids(model, objective, ids[:, None]) / objective.num_scored
    return Outcome(seconds, float(loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="search steps")
    parser.add_argument("--width", type=int, default=64, help="candidates per step")
    parser.add_argument("--top-k", type=int, default=64, help="tokens per position to sample from")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--train-steps", type=int, default=150, help="of the victim model")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # nanogcg logs every step
    torch.set_num_threads(1)  # CPU seconds of idle spinning threads would count against both
    warnings.filterwarnings("ignore")
    texts = corpus()
    tokenizer = trained_tokenizer(texts)
    model = trained_model(tokenizer, texts, args.train_steps)
    ids, attacked, target = task(tokenizer, OPTIM)
    start = spans(ids, attacked, target)
    initial = float(evaluate_ids(model, start, ids[:, None]) / start.num_scored)
    runs = {
        "papertrail": ours,
        "nanogcg 0.3.0": theirs,
        "nanogcg, gc.collect off": theirs_without_collecting,
    }
    ours(model, tokenizer, argparse.Namespace(**(vars(args) | {"steps": 1})), 0)  # warm up
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    for seed in range(args.seeds):
        for name, run in runs.items():
            outcomes[name].append(measured(run, model, tokenizer, args, seed))
    print(
        f"{len(attacked)} of {ids.shape[1]} tokens attacked, {len(target)} scored, "
        f"{args.steps} steps x {args.width}, top-k {args.top_k}, {args.seeds} seeds, "
        f"initial loss {initial:.3f}, torch {torch.__version__}, Python {sys.version.split()[0]}"
    )
    base = statistics.median(o.cpu_seconds for o in outcomes["papertrail"])
    print(f"{'search':<25}{'CPU s (median)':>15}{'ratio':>8}{'mean best loss':>16}  losses")
    for name, found in outcomes.items():
        seconds = statistics.median(o.cpu_seconds for o in found)
        mean = statistics.mean(o.best_loss for o in found)
        losses = " ".join(f"{o.best_loss:.3f}" for o in found)
        print(f"{name:<25}{seconds:>15.2f}{seconds / base:>8.1f}{mean:>16.3f}  {losses}")


if __name__ == "__main__":
    main()
