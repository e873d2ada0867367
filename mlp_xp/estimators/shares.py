"""The `processes` of an estimator: what one that trains alone has of it.

What trains it by several is in `ranks`, which is brought when that is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from ..hardware import Device

if TYPE_CHECKING:
    from ..ranks import Ranks


class Shares(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator whose `processes` may be a client of a cluster, which nobody can copy."""

    processes: Any

    def __sklearn_clone__(self) -> Self:
        """scikit-learn's clone, of the same client."""
        alone: Any = object.__new__(type(self))
        vars(alone).update({**vars(self), "processes": None})
        found: Self = BaseEstimator.__sklearn_clone__(alone)
        found.processes = self.processes
        return found

    def __getstate__(self) -> dict[str, Any]:
        """In the place of a client the address of its scheduler, which means the same."""
        state = dict(super().__getstate__())
        client: Any = state.get("processes")
        if hasattr(client, "scheduler"):  # of one that is closed there is none
            state["processes"] = getattr(client.scheduler, "address", None)
        return state


def find(processes: Any, device: Device) -> Ranks | None:
    """`ranks.find`, which one process alone has no need of."""
    if processes is None:
        return None
    from ..ranks import find

    return find(processes, device)


def generator(random_state: Any, processes: Any, device: Device) -> np.random.RandomState:
    """What an estimator draws from: of ranks that were given no `random_state`, that of rank 0."""
    random: np.random.RandomState = check_random_state(random_state)
    ranks = find(processes, device)
    if ranks is None or random_state is not None:
        return random
    return np.random.RandomState(ranks.first(int(random.randint(2**31 - 1))))


def ranks_of(est: Any, device: Device) -> Ranks | None:
    """The ranks of an estimator's `processes`; ValueError where its solver knows no batches."""
    if est.processes is not None and est.solver == "lbfgs":
        raise ValueError(
            f"processes is {est.processes!r}, but solver='lbfgs' takes all examples in every "
            "step, and processes share batches: expected a stochastic solver, 'adam' or another."
        )
    return find(est.processes, device)


__all__ = ["Shares", "generator", "ranks_of"]
