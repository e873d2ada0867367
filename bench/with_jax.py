"""JAX, jitted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from cases import BETA1, BETA2, EPSILON, RATE, STEPS_BEFORE_CHECK, Arrays, Case, parameters
from contest import Make, Peer, batches_of, copies_of
from reference import adam_scalars
from timing import DEVICES, Session

from mlp_xp.bench import targets_for

PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


def _jax_layer(case: Case) -> Callable[[Any, Any, Any], Any]:
    """X Wᵀ + b in the case's precision; unasked, JAX takes TF32 on a GPU.

    In bfloat16 operands, bias and result are cast, which is what PyTorch's autocast does.
    """
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", PRECISIONS[case.precision])
    if case.precision != "bfloat16":
        return lambda X, W, b: X @ W.T + b
    half = jnp.bfloat16
    return lambda X, W, b: X.astype(half) @ W.T.astype(half) + b.astype(half)


def _jax_training(whole_loop: bool) -> Make:
    """A jitted step whose state is donated; everything a step needs stays on the device.

    whole_loop  n steps are one compiled loop, between which nothing can be done
    """

    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        import jax
        import jax.numpy as jnp

        where = jax.devices(DEVICES[device].names["jax"])[0]
        targets = targets_for(case.sizes, arrays["labels"], case.dtype)
        put = [jax.device_put(a, where) for a in (arrays["rows"], targets, arrays["order"])]
        m = len(arrays["order"])
        layer = _jax_layer(case)

        def objective(layers: Any, X: Any, T: Any) -> Any:
            for W, b in layers[:-1]:
                X = jax.nn.relu(layer(X, W, b))
            S = layer(X, *layers[-1]).astype(case.dtype)
            if case.n_outputs == 1:
                return jnp.mean(jnp.logaddexp(S, 0) - T * S)
            right = jnp.take_along_axis(S, T[:, None], axis=1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(S, axis=1) - right)

        def one(state: Any, rows: Any, targets: Any, order: Any) -> Any:
            layers, m1, m2, t, place, _ = state
            index = jax.lax.dynamic_slice(order, (place,), (case.batch,))
            loss, g = jax.value_and_grad(objective)(layers, rows[index], targets[index])
            t = t + 1
            # 1 - βᵗ in float32 loses four digits at first, and with them the path of the others
            first, second = (-jnp.expm1(t * np.log(beta)) for beta in (BETA1, BETA2))
            m1 = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m1, g)
            m2 = jax.tree.map(lambda s, g: BETA2 * s + (1 - BETA2) * g * g, m2, g)
            layers = jax.tree.map(
                lambda p, m, s: p - RATE * (m / first) / (jnp.sqrt(s / second) + EPSILON),
                layers,
                m1,
                m2,
            )
            return layers, m1, m2, t, (place + case.batch) % m, loss

        layers = [(jnp.array(W), jnp.array(b)) for W, b in parameters(case, arrays)]
        zeros = [jax.tree.map(jnp.zeros_like, layers) for _ in range(2)]
        start = (layers, *zeros, jnp.zeros((), case.dtype), 0, jnp.zeros((), case.dtype))
        state = jax.device_put(start, where)
        if whole_loop:

            def loop(state: Any, n: Any, *data: Any) -> Any:
                return jax.lax.fori_loop(0, n, lambda _, state: one(state, *data), state)

            many = jax.jit(loop, donate_argnums=0)

            def run(n: int) -> None:
                nonlocal state
                state = many(state, n, *put)

        else:
            step = jax.jit(one, donate_argnums=0)

            def run(n: int) -> None:
                nonlocal state
                for _ in range(n):
                    state = step(state, *put)

        def wait() -> None:
            jax.block_until_ready(state)

        def result() -> float:
            run(STEPS_BEFORE_CHECK + 1)
            return float(state[-1])

        return Session(run, wait, result)

    return make


def _jax_rotating(batches: list[Any], call: Callable[[Any], Any]) -> Session:
    import jax

    ring, last = cycle(batches), None

    def run(n: int) -> None:
        nonlocal last
        for _ in range(n):
            last = call(next(ring))

    return Session(run, lambda: jax.block_until_ready(last), lambda: np.asarray(call(batches[0])))


def _jax_inference(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    import jax

    where = jax.devices(DEVICES[device].names["jax"])[0]
    layers = jax.device_put(parameters(case, arrays), where)
    layer = _jax_layer(case)

    @jax.jit
    def probabilities(layers: Any, X: Any) -> Any:
        for W, b in layers[:-1]:
            X = jax.nn.relu(layer(X, W, b))
        S = layer(X, *layers[-1]).astype(case.dtype)
        return jax.nn.softmax(S) if case.n_outputs > 1 else jax.nn.sigmoid(S)

    batches = [jax.device_put(arrays["rows"][piece], where) for piece in batches_of(case, arrays)]
    return _jax_rotating(batches, lambda X: probabilities(layers, X))


def _jax_kernels(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    import jax
    import jax.numpy as jnp

    where = jax.devices(DEVICES[device].names["jax"])[0]
    jax.config.update("jax_default_matmul_precision", PRECISIONS[case.precision])
    rate, epsilon = adam_scalars(1)

    def update(a: Any) -> Any:
        m, s = BETA1 * a["m"] + a["g"], BETA2 * a["s"] + a["g"] ** 2
        return a["theta"] - rate * (m / (jnp.sqrt(s) + epsilon)), m, s

    def score(a: Any) -> Any:
        return (jax.nn.softmax(a["S"], 0) - jax.nn.one_hot(a["labels"], case.n_outputs, axis=0)) / (
            case.batch
        )

    calls: dict[str, Callable[[Any], Any]] = {
        "layer": lambda a: jax.nn.relu(a["W"] @ a["A"] + a["b"]),
        "input_gradient": lambda a: a["W"].T @ a["delta"],
        "weight_gradient": lambda a: a["delta"] @ a["A"].T,
        "activation_gradient": lambda a: a["dA"] * (a["A"] > 0),
        "score": score,
        "update": update,
        "gather": lambda a: a["rows"][a["index"]],
    }
    call = jax.jit(calls[case.kernel])
    shared = jax.device_put(arrays["rows"], where) if "rows" in arrays else None
    batches = [
        {k: shared if k == "rows" else jax.device_put(v, where) for k, v in copy.items()}
        for copy in copies_of(arrays, case.cold)
    ]
    session = _jax_rotating(batches, call)
    if case.kernel != "update":
        return session
    return session._replace(
        result=lambda: np.concatenate([np.asarray(p) for p in call(batches[0])])
    )


JAX_STARTUP = """
import sys
import numpy as np
import jax
import jax.numpy as jnp
with np.load(sys.argv[1]) as file:
    X, y = jnp.array((file["X"] / 16).astype("float32")), jnp.array(file["y"].astype("int32"))
