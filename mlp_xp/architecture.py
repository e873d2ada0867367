"""What training, the front and the files ask of a network.

There are two: the dense `network.Network`, which the fast paths read, and a chain of layers of
any kind (`layers.chain`), which they leave to the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .hardware import Device
from .initializers import Initializer
from .kernels import Kernels
from .types import Array, Namespace

CHUNK = 8192  # examples in one forward pass of an evaluation


class Slot(NamedTuple):
    """Where one parameter lies in the flat vector."""

    name: str  # "W1", "b1", "gain1", "P2": the field of Layer and the layer's number
    field: str
    layer: int  # from 0
    start: int
    shape: tuple[int, int]

    @property
    def stop(self) -> int:
        return self.start + self.shape[0] * self.shape[1]


class Forward(NamedTuple):
    """The result of a forward pass.

    scores    (n_out, m)  what the last layer gives
    memories  one a layer, for the backward pass
    """

    scores: Array
    memories: tuple[Any, ...]


class Architecture(Protocol):
    """What the rest of the library asks of a network. A value: no arrays, no state.

    sizes         numbers of features, of what each layer gives, and of outputs
    slots         all parameters in the order they lie in the flat vector
    n_weights     how many of the first parameters decay
    n_parameters  length of the flat vector
    statistics    name and length of each part of the running moments, in order
    n_statistics  length of all of them
    n_dropped     how many dropout bits one example takes
    sparse        whether some connections are absent
    by_batch      whether of one example alone some unit is normalised to nothing
    written       in a word or two, for people
    at_once       examples whose forward pass, in evaluation, is made in one
    work          multiplications of one example's forward pass, about

    "layers" are whatever `split` makes of the flat vector, one entry a layer, and `backward`
    gives the gradient in the same form.
    """

    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def slots(self) -> tuple[Slot, ...]: ...
    @property
    def n_weights(self) -> int: ...
    @property
    def n_parameters(self) -> int: ...
    @property
    def statistics(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def n_statistics(self) -> int: ...
    @property
    def n_dropped(self) -> int: ...
    @property
    def sparse(self) -> bool: ...
    @property
    def by_batch(self) -> bool: ...
    @property
    def written(self) -> str: ...
    @property
    def at_once(self) -> int: ...
    @property
    def work(self) -> int: ...

    def check_rows(self, argument: str, device: Device, rows: Array) -> None:
        """Raise ValueError for finite numbers (m, n_features) that its layers do not take."""
        ...

    def threads(self, device: Device, batch_size: int) -> AbstractContextManager[object]:
        """A context to run its steps in."""
        ...

    def initialise(
        self, seed: int, initializers: Sequence[Initializer], dtype: str
    ) -> npt.NDArray[Any]:
        """Initial parameters (n_parameters,) on the host."""
        ...

    def initial_statistics(self) -> npt.NDArray[np.float64]:
        """Running moments before any batch, (n_statistics,)."""
        ...

    def connections(self, seed: int) -> npt.NDArray[np.float64] | None:
        """1 where a parameter takes part, 0 where a connection is absent; None if all do."""
        ...

    def split(self, xp: Namespace, theta: Array) -> list[Any]:
        """The flat vector (…, n_parameters) as layers of (…, n_out, n_in) arrays."""
        ...

    def join(self, xp: Namespace, layers: Sequence[Any]) -> Array:
        """Layers, or their gradients, as one flat vector (…, n_parameters)."""
        ...

    def forward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        X: Array,
        *,
        running: Array | None = None,
        bits: Array | None = None,
    ) -> Forward:
        """Scores of the examples X (n_features, m): see `network.forward`."""
        ...

    def backward(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        memories: Sequence[Any],
        delta: Array,
        db: Array,
    ) -> tuple[list[Any], list[Array]]:
        """Gradients by layer, and each layer's δ where the network has such."""
        ...

    def batch_statistics(
        self, xp: Namespace, memories: Sequence[Any], m: Any, running: Array
    ) -> Array:
        """Means and variances of the batch, flat like `running`, which has what it does not tell.

        m  number of its examples, as `kernels.whole_batch` gives it
        """
        ...

    def predicting(
        self, xp: Namespace, layers: Sequence[Any], running: Array
    ) -> tuple[Architecture, Sequence[Any]]:
        """A network that predicts the same, and its layers: simpler, if there is such."""
        ...

    def look(
        self,
        kernels: Kernels,
        xp: Namespace,
        layers: Sequence[Any],
        X: Array,
        bits: Array | None,
        score: Callable[[Array], tuple[Array, Array]],
    ) -> dict[str, Array]:
        """Every array of a step by name, but for the parameters' gradients.

        score  scores → δ = ∂J/∂S and its sum over the examples
        """
        ...


def by_name(network: Architecture, xp: Namespace, theta: Array) -> dict[str, Array]:
    """The parts of a flat vector (…, n_parameters) by the parameters' names, views."""
    return {
        slot.name: xp.reshape(theta[..., slot.start : slot.stop], (*theta.shape[:-1], *slot.shape))
        for slot in network.slots
    }
