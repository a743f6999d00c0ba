"""Zero-shot tasks of lm-evaluation-harness on a model and on rows that are in memory.

The packaged task definitions do what is theirs: prompts, requests, what an example scores. Nothing
is downloaded and nothing is written; their bars and log lines are held back.
"""

import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from jaxtyping import Float, Int
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.core.errors import BadInput
from papertrail.core.progress import Report
from papertrail.data.benchmarks import HUB, Row, Task

CPU_BATCH, BATCH = 8, 64
"""Requests of nearly one length at a time."""
NAMES: Mapping[Task, Mapping[str, str]] = MappingProxyType(
    {
        "lambada": {"lambada": "lambada_openai"},
        "hellaswag": {"hellaswag": "hellaswag"},
        "winogrande": {"winogrande": "winogrande"},
        "truthfulqa": {"truthfulqa_mc1": "truthfulqa_mc1", "truthfulqa_mc2": "truthfulqa_mc2"},
    }
)
"""Task -> our name of each of its scores -> the harness's."""


class Scorer(HFLM):  # type: ignore[misc]
    """The harness's own model class; reports how far it is and what it had to cut off."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        autocast: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> None:
        """`model` stays where it is; `autocast` is the type of its forward pass, if another."""
        if batch_size is None:
            batch_size = CPU_BATCH if model.device.type == "cpu" else BATCH
        with _quiet():
            super().__init__(
                model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                mixed_precision_dtype=autocast,
                softmax_dtype=torch.float32,
            )
        self.num_tokens: list[int] = []
        self.cut_tokens: list[int] = []
        self.report: Report = lambda done: None

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        lengths = [(len(context), len(scored)) for _, context, scored in requests]
        self.num_tokens = [scored for _, scored in lengths]
        # The last token is predicted, not read: so many fit, and the context loses the rest.
        self.cut_tokens = [max(0, sum(both) - self.max_length - 1) for both in lengths]
        if max(self.num_tokens) > self.max_length:
            raise BadInput(
                f"benchmarks: a choice has {max(self.num_tokens)} tokens, and the model reads "
                f"{self.max_length}; leave out the task, or take a model with more context"
            )
        self._done, self._total = 0, len(requests)
        found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        return found

    def _model_call(
        self, inps: Int[Tensor, "B T"], attn_mask: None = None, labels: None = None
    ) -> Float[Tensor, "B T V"]:
        logits = self._within_memory(inps)
        self._done += len(inps)
        self.report(self._done / self._total)
        return logits

    def _within_memory(self, inps: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits; a batch that does not fit is halved until it does, and none is left out."""
        try:
            logits: Tensor = super()._model_call(inps)
            return logits
        except torch.OutOfMemoryError:
            if len(inps) == 1:
                raise
        torch.cuda.empty_cache()  # behind the except block: its traceback held the tensors
        return torch.cat([self._within_memory(half) for half in inps.tensor_split(2)])


def evaluate(
    scorer: Scorer, task: Task, rows: Sequence[Row], doc_ids: Sequence[int], report: Report
) -> pd.DataFrame:
    """One row per score of `task` and example.

    `task` (our name), `version` (of the definition), `doc_id`, `loglikelihoods` and `num_tokens`
    (of each choice; of the last word in lambada), `cut_tokens` (of context that did not fit),
    `target` (index of the right choice; none for lambada and mc2), `correct` (for mc2 the share of
    probability on right answers), `acc_norm` (by characters; only hellaswag), `chance` (expected
    `correct` of a model that finds all choices, or all tokens, alike).
    BadInput where a choice alone is longer than what the model reads.
    """
    with _quiet(), _without_bars():
        definitions = _definitions(task, rows)
        for one in definitions.values():
            one.build_all_requests()
    instances = [instance for one in definitions.values() for instance in one.instances]
    # mc1 and mc2 ask for many of the same: each is asked once.
    requests: dict[tuple[str, str], Instance] = {one.args: one for one in instances}
    scorer.report = report
    with _quiet():
        answers = scorer.loglikelihood([*requests.values()], disable_tqdm=True)
    known = {
        pair: (*answer, tokens, cut)
        for pair, answer, tokens, cut in zip(
            requests, answers, scorer.num_tokens, scorer.cut_tokens, strict=True
        )
    }
    vocab_size = int(scorer.model.config.vocab_size)
    found = pd.DataFrame(
        {"task": name, "version": float(one.VERSION), **example, "doc_id": doc_ids[number]}
        for name, one in definitions.items()
        for number, example in enumerate(_examples(one, known, vocab_size))
    )
    return found.astype({"target": "Int64"})


def _definitions(task: Task, rows: Sequence[Row]) -> dict[str, Any]:
    """The packaged definitions of `task` by our name, with `rows` for the split they evaluate.

    As members of a group they take overrides; without a training split, nothing else is read.
    """
    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / task
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    data = {HUB[task].split: Dataset.from_list([*rows])}
    here = {"custom_dataset": lambda **_: data, "training_split": None}
    members = [{"task": theirs, **here} for theirs in NAMES[task].values()]
    loaded = manager.load({"group": "papertrail", "task": members})["tasks"]
    return {ours: loaded[theirs] for ours, theirs in NAMES[task].items()}


def _examples(
    definition: Any, known: Mapping[tuple[str, str], Any], vocab_size: int
) -> Iterator[dict[str, Any]]:
    """What each example scores by the definition's own rule, in the order of the rows."""
    by_doc: dict[int, list[Instance]] = {}
    for instance in definition.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    for mine in by_doc.values():
        choices = [known[one.args] for one in sorted(mine, key=lambda one: one.idx)]
        loglikelihoods, greedy, num_tokens, cut_tokens = zip(*choices, strict=True)
        doc = mine[0].doc
        scores = definition.process_results(doc, [*zip(loglikelihoods, greedy, strict=True)])
        yield {
            "loglikelihoods": [*loglikelihoods],
            "num_tokens": [*num_tokens],
            "cut_tokens": max(cut_tokens),
            "target": _target(definition, doc),
            "correct": float(scores["acc"]),
            "acc_norm": float(scores.get("acc_norm", "nan")),
            "chance": _chance(definition, doc, num_tokens, vocab_size),
        }


def _target(definition: Any, doc: Row) -> int | None:
    """Index of the right choice, where there is exactly one."""
    if definition.OUTPUT_TYPE == "loglikelihood" or _many_right(definition):
        return None
    # Where contexts are chosen between (winogrande), the definition keeps the answer there.
    found = definition.doc_to_text(doc) if definition.multiple_input else None
    return int(definition.doc_to_target(doc) if found is None else found)


def _chance(definition: Any, doc: Row, num_tokens: Sequence[int], vocab_size: int) -> float:
    if definition.OUTPUT_TYPE == "loglikelihood":
        return (1 / vocab_size) ** int(num_tokens[0])
    if _many_right(definition):
        labels = doc["mc2_targets"]["labels"]
        return float(sum(labels) / len(labels))
    return 1 / len(num_tokens)


def _many_right(definition: Any) -> bool:
    return bool(definition.config.task == "truthfulqa_mc2")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the harness's log lines; what it has to say is in the records."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _without_bars() -> "redirect_stderr[io.StringIO]":
    """For what draws bars that cannot be turned off; errors pass."""
    return redirect_stderr(io.StringIO())
