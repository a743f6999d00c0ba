"""A model's vector of every city, and the map that a linear probe reads off those vectors.

A city is shown as the first of a question, and its vector is the residual stream behind some blocks
at the places that name it. The probe learns real cities; Atlantis was never among them.

Axes: C cities, F features, P tokens of a prompt, D residual width.
"""

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor
from transformers import Qwen2ForCausalLM

from papertrail.core.errors import BadInput
from papertrail.core.writing import track
from papertrail.world.cities import Cities, cities, stream
from papertrail.world.config import model_name, probing_task
from papertrail.world.models import placed, trained_model
from papertrail.world.options import Representation, Task, World
from papertrail.world.probes import linear_probe, principal_axes, r_squared
from papertrail.world.schemas import RepresentConfig
from papertrail.world.spelling import spelling

COMPONENTS = (2, 4, 6, 8, 10)
WITHOUT_LEADING_ZERO = 1000
TRAIN, HELDOUT, ATLANTIS, REST = "train", "heldout", "atlantis", "rest"
PROMPTS = 1024  # at a time
FEWEST = 2  # cities whose places can differ
Places = Float[np.ndarray, "C 2"]
Vectors = Float[np.ndarray, "C F"]


def represent(config: RepresentConfig) -> None:
    """Log the vectors of all cities that can be shown, the probe's errors and its controls."""
    options, world = config.represent, cities(config.world)
    refuse_layer(options.layer, config.model.layers)
    chosen = shown(world, config.world)
    groups = split(world.real[chosen], options, config.world)
    model = placed(trained_model(config), config.compute)
    task = probing_task(config.mix.tasks)
    vectors = city_vectors(model, config.world, task, chosen, options.layer)
    with track.file("representations.npz") as path:
        np.savez(path, city=chosen.astype(np.int32), vectors=vectors)
    places = np.stack([world.x[chosen], world.y[chosen]], axis=1).astype(np.float64)
    frame, metrics = read_map(vectors.astype(np.float64), places, groups, options, config.world)
    track.parquet("cities", frame.assign(city=chosen[frame["city"]]))
    track.metrics(metrics)
    _check(vectors.shape[1], options)
    track.describe(
        f"The model {model_name(config.mix.tasks)} of seed {config.seed} is shown {len(chosen)} "
        f"cities in a {task} question and read behind block {options.layer}; a linear probe of "
        f"{options.train_cities} real cities says where all others are."
    )


def refuse_layer(layer: int, layers: int) -> None:
    """BadInput where the model has fewer blocks."""
    if layer > layers:
        raise BadInput(
            f"represent.layer: the model has {layers} blocks ({layer}); ask for {layers} or fewer"
        )


def shown(world: Cities, options: World) -> Int[np.ndarray, " C"]:
    """The cities whose vectors are read, by index.

    Spelt in characters, those whose number has no leading zero, as published (arXiv 2602.00533):
    the vectors of the others are clusters of their own. A word has no digits to begin with.
    """
    if options.spelling == "words":
        return np.arange(len(world.number))
    return np.flatnonzero(world.number >= WITHOUT_LEADING_ZERO)


def split(
    real: Bool[np.ndarray, " C"], options: Representation, world: World
) -> Shaped[np.ndarray, " C"]:
    """What each city is for: train, heldout, atlantis, or rest.

    The split of the real cities depends on the seed of the data alone. BadInput where there are
    too few of a kind.
    """
    train, test = options.train_cities, options.test_cities
    for name, num in (("train_cities", train), ("test_cities", test)):
        if num < FEWEST:
            raise BadInput(f"represent.{name}: one place has no variance ({num}); ask for {FEWEST}")
    order = stream(world.seed, "probe").permutation(np.flatnonzero(real))
    if len(order) < train + test:
        raise BadInput(
            f"represent.train_cities: {len(order)} real cities can be shown, and with test_cities "
            f"{train + test} are wanted ({train}); ask for fewer, or for more world.cities"
        )
    if real.all():
        raise BadInput(
            f"world.atlantis: no city of Atlantis can be shown ({world.atlantis}); ask for more"
        )
    groups = np.where(real, REST, ATLANTIS).astype("U8")
    groups[order[:train]], groups[order[train : train + test]] = TRAIN, HELDOUT
    return groups


@torch.inference_mode()
def city_vectors(
    model: Qwen2ForCausalLM, world: World, task: Task, chosen: Int[np.ndarray, " C"], layer: int
) -> Float32[np.ndarray, "C F"]:
    """Residual stream behind `layer` blocks where `task`'s prompt names each chosen city."""
    spelt = spelling(world)
    places = list(spelt.positions(task))
    prompts = spelt.prompt(task, chosen)[:, : max(places) + 1]  # what follows is not seen
    parts = []
    for start in range(0, len(prompts), PROMPTS):
        tokens = torch.from_numpy(prompts[start : start + PROMPTS].astype(np.int64))
        found = residual(model, tokens.to(model.device), layer)
        parts.append(found[:, places].flatten(1).float().cpu())
    vectors: Float32[np.ndarray, "C F"] = torch.cat(parts).numpy()
    return vectors


