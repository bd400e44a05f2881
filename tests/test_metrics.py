"""What is collected between two logs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unisd.metrics import Metrics


def alone(table: Tensor) -> Tensor:
    """The gather of a single process."""
    return table


def test_a_mean_is_over_the_valid_tokens_of_every_batch() -> None:
    metrics = Metrics()
    metrics.add("loss", torch.tensor([[1.0, 2.0], [torch.nan, 3.0]]), torch.tensor([[True, True], [False, True]]))
    metrics.add("loss", torch.tensor([[10.0]]), torch.tensor([[True]]))
    assert metrics.flush(alone) == {"loss": 4.0}  # 16 / 4, not the mean of two means


def test_sums_extremes_and_plain_numbers_are_folded_by_name() -> None:
    metrics = Metrics()
    for values in (torch.tensor([3, 1]), torch.tensor([5])):
        metrics.add("shortest", values, fold="min")
        metrics.add("longest", values, fold="max")
        metrics.add("tokens", values, fold="sum")
    metrics.add("seconds", 1.5)
    metrics.add("seconds", 2.5)
    metrics.add("share", [1.0, 0.0, 0.0, 0.0])
    assert metrics.flush(alone) == {"shortest": 1, "longest": 5, "tokens": 9, "seconds": 2.0, "share": 0.25}


def test_every_log_starts_anew() -> None:
    metrics = Metrics()
    metrics.add("loss", 1.0)
    metrics.flush(alone)
    assert metrics.flush(alone) == {}
    metrics.add("loss", 3.0)
    assert metrics.flush(alone) == {"loss": 3.0}


def test_a_name_without_a_value_is_left_out() -> None:
    metrics = Metrics()
    nothing = torch.zeros(2, dtype=torch.bool)
    for fold in ("mean", "min", "max", "sum"):
        metrics.add(fold, torch.ones(2), nothing, fold=fold)
    metrics.add("loss", 1.0)
    assert metrics.flush(alone) == {"loss": 1.0}


def test_processes_are_joined_by_their_values_and_not_by_their_means() -> None:
    def collected(values: list[float]) -> Metrics:
        metrics = Metrics()
        for fold in ("mean", "min", "max", "sum"):
            metrics.add(fold, values, fold=fold)
        return metrics

    tables: list[Tensor] = []
    collected([7.0]).flush(lambda table: tables.append(table) or table)
    joined = collected([1.0, 2.0, 2.0]).flush(lambda table: torch.cat([table, tables[0]]))
    assert joined == {"mean": 3.0, "min": 1.0, "max": 7.0, "sum": 12.0}


def test_a_process_without_values_does_not_set_the_extremes() -> None:
    idle, busy = Metrics(), Metrics()
    tables: list[Tensor] = []
    for fold in ("min", "max"):
        idle.add(fold, torch.ones(1), torch.zeros(1, dtype=torch.bool), fold=fold)
        busy.add(fold, 4.0, fold=fold)
    idle.flush(lambda table: tables.append(table) or table)
    assert busy.flush(lambda table: torch.cat([tables[0], table])) == {"min": 4.0, "max": 4.0}


def test_processes_that_collected_different_names_gather_the_same_rows() -> None:
    def collected(**values: float) -> Metrics:
        metrics = Metrics()
        for name, value in values.items():
            for fold in ("mean", "min", "max", "sum"):
                metrics.add(f"{name}/{fold}", value, fold=fold)
        return metrics

    def everyone(names: list) -> list:
        return [*names, *((f"{name}/{fold}", fold) for name in "abc" for fold in ("mean", "min", "max", "sum"))]

    tables: list[Tensor] = []
    collected(a=1.0, b=2.0).flush(lambda table: tables.append(table) or table, everyone)
    joined = collected(b=4.0).flush(lambda table: torch.cat([tables[0], table]), everyone)
    assert joined == {
        "a/mean": 1.0, "a/min": 1.0, "a/max": 1.0, "a/sum": 1.0,
        "b/mean": 3.0, "b/min": 2.0, "b/max": 4.0, "b/sum": 6.0,
    }  # fmt: skip
    # A process that collected nothing takes part all the same.
    assert Metrics().flush(lambda table: torch.cat([tables[0], table]), everyone)["b/mean"] == 2.0


def test_many_small_values_are_not_lost_beside_a_large_one() -> None:
    metrics = Metrics()
    metrics.add("tokens", torch.tensor(2.0**24), fold="sum")
    for _ in range(3):
        metrics.add("tokens", torch.tensor(1.0), fold="sum")
    assert metrics.flush(alone) == {"tokens": 2.0**24 + 3}  # float32 would stay at 2 ** 24


@pytest.mark.parametrize("first", ["seconds", "a"])
def test_numbers_join_the_tensors_on_their_device(first: str) -> None:
    metrics = Metrics()
    metrics.add(first, 1.0)
    metrics.add("loss", torch.ones(3, device="meta"))
    metrics.add("z", 2.0)
    gathered: list[Tensor] = []
    metrics.flush(lambda table: gathered.append(table) or torch.zeros(table.shape))
    assert gathered[0].device.type == "meta"
    assert gathered[0].shape == (3, 2)


def test_metrics_keep_no_graph() -> None:
    metrics = Metrics()
    metrics.add("loss", torch.ones(2, requires_grad=True) * 2)
    tables: list[Tensor] = []
    metrics.flush(lambda table: tables.append(table) or table)
    assert not tables[0].requires_grad
