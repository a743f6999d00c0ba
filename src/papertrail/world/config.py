"""The world study's experiments, and which runs each one builds on. Imports no torch.

world_data -> world_pretrain -> world_finetune (one task, or a pair)
                             -> world_evaluate (one of 15 sets), world_represent
                                                                   all of it -> world
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from papertrail.core.errors import BadInput
from papertrail.core.question.compute import INFRASTRUCTURE
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.world.options import MULTI, SETS, TASKS, Task
from papertrail.world.schemas import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    RepresentConfig,
    StudyConfig,
)

BASE = "base"
HOW_EVALUATED = (*INFRASTRUCTURE, "evaluate.batch")
HOW_STUDIED = (*HOW_EVALUATED, "stack")


def model_name(tasks: tuple[Task, ...]) -> str:
    """What a model is called: base, distance, angle+compass."""
    return "+".join(tasks) or BASE


def trained(config: FinetuneConfig) -> Question:
    """The training whose model `config` speaks of: the base model where no task is fine-tuned."""
    if not config.mix.tasks:
        return Question(WORLD_PRETRAIN, narrow(config, PretrainConfig))
    return Question(WORLD_FINETUNE, narrow(config, FinetuneConfig))


def probing_task(tasks: tuple[Task, ...]) -> Task:
    """The task whose prompt shows a city: the first that the model is fine-tuned on."""
    return tasks[0] if tasks else TASKS[0]


def normal_sets(config: EvaluateConfig) -> dict[str, EvaluateConfig]:
    """The seven evaluations whose rows `multi_task` draws from."""
    return {task: replace(config, evaluate=replace(config.evaluate, on=task)) for task in TASKS}


def study_models(config: StudyConfig) -> Iterator[tuple[int, tuple[Task, ...]]]:
    """(seed, tasks) of every model, base first; BadInput where one is asked for twice."""
    wanted: list[tuple[Task, ...]] = [(), *((task,) for task in config.specialists), *config.pairs]
    for option, named in (("seeds", config.seeds), ("specialists", config.specialists)):
        _refuse_twins(option, named)
    _refuse_twins("pairs", [frozenset(pair) for pair in config.pairs], config.pairs)
    for seed in config.seeds:
        yield from ((seed, tasks) for tasks in wanted)


def study_trainings(config: StudyConfig) -> Iterator[tuple[dict[str, str | int], Question]]:
    """Labels and question of the training of every model."""
    for labels, one in _configs(config):
        yield labels, trained(narrow(one, FinetuneConfig))


def study_evaluations(config: StudyConfig) -> Iterator[tuple[dict[str, str | int], Question]]:
    """Labels and question of every model's fifteen sets, in their order."""
    for labels, one in _configs(config):
        for name in SETS:
            asked = narrow(one, EvaluateConfig, evaluate=replace(config.evaluate, on=name))
            yield {**labels, "set": name}, Question(WORLD_EVALUATE, asked)


def study_representations(config: StudyConfig) -> Iterator[tuple[dict[str, str | int], Question]]:
    """Labels and question of every model's representation."""
    for labels, one in _configs(config):
        yield labels, Question(WORLD_REPRESENT, narrow(one, RepresentConfig))


def _configs(config: StudyConfig) -> Iterator[tuple[dict[str, str | int], StudyConfig]]:
    for seed, tasks in study_models(config):
        mix = replace(config.mix, tasks=tasks)
        labels: dict[str, str | int] = {"model": model_name(tasks), "seed": seed}
        yield labels, replace(config, seed=seed, mix=mix)


def _refuse_twins(option: str, values: Any, shown: Any = None) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise BadInput(f"{option}: {(shown or values)[place]} is there twice; leave one out")


def _before_pretrain(config: Any) -> Mapping[str, Question]:
    return {"data": Question(WORLD_DATA, narrow(config, DataConfig))}


def _before_finetune(config: FinetuneConfig) -> Mapping[str, Question]:
    base = Question(WORLD_PRETRAIN, narrow(config, PretrainConfig))
    return {"base": base, **_before_pretrain(config)}


def _before_evaluate(config: EvaluateConfig) -> Mapping[str, Question]:
    if config.evaluate.on == MULTI:
        return {name: Question(WORLD_EVALUATE, one) for name, one in normal_sets(config).items()}
    return _before_represent(config)


def _before_represent(config: Any) -> Mapping[str, Question]:
    return {"model": trained(config), **_before_pretrain(config)}


def _before_world(config: StudyConfig) -> Mapping[str, Question]:
    found = [*study_evaluations(config), *study_representations(config)]
    return {
        f"{question.experiment.name} {' '.join(map(str, labels.values()))}": question
        for labels, question in found
    }


def _unused(config: Any) -> tuple[str, ...]:
    """The base model does not know how others were fine-tuned."""
    return () if config.mix.tasks else ("mix", "finetune")


def _unused_in_study(config: StudyConfig) -> tuple[str, ...]:
    return ("seed", "mix.tasks", "evaluate.on")  # it goes over all of them


def _label(config: FinetuneConfig) -> str:
    return f"{model_name(config.mix.tasks)} seed {config.seed}"


def _experiment(name: str, schema: type[Any], upstream: Any, **others: Any) -> Experiment:
    verb = f"papertrail.world.{others.pop('verb')}"
    told: dict[str, Any] = {"infrastructure": INFRASTRUCTURE, "label": _label, "unused": _unused}
    return Experiment(
        name=f"world_{name}" if name else "world", study="world", schema=schema, verb=verb,
        upstream=upstream, **(told | others),
    )  # fmt: skip


WORLD_DATA = Experiment(
    name="world_data", study="world", schema=DataConfig, verb="papertrail.world.data:data",
    label=lambda config: f"{config.world.cities} cities",
)  # fmt: skip
WORLD_PRETRAIN = Experiment(
    name="world_pretrain", study="world", schema=PretrainConfig,
    verb="papertrail.world.train:pretrain", infrastructure=INFRASTRUCTURE,
    upstream=_before_pretrain,
)  # fmt: skip
WORLD_FINETUNE = _experiment(
    "finetune", FinetuneConfig, _before_finetune, verb="train:finetune", unused=lambda config: ()
)  # fmt: skip
WORLD_EVALUATE = _experiment(
    "evaluate", EvaluateConfig, _before_evaluate, verb="evaluate:evaluate",
    infrastructure=HOW_EVALUATED,
    label=lambda config: f"{_label(config)} {config.evaluate.on}",
)  # fmt: skip
WORLD_REPRESENT = _experiment(
    "represent", RepresentConfig, _before_represent, verb="represent:represent"
)  # fmt: skip
WORLD = _experiment(
    "", StudyConfig, _before_world, verb="study:study", unused=_unused_in_study, stays=True,
    infrastructure=(*HOW_STUDIED, "plan"),
    label=lambda config: f"seeds {' '.join(map(str, config.seeds))}",
    answer="papertrail.world.plan:answer", show="papertrail.world.study:show",
)  # fmt: skip
