"""Training: many networks at once, the same on every backend, faults, history, stopping."""

from __future__ import annotations

import signal
import warnings
from typing import Any

import numpy as np
import pytest

from conftest import Backend
from mlp_xp import (
    LOSSES,
    MLP,
    OPTIMIZERS,
    SCHEDULES,
    Activation,
    EarlyStopping,
    Epoch,
    Sequential,
    TrainingDiverged,
)
from mlp_xp.devices import device as find_device
from mlp_xp.draws import Purpose, dropout_bits, permutation
from mlp_xp.fitting import weighted_mean
from mlp_xp.layers import BatchNorm, Dense, Flatten, LayerNorm, Reshape, Residual
from mlp_xp.schedules import ReduceOnPlateau
from mlp_xp.training import shuffled

Random = np.random.Generator


def blobs(random: Random, m: int = 60, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """X (4, m) and labels: classes around separate centres."""
    y = random.integers(0, n_classes, m)
    centres = 2 * np.eye(4)[:, :n_classes]
    return centres[:, y] + random.normal(size=(4, m)) * 0.7, y


FULL: dict[str, Any] = {
    "normalization": "batch",
    "dropout": 0.2,
    "residual": True,
    "density": 0.8,
    "l2": 1e-3,
    "label_smoothing": 0.05,
    "clip_norm": 5.0,
    "clip_value": 1.0,
}


def test_every_backend_takes_the_same_training_path(backend: Backend, random: Random) -> None:
    X, y = blobs(random)
    fit: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 16,
        "validation_data": (X[:, :20], y[:20]),
        "sample_weight": random.uniform(0.5, 2, 60),
        "schedule": "one_cycle",
        "progress": False,
    }
    settings: dict[str, Any] = {"activation": "silu", "dtype": "float64", "seed": 5, **FULL}
    expected = MLP((4, 8, 6, 3), **settings)
    initial = {name: np.array(value) for name, value in expected.parameters.items()}
    model = MLP((4, 8, 6, 3), device=backend.device, **settings)
    for name, value in model.parameters.items():
        np.testing.assert_array_equal(backend.get(value), initial[name])
    expected.fit(X, y, **fit)
    model.fit(backend.asarray(X), backend.asarray(y), **fit)
    for quantity in ("loss", "validation_loss", "validation_score", "rate"):
        np.testing.assert_allclose(
            model.history[quantity], expected.history[quantity], rtol=1e-9, atol=1e-12
        )
    assert expected.history["loss"][-1] < expected.history["loss"][0]
    for name, value in model.parameters.items():
        np.testing.assert_allclose(
            backend.get(value), expected.parameters[name], rtol=1e-8, atol=1e-9
        )
    np.testing.assert_array_equal(backend.get(model.predict(X)), expected.predict(X))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_on_every_backend(backend: Backend, loss: str, random: Random) -> None:
    X, y = blobs(random)
    kind, n_out = LOSSES[loss].kind, 3
    Y: np.ndarray = np.eye(3)[y].T
    if kind == "binary":
        n_out, Y = 1, (y > 0).astype(float)
    model = MLP((4, 8, n_out), loss=loss, device=backend.device, learning_rate=0.02)
    before = model.evaluate(X, Y)
    model.fit(X, Y, epochs=20, batch_size=20, progress=False)
    after = model.evaluate(X, Y)
    assert after.loss < before.loss
    assert after.score > before.score
    assert after.score > (0.8 if kind not in ("real", "count") else 0.3)
    prediction = backend.get(model.predict(X))
    assert prediction.shape == ((60,) if kind in ("multiclass", "binary") else (n_out, 60))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(optimizer: str, random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 8, 3), optimizer=optimizer, learning_rate=0.01, weight_decay=0.0)
    model.fit(X, y, epochs=15, batch_size=10, progress=False)
    assert model.history["loss"][-1] < 0.9 * model.history["loss"][0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_and_records_its_rate(schedule: str, random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 8, 3), learning_rate=0.02)
    model.fit(X, y, epochs=5, batch_size=10, schedule=schedule, progress=False)
    last = 0.02 * SCHEDULES[schedule].factor(5 * 6 - 1, 5 * 6, 6)
    np.testing.assert_allclose(model.history["rate"][-1], last)
    assert model.history["loss"][-1] < model.history["loss"][0]


