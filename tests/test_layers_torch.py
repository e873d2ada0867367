"""Every kind of layer against PyTorch's: outputs and all gradients, float64, to 1e-10.

Each kind has 300 samples of shapes, strides, paddings, dilations, groups, directions and
lengths, told apart by their number. A run takes a few of each, chosen by a seed that is
printed: MLP_XP_SEED=… repeats them, MLP_XP_EXHAUSTIVE=1 takes all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlp_xp.kernels import SPEC
from mlp_xp.layers.base import Pass
from mlp_xp.layers.convolution import Conv1d, Conv2d
from mlp_xp.layers.embedding import MANY, Embedding
from mlp_xp.layers.normalization import BatchNorm, LayerNorm
from mlp_xp.layers.pooling import AvgPool, GlobalAvgPool, MaxPool
from mlp_xp.layers.recurrent import GRU, LSTM, Elman

N_SAMPLES, N_TAKEN = 300, 8
EXHAUSTIVE = bool(os.environ.get("MLP_XP_EXHAUSTIVE"))
SEED = int(os.environ.get("MLP_XP_SEED", time.time_ns() % 2**32))


class Case(NamedTuple):
    """A layer, its input, and the same by PyTorch.

    reference  (torch, tensors of the parameters, tensor of A as it lies here) ↦ the output
    """

    kind: Any
    shape: tuple[int, ...]
    A: np.ndarray
    told: dict[str, Any]
    reference: Callable[[Any, dict[str, Any], Any], Any]


def rows(A: Any) -> Any:
    """Examples first, as PyTorch has them."""
    return A.movedim(-1, 0)


def columns(X: Any) -> Any:
    return X.movedim(0, -1)


def padding_of(n: int, kernel: int, stride: int, dilation: int, padding: Any) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's documents say it."""
    span = dilation * (kernel - 1) + 1
    if padding == "causal":
        return span - 1, 0
    if padding == "same":
        total = max((-(-n // stride) - 1) * stride + span - n, 0)
        return total // 2, total - total // 2
    zeros = 0 if padding == "valid" else padding
    return zeros, zeros


def conv1d(rng: np.random.Generator) -> Case:
    groups = int(rng.choice([1, 1, 2, 3]))
    n_in, n_out = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel, stride, dilation = (int(n) for n in rng.integers(1, [6, 5, 4]))
    padding = [*("valid", "same", "causal"), int(rng.integers(0, 4))][int(rng.integers(4))]
    time = dilation * (kernel - 1) + 1 + int(rng.integers(0, 9))
    if padding in ("same", "causal"):
        time = int(rng.integers(1, 14))
    bias, m = bool(rng.integers(4)), int(rng.integers(1, 5))
    kind = Conv1d(n_out, kernel, stride, dilation, padding, groups, bias)

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        nn = torch.nn.functional
        W = P["W"].reshape(n_out, n_in // groups, kernel)
        X = nn.pad(rows(A), padding_of(time, kernel, stride, dilation, padding))
        b = P["b"][:, 0] if bias else None
        return columns(nn.conv1d(X, W, b, stride, 0, dilation, groups))

    return Case(kind, (n_in, time), rng.normal(size=(n_in, time, m)), {}, reference)


def conv2d(rng: np.random.Generator) -> Case:
    groups = int(rng.choice([1, 1, 2, 3]))
    n_in, n_out = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel, stride, dilation = (tuple(rng.integers(1, top, size=2).tolist()) for top in (4, 4, 3))
    padding: Any = ["valid", "same", tuple(rng.integers(0, 3, 2).tolist())][int(rng.integers(3))]
    size = [
        d * (k - 1) + 1 + int(rng.integers(0, 6)) for k, d in zip(kernel, dilation, strict=True)
    ]
    if padding == "same":
        size = rng.integers(1, 8, size=2).tolist()
    bias, m = bool(rng.integers(4)), int(rng.integers(1, 4))
    kind = Conv2d(n_out, kernel, stride, dilation, padding, groups, bias)

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        nn = torch.nn.functional
        W = P["W"].reshape(n_out, n_in // groups, *kernel)
        each = [padding] * 2 if isinstance(padding, str) else padding
        down, along = (
            padding_of(*of) for of in zip(size, kernel, stride, dilation, each, strict=True)
        )
        b = P["b"][:, 0] if bias else None
        X = nn.pad(rows(A), (*along, *down))
        return columns(nn.conv2d(X, W, b, stride, 0, dilation, groups))

    return Case(kind, (n_in, *size), rng.normal(size=(n_in, *size, m)), {}, reference)


def pool(rng: np.random.Generator, name: str) -> Case:
    flat = bool(rng.integers(2))
    n = 1 if flat else 2
    windows = rng.integers(1, 5, size=n).tolist()
    strides = rng.integers(1, 5, size=n).tolist()
    paddings = [int(rng.integers(0, k // 2 + 1)) for k in windows]
    size = [
        max(k - 2 * p, 1) + int(rng.integers(0, 6)) for k, p in zip(windows, paddings, strict=True)
    ]
    options = [of[0] if flat else tuple(of) for of in (windows, strides, paddings)]
    if rng.integers(3) == 0:
        options[1] = None
    channels, m = (int(k) for k in rng.integers(1, 4, size=2))
    # whole numbers, so that many are equal
    A = rng.integers(-3, 3, size=(channels, *size, m)).astype(float)
    kind = (MaxPool if name == "max" else AvgPool)(*options)

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        function = getattr(torch.nn.functional, f"{name}_pool{n}d")
        return columns(function(rows(A), *options))

    return Case(kind, (channels, *size), A, {}, reference)


def global_pool(rng: np.random.Generator) -> Case:
    shape = tuple(rng.integers(1, 5, size=int(rng.integers(2, 4))).tolist())
    m = int(rng.integers(1, 5))

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        return A.mean(dim=tuple(range(1, len(shape))))

    return Case(GlobalAvgPool(), shape, rng.normal(size=(*shape, m)), {}, reference)


def embedding(rng: np.random.Generator) -> Case:
    n_values, n, m = (int(k) for k in rng.integers(1, 8, size=3))
    shape = tuple(rng.integers(1, 6, size=int(rng.integers(1, 3))).tolist())
    A = rng.integers(0, n_values, size=(*shape, m)).astype(float)

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        H = torch.nn.functional.embedding(A.detach().long(), P["W"].T)
        return H.movedim(-1, 0)

    n_values += MANY * int(rng.integers(2))
    return Case(Embedding(n_values, n), shape, A, {}, reference)


def stacked(torch: Any, kind: Any, P: dict[str, Any]) -> dict[str, Any]:
    """Our parameters under PyTorch's names: biases that it has twice are 0 the second time."""
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


def recurrent(rng: np.random.Generator, make: Any) -> Case:
    features, n, time, m = (int(k) for k in rng.integers(1, 7, size=4))
    options = {"returns": str(rng.choice(["last", "all"])), "directions": int(rng.integers(1, 3))}
    if make is Elman:
        options["activation"] = str(rng.choice(["tanh", "relu"]))
    kind = make(n, **options)
    lengths, told = None, {}
    if rng.integers(2):
        lengths = rng.integers(1, time + 1, size=m)
        lengths[int(rng.integers(m))] = time  # PyTorch cuts what no sequence has
        told = {"present": (np.arange(time)[:, None] < lengths).astype(float)}

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        extra = {"nonlinearity": kind.activation} if make is Elman else {}
        name = "RNN" if make is Elman else make.__name__
        two = kind.directions == 2
        layer = getattr(torch.nn, name)(features, n, bidirectional=two, **extra).double()
        X = A.permute(1, 2, 0)  # (time, m, features)
        if lengths is not None:
            pack = torch.nn.utils.rnn.pack_padded_sequence
            X = pack(X, torch.tensor(lengths), enforce_sorted=False)
        every, last = torch.func.functional_call(layer, stacked(torch, kind, P), (X,))
        last = last[0] if isinstance(last, tuple) else last
        if kind.returns == "last":
            return torch.cat(list(last), dim=1).T
        if lengths is not None:
            every, _ = torch.nn.utils.rnn.pad_packed_sequence(every)
        return every.permute(2, 0, 1)

    A = rng.normal(size=(features, time, m))
    return Case(kind, (features, time), A, told, reference)


def batch_norm(rng: np.random.Generator) -> Case:
    shape = tuple(rng.integers(1, 5, size=int(rng.integers(1, 4))).tolist())
    n, m, training = shape[0], int(rng.integers(2, 6)), bool(rng.integers(2))
    mean, variance = rng.normal(size=(n, 1)), rng.uniform(0.5, 2, size=(n, 1))
    told = {"training": training, "running": {"mean": mean, "variance": variance}}

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        running = [torch.tensor(r[:, 0].copy()) for r in (mean, variance)]
        of = [p[:, 0] for p in (P["gain"], P["b"])]
        return columns(torch.nn.functional.batch_norm(rows(A), *running, *of, training=training))

    return Case(BatchNorm(), shape, rng.normal(size=(*shape, m)), told, reference)


def layer_norm(rng: np.random.Generator) -> Case:
    shape = tuple(rng.integers(1, 5, size=int(rng.integers(1, 4))).tolist())
    m, over = int(rng.integers(1, 6)), str(rng.choice(["features", "all"]))

    def reference(torch: Any, P: dict[str, Any], A: Any) -> Any:
        norm = torch.nn.functional.layer_norm
        if over == "all":
            of = [P[name].reshape(shape) for name in ("gain", "b")]
            return columns(norm(rows(A), shape, *of))
        of = [P[name][:, 0] for name in ("gain", "b")]
        return norm(A.movedim(0, -1), shape[:1], *of).movedim(-1, 0)

    return Case(LayerNorm(over), shape, rng.normal(size=(*shape, m)), {}, reference)


SAMPLES: dict[str, Callable[[np.random.Generator], Case]] = {
    "Conv1d": conv1d,
    "Conv2d": conv2d,
    "MaxPool": lambda rng: pool(rng, "max"),
    "AvgPool": lambda rng: pool(rng, "avg"),
    "GlobalAvgPool": global_pool,
    "Embedding": embedding,
    "BatchNorm": batch_norm,
    "LayerNorm": layer_norm,
    "Elman": lambda rng: recurrent(rng, Elman),
    "GRU": lambda rng: recurrent(rng, GRU),
    "LSTM": lambda rng: recurrent(rng, LSTM),
}


def taken(name: str) -> Iterable[int]:
    """The numbers of the samples of a kind that this run takes."""
    if EXHAUSTIVE:
        return range(N_SAMPLES)
    rng = np.random.default_rng([SEED, *name.encode()])
    return sorted(rng.choice(N_SAMPLES, N_TAKEN, replace=False).tolist())


def differences(torch: Any, case: Case, rng: np.random.Generator) -> dict[str, tuple[Any, Any]]:
    """What the layer gives, and what PyTorch gives, by name."""
    kind, shape, A, told, reference = case
    P = {p.name: rng.normal(size=p.shape) for p in kind.parameters(shape)}
    H, memory = kind.forward(np, SPEC, P, A, Pass(**told, shape=shape))
    assert H.shape == (*kind.out_shape(shape), A.shape[-1])
    G = rng.normal(size=H.shape)
    dA, gradients = kind.backward(np, SPEC, P, memory, G)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in P.items()}
    X = torch.tensor(A, requires_grad=True)
    Y = reference(torch, tensors, X)
    (Y * torch.tensor(G)).sum().backward()
    assert set(gradients) == set(P)
    pairs = {"output": (H, Y.detach().numpy())}
    if dA is not None:
        pairs["input"] = (dA, X.grad.numpy())
    for name, value in gradients.items():
        pairs[name] = (value, tensors[name].grad.numpy())
    return pairs


@pytest.mark.parametrize("name", SAMPLES)
def test_outputs_and_gradients_are_those_of_torch(torch: Any, name: str) -> None:
    print(f"MLP_XP_SEED={SEED}")
    for number in taken(name):
        rng = np.random.default_rng([number, *name.encode()])
        case = SAMPLES[name](rng)
        for what, (ours, theirs) in differences(torch, case, rng).items():
            said = f"{name} sample {number}, MLP_XP_SEED={SEED}: {what} of {case.kind} {case.shape}"
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
