"""What people see in MLflow's UI: numbers under one name each, links to what a run was built on.

The UI folds children away and draws what the folded parent holds, so a parent repeats the numbers
that it is about. A run about one model logs them plainly (`test/perplexity`). A run that puts an
arm beside the baseline logs the arm's plainly and the baseline's behind a slash
(`test/perplexity/baseline`); a study logs all of them so, each a mean over its training seeds.

Their names are kept as a saved view of the MLflow experiment, which the UI lists under "Views".
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.exceptions import MlflowException

from papertrail.core import progress
from papertrail.core.errors import in_a_line
from papertrail.core.patience import at_most
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.core.writing.run import Run, shortened

VIEW = "papertrail"
"""Id of the saved view; `#/experiments/ID/runs?viewStateShareKey=papertrail` opens it."""
TAG = f"mlflow.sharedViewState.{VIEW}"
NOTE = "mlflow.note.content"
TITLE = "Headline numbers"
MOST_CHARACTERS = 20_000  # MLflow's own limit of a view
MOST_CHARTS = 24
VIEW_SECONDS = 10.0  # how long a view waits for a store that is away
MOST_LINKS = 20
NAME_WIDTH = 380  # pixels
FIRST = ("attributes.`Run Name`", "runDateAndNestInfo")
"""What the UI calls its own two columns in front."""
SEED = "tags.`papertrail.seed`"


def headline(values: Mapping[str, float], of: str = "", step: int = 0) -> None:
    """Log numbers under the names that a run about one model uses; the view shows them as columns.

    `of` names the model where the open run holds several: it goes behind the name.
    """
    named = {f"{name}/{of}" if of else name: value for name, value in values.items()}
    track.metrics(named, step)
    track.run().headlines.update(dict.fromkeys(named))


def finish(run: Run, parents: Sequence[Record]) -> None:
    """Link what `run` was built on behind its description, and its headline in the view."""
    if parents:
        text = "\n\n".join(filter(None, [run.note, built_on(parents)]))
        run.tags({NOTE: shortened(text)})
    if run.headlines:
        try:
            with at_most(VIEW_SECONDS):
                group = run.store.client.get_run(run.run_id).info.experiment_id
                _show(run.store, group, run.headlines)
        except MlflowException as error:  # a column less is no reason to lose a result
            progress.say(f"run {run.run_id}: its columns are not in the view ({in_a_line(error)})")


def built_on(parents: Sequence[Record]) -> str:
    """A sentence with a link for each of them, or for the first where they are many."""
    links = [link(one) for one in parents[:MOST_LINKS]]
    more = len(parents) - len(links)
    return f"Built on {' · '.join(links)}{f' and {more} more' if more else ''}."


def link(record: Record) -> str:
    """A run's name that leads to its page, from whatever page of the UI, wherever it is served."""
    name = record.tags.get("mlflow.runName", record.run_id).translate(str.maketrans("[]", "()"))
    return f"[{name}](#/experiments/{record.run.info.experiment_id}/runs/{record.run_id})"


def columns(store: Store, experiment_id: str) -> list[str]:
    """The metrics that the view of an MLflow experiment shows, in order; none where it has none."""
    tag = store.client.get_experiment(experiment_id).tags.get(TAG, "")
    try:
        chosen = json.loads(json.loads(tag)["state"])["selectedColumns"]
    except (ValueError, KeyError, TypeError):  # none yet, or somebody wrote something else there
        return []
    numbers = (one for one in chosen if one.startswith("metrics."))
    return [one.removeprefix("metrics.`").removesuffix("`") for one in numbers]


def together(metrics: Sequence[str]) -> list[str]:
    """Each once, in the order of first use, what goes plainly before what has a model behind it."""
    known = list(dict.fromkeys(metrics))

    def place(metric: str) -> tuple[int, bool]:
        plain = metric.rpartition("/")[0]
        return (known.index(plain), True) if plain in known else (known.index(metric), False)

    return sorted(known, key=place)


def _show(store: Store, experiment_id: str, metrics: Mapping[str, None]) -> None:
    """Have the view of an MLflow experiment show these metrics too, behind those it has."""
    with store.lock(f"view-{experiment_id}"):  # two runs that end together keep each other's
        before = columns(store, experiment_id)
        after = together([*before, *metrics])
        if after != before:
            store.client.set_experiment_tag(experiment_id, TAG, _fitting(after))
            _link(store, experiment_id)


def _fitting(metrics: Sequence[str]) -> str:
    """The view of as many of them as MLflow keeps."""
    views = (_view(metrics[:most]) for most in range(len(metrics), -1, -1))
    return next(view for view in views if len(view) <= MOST_CHARACTERS)


def _view(metrics: Sequence[str]) -> str:
    """As the UI itself saves one: an envelope, and in it the state as text."""
    widths = {f"metrics.`{metric}`": 40 + 7 * len(metric) for metric in metrics}
    state = {
        "selectedColumns": [SEED, *widths],
        "columnOrder": [*FIRST, SEED, *widths],
        "columnWidths": {FIRST[0]: NAME_WIDTH, **widths},
        "compareRunSections": [{"uuid": VIEW, "name": TITLE, "display": True, "isReordered": True}],
        "compareRunCharts": [_chart(metric) for metric in metrics[:MOST_CHARTS]],
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "hideEmptyCharts": True,
    }
    now = int(time.time() * 1000)
    return json.dumps(
        {"name": TITLE, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    )


def _chart(metric: str) -> dict[str, Any]:
    """A bar for every run that is not hidden."""
    kept = {"deleted": False, "isGenerated": False, "runsCountToCompare": 10}
    place = {"uuid": f"{VIEW} {metric}", "metricSectionId": VIEW}
    return {"type": "BAR", "metricKey": metric, **place, **kept}


def _link(store: Store, experiment_id: str) -> None:
    """The view at the top of the experiment's page, unless somebody wrote something there."""
    if NOTE not in store.client.get_experiment(experiment_id).tags:
        where = f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"
        text = f"[{TITLE}]({where}): the columns that people compare. Also under *Views*."
        store.client.set_experiment_tag(experiment_id, NOTE, text)