@pytest.mark.parametrize(
    ("normalization", "schedule"),
    [("none", "cosine"), ("batch", "reduce_on_plateau"), ("layer", "cosine")],
)
def test_many_networks_at_once_equal_as_many_trainings(
    backend: Backend, normalization: str, schedule: str, random: Random
) -> None:
    X, y = blobs(random)
    settings: dict[str, Any] = {
        "device": backend.device,
        "dtype": "float64",
        "learning_rate": 0.03,
        **FULL,
        "normalization": normalization,
    }
    plateau = ReduceOnPlateau(drop=0.5, patience=0, threshold=0.02)
    fit: dict[str, Any] = {
        "epochs": 8,
        "batch_size": 16,
        "validation_data": (X[:, :20], y[:20]),
        "schedule": plateau if schedule == "reduce_on_plateau" else schedule,
        "early_stopping": 2,
        "progress": False,
    }
    seeds = [3, 0, 11]
    together = MLP((4, 8, 6, 3), seed=seeds, **settings).fit(X, y, **fit)
    for k, seed in enumerate(seeds):
        alone = MLP((4, 8, 6, 3), seed=seed, **settings).fit(X, y, **fit)
        for name, value in alone.parameters.items():
            np.testing.assert_allclose(
                backend.get(together.parameters[name])[k], backend.get(value), rtol=1e-9, atol=1e-12
            )
        for quantity in ("loss", "validation_loss", "validation_score", "rate"):
            n = len(alone.history[quantity])
            joint = np.array([np.broadcast_to(v, 3)[k] for v in together.history[quantity]])
            np.testing.assert_allclose(joint[:n], alone.history[quantity], rtol=1e-9)
        np.testing.assert_array_equal(
            backend.get(together.predict(X))[k], backend.get(alone.predict(X))
        )
        np.testing.assert_allclose(together.evaluate(X, y).loss[k], alone.evaluate(X, y).loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rate_for_each_network_is_rounded_as_one_for_all(
    backend: Backend, optimizer: str, random: Random
) -> None:
    X, y = blobs(random)
    settings: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.01, "seed": [0, 1]}
    one = MLP((4, 8, 3), learning_rate=0.0123, device=backend.device, **settings)
    each = MLP((4, 8, 3), learning_rate=0.0123, device=backend.device, **settings)
    one.fit(X, y, epochs=3, batch_size=16, progress=False)
    each.fit(
        X, y, epochs=3, batch_size=16, progress=False, schedule=ReduceOnPlateau(patience=10)
    )  # never drops
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(backend.get(each.parameters[name]), backend.get(value))


def test_the_loss_of_an_epoch_is_that_of_each_network_alone_to_the_bit(random: Random) -> None:
    by_batch, share = random.normal(size=(300, 3)), np.array([10.0] * 299 + [7.0])
    for together in (by_batch.T, np.ascontiguousarray(by_batch.T)):
        alone = [weighted_mean(losses.copy(), share) for losses in together]
        assert np.array_equal(weighted_mean(together, share), alone)


