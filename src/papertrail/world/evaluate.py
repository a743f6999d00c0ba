"""One of fifteen sets put to a model: a task with Atlantis, a task without, or a draw from those.

The draw asks nothing anew: its rows are rows of the seven sets without Atlantis.
"""

from hashlib import sha256

import numpy as np
import pandas as pd

from papertrail.core.answering.launch import require_all
from papertrail.core.answering.require import require
from papertrail.core.question.experiment import Question, narrow
from papertrail.core.writing import track
from papertrail.world.cities import stream
from papertrail.world.config import WORLD_DATA, WORLD_EVALUATE, model_name, normal_sets
from papertrail.world.data import Asked, open_rows
from papertrail.world.decoding import greedy, new_tokens, questions
from papertrail.world.models import placed, trained_model
from papertrail.world.options import ATLANTIS, EXACT, GUESS, MULTI, TASKS, EvaluationSet, Task
from papertrail.world.schemas import DataConfig, EvaluateConfig
from papertrail.world.scoring import scored, summary
from papertrail.world.spelling import PAD, spelling


def evaluate(config: EvaluateConfig) -> None:
    """Score the rows of `config.evaluate.on`; one line per row goes to samples/rows.parquet."""
    name = config.evaluate.on
    rows = _drawn(config) if name == MULTI else _asked(config)
    track.parquet("rows", rows)
    track.metrics(_by_task(rows) if name == MULTI else _of_one(task_of(name), rows))
    track.metrics({"rows": len(rows), "parse_failures": int((~rows["parsed"]).sum())})
    if not config.mix.tasks and name in config.pretrain.tasks:
        _check(config, task_of(name), float(rows["score"].mean()))
    track.describe(
        f"The model {model_name(config.mix.tasks)} of seed {config.seed} answers {len(rows)} rows "
        f"of {name} greedily"
        + (", as it did in the seven sets that they are drawn from." if name == MULTI else ".")
    )


def _check(config: EvaluateConfig, task: Task, score: float) -> None:
    """A base that never learnt a task is no end that improvements of it can be measured by."""
    known = require(WORLD_DATA, narrow(config, DataConfig)).metrics
    guess = known[GUESS.format(task=task, kind="real")]
    passed = score > guess if task in EXACT else score < guess
    track.gate("beats_guess", passed, f"{task}: {score:.4g}, and guessing scores {guess:.4g}")


def kind_of(name: EvaluationSet) -> Asked:
    """Kind of the rows of a set about one task: atlantis or real."""
    return "atlantis" if name.startswith(ATLANTIS) else "real"


def task_of(name: EvaluationSet) -> Task:
    """The task of a set that is about one."""
    return next(task for task in TASKS if task == name.removeprefix(ATLANTIS))


def _asked(config: EvaluateConfig) -> pd.DataFrame:
    """row, score, parsed of the first `evaluate.rows` test rows; their texts if they are kept."""
    options = config.evaluate
    task, kind = task_of(options.on), kind_of(options.on)
    rows = np.asarray(open_rows(config).get(kind, task, "test")[: options.rows])
    digest = sha256(rows.tobytes()).hexdigest()
    track.dataset(f"{kind}_{task}_test", digest, "world_data", context="evaluation")
    spelt = spelling(config.world)
    answers = greedy(
        placed(trained_model(config), config.compute),
        rows, equals=spelt.equals, most=new_tokens(task), batch=options.batch,
    )  # fmt: skip
    asked = questions(rows, spelt.equals)[0]
    texts, truths = spelt.texts(np.hstack([asked, answers])), spelt.texts(rows)
    scores, parsed = scored(task, texts, truths, config.world)
    found = pd.DataFrame({"row": np.arange(len(rows)), "score": scores, "parsed": parsed})
    if options.save_rows:
        kept = {"question": asked, "answer": answers, "truth": np.where(asked == PAD, rows, PAD)}
        found = found.assign(**{key: spelt.texts(tokens) for key, tokens in kept.items()})
    return found


def _drawn(config: EvaluateConfig) -> pd.DataFrame:
    """task and the columns above of at most `evaluate.rows` rows out of the seven sets' together.

    The draw depends on the seed of the data alone: every model is asked the same rows.
    """
    records = require_all([Question(WORLD_EVALUATE, one) for one in normal_sets(config).values()])
    union = pd.concat(
        [
            pd.read_parquet(record.artifact("samples/rows.parquet")).assign(task=task)
            for task, record in zip(normal_sets(config), records, strict=True)
        ],
        ignore_index=True,
    )
    order = stream(config.world.seed, MULTI).permutation(len(union))
    return union.iloc[np.sort(order[: config.evaluate.rows])].reset_index(drop=True)


def _of_one(task: Task, rows: pd.DataFrame) -> dict[str, int | float]:
    found = summary(task, rows["score"].to_numpy(float))
    return {f"score/{key}": value for key, value in found.items()}


def _by_task(rows: pd.DataFrame) -> dict[str, int | float]:
    """The same for each task, and how many rows of it were drawn: of one without, nothing else."""
    found: dict[str, int | float] = {}
    for task in TASKS:
        some = rows[rows["task"] == task]
        found |= {f"rows/{task}": len(some), f"parse_failures/{task}": int((~some["parsed"]).sum())}
        if len(some):
            numbers = summary(task, some["score"].to_numpy(float))
            found |= {f"score/{task}/{key}": value for key, value in numbers.items()}
    return found
