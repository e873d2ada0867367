"""One thread trains a model; whoever else comes meanwhile is refused, never answered wrongly."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_xp import MLP, check_gradients, inspect_step
from mlp_xp.cached import cached_property
from mlp_xp.guard import ModelBusy, _guard

# estimators stop after three epochs here
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(6, 300)).astype("float32"), np.arange(300) % 3


def network(**more: Any) -> MLP:
    return MLP((6, 16, 3), **more)


def classifier(**more: Any) -> Any:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    return MLPClassifier(hidden_layer_sizes=(16,), max_iter=3, tol=0.0, **more)


def regressor(**more: Any) -> Any:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPRegressor

    return MLPRegressor(hidden_layer_sizes=(16,), max_iter=3, tol=0.0, **more)


@pytest.fixture
def elsewhere() -> Any:
    """Has a thread train a model and stop in a callback; gives it time; joins it at the end."""
    workers: list[tuple[threading.Thread, threading.Event]] = []

    def train(fit: Callable[[Any], object]) -> None:
        inside, go = threading.Event(), threading.Event()

        def wait(*_: Any) -> None:
            inside.set()
            assert go.wait(60)

        worker = threading.Thread(target=lambda: fit(wait))
        workers.append((worker, go))
        worker.start()
        assert inside.wait(60)

    def end() -> None:
        for worker, go in workers:
            go.set()
            worker.join()
        workers.clear()

    train.end = end  # type: ignore[attr-defined]
    yield train
    end()


ASKING: dict[str, Callable[[MLP, Path], object]] = {
    "fit": lambda model, _: model.fit(X, Y, progress=False),
    "reset": lambda model, _: model.reset(),
    "set_parameters": lambda model, _: model.set_parameters(b1=np.zeros((16, 1))),
    "parameters": lambda model, _: model.parameters,
    "scores": lambda model, _: model.scores(X),
    "predict": lambda model, _: model.predict(X),
    "predict_proba": lambda model, _: model.predict_proba(X),
    "predictor": lambda model, _: model.predictor(3),
    "evaluate": lambda model, _: model.evaluate(X, Y),
    "find_learning_rate": lambda model, _: model.find_learning_rate(X, Y),
    "save": lambda model, path: model.save(path / "model.safetensors"),
    "pickle": lambda model, _: pickle.dumps(model),
    "copy": lambda model, _: copy.deepcopy(model),
    "inspect": lambda model, _: inspect_step(model, X, Y),
    "check_gradients": lambda model, _: check_gradients(model, X[:, :4], Y[:4]),
}


@pytest.mark.parametrize("what", ASKING)
def test_a_model_that_another_thread_trains_is_neither_trained_nor_asked(
    what: str, elsewhere: Any, tmp_path: Path
) -> None:
    model, alone = network(), network().fit(X, Y, epochs=2, progress=False)
    elsewhere(lambda wait: model.fit(X, Y, epochs=2, callbacks=wait, progress=False))
    with pytest.raises(ModelBusy, match=r"being trained by another thread.* Wait for fit to ret"):
        ASKING[what](model, tmp_path)
    assert not list(tmp_path.iterdir())
    assert model.epochs_trained == 1  # what has been reached may be watched
    assert "MLP 6-16-3" in repr(model)
    elsewhere.end()
    np.testing.assert_array_equal(model._run.state.theta, alone._run.state.theta)
    assert model.history["loss"] == alone.history["loss"]
    ASKING[what](model, tmp_path)


@pytest.mark.parametrize("what", ASKING)
def test_a_callback_may_ask_but_not_train(what: str, tmp_path: Path) -> None:
    model = network()

    def ask(*_: Any) -> None:
        if what in ("fit", "reset"):
            with pytest.raises(ModelBusy, match=rf"^{what} was called from a callback of the fit"):
                ASKING[what](model, tmp_path)
        else:
            ASKING[what](model, tmp_path)

    model.fit(X, Y, epochs=2, callbacks=ask, progress=False)
    assert model.epochs_trained == 2
    model.fit(X, Y, epochs=1, progress=False)


@pytest.mark.parametrize("width", [5, 6])
def test_a_callback_may_train_another_model(width: int) -> None:
    others = list[MLP]()

    def train(*_: Any) -> None:
        others.append(MLP((6, width, 3)).fit(X, Y, epochs=1, progress=False))

    MLP((6, 5, 3)).fit(X, Y, epochs=2, callbacks=train, progress=False)
    assert [len(other.history["loss"]) for other in others] == [1, 1]


def test_a_training_that_fails_leaves_the_model_free() -> None:
    model = network()
    for error in (KeyboardInterrupt, ZeroDivisionError):

        def fail(*_: Any, error: type[BaseException] = error) -> None:
            raise error

        with pytest.raises(error):
            model.fit(X, Y, callbacks=fail, progress=False)
        assert _guard(model).holder is None
    with pytest.raises(ValueError, match="epochs"):
        model.fit(X, Y, epochs=0)
    model.fit(X, Y, epochs=1, progress=False)


def test_a_copy_and_a_pickle_are_of_a_model_that_nobody_trains() -> None:
    model, found = network(), list[Any]()

    def keep(*_: Any) -> None:
        found.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))])

    model.fit(X, Y, epochs=1, callbacks=keep, progress=False)
    for other in found:
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        other.fit(X, Y, epochs=1, progress=False)


def test_answers_of_other_threads_are_whole_or_refused() -> None:
    """Whoever asks all the time gets the weights of before or of after, or `ModelBusy`."""
    model, wrong, refused, done = MLP((6, 300, 3)), list[Any](), list[int](), threading.Event()
    valid: list[Any] = [model.predict_proba(X)]

    def ask() -> None:
        while not done.is_set():
            try:
                found = model.predict_proba(X)
            except ModelBusy:
                refused.append(1)
                continue
            if not any(np.array_equal(found, known) for known in list(valid)):
                wrong.append(found)

    workers = [threading.Thread(target=ask) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        reference = MLP((6, 300, 3))
        for number in range(200):
            if refused and number >= 10:
                break  # on a busy machine nobody may ask while a short fit runs
            reference.fit(X, Y, epochs=3, progress=False)
            valid.append(reference.predict_proba(X))  # known before anyone can ask for it
            model.fit(X, Y, epochs=3, progress=False)
            time.sleep(0.005)
    finally:
        sys.setswitchinterval(before)
        done.set()
        for worker in workers:
            worker.join()
    assert not wrong
    assert refused


@pytest.mark.parametrize("make", [classifier, regressor])
def test_an_estimator_that_another_thread_trains_is_refused(
    make: Any, elsewhere: Any, tmp_path: Path
) -> None:
    first, est = make(random_state=0).fit(X.T, Y), make(random_state=0)

    def fit(wait: Any) -> None:
        est.callbacks = wait
        est.fit(X.T, Y)

    elsewhere(fit)
    asking: list[Callable[[], object]] = [
        lambda: est.predict(X.T),
        lambda: est.score(X.T, Y),
        lambda: est.fit(X.T, Y),
        lambda: est.partial_fit(X.T, Y),
        lambda: est.save(tmp_path / "est"),
        lambda: est.to_sklearn(),
        lambda: pickle.dumps(est),
        lambda: copy.deepcopy(est),
    ]
    for ask in asking:
        with pytest.raises(ModelBusy, match="is being trained by another thread"):
            ask()
    assert not list(tmp_path.iterdir())
    elsewhere.end()
    np.testing.assert_array_equal(est.predict(X.T), first.predict(X.T))
    for mine, other in zip(est.coefs_, first.coefs_, strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_callback_of_an_estimator_may_ask_but_not_train(make: Any) -> None:
    seen: list[int] = []

    def ask(est: Any, _: Any) -> None:
        seen.append(len(est.predict(X.T)))
        for train in (est.fit, est.partial_fit):
            with pytest.raises(ModelBusy, match="called from a callback"):
                train(X.T, Y)

    make(callbacks=ask, random_state=0).fit(X.T, Y)
    assert seen == [300] * 3


def test_answers_of_an_estimator_are_whole_or_refused() -> None:
    """It is trained in place; what was computed meanwhile does not come out."""
    est = classifier(random_state=0)
    est.partial_fit(X.T, Y, classes=[0, 1, 2])
    done, wrong, refused = threading.Event(), list[Any](), list[int]()
    reference = copy.deepcopy(est)
    valid = [reference.predict_proba(X.T)]

    def ask() -> None:
        while not done.is_set():
            try:
                found = est.predict_proba(X.T)
            except ModelBusy:
                refused.append(1)
                continue
            if not any(np.array_equal(found, known) for known in list(valid)):
                wrong.append(found)

    workers = [threading.Thread(target=ask) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for worker in workers:
            worker.start()
        for _ in range(60):
            reference.partial_fit(X.T, Y)
            valid.append(reference.predict_proba(X.T))
            est.partial_fit(X.T, Y)
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(before)
        done.set()
        for worker in workers:
            worker.join()
    assert not wrong


@pytest.mark.parametrize("native", ["0", "1"])
def test_different_models_may_train_in_different_threads(
    native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLP_XP_NATIVE", native)

    def trained(seed: int) -> Any:
        model = network(seed=seed, dropout=0.2, normalization="batch")
        model.fit(X, Y, epochs=5, validation_data=(X, Y), progress=False)
        return model._run.state.theta

    expected, found = [trained(seed) for seed in range(4)], dict[int, Any]()

    def work(seed: int) -> None:
        found[seed] = trained(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(4):
        np.testing.assert_array_equal(found[seed], expected[seed])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_during_a_training_says_why_the_model_is_of_no_use(elsewhere: Any) -> None:
    model = network()
    elsewhere(lambda wait: model.fit(X, Y, epochs=2, callbacks=wait, progress=False))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            model.predict(X)
        except ModelBusy as error:
            code = 0 if "was forked while another thread was training" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_in_a_callback_may_ask() -> None:
    model, codes = network(), list[int]()

    def fork(*_: Any) -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if model.predict(X).shape == (300,) else 1
            finally:
                os._exit(code)
        codes.append(os.waitpid(child, 0)[1])

    model.fit(X, Y, epochs=2, callbacks=fork, progress=False)
    assert codes == [0, 0]


FORKS = """
import os, sys, threading, time, warnings
import numpy as np
from mlp_xp import MLP
warnings.simplefilter("ignore")
X, y = np.random.default_rng(0).normal(size=(784, 2000)).astype("f"), np.arange(2000) % 10
model, count = MLP((784, 100, 10)), 0
fit = lambda: model.fit(X, y, epochs=20, validation_data=(X, y), progress=False)
worker = threading.Thread(target=fit)
worker.start()
while worker.is_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    count += 1
    time.sleep(0.001)
