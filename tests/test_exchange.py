"""Arrays of other libraries: what a model takes, and that it gives back what it was given."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import Backend, need
from mlp_xp import MLP, Sequential, check_gradients, inspect_step
from mlp_xp.devices import device as find_device
from mlp_xp.exchange import given_back, is_foreign, library_of, taken
from mlp_xp.layers import Dense, Flatten
from mlp_xp.prepared import Preparation

M, N = 30, 4
ROWS = np.random.default_rng(0).normal(size=(M, N)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(np.int64)
CPU = find_device("cpu")


class Alone:
    """What has nothing but DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class OnGpu(Alone):
    def __dlpack_device__(self) -> Any:
        return 2, 0


def of_torch(torch: Any) -> Callable[[np.ndarray], Any]:
    return torch.tensor


def of_jax(jax: Any) -> Callable[[np.ndarray], Any]:
    return jax.numpy.asarray


def of_dask(dask: Any) -> Callable[[np.ndarray], Any]:
    import dask.array

    return lambda array: dask.array.from_array(array, chunks=10)


def of_arrow(arrow: Any) -> Callable[[np.ndarray], Any]:
    def make(array: np.ndarray) -> Any:
        if array.ndim == 1:
            return arrow.array(array)
        return arrow.table({f"c{i}": column for i, column in enumerate(array.T)})

    return make


LIBRARIES = {"torch": of_torch, "jax": of_jax, "dask": of_dask, "pyarrow": of_arrow}
KEPT = ("torch", "jax")  # whose arrays are answered with such


@pytest.fixture(params=LIBRARIES)
def put(request: pytest.FixtureRequest) -> Any:
    """Each library in turn: NumPy array → its array, and its name."""
    name: str = request.param
    make = LIBRARIES[name](need(request, name))
    return name, make


def trained(**options: Any) -> MLP:
    model = MLP((N, 5, 2), **options)
    return model.fit(ROWS, LABELS, layout="rows", epochs=2, progress=False)


def test_what_is_given_is_given_back(put: Any) -> None:
    name, make = put
    model, X = trained(), make(ROWS)
    for method in ("predict", "predict_proba", "scores"):
        found, expected = getattr(model, method)(X), getattr(model, method)(ROWS)
        np.testing.assert_array_equal(np.asarray(found), expected)
        if name in KEPT:
            assert library_of(found) == name
            assert np.asarray(found).dtype.kind == expected.dtype.kind
        else:
            assert type(found) is np.ndarray
    columns = make(ROWS.T) if name != "pyarrow" else X
    lies: Any = "columns" if name != "pyarrow" else None
    P = model.predict_proba(columns, layout=lies)
    np.testing.assert_array_equal(np.asarray(P), model.predict_proba(ROWS).T if lies else P)


def test_any_of_them_is_learnt_from_alike(put: Any) -> None:
    _, make = put
    options: dict[str, Any] = {"epochs": 2, "progress": False}
    w = np.linspace(0.5, 1.5, M).astype(np.float32)
    lies: Any = "rows"
    one = MLP((N, 5, 2)).fit(ROWS, LABELS, sample_weight=w, layout=lies, **options)
    other = MLP((N, 5, 2)).fit(
        make(ROWS),
        make(LABELS),
        sample_weight=make(w),
        validation_data=(make(ROWS), make(LABELS)),
        layout=lies,
        **options,
    )
    np.testing.assert_array_equal(one.scores(ROWS), other.scores(ROWS))
    assert other.evaluate(make(ROWS), make(LABELS)) == one.evaluate(ROWS, LABELS)
    assert check_gradients(other, make(ROWS), make(LABELS), layout=lies).passed
    assert set(inspect_step(other, make(ROWS), make(LABELS), layout=lies))
    named = MLP((N, 5, 2))
    named.preparation = Preparation("cross_entropy", classes=(0, 1))
    named.fit(make(ROWS), make(LABELS), sample_weight=make(w), layout=lies, **options)
    np.testing.assert_array_equal(one.scores(ROWS), named.scores(ROWS))


def test_images_come_as_they_are(torch: Any) -> None:
    model = Sequential((1, 2, 2), [Flatten(), Dense(2)])
    images = torch.tensor(ROWS).reshape(M, 1, 2, 2)
    model.fit(images, torch.tensor(LABELS), layout="rows", epochs=1, progress=False)
    assert isinstance(model.predict(images), torch.Tensor)


def test_nothing_is_copied_where_memory_allows_it(request: pytest.FixtureRequest) -> None:
    torch = need(request, "torch")
    tensor = torch.tensor(ROWS)
    found = taken("X", tensor, CPU)
    found[0, 0] = 7
    assert tensor[0, 0] == 7


