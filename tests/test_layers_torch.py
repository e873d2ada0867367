"""Every kind of layer against PyTorch's: outputs and all gradients, float64, to 1e-10.

`TORCH` says what each kind is there. Each has 300 samples of shapes, strides, paddings,
dilations, groups, directions and lengths, told apart by their number. A run takes a few of
each, chosen by a seed that is printed: MLP_XP_SEED=… repeats them, MLP_XP_EXHAUSTIVE=1 takes all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from time import time_ns
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlp_xp.kernels import SPEC
from mlp_xp.layers import (
    GRU,
    LSTM,
    AvgPool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Elman,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Last,
    LayerNorm,
    MaxPool,
)
from mlp_xp.layers.base import Pass
from mlp_xp.layers.embedding import MANY

N_SAMPLES, N_TAKEN = 300, 12
EXHAUSTIVE = bool(os.environ.get("MLP_XP_EXHAUSTIVE"))
SEED = int(os.environ.get("MLP_XP_SEED", time_ns() % 2**32))


class Told(NamedTuple):
    """What a layer is told beside its input: `Pass`, of NumPy arrays."""

    training: bool = True
    running: dict[str, np.ndarray] = {}  # noqa: RUF012
    present: np.ndarray | None = None


# -- what each kind is in PyTorch: (torch, kind, P, X, told) ↦ the output; examples come first


def zeros_around(n: int, kernel: int, stride: int, dilation: int, padding: Any) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's documents say it."""
    span = dilation * (kernel - 1) + 1
    if padding == "causal":
        return span - 1, 0
    if padding == "same":
        total = max((-(-n // stride) - 1) * stride + span - n, 0)
        return total // 2, total - total // 2
    zeros = 0 if padding == "valid" else padding
    return zeros, zeros


def convolution(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    n = X.ndim - 2
    options = (kind.kernel, kind.stride, kind.dilation, kind.padding)
    kernel, stride, dilation, padding = (v if isinstance(v, tuple) else (v,) * n for v in options)
    each = zip(X.shape[2:], kernel, stride, dilation, padding, strict=True)
    around = [zeros_around(*of) for of in each]
    X = torch.nn.functional.pad(X, [zeros for of in reversed(around) for zeros in of])
    W = P["W"].reshape(kind.channels, X.shape[1] // kind.groups, *kernel)
    b = P["b"][:, 0] if kind.bias else None
    function = getattr(torch.nn.functional, f"conv{n}d")
    return function(X, W, b, stride, 0, dilation, kind.groups)


def pooling(name: str) -> Callable[..., Any]:
    def inside(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
        function = getattr(torch.nn.functional, f"{name}_pool{X.ndim - 2}d")
        return function(X, kind.window, kind.stride, kind.padding)

    return inside


def mean_of_places(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    if told.present is None:
        return X.mean(dim=tuple(range(2, X.ndim)))
    present = torch.tensor(told.present.T)[:, None, :]
    return (X * present).sum(dim=2) / present.sum(dim=2)


def last(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    if told.present is None:
        return X[:, :, -1]
    place = torch.tensor(told.present.sum(axis=0).astype(int) - 1)
    return X[torch.arange(X.shape[0]), :, place]


def embedding(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    return torch.nn.functional.embedding(X.detach().long(), P["W"].T).movedim(-1, 1)


def batch_norm(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    running = [torch.tensor(told.running[name][:, 0].copy()) for name in ("mean", "variance")]
    of = [P[name][:, 0] for name in ("gain", "b")]
    return torch.nn.functional.batch_norm(X, *running, *of, training=told.training)


def layer_norm(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    norm = torch.nn.functional.layer_norm
    if kind.over == "all":
        return norm(X, X.shape[1:], *(P[name].reshape(X.shape[1:]) for name in ("gain", "b")))
    of = [P[name][:, 0] for name in ("gain", "b")]
    return norm(X.movedim(1, -1), X.shape[1:2], *of).movedim(-1, 1)


def parameters_there(torch: Any, kind: Any, P: dict[str, Any]) -> dict[str, Any]:
    """Ours under PyTorch's names: biases that it has twice are 0 the second time."""
    found = {}
    b = P["b"].reshape(kind.directions, -1)
    if isinstance(kind, LSTM):
        i, g, o = b.reshape(kind.directions, 3, kind.n).unbind(1)
        b = torch.cat([i, P["b_forget"].reshape(kind.directions, kind.n), g, o], dim=1)
    c = P["c"].reshape(kind.directions, -1) if "c" in P else torch.zeros_like(b)
    for d in range(kind.directions):
        end = "_l0" + ("_reverse" if d else "")
        found["weight_ih" + end] = P["W"].reshape(*b.shape, -1)[d]
        found["weight_hh" + end] = P["U"].reshape(*b.shape, -1)[d]
        found["bias_ih" + end], found["bias_hh" + end] = b[d], c[d]
    return found


def recurrent(torch: Any, kind: Any, P: dict[str, Any], X: Any, told: Told) -> Any:
    elman = isinstance(kind, Elman)
    make = torch.nn.RNN if elman else getattr(torch.nn, type(kind).__name__)
    extra = {"nonlinearity": kind.activation} if elman else {}
    layer = make(X.shape[1], kind.n, bidirectional=kind.directions == 2, **extra).double()
    X, time = X.permute(2, 0, 1), X.shape[2]
    if told.present is not None:
        lengths = torch.tensor(told.present.sum(axis=0).astype(int))
        X = torch.nn.utils.rnn.pack_padded_sequence(X, lengths, enforce_sorted=False)
    every, h = torch.func.functional_call(layer, parameters_there(torch, kind, P), (X,))
    if kind.returns == "last":
        return torch.cat(list(h[0] if isinstance(h, tuple) else h), dim=1)
    if told.present is not None:
        every, _ = torch.nn.utils.rnn.pad_packed_sequence(every, total_length=time)
    return every.permute(1, 2, 0)


TORCH: dict[type, Callable[[Any, Any, dict[str, Any], Any, Told], Any]] = {
    Conv1d: convolution,
    Conv2d: convolution,
    MaxPool: pooling("max"),
    AvgPool: pooling("avg"),
    GlobalAvgPool: mean_of_places,
    Last: last,
    Flatten: lambda torch, kind, P, X, told: X.flatten(1),
    Embedding: embedding,
    BatchNorm: batch_norm,
    LayerNorm: layer_norm,
    Elman: recurrent,
    GRU: recurrent,
    LSTM: recurrent,
}


# -- samples: (rng) ↦ a layer, its input's shape, the input, and what it is told


class Case(NamedTuple):
    kind: Any
    A: np.ndarray
    told: Told = Told()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.A.shape[:-1]


Rng = np.random.Generator


def few(rng: Rng, high: int, n: int = 1, least: int = 1) -> list[int]:
    found: list[int] = rng.integers(least, high, size=n).tolist()
    return found


def ends(rng: Rng, time: int, m: int) -> np.ndarray | None:
    """Where sequences have steps, at least one each; or None."""
    if rng.integers(2):
        return None
    return (np.arange(time)[:, None] < rng.integers(1, time + 1, size=m)).astype(float)


def conv1d(rng: Rng) -> Case:
    groups = int(rng.choice([1, 1, 2, 3]))
    n_in, n_out = (groups * n for n in few(rng, 4, 2))
    (kernel,), (stride,), (dilation,) = few(rng, 6), few(rng, 5), few(rng, 4)
    padding = [*("valid", "same", "causal"), *few(rng, 4, least=0)][int(rng.integers(4))]
    least = 1 if padding in ("same", "causal") else dilation * (kernel - 1) + 1
    time, m = least + int(rng.integers(0, 12)), *few(rng, 5)
    kind = Conv1d(n_out, kernel, stride, dilation, padding, groups, bool(rng.integers(4)))
    return Case(kind, rng.normal(size=(n_in, time, m)))


def conv2d(rng: Rng) -> Case:
    groups = int(rng.choice([1, 1, 2, 3]))
    n_in, n_out = (groups * n for n in few(rng, 4, 2))
    kernel, stride, dilation = (tuple(few(rng, top, 2)) for top in (4, 4, 3))
    padding: Any = ["valid", "same", tuple(few(rng, 3, 2, least=0))][int(rng.integers(3))]
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [(1 if padding == "same" else n) + int(rng.integers(0, 7)) for n in least]
    kind = Conv2d(n_out, kernel, stride, dilation, padding, groups, bool(rng.integers(4)))
    return Case(kind, rng.normal(size=(n_in, *size, *few(rng, 4))))


def pool(rng: Rng, make: Any) -> Case:
    n = int(rng.integers(1, 3))
    windows, strides = few(rng, 5, n), few(rng, 5, n)
    paddings = [int(rng.integers(0, k // 2 + 1)) for k in windows]
    size = [
        max(k - 2 * p, 1) + int(rng.integers(0, 6)) for k, p in zip(windows, paddings, strict=True)
    ]
    options: list[Any] = [of[0] if n == 1 else tuple(of) for of in (windows, strides, paddings)]
    if rng.integers(3) == 0:
        options[1] = None
    shape = (*few(rng, 4), *size, *few(rng, 4))
    return Case(make(*options), rng.integers(-3, 3, size=shape).astype(float))  # many are equal


def anything(rng: Rng, kind: Any, axes: tuple[int, int], least: int = 1) -> Case:
    """A layer of any shape of so many axes."""
    shape = few(rng, 5, int(rng.integers(*axes)))
    return Case(kind, rng.normal(size=(*shape, *few(rng, 6, least=least))))


def of_time(rng: Rng, kind: Any) -> Case:
    n, time, m = few(rng, 6, 3)
    return Case(kind, rng.normal(size=(n, time, m)), Told(present=ends(rng, time, m)))


def values(rng: Rng) -> Case:
    n_values, n = few(rng, 8, 2)
    A = rng.integers(0, n_values, size=few(rng, 6, int(rng.integers(2, 4)))).astype(float)
    return Case(Embedding(n_values + MANY * int(rng.integers(2)), n), A)


def moments(rng: Rng) -> Case:
    case = anything(rng, BatchNorm(), (1, 4), least=2)
    n = (case.shape[0], 1)
    running = {"mean": rng.normal(size=n), "variance": rng.uniform(0.5, 2, size=n)}
    return case._replace(told=Told(bool(rng.integers(2)), running))


def states(rng: Rng, make: Any) -> Case:
    options = {"returns": str(rng.choice(["last", "all"])), "directions": int(rng.integers(1, 3))}
    if make is Elman:
        options["activation"] = str(rng.choice(["tanh", "relu"]))
    return of_time(rng, make(*few(rng, 7), **options))


SAMPLES: dict[type, Callable[[Rng], Case]] = {
    Conv1d: conv1d,
    Conv2d: conv2d,
    MaxPool: lambda rng: pool(rng, MaxPool),
    AvgPool: lambda rng: pool(rng, AvgPool),
    GlobalAvgPool: lambda rng: (
        of_time(rng, GlobalAvgPool()) if rng.integers(2) else anything(rng, GlobalAvgPool(), (2, 4))
    ),
    Last: lambda rng: of_time(rng, Last()),
    Flatten: lambda rng: anything(rng, Flatten(), (1, 4)),
    Embedding: values,
    BatchNorm: moments,
    LayerNorm: lambda rng: anything(rng, LayerNorm(str(rng.choice(["features", "all"]))), (1, 4)),
    Elman: lambda rng: states(rng, Elman),
    GRU: lambda rng: states(rng, GRU),
    LSTM: lambda rng: states(rng, LSTM),
}


def taken(name: str) -> Iterable[int]:
    """The numbers of the samples of a kind that this run takes."""
    if EXHAUSTIVE:
        return range(N_SAMPLES)
    rng = np.random.default_rng([SEED, *name.encode()])
    return sorted(rng.choice(N_SAMPLES, N_TAKEN, replace=False).tolist())


def pairs(torch: Any, case: Case, rng: Rng) -> dict[str, tuple[Any, Any]]:
    """What the layer gives and what PyTorch gives, by name."""
    kind, A, told = case
    P = {p.name: rng.normal(size=p.shape) for p in kind.parameters(case.shape)}
    H, memory = kind.forward(np, SPEC, P, A, Pass(**told._asdict(), shape=case.shape))
    assert H.shape == (*kind.out_shape(case.shape), A.shape[-1])
    G = rng.normal(size=H.shape)
    dA, gradients = kind.backward(np, SPEC, P, memory, G)
    assert set(gradients) == set(P)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in P.items()}
    X = torch.tensor(A, requires_grad=True)
    Y = TORCH[type(kind)](torch, kind, tensors, X.movedim(-1, 0), told).movedim(0, -1)
    (Y * torch.tensor(G)).sum().backward()
    found = {"output": (H, Y.detach().numpy())}
    if not isinstance(kind, Embedding):
        found["input"] = (dA, X.grad.numpy())
    return found | {name: (value, tensors[name].grad.numpy()) for name, value in gradients.items()}


@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_outputs_and_gradients_are_those_of_torch(torch: Any, kind: type) -> None:
    print(f"MLP_XP_SEED={SEED}")
    name = kind.__name__
    for number in taken(name):
        rng = np.random.default_rng([number, *name.encode()])
        case = SAMPLES[kind](rng)
        for what, (ours, theirs) in pairs(torch, case, rng).items():
            said = f"MLP_XP_SEED={SEED}, sample {number}: {what} of {case.kind} {case.shape}"
            assert ours.shape == theirs.shape, said
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10, err_msg=said)


def test_running_moments_are_those_of_torch(torch: Any) -> None:
    rng = np.random.default_rng(5)
    layer = torch.nn.BatchNorm2d(3, momentum=1.0).double()
    A = rng.normal(size=(3, 4, 5, 6))
    layer(torch.tensor(A).movedim(-1, 0))
    P = {"gain": np.ones((3, 1)), "b": np.zeros((3, 1))}
    kind = BatchNorm()
    _, memory = kind.forward(np, SPEC, P, A, Pass(shape=(3, 4, 5)))
    newest = kind.newest(np, memory, 6)
    assert [s.name for s in kind.statistics((3, 4, 5))] == list(newest)
    np.testing.assert_allclose(newest["mean"][:, 0], layer.running_mean, rtol=1e-12)
    np.testing.assert_allclose(newest["variance"][:, 0], layer.running_var, rtol=1e-12)
