"""The library itself: its step, its specification, and `fit` as users call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import STEPS_BEFORE_CHECK, Arrays, Case, parameters
from contest import Make, Peer, batches_of, copies_of, rotating
from reference import adam_scalars
from timing import DEVICES, Session

from mlp_xp.activations import ACTIVATIONS
from mlp_xp.bench import Trainer, build, targets_for
from mlp_xp.devices import device as find_device
from mlp_xp.hardware import Device
from mlp_xp.kernels import SPEC
from mlp_xp.losses import LOSSES, one_hot
from mlp_xp.optimizers import Adam
from mlp_xp.training import Data, take


def _device(name: str, specification: bool) -> Device:
    found = find_device(DEVICES[name].names["mlp_xp"])
    return found._replace(stepper=None) if specification else found


def _mlp(case: Case, arrays: Arrays, device: Device, networks: int | None = None) -> Any:
    """The model of a case; or so many of them at once, which begin alike."""
    model = build(case.sizes, case.dtype, device, case.precision, networks)
    named: dict[str, Any] = {}
    for i, (W, b) in enumerate(parameters(case, arrays), 1):
        pair = (W, b[:, None])
        if networks is not None:
            pair = tuple(np.stack([array] * networks) for array in pair)
        named |= {f"W{i}": device.put(pair[0]), f"b{i}": device.put(pair[1])}
    model.set_parameters(**named)
    model.layout = "columns"  # a batch may have as many examples as features
    return model


def _mlp_training(specification: bool) -> Make:
    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        where = _device(device, specification)
        targets = targets_for(case.sizes, arrays["labels"], case.dtype)
        data = Data(where.put(arrays["rows"]), where.put(targets))
        trainer = Trainer(_mlp(case, arrays, where), data, arrays["order"], case.batch)
        return _session(trainer, trainer.checked_loss)

    return make


def _session(trainer: Trainer, result: Callable[[], Any]) -> Session:
    if not trainer.device.reads_wait:
        return Session(trainer.run, trainer.device.synchronize, result)
    counted = trainer.kernels if hasattr(trainer.step, "programs") else None
    wait = trainer.device.synchronize
    return Session(trainer.run, wait, result, lambda: trainer.issued, counted)


def _mlp_networks(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """As many networks at once as the setting says, each on batches of its own.

    All begin alike; the first one's order is that of the case, so that its loss must be too.
    """
    n, where = int(setting), _device(device, specification=False)
    targets = targets_for(case.sizes, arrays["labels"], case.dtype)
    data = Data(where.put(arrays["rows"]), where.put(targets))
    order = np.stack([np.roll(arrays["order"], -i * case.batch) for i in range(n)])
    trainer = Trainer(_mlp(case, arrays, where, n), data, order, case.batch)
    return _session(trainer, lambda: float(np.reshape(trainer.checked_loss(), -1)[0]))


def _mlp_fit(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """`MLP.fit` as a user calls it, checks, history and all: an epoch over n batches."""
    model = _mlp(case, arrays, _device(device, False))
    order, labels = arrays["order"], arrays["labels"]
    rows, size = arrays["rows"], case.batch
    targets = targets_for(case.sizes, labels, case.dtype)
    checked = size * STEPS_BEFORE_CHECK
    Y = targets.T if targets.ndim == 2 else targets

    def fit(X: Any, Y: Any, shuffle: bool) -> None:
        model.fit(X, Y, epochs=1, batch_size=size, shuffle=shuffle, progress=False)

    def run(n: int) -> None:
        while n > 0:
            m = min(n * size, len(rows) // size * size)
            fit(rows[:m].T, Y[..., :m], True)
            n -= m // size

    def result() -> float:
        first, then = order[:checked], order[checked : checked + size]
        fit(rows[first].T, Y[..., first], False)
        return float(model.evaluate(rows[then].T, Y[..., then]).loss)

    return Session(run, model.device.synchronize, result)


def _mlp_inference(specification: bool) -> Make:
    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        where = _device(device, specification)
        model = _mlp(case, arrays, where)
        rows = where.put(arrays["rows"])
        batches = [rows[piece].T for piece in batches_of(case, arrays)]
        fast = getattr(model, "predictor", None)
        call = model.predict_proba if fast is None or specification else fast(case.batch)
        run, first = rotating(batches, call)
        return Session(run, where.synchronize, lambda: where.get(first()).T)

    return make


def _mlp_kernels(specification: bool) -> Make:
    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        where = _device(device, specification)
        xp, kernels = where.xp, SPEC if specification else where.kernels
        relu, loss, adam = ACTIVATIONS["relu"], LOSSES["cross_entropy"], Adam()
        scalars = adam_scalars(1)
        classes = where.put(np.arange(case.n_outputs))

        def update(a: Arrays) -> Any:
            moments = (a["m"], a["s"])
            return kernels.update(xp, adam, a["theta"], a["g"], moments, scalars, None)

        def score(a: Arrays) -> Any:
            T = one_hot(xp, a["labels"], classes, a["S"].dtype)
            return kernels.score(xp, loss, a["S"], T, None)[1]

        calls: dict[str, Callable[[Arrays], Any]] = {
            "layer": lambda a: kernels.layer(xp, a["W"], a["A"], a["b"], relu)[1],
            "input_gradient": lambda a: kernels.input_gradient(xp, a["W"], a["delta"]),
            "weight_gradient": lambda a: kernels.weight_gradient(xp, a["delta"], a["A"]),
            "activation_gradient": lambda a: kernels.activation_gradient(
                xp, a["dA"], a["A"], relu, None
            )[0],
            "score": score,
            "update": update,
            "gather": lambda a: take(xp, a["rows"], a["index"]),
        }
        put = {id(arrays.get("rows")): where.put(arrays["rows"])} if "rows" in arrays else {}
        batches = [
            {name: put.get(id(array), where.put(array)) for name, array in copy.items()}
            for copy in copies_of(arrays, case.cold)
        ]
        run, first = rotating(batches, calls[case.kernel])

        def result() -> Any:
            if case.kernel != "update":
                return where.get(first())
            theta, moments = first()
            return np.concatenate([where.get(part) for part in (theta, *moments)])

        return Session(run, where.synchronize, result)

    return make


MLP_XP_STARTUP = """
import sys
import numpy as np
from mlp_xp import MLP
with np.load(sys.argv[1]) as file:
    X, y = (file["X"] / 16).astype("float32"), file["y"].astype("int64")
model = MLP((64, 100, 10)).fit(X.T, y, epochs=1, batch_size=32, progress=False)
print(model.evaluate(X.T, y).score)
"""


ROWS = {
    "mlp_xp": Peer(
        ("mlp_xp",),
        "mlp_xp",
        training=_mlp_training(specification=False),
        inference=_mlp_inference(specification=False),
        kernels=_mlp_kernels(specification=False),
        startup=MLP_XP_STARTUP,
        devices=("cpu", "cuda"),
    ),
    "mlp_xp-spec": Peer(
        ("mlp_xp",),
        "mlp_xp",
        training=_mlp_training(specification=True),
        inference=_mlp_inference(specification=True),
        kernels=_mlp_kernels(specification=True),
        devices=("cpu", "cuda"),
    ),
    "mlp_xp-networks": Peer(
        ("mlp_xp",),
        "mlp_xp",
        training=_mlp_networks,
        settings={("training", device): ("8",) for device in ("cpu", "cuda")},
        devices=("cpu", "cuda"),
    ),
    "mlp_xp-fit": Peer(
        ("mlp_xp",), "mlp_xp", training=_mlp_fit, devices=("cpu", "cuda"), path=False
    ),
}