def test_the_last_smaller_batch_counts(random: Random) -> None:
    X, y = blobs(random, m=10)
    seen = MLP((4, 3), optimizer="sgd", dtype="float64")
    seen.fit(X, y, epochs=1, batch_size=4, shuffle=False, progress=False)
    step = MLP((4, 3), optimizer="sgd", dtype="float64")
    losses = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):
        step.fit(X[:, part], y[part], epochs=1, shuffle=False, progress=False, layout="columns")
        losses.append(step.history["loss"][-1])
    np.testing.assert_allclose(seen.parameters["W1"], step.parameters["W1"])
    np.testing.assert_allclose(
        seen.history["loss"], [(4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10]
    )


def test_whole_number_weights_equal_repeated_examples(random: Random) -> None:
    X, y = blobs(random, m=12)
    copies = random.integers(1, 4, 12)
    fit: dict[str, Any] = {"epochs": 5, "shuffle": False, "progress": False}
    weighted = MLP((4, 6, 3), dtype="float64").fit(X, y, sample_weight=copies, **fit)
    index = np.repeat(np.arange(12), copies)
    repeated = MLP((4, 6, 3), dtype="float64").fit(X[:, index], y[index], **fit)
    np.testing.assert_allclose(weighted.parameters["W2"], repeated.parameters["W2"])
    np.testing.assert_allclose(weighted.history["loss"], repeated.history["loss"])
    np.testing.assert_allclose(
        weighted.evaluate(X, y, copies), repeated.evaluate(X[:, index], y[index])
    )


def test_shuffles_and_masks_are_those_of_the_documented_streams() -> None:
    order = shuffled((4, 9), (2,), 3, 50)
    np.testing.assert_array_equal(order[1], permutation(9, Purpose.SHUFFLE, 3, 50))
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(dropout_bits(4, 0, 16), dropout_bits(4, 1, 16))


def test_a_second_fit_goes_on_where_the_first_ended(random: Random) -> None:
    X, y = blobs(random)
    whole = MLP((4, 8, 3), seed=2, **FULL).fit(X, y, epochs=6, progress=False)
    halves = MLP((4, 8, 3), seed=2, **FULL).fit(X, y, epochs=3, progress=False)
    halves.fit(X, y, epochs=3, progress=False)
    assert halves.history["epoch"] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(whole.parameters["W1"], halves.parameters["W1"])
    halves.reset()
    assert halves.epochs_trained == 0
    fresh = MLP((4, 8, 3), seed=2, **FULL)
    np.testing.assert_array_equal(halves.parameters["W1"], fresh.parameters["W1"])


def test_early_stopping_restores_the_best_weights(random: Random) -> None:
    X, _ = blobs(random)
    noise = random.integers(0, 3, 60)  # labels that cannot be learnt: validation gets worse
    Xv, yv = blobs(random)
    model = MLP((4, 64, 3), learning_rate=0.05)
    model.fit(
        X,
        noise,
        epochs=200,
        validation_data=(Xv, yv),
        early_stopping=EarlyStopping(patience=5),
        progress=False,
    )
    losses = model.history["validation_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 6 < 200
    np.testing.assert_allclose(model.evaluate(Xv, yv).loss, losses[best], rtol=1e-6)
    assert losses[-1] > losses[best]


def test_early_stopping_without_validation_watches_the_training_loss(random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 3), optimizer="sgd", learning_rate=1e-9)
    model.fit(X, y, epochs=50, early_stopping=EarlyStopping(3, threshold=1e-3), progress=False)
    assert model.epochs_trained == 4


def test_callbacks_see_every_epoch_and_can_stop(random: Random) -> None:
    X, y = blobs(random)
    seen: list[Epoch] = []

    def stop_at_three(model: MLP, epoch: Epoch) -> bool:
        assert model.epochs_trained == epoch.epoch
        seen.append(epoch)
        return epoch.epoch == 3

    model = MLP((4, 8, 3)).fit(
        X, y, epochs=9, batch_size=20, callbacks=[stop_at_three, lambda m, e: None], progress=False
    )
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert [epoch.step for epoch in seen] == [3, 6, 9]
    assert model.history["loss"] == [epoch.loss for epoch in seen]


def test_a_loss_that_turns_nan_stops_with_epoch_step_and_cure(
    backend: Backend, random: Random
) -> None:
    X, y = blobs(random)
    model = MLP((4, 8, 3), loss="squared_error", optimizer="sgd", device=backend.device)
    Y = np.eye(3)[y].T
    model.fit(X, Y, epochs=2, batch_size=20, progress=False)
    good = {name: backend.get(value) for name, value in model.parameters.items()}
    reckless = MLP(
        (4, 8, 3), loss="squared_error", optimizer="sgd", learning_rate=1e12, device=backend.device
    )
    reckless.set_parameters(**model.parameters)
    reckless._run.epoch = 2
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            TrainingDiverged, match=r"epoch 3, step \d, at a learning rate of 1e\+12"
        ) as e,
    ):
        reckless.fit(X * 1000, Y, epochs=2, batch_size=10, progress=False)
    assert "scale the features" in str(e.value)
    assert "clip_norm" in str(e.value)
    for name, value in reckless.parameters.items():
        np.testing.assert_array_equal(backend.get(value), good[name])