def residual(
    model: Qwen2ForCausalLM, tokens: Int[Tensor, "C P"], layer: int
) -> Float[Tensor, "C P D"]:
    """What transformers calls `hidden_states[layer]`, without running what lies behind it.

    0 is the embedding; behind the last block, and only there, it is normalised, as in the library
    and so in the published "layer 6".
    """
    # Only this kind of attention is causal when it is given no mask.
    assert model.config._attn_implementation == "sdpa", model.config._attn_implementation
    body = model.model
    hidden: Float[Tensor, "C P D"] = body.embed_tokens(tokens)
    angles = body.rotary_emb(hidden, torch.arange(tokens.shape[1], device=tokens.device)[None])
    for block in body.layers[:layer]:
        hidden = block(hidden, position_embeddings=angles)
    return body.norm(hidden) if layer == len(body.layers) else hidden


def read_map(
    vectors: Float[np.ndarray, "C F"],
    places: Float[np.ndarray, "C 2"],
    groups: Shaped[np.ndarray, " C"],
    options: Representation,
    world: World,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Where a probe of the train cities puts every city in use, and numbers about it.

    The frame has a row per city of a group but `rest`: its place in `vectors`, group, true and
    predicted place and error in units of the map.
    """
    train = groups == TRAIN
    predicted = linear_probe(vectors[train], places[train], options.ridge)(vectors)
    frame = pd.DataFrame(
        {
            "city": np.arange(len(places)),
            "group": groups,
            "x": places[:, 0],
            "y": places[:, 1],
            "predicted_x": predicted[:, 0],
            "predicted_y": predicted[:, 1],
            "error": np.linalg.norm(predicted - places, axis=1),
        }
    )
    used = groups != REST
    metrics = {
        "probe/features": float(vectors.shape[1]),
        **_explained(vectors, places, groups, options.ridge),
        **_errors(frame[used], world.unit),
        **_chance(vectors, places, groups, options.ridge, world),
    }
    return frame[used].reset_index(drop=True), metrics


def _explained(
    vectors: Vectors, places: Places, groups: Shaped[np.ndarray, " C"], ridge: float
) -> dict[str, float]:
    """R^2 of each coordinate, and the held-out one from the first principal components alone."""
    train, heldout = groups == TRAIN, groups == HELDOUT
    axes = principal_axes(vectors[train], COMPONENTS[-1])
    parts = {f"pc{k}/": vectors @ axes[:, :k] for k in COMPONENTS if k <= axes.shape[1]}
    found: dict[str, float] = {}
    for name, seen in {"": vectors, **parts}.items():
        fitted = linear_probe(seen[train], places[train], ridge)
        for group, which in (("train", train), ("test", heldout)):
            r2 = r_squared(fitted(seen[which]), places[which])
            found |= {f"probe/{name}r2_{axis}_{group}": float(r2[i]) for i, axis in enumerate("xy")}
    return found


def _errors(frame: pd.DataFrame, unit: float) -> dict[str, float]:
    """Mean and median distance from the true place in each group, in units and in degrees.

    Bias is how far the middle of Atlantis as predicted lies from its true middle.
    """
    named = {TRAIN: "probe/train_", HELDOUT: "heldout/", ATLANTIS: "atlantis/"}
    found: dict[str, float] = {}
    for group, name in named.items():
        error = frame.loc[frame["group"] == group, "error"]
        found |= {f"{name}error_mean": error.mean(), f"{name}error_median": error.median()}
    lost = frame[frame["group"] == ATLANTIS]
    x, y = ((lost[f"predicted_{axis}"] - lost[axis]).mean() for axis in "xy")
    found["atlantis/location_bias"] = math.hypot(x, y)
    return found | {f"{name}_degrees": value * unit for name, value in found.items()}


def _chance(
    vectors: Vectors,
    places: Places,
    groups: Shaped[np.ndarray, " C"],
    ridge: float,
    world: World,
) -> dict[str, float]:
    """The same probe, taught the places of other cities: what vectors without a map would give."""
    train, heldout = groups == TRAIN, groups == HELDOUT
    mixed = stream(world.seed, "control").permutation(places[train])
    predicted = linear_probe(vectors[train], mixed, ridge)(vectors[heldout])
    error = float(np.linalg.norm(predicted - places[heldout], axis=1).mean())
    return {
        "control/heldout_error_mean": error,
        "control/heldout_error_mean_degrees": error * world.unit,
    }


def _check(features: int, options: Representation) -> None:
    """A probe with as many weights as cities goes through all of them, map or no map."""
    track.gate(
        "probe_overdetermined",
        options.train_cities > features or options.ridge > 0,
        f"{options.train_cities} cities for {features} features, ridge {options.ridge:g}: raise "
        "represent.train_cities above the features, or represent.ridge above 0",
    )
