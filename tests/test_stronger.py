"""The two attacks without a budget of flips, as runs of one arm at smoke scale on real text."""

import numpy as np
import pandas as pd
import pytest

from papertrail.attacks.gates import Gate
from papertrail.attacks.objectives import fixed_targets
from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.monotone import stronger
from papertrail.monotone.attack import MADE
from papertrail.monotone.config import ATTACK, GCG, PGD

SUMMARY = {f"success_{name}": name for name in ("perplexity", "relative", "absolute")}
SUMMARY |= {"rise": "rise"}


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def records(store: Store, smoke: list[str]) -> dict[str, Record]:
    """Both attacks, and HotFlip, on the baseline."""
    arm = [*smoke, "--constraint.kind=none"]
    return {e.name: require(e, cli.parse(e, arm)[0]) for e in (GCG, PGD, ATTACK)}


def rows(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/attacks.parquet"))


@pytest.mark.parametrize("name", ["gcg", "pgd"])
def test_a_run_passes_its_own_gates_and_has_a_row_for_every_text_and_budget(
    records: dict[str, Record], name: str
):
    found = rows(records[name])
    budgets = [0, 1, 3, 6] if name == "gcg" else [0, 1, 2, 3]
    assert not records[name].failed_gates
    assert found["flips"].tolist() == budgets * 6
    assert found["text"].tolist() == np.repeat(range(6), 4).tolist()
    assert (found["num_scored_tokens"] == 16).all()


@pytest.mark.parametrize("name", ["gcg", "pgd"])
def test_metrics_follow_from_the_rows_at_every_budget(
    records: dict[str, Record], name: str, store: Store
):
    record, found = records[name], rows(records[name])
    for metric, column in SUMMARY.items():
        history = store.client.get_metric_history(record.run_id, f"attack/{metric}")
        logged = {point.step: point.value for point in history}
        expected = found.groupby("flips")[column].mean().to_dict()
        assert logged == pytest.approx(expected)
        low, high = (record.metrics[f"attack/{metric}/{end}"] for end in ("low", "high"))
        assert low <= record.metrics[f"attack/{metric}"] <= high
    full = found[found["flips"] == found["flips"].max()]
    assert record.metrics["attack/median_rise"] == pytest.approx(full["rise"].median())
    assert record.metrics["attack/gradients"] == full["gradients"].sum() > 0
    assert record.metrics["attack/evaluations"] == full["evaluations"].sum()
    assert record.metrics["attack/seconds"] == pytest.approx(full["seconds"].sum())
    assert record.metrics["attack/oom_retries"] == 0
    assert record.metrics["attack/texts"] == 6


def test_radii_are_metrics_and_no_embedding_is_called_text(
    records: dict[str, Record], store: Store
):
    record = records["pgd"]
    history = store.client.get_metric_history(record.run_id, "attack/radius")
    assert sorted((p.step, p.value) for p in history) == [(0, 0.0), (1, 0.1), (2, 0.5), (3, 1.0)]
    assert rows(record)["round_trip"].isna().all()
    assert "attack/survive_as_text" not in record.metrics


def test_the_ids_that_gcg_wrote_are_kept_and_differ_from_the_text_where_it_may_write(
    records: dict[str, Record],
):
    with np.load(records["gcg"].artifact(MADE), allow_pickle=False) as found:
        made, steps = found["ids"], found["steps"]
    assert steps.tolist() == [0, 1, 3, 6] and made.shape == (6, 4, 32)
    with np.load(records["attack"].artifact(MADE), allow_pickle=False) as found:
        assert (found["ids"][:, 0] == made[:, 0]).all(), "the same clean texts as HotFlip"
    import torch

    open_places = fixed_targets(torch.from_numpy(made[:, 0])).attackable.numpy()
    changed = made != made[:, :1]
    assert changed[:, -1].any() and not changed.transpose(0, 2, 1)[~open_places].any()
    assert (changed[:, 1].sum(-1) == 1).all()


def test_clean_losses_are_those_of_hotflip(records: dict[str, Record]):
    clean = {name: rows(one).groupby("text")["clean_nll"].first() for name, one in records.items()}
    for name in ("gcg", "pgd"):
        assert clean[name].to_numpy() == pytest.approx(clean["attack"].to_numpy(), rel=1e-5)


def test_a_loss_that_falls_a_token_outside_its_ball_and_a_shifted_start_are_noticed(
    records: dict[str, Record],
):
    found = rows(records["pgd"])

    def gates(**changes: float) -> dict[str, Gate]:
        """Those of the rows with the last one changed."""
        spoiled = found.copy()
        for column, by in changes.items():
            spoiled.loc[found.index[-1], column] += by
        last = [stronger._never_falls(spoiled), *stronger._of_embeddings(spoiled)]
        return {gate.name: gate for gate in last}

    assert all(gate.passed for gate in gates().values())
    assert not gates(attacked_nll=-1e3)["loss_never_falls_with_budget"].passed
    assert not gates(moved=0.01)["within_radius"].passed
    assert not gates(strayed=1e-9)["within_radius"].passed
    shifted = found.assign(clean_nll=found["clean_nll"] + 16e-3)
    zero = {gate.name: gate for gate in stronger._of_embeddings(shifted)}["radius_zero_is_clean"]
    assert not zero.passed and "1.0e-03 nats per token" in zero.sentence