def test_a_tensor_with_a_graph_or_in_bfloat16_is_a_tensor(torch: Any) -> None:
    model = trained()
    leaf = torch.tensor(ROWS, requires_grad=True)
    answer = model.predict_proba(leaf * 1)
    assert not answer.requires_grad
    np.testing.assert_array_equal(answer.numpy(), model.predict_proba(ROWS))
    rounded = torch.tensor(ROWS).bfloat16()
    found = model.predict_proba(rounded)
    np.testing.assert_array_equal(found.numpy(), model.predict_proba(rounded.float().numpy()))


def test_a_tensor_that_is_negated_when_it_is_read_is_taken_as_it_reads(torch: Any) -> None:
    given = torch.complex(torch.tensor(ROWS), torch.tensor(-ROWS)).conj().imag
    assert given.is_neg()
    model = MLP((4, 3), loss="squared_error")
    expected = model.scores(ROWS, layout="rows")
    np.testing.assert_array_equal(model.scores(given, layout="rows").numpy(), expected)


def test_jax_in_bfloat16_is_taken_too(request: pytest.FixtureRequest) -> None:
    jax = need(request, "jax")
    X = jax.numpy.asarray(ROWS, jax.numpy.bfloat16)
    assert library_of(trained().predict_proba(X)) == "jax"


def test_text_stays_what_numpy_has(torch: Any) -> None:
    model = trained()
    model.preparation = Preparation("cross_entropy", classes=("no", "yes"))
    found = model.predict(torch.tensor(ROWS))
    assert (type(found), found.dtype.kind) == (np.ndarray, "U")


def test_answers_go_out_by_dlpack(torch: Any) -> None:
    found = trained().predict_proba(ROWS)
    tensor = torch.from_dlpack(found)
    tensor[0, 0] = 2
    assert found[0, 0] == 2  # no copy


def test_what_has_dlpack_alone_comes_in(backend: Backend) -> None:
    model = MLP((N, 5, 2), device=backend.device)
    found = model.predict_proba(Alone(ROWS), layout="rows")
    np.testing.assert_array_equal(backend.get(found), backend.get(model.predict_proba(ROWS.T).T))


def test_a_device_of_another_library_answers_with_what_was_given(
    backend: Backend, torch: Any
) -> None:
    model = MLP((N, 5, 2), device=backend.device)
    assert isinstance(model.predict(torch.tensor(ROWS), layout="rows"), torch.Tensor)
    given = backend.asarray(ROWS)
    if not isinstance(given, np.ndarray):
        assert type(model.predict(given, layout="rows")) is type(given)


def test_dask_is_asked_block_by_block(request: pytest.FixtureRequest) -> None:
    need(request, "dask")
    import dask.array

    model = trained()
    X = dask.array.from_array(ROWS, chunks=(10, N))
    lazy = X.map_blocks(model.predict, layout="rows", drop_axis=1, dtype=np.int64)
    np.testing.assert_array_equal(lazy.compute(), model.predict(ROWS))


def test_arrow_tensors_come_in(request: pytest.FixtureRequest) -> None:
    arrow = need(request, "pyarrow")
    model = trained()
    for X in (
        arrow.Tensor.from_numpy(ROWS),
        arrow.FixedShapeTensorArray.from_numpy_ndarray(ROWS),
        arrow.RecordBatch.from_arrays([arrow.array(c) for c in ROWS.T], names=list("abcd")),
    ):
        np.testing.assert_array_equal(model.predict(X), model.predict(ROWS))


# -- what is refused -----------------------------------------------------------


def test_an_array_of_a_gpu_is_taken_there_alone(cupy: Any) -> None:
    X = cupy.asarray(ROWS)
    assert isinstance(MLP((N, 2), device="cuda").predict(X, layout="rows"), cupy.ndarray)
    with pytest.raises(TypeError, match=r"X is a cupy.ndarray that lies on another device"):
        MLP((N, 2)).predict(X, layout="rows")
    found = MLP((N, 2), device="cuda").predict(Alone(X), layout="rows")
    np.testing.assert_array_equal(found.get(), MLP((N, 2)).predict(ROWS, layout="rows"))


def test_what_lies_elsewhere_is_refused() -> None:
    with pytest.raises(TypeError, match=r"X is a .*OnGpu that lies on another device .*X\.cpu\(\)"):
        trained().predict(OnGpu(ROWS))


def test_sparse_rows_are_refused_with_the_cure() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for X in (sparse.csr_matrix(ROWS), sparse.coo_array(ROWS)):
        with pytest.raises(TypeError, match=r"X is a sparse .* Pass X\.toarray\(\)"):
            trained().predict(X)