keys = jax.random.split(jax.random.key(0), 3)
layers = [
    (jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
    for key, a, b in zip(keys, (64, 100), (100, 10))
]
def scores(layers, X):
    (W0, b0), (W1, b1) = layers
    return jax.nn.relu(X @ W0 + b0) @ W1 + b1
def objective(layers, X, y):
    S = scores(layers, X)
    return jnp.mean(jax.nn.logsumexp(S, axis=1) - jnp.take_along_axis(S, y[:, None], 1)[:, 0])
@jax.jit
def step(layers, m, s, t, X, y):
    g = jax.grad(objective)(layers, X, y)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
    s = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, s, g)
    def update(p, m, s):
        return p - 1e-3 * (m / (1 - 0.9**t)) / (jnp.sqrt(s / (1 - 0.999**t)) + 1e-8)
    return jax.tree.map(update, layers, m, s), m, s
m = s = jax.tree.map(jnp.zeros_like, layers)
order = np.array(jax.random.permutation(keys[2], len(X)))
for t, start in enumerate(range(0, len(X), 32), 1):
    index = order[start : start + 32]
    layers, m, s = step(layers, m, s, float(t), X[index], y[index])
print(float(jnp.mean(jnp.argmax(scores(layers, X), axis=1) == y)))
"""


ROWS = {
    "jax": Peer(
        ("jax",),
        "jax",
        training=_jax_training(whole_loop=False),
        inference=_jax_inference,
        kernels=_jax_kernels,
        startup=JAX_STARTUP,
        devices=("cpu", "cuda"),
    ),
    "jax-loop": Peer(
        ("jax",), "jax", training=_jax_training(whole_loop=True), devices=("cpu", "cuda")
    ),
}