def test_an_interruption_leaves_the_weights_of_a_whole_step(random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 8, 3))

    def interrupt(_: MLP, epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, epochs=9, callbacks=[interrupt], progress=False)
    straight = MLP((4, 8, 3)).fit(X, y, epochs=2, progress=False)
    np.testing.assert_array_equal(model.parameters["W1"], straight.parameters["W1"])
    assert model.epochs_trained == 2


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_for_the_end_of_the_step(random: Random) -> None:
    plain = find_device("cpu")._replace(stepper=None)  # a traced step calls no formula
    X, y = blobs(random)
    model, caught = MLP((4, 8, 3)), []

    def f(xp: Any, Z: Any) -> Any:
        if model.epochs_trained == 1 and not caught:  # in the middle of a step
            caught.append(model._run.state.step)
            signal.raise_signal(signal.SIGINT)
        return xp.tanh(Z)

    model = MLP((4, 8, 3), activation=Activation(f, lambda xp, A: 1 - A * A), device=plain)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, epochs=5, batch_size=20, progress=False)
    assert model._run.state.step == caught[0] + 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_after_the_last_step_is_not_lost(random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 8, 3))

    def press(_: MLP, epoch: Epoch) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y, epochs=1, callbacks=press, early_stopping=True, progress=False)
    straight = MLP((4, 8, 3)).fit(X, y, epochs=1, early_stopping=True, progress=False)
    np.testing.assert_array_equal(model.parameters["W1"], straight.parameters["W1"])