def test_tensors_that_hold_no_numbers_are_refused(torch: Any) -> None:
    with pytest.raises(TypeError, match=r"X is a torch.Tensor, which cannot be taken .*meta"):
        trained().predict(torch.empty(M, N, device="meta"))
    with pytest.raises(TypeError, match=r"X is a torch.Tensor, which cannot be taken .*to_dense"):
        trained().predict(torch.tensor(ROWS).to_sparse())


def test_arrow_with_gaps_or_text_is_refused_as_a_frame_is(request: pytest.FixtureRequest) -> None:
    arrow = need(request, "pyarrow")
    columns = dict(zip("abcd", ROWS.T.tolist(), strict=True))
    columns["a"][3] = None
    with pytest.raises(ValueError, match=r"X holds nan at \[3, 0\]"):
        trained().predict(arrow.table(columns))
    with pytest.raises(TypeError, match="X has dtype object, but expected numbers"):
        trained().predict(arrow.table({name: ["x"] * M for name in columns}))


# -- estimators ----------------------------------------------------------------


def quiet(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not converge
        return make()


def test_estimators_of_jax_stay_jax(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    jax = need(request, "jax")
    X, y = jax.numpy.asarray(ROWS), jax.numpy.asarray(LABELS)
    est = quiet(lambda: MLPClassifier(max_iter=2, random_state=0).fit(X, y))
    labels = quiet(lambda: est.predict(X))  # JAX says that it has no int64 unless asked
    assert {library_of(a) for a in (est.coefs_[0], labels, est.predict_proba(X))} == {"jax"}
    same = quiet(lambda: MLPClassifier(max_iter=2, random_state=0).fit(ROWS, LABELS))
    np.testing.assert_allclose(est.predict_proba(X), same.predict_proba(ROWS), atol=1e-5)
    with pytest.raises(TypeError, match=r"X is an array of jax.* but y is of ndarray"):
        est.fit(X, LABELS)
    with pytest.raises(ValueError, match="It was fitted with numpy and got jax"):
        same.predict(X)
    with pytest.raises(TypeError, match="X is an array of jax, but device is 'cpu'"):
        MLPClassifier(device="cpu").fit(X, y)


def test_estimators_compute_dask_as_scikit_learn_does(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier, MLPRegressor

    need(request, "dask")
    make = of_dask(None)
    X, y = make(ROWS), make(LABELS)
    for row in (MLPClassifier, MLPRegressor):
        est = quiet(lambda row=row: row(max_iter=2, random_state=0).fit(X, y))
        same = quiet(lambda row=row: row(max_iter=2, random_state=0).fit(ROWS, LABELS))
        assert type(est.predict(X)) is np.ndarray
        np.testing.assert_array_equal(est.predict(X), same.predict(ROWS))
        assert est.score(X, y) == same.score(ROWS, LABELS)


def test_estimators_take_a_tensor_with_a_graph(torch: Any) -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier

    X, y = torch.tensor(ROWS, requires_grad=True), torch.tensor(LABELS)
    est = quiet(lambda: MLPClassifier(max_iter=2, random_state=0).fit(X, y))
    assert not est.coefs_[0].requires_grad
    assert not est.predict_proba(X).requires_grad


# -- the fast path -------------------------------------------------------------


def test_numpy_pays_nothing() -> None:
    assert taken("X", ROWS, CPU) is ROWS
    assert given_back(LABELS, ROWS, CPU) is LABELS
    assert not any(is_foreign(X) for X in (ROWS, ROWS[0, 0], [1.0], (1,), None, "x"))


def test_masked_numbers_are_refused_and_an_empty_mask_is_not() -> None:
    pytest.importorskip("sklearn")
    from mlp_xp import MLPClassifier, NeuralClassifier

    masked, whole = np.ma.array(ROWS, mask=ROWS > 0), np.ma.array(ROWS)
    model = MLP((ROWS.shape[1], 3))
    model.predict(whole, layout="rows")
    for ask in (
        lambda: model.predict(masked, layout="rows"),
        lambda: model.fit(masked, LABELS, layout="rows", progress=False),
        lambda: MLPClassifier().fit(masked, LABELS),
        lambda: NeuralClassifier().fit(masked, LABELS),
    ):
        with pytest.raises(TypeError, match=r"X is a masked array of which \d+ .* X.filled\(0\)"):
            ask()
    lines = list(masked)
    model.predict(list(whole), layout="rows")
    for ask in (
        lambda: model.predict(lines, layout="rows"),
        lambda: MLPClassifier().fit(lines, LABELS),
        lambda: NeuralClassifier().fit(lines, LABELS),
    ):
        with pytest.raises(TypeError, match=r"X\[\d+\] is a masked array"):
            ask()
