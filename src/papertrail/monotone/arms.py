"""The arms of the study: named departures from the monotone arm, each changing one thing.

Imports no torch. `studied` is the constraint that a command line asks for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import narrow
from papertrail.monotone.options import BASELINE, Constraint

Departure = Callable[[Constraint], Constraint]


def _changed(**changes: Any) -> Departure:
    return lambda studied: replace(studied, **changes)


ARMS: Mapping[str, Departure] = MappingProxyType(
    {
        "baseline": lambda studied: BASELINE,
        "monotone": _changed(),
        "monotone_relu": _changed(init="relu"),
        "sign_frozen": _changed(kind="sign_frozen", init="abs"),
        "abs_init_free": _changed(kind="free", init="abs"),
        "relu_init_free": _changed(kind="free", init="relu"),
        "projected": _changed(kind="projected"),
        "mlp_in": _changed(scope="mlp_in"),
        "mlp_in_attn_out": _changed(scope="mlp_in_attn_out"),
        "gated_updown": _changed(scope="gated_updown"),
        "gated_all": _changed(scope="gated_all"),
        "relu_activation": _changed(activation="relu"),
        "gelu_clipped": _changed(activation="gelu_clipped"),
        "baseline_relu": lambda studied: replace(BASELINE, activation="relu"),
        "matched": _changed(kind="matched"),
    }
)
"""Name -> what the arm is. `monotone` is the arm asked for; the others change one thing of it."""
PAIR = ("baseline", "monotone")


def arm(name: str, studied: Constraint) -> Constraint:
    """The constraint of the arm called `name`; BadInput listing all if there is none."""
    if name not in ARMS:
        raise BadInput(f"arms: none is called {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name](studied)


def name_of(constraint: Constraint) -> str:
    """What an arm is called beside the baseline: by its kind, however else it is set."""
    if constraint.kind == "softplus":
        return "monotone"
    return {"none": "baseline", "free": f"{constraint.init}_init_free"}.get(
        constraint.kind, constraint.kind
    )


def behind(name: str) -> str:
    """What goes behind a metric of the arm `name` in the run of a pair: that run is about the arm
    beside the baseline, whose metrics go plainly."""
    return name if name == "baseline" else ""


def arms(config: Any, to: type[Any], names: Sequence[str] = PAIR, **changes: Any) -> dict[str, Any]:
    """The models under comparison, as configs of another experiment, by name."""
    return {
        name: narrow(config, to, **(changes | {"constraint": arm(name, config.constraint)}))
        for name in names
    }


def pair(config: Any, to: type[Any], **changes: Any) -> dict[str, Any]:
    """The baseline and the arm that `config` asks for, under the name that this one goes by.

    BadInput where it asks for the baseline: there is nothing to compare it with.
    """
    if config.constraint == BASELINE:
        raise BadInput("constraint.kind: none is the baseline itself; give the arm to compare")
    studied = narrow(config, to, **changes)
    return arms(config, to, ("baseline",), **changes) | {name_of(config.constraint): studied}