worker.join()
straight = MLP((784, 100, 10)).fit(X, y, epochs=20, validation_data=(X, y), progress=False)
assert model.epochs_trained == 20 and count > 5, count
print(np.abs(model.parameters["W1"] - straight.parameters["W1"]).max(), count)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("native", ["0", "1"])
def test_forks_during_a_training_do_not_stop_it(native: str) -> None:
    """With a BLAS on two threads, which waits for itself if it is forked at work."""
    known = {**os.environ, "MLP_XP_NATIVE": native, "OPENBLAS_NUM_THREADS": "2"}
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, env=known, check=False, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert float(done.stdout.split()[0]) < 1e-2  # products on one thread are rounded otherwise


TO_THE_END = """
import atexit, sys, threading
import numpy as np
from mlp_xp import MLP, stream

X, y = np.random.default_rng(0).normal(size=(2000, 6)), np.arange(2000) % 3

def train():
    if len(sys.argv) > 2:
        threading.main_thread().join()
    for data, more in ((X, {"Y": y, "layout": "rows"}), (stream(X, y, memory=50_000), {})):
        model = MLP((6, 8, 3), seed=[0, 1]).fit(data, epochs=2, progress=False, **more)
        print(model.epochs_trained, flush=True)

atexit.register(train) if sys.argv[1] == "atexit" else threading.Thread(target=train).start()
"""


@pytest.mark.parametrize("where", [["atexit"], ["thread", "alone"]])
def test_what_the_main_thread_leaves_behind_trains_to_its_end(
    where: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TO_THE_END, *where]
    known = {**os.environ, "MLP_XP_CACHE": str(tmp_path), "MLP_XP_NATIVE": "compile"}
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n2\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_fork_waits_for_no_property_of_another_thread() -> None:
    inside, done = threading.Event(), threading.Event()

    class Slow:
        @cached_property
        def found(self) -> int:
            """What it was."""
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                done.wait(30)
            return 1

    worker = threading.Thread(target=lambda: Slow().found)
    worker.start()
    inside.wait(30)
    child = os.fork()
    if child == 0:
        signal.alarm(5)  # or it would wait for ever
        os._exit(Slow().found - 1)
    ended = os.waitpid(child, 0)[1]
    done.set()
    worker.join()
    assert ended == 0
    assert Slow.found.__doc__ == "What it was."
