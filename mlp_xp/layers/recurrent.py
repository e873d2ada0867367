"""Recurrent layers: Elman, GRU and LSTM over sequences (features, time).

What a layer computes of its inputs alone, W x + b of all gates and all steps, is ONE product
over (time · m) columns. Only U h, of the state before, is taken step by step: as many products
of (gates · n, n) by (n, m) as there are steps. Backward the δ of all steps are collected, and
each matrix has ONE gradient product at the end.

Both directions are one recurrence with one more axis, (…, directions, n, m), whose second
entry sees the steps from the last to the first: two directions cost no more calls than one.
Parameters of both lie below each other, (directions · gates · n, …).

Where sequences differ in length, `Pass.present` is 0 after the end of each: the state is then
held, so that the last state is that of the sequence's own last step, and the second direction,
whose state is 0 until a step is present, begins at the sequence's own end. Outputs of steps
that are not there are 0, as in PyTorch's padded sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..activations import ACTIVATIONS, sigmoid
from ..kernels import Kernels
from ..types import Array, Namespace
from . import options
from .base import Parameter, Pass, Plain, Shape


class Memory(NamedTuple):
    """What the forward pass keeps for the backward pass.

    A       (…, features, time · m)
    before  (…, directions, n, m) for each step: the state before it
    gates   what a kind remembers of each step
    present (…, directions, 1, m) for each step, or None where all are there
    """

    A: Array
    before: list[Array]
    gates: list[tuple[Array, ...]]
    present: list[Array] | None
    wanted: bool


def _reversed_second(xp: Namespace, X: Array) -> Array:
    """(…, 2, k, time, m) with the time of the second entry turned round; of one, as it is."""
    if X.shape[-4] == 1:
        return X
    turned = xp.flip(X[..., 1:, :, :, :], axis=-2)
    return xp.concat([X[..., :1, :, :, :], turned], axis=-4)


class _Recurrent(Plain):
    """What recurrent layers share; a kind says its gates, one step, and that step's δ."""

    n: int
    returns: str
    directions: int
    gates: ClassVar[int]
    other: ClassVar[int] = 0  # how many states there are beside h

    def _check(self) -> None:
        object.__setattr__(self, "n", options.whole("n", self.n, 1))
        options.one_of("returns", self.returns, ("last", "all"))
        object.__setattr__(self, "directions", options.whole("directions", self.directions, 1))
        if self.directions > 2:
            raise ValueError(
                f"directions is {self.directions}, but expected 1 (from the first step on) or 2 "
                "(from the last step back as well)."
            )

    def out_shape(self, shape: Shape) -> Shape:
        if len(shape) != 2:
            raise options.unfit(
                self,
                shape,
                "sequences, (features, time)",
                "A recurrent layer before it must return 'all' states; images row by row are "
                "Reshape((height, width)) of one channel.",
            )
        n = self.directions * self.n
        return (n, shape[1]) if self.returns == "all" else (n,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """W (d · gates · n, features) and U (d · gates · n, n), then the biases of the kind."""
        self.out_shape(shape)
        rows = self.directions * self.gates * self.n
        return (
            Parameter("W", (rows, shape[0]), fan_in=shape[0], fan_out=self.n, sparse=True),
            Parameter("U", (rows, self.n), fan_in=self.n, fan_out=self.n, sparse=True),
            *self._biases(),
        )

    def _biases(self) -> tuple[Parameter, ...]:
        rows = self.directions * self.gates * self.n
        return (Parameter("b", (rows, 1), "zeros", decays=False),)

    def _input_bias(self, xp: Namespace, P: Mapping[str, Array]) -> Array:
        """(…, d · gates · n, 1), added to W x."""
        return P["b"]

    def _by_direction(self, xp: Namespace, X: Array) -> Array:
        """(…, d · k, columns) as (…, d, k, columns)."""
        k = X.shape[-2] // self.directions
        return xp.reshape(X, (*X.shape[:-2], self.directions, k, X.shape[-1]))

    def _each(self, Z: Any) -> list[Array]:
        """(…, gates · n, m) gate by gate: what is computed so needs no pass by itself."""
        return [Z[..., k * self.n : (k + 1) * self.n, :] for k in range(self.gates)]

    def _step(
        self, xp: Namespace, Z: Array, V: Array, states: tuple[Array, ...], c: Array | None
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Z = W x + b and V = U h of one step, (…, d, gates · n, m) → new states, and gates."""
        raise NotImplementedError

    def _step_back(
        self,
        xp: Namespace,
        gates: tuple[Array, ...],
        before: Array,
        d_states: tuple[Array, ...],
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """∂J/∂Z, ∂J/∂V, and ∂J/∂ the states before but for the path through U: None is 0."""
        raise NotImplementedError

    def forward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], A: Array, told: Pass
    ) -> tuple[Array, Memory]:
        """A (…, features, time, m) → the last states (…, d · n, m), or all (…, d · n, time, m)."""
        self.out_shape(told.shape)
        features, time, m = A.shape[-3:]
        A = xp.reshape(A, (*A.shape[:-3], features, time * m))
        Z = kernels.product(xp, P["W"], A) + self._input_bias(xp, P)
        Z = self._by_direction(xp, Z)
        Z = _reversed_second(xp, xp.reshape(Z, (*Z.shape[:-1], time, m)))
        present = None if told.present is None else self._present(xp, told.present, Z)
        U = self._by_direction(xp, P["U"])
        c = self._by_direction(xp, P["c"]) if "c" in P else None
        zero = xp.zeros_like(Z[..., : self.n, 0, :])
        states: tuple[Array, ...] = (zero,) * (1 + self.other)
        before, gates, outputs = [], [], []
        for t in range(time):
            V = kernels.product(xp, U, states[0])
            before.append(states[0])
            new, remembered = self._step(xp, Z[..., t, :], V, states, c)
            if present is not None:
                there = present[t] > 0
                new = tuple(xp.where(there, s, old) for s, old in zip(new, states, strict=True))
            states = new
            gates.append(remembered)
            if self.returns == "all":
                outputs.append(states[0] if present is None else states[0] * present[t])
        memory = Memory(A, before, gates, present, told.wanted)
        if self.returns == "last":
            h = states[0]
            return xp.reshape(h, (*h.shape[:-3], self.directions * self.n, m)), memory
        H = _reversed_second(xp, xp.stack(outputs, axis=-2))
        return xp.reshape(H, (*H.shape[:-4], self.directions * self.n, time, m)), memory

    def _present(self, xp: Namespace, present: Array, Z: Array) -> list[Array]:
        """(time, m) as (directions, 1, m) for each step in the order each direction sees it."""
        present = xp.astype(present, Z.dtype, copy=False)
        both = [present, xp.flip(present, axis=-2)][: self.directions]
        P = xp.stack(both, axis=-3)
        return [P[..., t, :][..., None, :] for t in range(present.shape[-2])]

    def backward(
        self, xp: Namespace, kernels: Kernels, P: Mapping[str, Array], memory: Memory, dA: Array
    ) -> tuple[Array | None, dict[str, Array]]:
        """δ of the output → ∂J/∂A (…, features, time, m), and of the parameters."""
        A, before, gates, present, wanted = memory
        time, m = len(before), dA.shape[-1]
        every = self.returns == "all"
        given = self._by_direction(xp, dA if not every else _flat(xp, dA))
        if every:
            given = _reversed_second(xp, xp.reshape(given, (*given.shape[:-1], time, m)))
        U = self._by_direction(xp, P["U"])
        nothing = xp.zeros_like(given[..., 0, :] if every else given)
        carried: tuple[Array, ...] = (nothing if every else given, *(nothing,) * self.other)
        to_Z: list[Array] = [nothing] * time
        to_V: list[Array] = [nothing] * time
        for t in reversed(range(time)):
            if every:
                dH = given[..., t, :]
                if present is not None:
                    dH = dH * present[t]
                carried = (carried[0] + dH, *carried[1:])
            held: tuple[Array, ...] | None = None
            if present is not None:
                held = tuple(d * (1 - present[t]) for d in carried)
                carried = tuple(d * present[t] for d in carried)
            to_Z[t], to_V[t], passed = self._step_back(xp, gates[t], before[t], carried)
            through = kernels.input_gradient(xp, U, to_V[t])
            carried = (through if passed[0] is None else passed[0] + through, *passed[1:])
            if held is not None:
                carried = tuple(d + h for d, h in zip(carried, held, strict=True))
        delta_V = _in_time(xp, to_V)
        delta_Z = delta_V if to_Z[0] is to_V[0] else _in_time(xp, to_Z)
        gradients = self._gradients(xp, delta_Z, delta_V)
        dU = kernels.weight_gradient(xp, _flat(xp, delta_V), _flat(xp, _in_time(xp, before)))
        gradients["U"] = _rows(xp, dU)
        delta = _rows(xp, _flat(xp, _reversed_second(xp, delta_Z)))
        gradients["W"] = kernels.weight_gradient(xp, delta, A)
        if not wanted:
            return None, gradients
        back = kernels.input_gradient(xp, P["W"], delta)
        return xp.reshape(back, (*back.shape[:-1], time, m)), gradients

    def _gradients(self, xp: Namespace, delta_Z: Array, delta_V: Array) -> dict[str, Array]:
        """Of the biases, from δ (…, d, gates · n, time, m)."""
        return {"b": _summed(xp, delta_Z)}


def _in_time(xp: Namespace, steps: Sequence[Array]) -> Array:
    """(…, d, k, m) of each step as (…, d, k, time, m)."""
    return xp.stack(list(steps), axis=-2)


def _flat(xp: Namespace, X: Array) -> Array:
    """(…, time, m) as (…, time · m)."""
    return xp.reshape(X, (*X.shape[:-2], X.shape[-2] * X.shape[-1]))


def _rows(xp: Namespace, X: Array) -> Array:
    """(…, d, k, columns) as (…, d · k, columns)."""
    return xp.reshape(X, (*X.shape[:-3], X.shape[-3] * X.shape[-2], X.shape[-1]))


def _summed(xp: Namespace, delta: Array) -> Array:
    """δ (…, d, k, time, m) summed over steps and examples, (…, d · k, 1)."""
    return _rows(xp, xp.sum(_flat(xp, delta), axis=-1, keepdims=True))


@dataclass(frozen=True)
class Elman(_Recurrent):
    """h_t = f(W x_t + U h_{t-1} + b) (Elman 1990, "Finding Structure in Time").

    (features, time) → (directions · n,), or (directions · n, time) where it returns all

    activation  "tanh" or "relu"
    returns     "last" state, or "all"
    directions  2 reads each sequence backwards as well; those states stand below
    """

    n: int
    returns: str = "last"
    directions: int = 1
    activation: str = "tanh"
    gates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._check()
        options.one_of("activation", self.activation, ("tanh", "relu"))

    def _step(
        self, xp: Namespace, Z: Array, V: Array, states: tuple[Array, ...], c: Array | None
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        h = ACTIVATIONS[self.activation].f(xp, Z + V)
        return (h,), (h,)

    def _step_back(
        self,
        xp: Namespace,
        gates: tuple[Array, ...],
        before: Array,
        d_states: tuple[Array, ...],
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        (h,) = gates
        delta = d_states[0] * ACTIVATIONS[self.activation].slope(xp, h)
        return delta, delta, (None,)


@dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014), reset after the product as cuDNN has them:

        r = σ(W_r x + b_r + U_r h + c_r)
        z = σ(W_z x + b_z + U_z h + c_z)
        g = tanh(W_g x + b_g + r ∘ (U_g h + c_g))
        h' = (1 - z) ∘ g + z ∘ h

    Rows of W, U, b and c: r, z, g, as PyTorch's weight_ih, weight_hh, bias_ih, bias_hh.

    (features, time) → (directions · n,), or (directions · n, time) where it returns all

    returns     "last" state, or "all"
    directions  2 reads each sequence backwards as well; those states stand below
    """

    n: int
    returns: str = "last"
    directions: int = 1
    gates: ClassVar[int] = 3
    activation: ClassVar[str] = "tanh"  # what its weights begin by, whatever follows

    def __post_init__(self) -> None:
        self._check()

    def _biases(self) -> tuple[Parameter, ...]:
        rows = self.directions * self.gates * self.n
        return tuple(Parameter(name, (rows, 1), "zeros", decays=False) for name in ("b", "c"))

    def _step(
        self, xp: Namespace, Z: Array, V: Array, states: tuple[Array, ...], c: Array | None
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        (h,) = states
        (Z_r, Z_z, Z_g), (V_r, V_z, V_g) = self._each(Z), self._each(V)
        c_r, c_z, c_g = self._each(c)
        r, z = sigmoid(xp, Z_r + (V_r + c_r)), sigmoid(xp, Z_z + (V_z + c_z))
        q = V_g + c_g
        g = xp.tanh(Z_g + r * q)
        return (g + z * (h - g),), (r, z, q, g)

    def _step_back(
        self,
        xp: Namespace,
        gates: tuple[Array, ...],
        before: Array,
        d_states: tuple[Array, ...],
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        (dh,) = d_states
        r, z, q, g = gates
        kept = dh * z
        delta_g = (dh - kept) * ((1 - g) * (1 + g))
        delta_r, delta_z = delta_g * q * (r * (1 - r)), dh * (before - g) * (z * (1 - z))
        return (
            xp.concat([delta_r, delta_z, delta_g], axis=-2),
            xp.concat([delta_r, delta_z, delta_g * r], axis=-2),
            (kept,),
        )

    def _gradients(self, xp: Namespace, delta_Z: Array, delta_V: Array) -> dict[str, Array]:
        return {"b": _summed(xp, delta_Z), "c": _summed(xp, delta_V)}


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates (Gers et al. 2000):

        i, f, o = σ(W x + b + U h) of each gate;  g = tanh(W_g x + b_g + U_g h)
        s' = f ∘ s + i ∘ g                        the memory cell
        h' = o ∘ tanh(s')

    Rows of W and U: i, f, g, o, as PyTorch's. The biases of i, g and o are b; those of f are
    b_forget, which begin at `forget_bias`, so that a cell keeps what it holds until it learns
    to forget (Jozefowicz, Zaremba & Sutskever 2015, §3.1).

    (features, time) → (directions · n,), or (directions · n, time) where it returns all

    returns      "last" state h, or "all"
    directions   2 reads each sequence backwards as well; those states stand below
    forget_bias  where b_forget begins
    """

    n: int
    returns: str = "last"
    directions: int = 1
    forget_bias: float = 1.0
    gates: ClassVar[int] = 4
    activation: ClassVar[str] = "tanh"  # what its weights begin by, whatever follows
    other: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "forget_bias", options.number("forget_bias", self.forget_bias))

    def _biases(self) -> tuple[Parameter, ...]:
        rows = self.directions * self.n
        return (
            Parameter("b", (3 * rows, 1), "zeros", decays=False),
            Parameter("b_forget", (rows, 1), self.forget_bias, decays=False),
        )

    def _input_bias(self, xp: Namespace, P: Mapping[str, Array]) -> Array:
        n = self.n
        b, forget = (self._by_direction(xp, P[name]) for name in ("b", "b_forget"))
        return _rows(xp, xp.concat([b[..., :n, :], forget, b[..., n:, :]], axis=-2))

    def _step(
        self, xp: Namespace, Z: Array, V: Array, states: tuple[Array, ...], c: Array | None
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        _, s = states
        Z_i, Z_f, Z_g, Z_o = (a + b for a, b in zip(self._each(Z), self._each(V), strict=True))
        i, f, o = (sigmoid(xp, each) for each in (Z_i, Z_f, Z_o))
        g = xp.tanh(Z_g)
        new = f * s + i * g
        seen = xp.tanh(new)
        return (o * seen, new), (i, f, g, o, s, seen)

    def _step_back(
        self,
        xp: Namespace,
        gates: tuple[Array, ...],
        before: Array,
        d_states: tuple[Array, ...],
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        dh, ds = d_states
        i, f, g, o, s, seen = gates
        ds = ds + dh * o * ((1 - seen) * (1 + seen))
        delta_i, delta_f = ds * g * (i * (1 - i)), ds * s * (f * (1 - f))
        delta_g = ds * i * ((1 - g) * (1 + g))
        delta_o = dh * seen * (o * (1 - o))
        delta = xp.concat([delta_i, delta_f, delta_g, delta_o], axis=-2)
        return delta, delta, (None, ds * f)

    def _gradients(self, xp: Namespace, delta_Z: Array, delta_V: Array) -> dict[str, Array]:
        n = self.n
        db = self._by_direction(xp, _summed(xp, delta_Z))
        rest = xp.concat([db[..., :n, :], db[..., 2 * n :, :]], axis=-2)
        return {"b": _rows(xp, rest), "b_forget": _rows(xp, db[..., n : 2 * n, :])}
