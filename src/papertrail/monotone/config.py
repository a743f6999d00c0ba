"""The monotone study's experiments, and which runs each one builds on. Imports no torch.

corpus -> pretrain -> monotonize
                   -> train (one arm) -> weights, perplexity, benchmarks
                                      -> attack -> transfer -> hotflip (an arm beside the baseline)
                                      -> gcg, pgd; trigger -> uat
                                                                            all of it -> monotone
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from papertrail.core import digests
from papertrail.core.errors import BadInput
from papertrail.core.question import compute
from papertrail.core.question.compute import INFRASTRUCTURE
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.core.reading import address
from papertrail.data.benchmarks import fingerprints
from papertrail.data.config import CORPUS, CorpusConfig
from papertrail.monotone.arms import arm, name_of, pair
from papertrail.monotone.options import BASELINE, NANO, Schedule
from papertrail.monotone.schemas import (
    AttackConfig,
    BenchmarksConfig,
    GcgConfig,
    HotFlipConfig,
    MonotonizeConfig,
    PerplexityConfig,
    PgdConfig,
    PretrainConfig,
    StatisticsConfig,
    StudyConfig,
    TrainConfig,
    TransferConfig,
    TriggerConfig,
    UatConfig,
)

METHODS = ("hotflip", "random", "query")


def corpus_config(config: Any) -> CorpusConfig:
    """The corpus in the tokens of the model: a pretrained model brings its own tokenizer.

    `config` has the sections `data` and `model`.
    """
    data = config.data
    if config.model.name != NANO and data.tokenizer == "bpe":
        data = replace(data, tokenizer=config.model.name)
    return CorpusConfig(data=data)


def data_digests(config: Any) -> Mapping[str, str]:
    """Content of the text, and of the weights where they lie in a local folder."""
    digests, name = dict(CORPUS.data(corpus_config(config))), config.model.name
    if address.registered(name):
        digests["model.name"] = f"weights:{address.content(name, _loaded_from)}"
    elif Path(name).is_dir():
        digests["model.name"] = _weights_digest(Path(name))
    return digests


def benchmark_digests(config: Any) -> Mapping[str, str]:
    """Content of the text, the weights and the benchmarks' sets. `config` has `benchmarks` too."""
    options = config.benchmarks
    used = fingerprints(options.tasks, options.source, options.folder)
    return {**data_digests(config), **used}


@digests.seen_once
def _weights_digest(folder: Path) -> str:
    """Of every file that a checkpoint folder loads from, by name and content."""
    names = _loaded_from([path.name for path in folder.glob("*")])
    return f"weights:{digests.of_named([folder / name for name in names])}"


def _loaded_from(names: Collection[str]) -> list[str]:
    return sorted(
        name for name in names if name.endswith((".json", ".safetensors", ".bin", ".txt"))
    )


def _before_pretrain(config: Any) -> Mapping[str, Question]:
    return {"corpus": Question(CORPUS, corpus_config(config))}


def _before_monotonize(config: Any) -> Mapping[str, Question]:
    before = dict(_before_pretrain(config))
    if config.model.name == NANO:
        before["pretrain"] = Question(PRETRAIN, narrow(config, PretrainConfig))
    return before


def _before_train(config: TrainConfig) -> Mapping[str, Question]:
    before = dict(_before_monotonize(config))
    if config.constraint.kind == "matched":
        before |= {name: Question(TRAIN, one) for name, one in matched_arms(config).items()}
    return before


def matched_arms(config: TrainConfig) -> dict[str, TrainConfig]:
    """The baseline that is noised, and the softplus arm that says how perplexing it gets."""
    held = replace(config.constraint, kind="softplus")
    return {
        "baseline": replace(config, constraint=BASELINE),
        "monotone": replace(config, constraint=held),
    }


def _before_evaluation(config: TrainConfig) -> Mapping[str, Question]:
    return {"train": Question(TRAIN, narrow(config, TrainConfig))}


def _before_transfer(config: TransferConfig) -> Mapping[str, Question]:
    made = narrow(config, AttackConfig, constraint=config.source, method="hotflip")
    return {"source": Question(ATTACK, made), **_before_evaluation(config)}


