"""What a kind of layer is: everything that the rest of the library asks of one.

A kind is a frozen dataclass of its options, `Conv2d(32, kernel=3)`: plain values that JSON
can hold. It has no arrays and no state. What depends on the input is a function of the
input's shape; what changes in training is passed in and comes out.

Shapes are those of ONE example, without leading axes and without m: (n,), (channels, height,
width), (features, time). Arrays are (…, *shape, m), parameters (…, n_out, n_in), where … is
empty or (n_networks,); the first layer's input may lack it while the parameters have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ..kernels import Kernels
from ..types import Array, Namespace

Shape: TypeAlias = tuple[int, ...]
Begins: TypeAlias = Literal["weights", "zeros", "ones"]


class Parameter(NamedTuple):
    """One parameter of a layer: a piece of the network's flat vector.

    name      "W", "b", "gain", "U" …, unique within the layer
    shape     (n_out, n_in): all parameters have two axes, a bias (n_out, 1)
    begins    "weights" by the layer's initialiser, "zeros" or "ones", or a number
    fan_in    what initialisers scale by; 0 takes n_in
    fan_out   likewise n_out
    decays    whether L2 and weight decay act on it
    sparse    whether `density` removes some of its entries
    """

    name: str
    shape: tuple[int, int]
    begins: Begins | float = "weights"
    fan_in: int = 0
    fan_out: int = 0
    decays: bool = True
    sparse: bool = False


class Statistic(NamedTuple):
    """A running mean or the like: a piece of `State.running`, not trained by gradients."""

    name: str
    n: int
    begins: float


class Pass(NamedTuple):
    """What a forward pass is told beside the input.

    training  whether batches are normalised by their own moments and units are dropped
    bits      (…, n_bits, m) uniform 16-bit integers for this layer; None drops nothing
    running   this layer's statistics by name, (…, n, 1); empty where there are none
    present   (time, m) 1 where a sequence has a step, 0 after its end; None where all have all
    wanted    whether `backward` is asked for ∂J/∂A of the input: a network's first layer is
              not, and a convolution may save what costs most there
    shape     of one example of the input, which says how many leading axes A has
    """

    training: bool = True
    bits: Array | None = None
    running: Mapping[str, Array] = {}
    present: Array | None = None
    wanted: bool = True
    shape: Shape = ()


@runtime_checkable
class Kind(Protocol):
    """One kind of layer. All methods are pure functions."""

    def out_shape(self, shape: Shape) -> Shape:
        """Of one example's output; ValueError, naming itself and the shape, if it cannot be."""
        ...

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """In the order they lie in the flat vector; () for most."""
        ...

    def statistics(self, shape: Shape) -> tuple[Statistic, ...]:
        """Running statistics; () for all but batch normalisation."""
        ...

    def n_bits(self, shape: Shape) -> int:
        """How many dropout bits one example takes; 0 for all but dropout."""
        ...

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Any]:
        """The output (…, *out_shape, m), and whatever `backward` wants to remember."""
        ...

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Any, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """∂J/∂A of the input, (…, *shape, m), and of each parameter, in the parameter's shape.

        dA  ∂J/∂ the output. None for the input's is right where it has no derivative
            (an embedding's whole numbers) and where it was not wanted.
        """
        ...

    def newest(self, xp: Namespace, memory: Any, m: Any) -> dict[str, Array]:
        """The batch's own value of each statistic that it tells of, (…, n, 1).

        {} for all but batch normalisation.
        """
        ...


class Plain:
    """Base of the kinds without parameters, statistics and dropout: they say only what they do."""

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return ()

    def statistics(self, shape: Shape) -> tuple[Statistic, ...]:
        return ()

    def n_bits(self, shape: Shape) -> int:
        return 0

    def newest(self, xp: Namespace, memory: Any, m: Any) -> dict[str, Array]:
        return {}
