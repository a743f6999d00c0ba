"""Greedy answers of a world model: those of one row at a time, in batches.

Questions of one length go together, so nothing is padded in front of an answer. One forward pass
over question and true answer tells which rows are answered rightly; the others are generated from
the keys and values of that same pass. Both round a little differently than a pass over each prefix:
where two logits are a tie within rounding, either may win.

Axes: N rows of a set, B rows of a batch, T tokens of a row, A tokens of an answer.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from transformers import DynamicCache, Qwen2ForCausalLM

from papertrail.world.options import Task
from papertrail.world.spelling import EOS, PAD

LONG_ANSWERS: tuple[Task, ...] = ("trianglearea", "angle", "perimeter")


def new_tokens(task: Task) -> int:
    """How many tokens a model may answer with, as published (arXiv 2602.00533)."""
    return 30 if task in LONG_ANSWERS else 20


def questions(
    rows: UInt8[np.ndarray, "N T"], equals: int
) -> tuple[UInt8[np.ndarray, "N T"], Int[np.ndarray, " N"]]:
    """Rows up to and with their first `=`, the rest blanked, and how many tokens those are."""
    at = rows == equals
    assert at.any(axis=1).all(), "a row asks nothing: it has no token between question and answer"
    lengths = at.argmax(axis=1) + 1
    kept = np.arange(rows.shape[1]) < lengths[:, None]
    return np.where(kept, rows, np.uint8(PAD)), lengths


@torch.inference_mode()
def greedy(
    model: Qwen2ForCausalLM,
    rows: UInt8[np.ndarray, "N T"],
    *,
    equals: int,
    most: int,
    batch: int,
) -> UInt8[np.ndarray, "N A"]:
    """What the model says behind the `=` of each row: at most `most` tokens, right-padded.

    The end-of-sequence token is part of an answer that has one. What follows `=` in `rows`, the
    truth, only decides how much there is to compute.
    """
    lengths = questions(rows, equals)[1]
    found = np.full((len(rows), most), PAD, np.uint8)
    for chosen in _batches(lengths, batch):
        some = rows[chosen]
        widest = int((some != PAD).sum(axis=1).max())
        tokens = torch.from_numpy(some[:, :widest].astype(np.int64)).to(model.device)
        answers = _answers(model, tokens, int(lengths[chosen[0]]), most)
        found[chosen] = answers.to(torch.uint8).cpu().numpy()
    return found


def _batches(lengths: Int[np.ndarray, " N"], size: int) -> Iterator[Int[np.ndarray, " B"]]:
    """Places of at most `size` rows whose questions have one length."""
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _answers(
    model: Qwen2ForCausalLM, rows: Int[Tensor, "B T"], question: int, most: int
) -> Int[Tensor, "B A"]:
    """Greedy answers to questions of `question` tokens, which the true answers follow."""
    truth = rows[:, question:]
    assert truth.shape[1] <= most, f"true answers of {truth.shape[1]} tokens, {most} are allowed"
    seen = DynamicCache(config=model.config)
    fed = model.model(rows[:, :-1], past_key_values=seen, use_cache=True).last_hidden_state
    said = model.lm_head(fed[:, question - 1 :]).argmax(-1)  # the next token, if all before is true
    wrong = ((said != truth) & (truth != PAD)).any(1).nonzero()[:, 0]
    answers = torch.full((len(rows), most), PAD, device=rows.device)
    answers[:, : truth.shape[1]] = truth
    seen.crop(question - seen.get_seq_length())
    seen.batch_select_indices(wrong)
    answers[wrong] = _generated(model, said[wrong, 0], seen, most)
    return answers


def _generated(
    model: Qwen2ForCausalLM, token: Int[Tensor, " B"], seen: DynamicCache, most: int
) -> Int[Tensor, "B A"]:
    """Answers that begin with `token` behind what was `seen`; a row leaves when it has ended."""
    answers = torch.full((len(token), most), PAD, device=token.device)
    going = torch.arange(len(token), device=token.device)
    for place in range(most):
        answers[going, place] = token
        stays = (token != EOS).nonzero()[:, 0]
        if place == most - 1 or not len(stays):
            break
        if len(stays) < len(going):
            seen.batch_select_indices(stays)
            going, token = going[stays], token[stays]
        fed = model.model(token[:, None], past_key_values=seen, use_cache=True).last_hidden_state
        token = model.lm_head(fed[:, -1]).argmax(-1)
    return answers