def attacks(config: Any) -> dict[tuple[str, str], Question]:
    """(arm, attack) -> HotFlip, its controls and the transfers between an arm and the baseline."""
    found = {
        (name, method): Question(ATTACK, replace(one, method=method))
        for name, one in pair(config, AttackConfig).items()
        for method in METHODS
    }
    (left, right) = pair(config, TrainConfig).items()
    for (name, target), (_, other) in ((left, right), (right, left)):
        crossed = narrow(
            config, TransferConfig, constraint=target.constraint, source=other.constraint
        )
        found[name, "transfer"] = Question(TRANSFER, crossed)
    return found


def _before_hotflip(config: HotFlipConfig) -> Mapping[str, Question]:
    scored = pair(config, PerplexityConfig)
    return {
        f"{name} {attack}": question for (name, attack), question in attacks(config).items()
    } | {f"{name} perplexity": Question(PERPLEXITY, one) for name, one in scored.items()}


def _before_uat(config: UatConfig) -> Mapping[str, Question]:
    return {name: Question(TRIGGER, one) for name, one in pair(config, TriggerConfig).items()}


def study_runs(config: StudyConfig) -> Iterator[tuple[dict[str, str | int], Question]]:
    """Labels and question of every run of the study that is no part of another, in stage order.

    BadInput where the arms do not begin with the baseline, or there is nothing beside it.
    """
    if len(config.arms) < 2 or config.arms[0] != "baseline":
        raise BadInput(f"arms: must begin with baseline and name another {list(config.arms)}")
    _refuse_twins("seeds", config.seeds)
    _refuse_twins("arms", [arm(name, config.constraint) for name in config.arms], config.arms)
    for seed in config.seeds:
        for name in config.arms:
            held = arm(name, config.constraint)
            labels: dict[str, str | int] = {"arm": name, "side": name_of(held), "seed": seed}
            for experiment in _of_an_arm(name):
                one = narrow(config, experiment.schema, seed=seed, constraint=held)
                yield labels, Question(experiment, one)


def _refuse_twins(option: str, values: Sequence[Any], names: Sequence[Any] = ()) -> None:
    """BadInput where the same thing is asked for twice: it would count as a replication."""
    for place, value in enumerate(values):
        if value in values[:place]:
            first, again = ((names or values)[n] for n in (values.index(value), place))
            raise BadInput(f"{option}: {again} is the same as {first}; leave one out")


def _of_an_arm(name: str) -> tuple[Experiment, ...]:
    alone = (PERPLEXITY, STATISTICS, BENCHMARKS, GCG, PGD)
    if name == "baseline":
        return alone
    converted = () if name == "matched" else (MONOTONIZE,)  # that one is searched, not converted
    return (*converted, *alone, UAT, HOTFLIP)


def _before_monotone(config: StudyConfig) -> Mapping[str, Question]:
    return {
        f"{question.experiment.name} {labels['arm']} seed {labels['seed']}": question
        for labels, question in study_runs(config)
    }


def _pretrain_horizon(config: PretrainConfig) -> str:
    return "pretrain.steps" if _open_ended(config, config.pretrain, config.pretrain.warmup) else ""


def _train_horizon(config: TrainConfig) -> str:
    if config.constraint.kind == "matched":  # searched, not trained
        return ""
    constrained = config.constraint.kind != "none"
    warmup = config.constraint.warmup if constrained else config.train.warmup
    return "train.steps" if _open_ended(config, config.train, warmup) else ""


def _open_ended(config: PretrainConfig, schedule: Schedule, warmup: float) -> bool:
    # The best weights of a shorter run were chosen among its own validations.
    return schedule.decay == "none" and warmup == 0 and config.compute.weights == "last"


# Options that came later, and the value at which a run is what it was before.
NEUTRAL_PRETRAIN = MappingProxyType({**compute.NEUTRAL, "pretrain.decay": "linear"})
NEUTRAL = MappingProxyType(
    {**NEUTRAL_PRETRAIN, "train.decay": "linear", "constraint.activation": "kept"}
)
NEUTRAL_LOADED = MappingProxyType({**NEUTRAL, "load.quantization": "none"})


