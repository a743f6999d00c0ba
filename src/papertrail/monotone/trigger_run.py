"""One universal trigger on one model, with its controls: the part of stage 5 that computes.

Axes: N texts, T text tokens, P trigger tokens, K triggers (draws of one attack).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.attacks.trigger_controls import coordinate_search, neutral_trigger
from papertrail.attacks.trigger_losses import Texts, clean_losses, trigger_losses, whole_texts
from papertrail.attacks.under_trainer import Tensors
from papertrail.attacks.universal import (
    Arrays,
    Climb,
    Search,
    best,
    random_triggers,
    universal_trigger,
)
from papertrail.attacks.universal import Trigger as Ids
from papertrail.core import progress
from papertrail.core.errors import BadInput
from papertrail.core.writing import track
from papertrail.core.writing.parts import part
from papertrail.data.splits import Split
from papertrail.data.windows import Corpus
from papertrail.monotone.options import Trigger

FAR = 1 << 33
"""Random streams of the random triggers; those below belong to the searches."""
Losses = Float[np.ndarray, "K N"]
Put = dict[str, list[Ids]]
"""Attack -> the triggers that it puts in front of the texts, one per draw."""


def own_trigger(tokenizer: PreTrainedTokenizerBase, options: Trigger) -> Ids | None:
    """The ids of `trigger.text`, read by itself; None where no trigger was given.

    BadInput where no token comes of it, or where it has something that the tokenizer cannot write.
    """
    text = options.text
    if not text:
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"trigger.text: not a text ({text!r}); give valid Unicode") from None
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids or tokenizer.unk_token_id in ids:
        raise BadInput(
            f"trigger.text: the model's tokenizer has no tokens for it ({text!r}); give other text"
        )
    return ids


def chosen_texts(corpus: Corpus, split: Split, num: int, options: Trigger) -> Int[Tensor, "N T"]:
    """The first `tokens` tokens of documents that are long enough, spread evenly over a split."""
    option = "optimised_on" if split == "val" else "evaluated_on"
    every = corpus.documents(split, corpus.card.splits[split].documents)
    enough = [ids[: options.tokens] for ids in every if len(ids) >= options.tokens]
    if len(enough) < num:
        raise BadInput(
            f"trigger.{option}: only {len(enough)} {split} documents hold "
            f"trigger.tokens={options.tokens} tokens ({num}); lower either, or raise data.megabytes"
        )
    chosen = np.arange(num) * len(enough) // num
    return torch.tensor(np.stack([enough[index] for index in chosen]))


def refuse_too_long(model: PreTrainedModel, length: int, options: Trigger) -> None:
    """BadInput where trigger and text together exceed what the model reads."""
    room = model.config.max_position_embeddings
    where = "trigger.text" if options.text else "trigger.length"
    if length + options.tokens > room:
        raise BadInput(
            f"{where}: its {length} tokens and trigger.tokens={options.tokens} exceed the model's "
            f"context of {room}; shorten either"
        )


def attacked(
    model: Any, tensors: Tensors, options: Trigger, given: Ids | None
) -> tuple[Put, pd.DataFrame]:
    """What is put in front of the texts, and one row per split, attack, draw and text.

    `tensors` has the ids of the `val` texts, to optimise on, and of the `test` texts, and which
    ids are `banned`.
    """
    optimised, evaluated = whole_texts(tensors["val"]), whole_texts(tensors["test"])
    with progress.bar("searching a trigger") as report:
        search = Search(
            model=model, texts=optimised, length=len(given) if given else options.length,
            top_k=options.top_k, beam=options.beam, sweeps=options.sweeps, seed=options.seed,
            restarts=options.restarts, banned=tensors["banned"], keep=_keeper(options, report),
        )  # fmt: skip
        climbs = {} if given else _searched(search)
    put: Put = {attack: [best(search, some).trigger] for attack, some in climbs.items()}
    put |= {"trigger": [given]} if given else {}
    put["random"] = random_triggers(
        search.allowed, options.random_triggers, search.length, options.seed, first=FAR
    )
    put["neutral"] = [neutral_trigger(optimised.ids, search.banned, search.length)]
    clean = losses_behind(model, evaluated, [()], "clean")[0]
    frames = [
        frame(evaluated, attack, "test", clean, losses_behind(model, evaluated, some, attack))
        for attack, some in put.items()
    ]
    if climbs:
        clean = losses_behind(model, optimised, [()], "clean-optimised")[0]
    for attack, some in climbs.items():
        losses = best(search, some).text_losses[None].astype(np.float64)
        frames.append(frame(optimised, attack, "val", clean, losses))
    return put, pd.concat(frames, ignore_index=True)


def losses_behind(model: Any, texts: Texts, triggers: list[Ids], name: str) -> Losses:
    """Summed NLL of every text behind every trigger, nats; a part of the run.

    An empty trigger is none.
    """

    def compute() -> Arrays:
        if triggers == [()]:
            return {"nll": clean_losses(model, texts)[None].cpu().numpy()}
        ids = torch.tensor(triggers, device=texts.ids.device)
        return {"nll": trigger_losses(model, texts, ids).cpu().numpy()}

    return part(f"nll-{name}", compute)["nll"].astype(np.float64)


def _searched(search: Search) -> dict[str, tuple[Climb, ...]]:
    """Both searches; their loss curves and costs go to the open run."""
    by_gradient = universal_trigger(search)
    found = {"trigger": by_gradient, "query": coordinate_search(search, by_gradient)}
    for attack, climbs in found.items():
        prefix = "uat" if attack == "trigger" else f"uat/{attack}"
        for number, climb in enumerate(climbs):
            for step, loss in _curve(climb).items():
                track.metrics({f"{prefix}/restart_{number}/loss": loss}, step=step)
        track.metrics(_costs(climbs, prefix))
    return found


def _curve(climb: Climb) -> dict[int, float]:
    """NLL per token of the best trigger by exact evaluations spent; steps that cost none merge."""
    return dict(zip(climb.evaluations, climb.losses, strict=True))


def _costs(climbs: tuple[Climb, ...], prefix: str) -> dict[str, int | float]:
    return {
        f"{prefix}/evaluations": sum(climb.evaluations[-1] for climb in climbs),
        f"{prefix}/gradients": sum(climb.num_gradients for climb in climbs),
        f"{prefix}/sweeps": sum(climb.sweeps for climb in climbs),
        f"{prefix}/seconds": sum(climb.seconds for climb in climbs),
        f"{prefix}/oom_retries": sum(climb.num_oom_retries for climb in climbs),
    }


def _keeper(
    options: Trigger, report: progress.Report
) -> Callable[[str, Callable[[], Arrays]], Arrays]:
    """Steps are parts of the run. How many there will be is known at most: searches stop early."""
    most = 2 * options.restarts * (options.sweeps * options.length + 1)
    done = 0

    def keep(name: str, compute: Callable[[], Arrays]) -> Arrays:
        nonlocal done
        found, done = part(name, compute), done + 1
        report(done / most)
        track.progress(done / most)
        return found

    return keep


def frame(
    texts: Texts, attack: str, split: Split, clean: Float[np.ndarray, " N"], losses: Losses
) -> pd.DataFrame:
    """One row per trigger and text."""
    num_draws, num_texts = losses.shape
    return pd.DataFrame(
        {
            "split": split,
            "attack": attack,
            "draw": np.repeat(np.arange(num_draws), num_texts),
            "text": np.tile(np.arange(num_texts), num_draws),
            "clean_nll": np.tile(clean, num_draws),
            "attacked_nll": losses.ravel(),
            "num_scored_tokens": np.tile(texts.scored.sum(1).cpu().numpy(), num_draws),
        }
    )


def decoded(tokenizer: Any, ids: Ids) -> str:
    """A trigger as text, its spaces and special tokens as they are."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
