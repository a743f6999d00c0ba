"""What people see in MLflow's UI: a real server and a headless Chromium on a store of toys.

Pictures of every page lie in PAPERTRAIL_PICTURES, else in build/ui, for people to look at.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import sheets
from browser import Browser, absent, browser
from conftest import ROOT
from toy import TOY, ToyConfig

from papertrail.core.answering.launch import require_all
from papertrail.core.answering.require import require
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.core.reading import page, query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.tables import render

PICTURES = Path(os.environ.get("PAPERTRAIL_PICTURES") or ROOT / "build" / "ui")
PAPER = (253, 253, 251)
"""Background of a report, which MLflow's own pages have nowhere."""
PERPLEXITY = {"monotone": 130.25, "baseline": 111.5}


@dataclass(frozen=True, kw_only=True)
class PairConfig(ToyConfig):
    """Two toys side by side."""


def asked(config: PairConfig) -> Mapping[str, Question]:
    one = narrow(config, ToyConfig)
    return {text: Question(TOY, replace(one, text=text)) for text in PERPLEXITY}


def pair(config: PairConfig) -> None:
    """A parent as the studies have them: children, headline, figure, report."""
    require_all(list(asked(config).values()))
    page.headline({"test/perplexity": PERPLEXITY["baseline"]}, of="baseline")
    page.headline({"test/perplexity": PERPLEXITY["monotone"]})
    track.run().text("report/report.html", render.to_html(sheets.attacks()))
    track.describe("Two toys **side by side**.")


PAIR = Experiment(
    name="pair", study="toys", schema=PairConfig, verb="test_ui:pair", upstream=asked,
    infrastructure=("device",),
)  # fmt: skip


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def record(store: Store) -> Record:
    return require(PAIR, PairConfig())


@pytest.fixture(scope="module")
def group(record: Record) -> str:
    """The MLflow experiment of it."""
    return str(record.run.info.experiment_id)


@pytest.fixture(scope="module")
def seen(record: Record) -> Iterator[Browser]:
    if reason := absent():
        pytest.skip(reason)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with browser(record.store.uri) as found:
        yield found


def test_the_study_page_shows_headline_numbers_of_folded_parents(seen: Browser, group: str):
    where = f"experiments/{group}/runs?viewStateShareKey={page.VIEW}"
    dom = seen.page(where, PICTURES / "headline.png")
    assert "pair seed 0" in dom and "toy seed 0" not in dom  # children are folded away
    plain, behind = (dom.index(f">{value}<") for value in ("130.25", "111.5"))
    assert plain < behind  # the arm before the baseline
    assert f'href="#/experiments/{group}/runs?viewStateShareKey={page.VIEW}"' in dom


def test_a_runs_page_says_what_it_is_and_links_to_what_it_was_built_on(
    seen: Browser, record: Record, group: str
):
    dom = seen.page(f"experiments/{group}/runs/{record.run_id}", PICTURES / "run.png")
    assert "<strong>side by side</strong>" in dom
    first, *_ = record.tags["papertrail.parents"].split(",")
    assert (
        f'Built on <a target="_blank" href="#/experiments/{group}/runs/{first}">toy seed 0' in dom
    )


def test_a_report_is_drawn_among_the_artifacts(seen: Browser, record: Record, group: str):
    picture = PICTURES / "report.png"
    where = f"experiments/{group}/runs/{record.run_id}/artifacts/report/report.html"
    seen.page(where, picture)
    pixels = (matplotlib.image.imread(picture)[..., :3] * 255).round().astype(int)
    assert np.all(pixels == PAPER, axis=-1).mean() > 0.1


def test_headline_numbers_of_later_runs_join_the_view_beside_their_own_kind(
    store: Store, record: Record, group: str
):
    assert page.columns(store, group) == ["test/perplexity", "test/perplexity/baseline"]
    later = ["attack/rise", "test/perplexity/sign_frozen"]
    page._show(store, group, dict.fromkeys(later))
    assert page.columns(store, group) == [
        "test/perplexity", "test/perplexity/baseline", "test/perplexity/sign_frozen",
        "attack/rise",
    ]  # fmt: skip


def test_what_somebody_wrote_on_the_studys_page_is_kept(store: Store, group: str):
    note = store.client.get_experiment(group).tags[page.NOTE]
    assert page.TITLE in note
    store.client.set_experiment_tag(group, page.NOTE, "ours")
    page._show(store, group, {"another": None})
    assert store.client.get_experiment(group).tags[page.NOTE] == "ours"


@pytest.mark.parametrize("spoilt", ["{}", '{"state": "deflate;x"}', "[]", "no JSON"])
def test_a_view_that_somebody_spoilt_is_written_anew(store: Store, group: str, spoilt: str):
    store.client.set_experiment_tag(group, page.TAG, spoilt)
    page._show(store, group, {"attack/rise": None})
    assert page.columns(store, group) == ["attack/rise"]


def test_a_view_stays_within_what_the_ui_takes(store: Store, group: str):
    page._show(store, group, {f"score/mean/task_{n}/some_model": None for n in range(200)})
    tag = store.client.get_experiment(group).tags[page.TAG]
    assert len(page.columns(store, group)) > 50 and json.loads(tag)["name"] == page.TITLE


def test_a_run_that_mlflow_opened_where_nobody_looks_points_to_one_among_its_study(
    store: Store, record: Record, group: str
):
    opened = store.client.create_run(nowhere := "0").info.run_id
    answer = require(PAIR, PairConfig(seed=1), store=store, joined=opened)
    pointer = query.by_id(opened, store)
    assert answer.run_id != opened and answer.run.info.experiment_id == group != nowhere
    assert pointer.tags["papertrail.answered_by"] == answer.run_id
    assert f"(#/experiments/{group}/runs/{answer.run_id})" in pointer.tags[page.NOTE]
    assert pointer.tags["mlflow.runName"] == "pair seed 1 (elsewhere)"


def test_a_run_that_mlflow_opened_says_whether_its_command_had_the_answer_computed(
    store: Store, record: Record, monkeypatch: pytest.MonkeyPatch
):
    for order, word in ((record.tags["papertrail.order"], "elsewhere"), ("another", "reused")):
        monkeypatch.setenv("PAPERTRAIL_ORDER", order)
        opened = store.client.create_run("0").info.run_id
        require(PAIR, PairConfig(), store=store, joined=opened)
        assert query.by_id(opened, store).tags["mlflow.runName"].endswith(f"({word})")


def test_a_run_names_its_arm_its_seed_and_its_model() -> None:
    from papertrail.core.question import cli
    from papertrail.monotone.config import HOTFLIP

    words = ["--model.name=EleutherAI/pythia-1.4b", "--seed=7"]
    config: Any = cli.parse(HOTFLIP, words)[0]
    assert HOTFLIP.title(config) == "hotflip monotone seed 7, pythia-1.4b, mlp_both abs"