def _arm_label(config: Any) -> str:
    """Arm and seed, in the words of the tables; then the model, and how the arm is made."""
    one = config.constraint
    made = [one.scope, one.init] if one.kind == "softplus" else []
    made += [] if one.activation == "kept" else [one.activation]
    arm_and_seed = f"{name_of(one)} seed {config.seed}"
    return ", ".join(filter(None, [arm_and_seed, _model_name(config), " ".join(made)]))


def _model_name(config: Any) -> str:
    """Of the model that the study is about, without the folders or the hub's account before it."""
    return str(config.model.name).rstrip("/").rsplit("/", 1)[-1]


def _study_label(config: StudyConfig) -> str:
    seeds = " ".join(map(str, config.seeds))
    return f"{len(config.arms)} arms seeds {seeds}, {_model_name(config)}"


def _attack_label(config: AttackConfig) -> str:
    return f"{config.method} {_arm_label(config)}"


def _experiment(name: str, schema: type[Any], upstream: Any, **others: Any) -> Experiment:
    """One of this study, of a single arm unless told otherwise; its verb has its name."""
    verb = f"papertrail.monotone.{others.pop('verb', f'{name}:{name}')}"
    told: dict[str, Any] = {"label": _arm_label, "neutral": NEUTRAL_LOADED, "data": data_digests}
    return Experiment(
        name=name, study="monotone", schema=schema, verb=verb, upstream=upstream,
        infrastructure=INFRASTRUCTURE, **(told | others),
    )  # fmt: skip


PRETRAIN = Experiment(
    name="pretrain",
    study="monotone",
    schema=PretrainConfig,
    verb="papertrail.monotone.train:pretrain",
    infrastructure=INFRASTRUCTURE,
    neutral=NEUTRAL_PRETRAIN,
    horizon=_pretrain_horizon,
    upstream=_before_pretrain,
    data=data_digests,
    label=lambda config: f"seed {config.seed}, {_model_name(config)}",
)
MONOTONIZE = _experiment(
    "monotonize", MonotonizeConfig, _before_monotonize,
    neutral={**NEUTRAL_PRETRAIN, "constraint.activation": "kept"},
)  # fmt: skip
TRAIN = _experiment(
    "train", TrainConfig, _before_train, neutral=NEUTRAL, horizon=_train_horizon
)  # fmt: skip
STATISTICS = _experiment(
    "weights", StatisticsConfig, _before_evaluation, neutral=NEUTRAL,
    verb="monotonize:statistics",
)  # fmt: skip
PERPLEXITY = _experiment("perplexity", PerplexityConfig, _before_evaluation)
BENCHMARKS = _experiment(
    "benchmarks", BenchmarksConfig, _before_evaluation, data=benchmark_digests
)  # fmt: skip
ATTACK = _experiment("attack", AttackConfig, _before_evaluation, label=_attack_label)
TRANSFER = _experiment("transfer", TransferConfig, _before_transfer, verb="attack:transfer")
GCG = _experiment("gcg", GcgConfig, _before_evaluation, verb="stronger:gcg")
PGD = _experiment("pgd", PgdConfig, _before_evaluation, verb="stronger:pgd")
TRIGGER = _experiment("trigger", TriggerConfig, _before_evaluation, verb="uat:trigger")
UAT = _experiment("uat", UatConfig, _before_uat, show="papertrail.monotone.triggers:show")
# Revision 2: the attacks became runs of their own, which this one puts side by side.
HOTFLIP = _experiment(
    "hotflip", HotFlipConfig, _before_hotflip, revision=2, show="papertrail.monotone.tables:show"
)  # fmt: skip
MONOTONE = _experiment(
    "monotone", StudyConfig, _before_monotone, verb="study:study", stays=True,
    label=_study_label,
    show="papertrail.monotone.study:show", data=benchmark_digests,
)  # fmt: skip