def test_the_progress_bar_can_be_seen_and_turned_off(
    random: Random, capsys: pytest.CaptureFixture[str]
) -> None:
    X, y = blobs(random)
    MLP((4, 3)).fit(X, y, epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")
    MLP((4, 3)).fit(X, y, epochs=2, validation_data=(X, y))
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "loss" in err
    assert "score" in err


def test_the_learning_rate_finder_finds_a_rate_that_works(random: Random) -> None:
    X, y = blobs(random)
    model = MLP((4, 16, 3), optimizer="sgd", seed=[0, 1])
    before = np.array(model.parameters["W1"])
    found = model.find_learning_rate(X, y, batch_size=20)
    np.testing.assert_array_equal(model.parameters["W1"], before)
    assert model.epochs_trained == 0
    assert found.rates.shape == found.losses.shape
    assert 1e-4 < found.suggestion < 5
    good = MLP((4, 16, 3), optimizer="sgd", learning_rate=found.suggestion)
    poor = MLP((4, 16, 3), optimizer="sgd", learning_rate=found.suggestion / 1000)
    for candidate in (good, poor):
        candidate.fit(X, y, epochs=5, batch_size=20, progress=False)
    assert good.history["loss"][-1] < 0.8 * poor.history["loss"][-1]


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_the_learning_rate_finder_goes_on_below_a_loss_of_0(random: Random, seed: Any) -> None:
    """Four times the least of negative losses is below all of them."""
    X = random.normal(size=(4, 500))
    y = random.poisson(np.exp(3 + 0.5 * X[0]))
    model = MLP((4, 16, 1), loss="poisson", learning_rate=0.02, seed=seed)
    fresh = model.find_learning_rate(X, y)
    assert fresh.losses.min() < -10
    assert 1e-3 < fresh.suggestion < 1
    model.fit(X, y, epochs=20, progress=False)
    assert len(model.find_learning_rate(X, y).rates) > 40


def test_running_moments_follow_the_data_and_serve_evaluation(random: Random) -> None:
    X = 5 + 3 * random.normal(size=(4, 500))
    y = (X[0] > 5).astype(int)
    model = MLP((4, 6, 2), normalization="batch", learning_rate=1e-6, dtype="float64")
    model.fit(X, y, epochs=40, batch_size=100, progress=False)
    S = model.parameters["W1"] @ X
    running = model._run.state.running
    np.testing.assert_allclose(running[:6], S.mean(axis=1), rtol=0.05, atol=0.3)
    np.testing.assert_allclose(running[6:], S.var(axis=1, ddof=1), rtol=0.25)
    one_by_one = np.concatenate([model.predict(X[:, [i]]) for i in range(20)])
    np.testing.assert_array_equal(one_by_one, model.predict(X[:, :20]))


@pytest.mark.parametrize("kind", ["dense", "layers", "images"])
@pytest.mark.parametrize("seed", [0, [0, 1]], ids=["one", "several"])
def test_a_batch_of_one_number_a_channel_leaves_the_running_variance(
    backend: Backend, random: Random, kind: str, seed: Any
) -> None:
    X, y = random.normal(size=(5, 4)).astype(np.float32), np.array([0, 1, 1, 0, 1])
    options: dict[str, Any] = {"seed": seed, "device": backend.device, "optimizer": "sgd"}

    def running(m: int) -> Any:
        """The moments after an epoch of m examples, four at once and then what is left."""
        if kind == "dense":
            model: Any = MLP((4, 6, 2), normalization="batch", **options)
        elif kind == "layers":
            model = Sequential(
                4, [Dense(6), BatchNorm(), Residual([BatchNorm()]), Dense(2)], **options
            )
        else:
            model = Sequential((1, 2, 2), [BatchNorm(), Flatten(), Dense(2)], **options)
        fit = {"epochs": 1, "batch_size": 4, "shuffle": False, "progress": False}
        model.fit(X[:m], y[:m], layout="rows", **fit)
        return backend.get(model._run.state.running)

    four, five = running(4), running(5)
    n = {"dense": 6, "layers": 6, "images": 1}[kind]
    assert not np.allclose(five[..., :n], four[..., :n])
    same = np.allclose(five[..., n : 2 * n], four[..., n : 2 * n], rtol=1e-6)
    assert same is (kind != "images")  # an image has places enough


def test_true_and_false_are_labels_and_ask_for_early_stopping(backend: Backend) -> None:
    X = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)

    def trained(labels: Any, early_stopping: Any) -> tuple[list[float], list[int]]:
        """The losses, and the epochs of which a single callback was told."""
        model, told = MLP((3, 4, 2), device=backend.device, learning_rate=1e-12), list[int]()
        model.fit(
            *(X, backend.device.put(labels)),
            epochs=40,
            early_stopping=early_stopping,
            callbacks=lambda _, epoch: told.append(epoch.epoch),
            progress=False,
        )
        return model.history["loss"], told

    positive = X[0] > 0
    losses, told = trained(positive, True)
    assert losses == trained(positive.astype(np.int64), EarlyStopping())[0]
    assert told == list(range(1, len(losses) + 1))
    assert len(losses) < 40 == len(trained(positive, False)[0])


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([Dense(5), BatchNorm(), Dense(3)], True),
        ([Dense(5), Residual([BatchNorm(), Dense(5)]), Dense(3)], True),
        ([Reshape((2, 2)), BatchNorm(), Flatten(), Dense(3)], False),  # two numbers a channel
        ([Dense(5), LayerNorm(), Dense(3)], False),
    ],
    ids=["dense", "within", "two places", "layer"],
)
def test_batches_of_one_example_are_warned_of_where_they_are_normalised_away(
    random: Random, layers: Any, told: bool
) -> None:
    X, y = blobs(random)
    for model in (
        Sequential((4,), layers),
        MLP((4, 5, 3), normalization="batch" if told else "none"),
    ):
        for batch_size in (1, 2):
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                model.fit(X, y, epochs=1, batch_size=batch_size, progress=False)
            texts = [str(one.message) for one in found]
            expected = ["Batch normalisation of batches of one example"] if batch_size == 1 else []
            assert [text[:45] for text in texts] == (expected if told else [])
            assert all(one.filename == __file__ for one in found)
