"""Every row of SCHEDULES."""

from __future__ import annotations

import numpy as np
import pytest

from mlp_xp.schedules import (
    SCHEDULES,
    Cosine,
    Exponential,
    InverseScaling,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmUp,
)


def factors(schedule: Schedule, n_steps: int = 100, per_epoch: int = 10) -> np.ndarray:
    return np.array([schedule.factor(step, n_steps, per_epoch) for step in range(n_steps)])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("n_steps", [1, 2, 7, 100])
def test_factors_are_positive_and_at_most_one(name: str, n_steps: int) -> None:
    values = factors(SCHEDULES[name], n_steps)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (values <= 1 + 1e-12).all()


def test_each_formula() -> None:
    steps = np.arange(100)
    np.testing.assert_array_equal(factors(Schedule()), 1)
    np.testing.assert_allclose(factors(InverseScaling(power=0.5)), (steps + 1) ** -0.5)
    np.testing.assert_allclose(factors(StepDecay(0.5, every=3)), 0.5 ** (steps // 30))
    np.testing.assert_allclose(factors(Exponential(0.9)), 0.9 ** (steps / 10))
    np.testing.assert_allclose(
        factors(Cosine(final=0.1)), 0.1 + 0.45 * (1 + np.cos(np.pi * steps / 99))
    )


def test_one_cycle_rises_then_falls() -> None:
    values = factors(OneCycle(warm=0.3, start=0.04, final=1e-4), 1000)
    np.testing.assert_allclose(values[[0, -1]], [0.04, 1e-4])
    peak = int(np.argmax(values))
    assert peak == 300
    np.testing.assert_allclose(values[peak], 1, atol=1e-4)
    assert (np.diff(values[:peak]) > 0).all()
    assert (np.diff(values[peak:]) < 0).all()


def test_one_cycle_agrees_with_torch(torch: object) -> None:
    optim = torch.optim  # type: ignore[attr-defined]
    weights = [torch.zeros(1, requires_grad=True)]  # type: ignore[attr-defined]
    optimizer = optim.SGD(weights, lr=1.0)
    reference = optim.lr_scheduler.OneCycleLR(
        optimizer,
        1.0,
        total_steps=101,
        div_factor=25,
        final_div_factor=400,
        cycle_momentum=False,
    )
    expected = []
    for _ in range(101):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 101:
            reference.step()
    # torch puts the peak at warm · n - 1, ours at warm · (n - 1): equal for 0.3 · 101 - 1 = 29.3
    mine = factors(OneCycle(warm=29.3 / 100), 101)
    np.testing.assert_allclose(mine, expected, rtol=1e-9)


def test_warm_up_is_linear_then_hands_over() -> None:
    values = factors(WarmUp(steps=20, then=Cosine()))
    np.testing.assert_allclose(values[:20], np.arange(1, 21) / 20)
    np.testing.assert_allclose(values[20:], factors(Cosine(), 80))


def test_plateau_drops_after_patience_and_each_network_by_itself() -> None:
    rule = ReduceOnPlateau(drop=0.5, patience=2, threshold=0.0, lowest=0.2)
    memory = rule.begin(2)
    seen = []
    for epoch in range(12):
        improving = 1.0 / (epoch + 1)
        memory = rule.observe(memory, np.array([improving, 1.0]))
        seen.append(memory.reduction.copy())
    table = np.array(seen)
    np.testing.assert_array_equal(table[:, 0], 1)
    np.testing.assert_allclose(
        table[:, 1], [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2]
    )
