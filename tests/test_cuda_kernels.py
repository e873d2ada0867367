"""CUDA sources and the kernel set: tracing, layouts, and NVIDIA's own compiler."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import tolerance
from mlp_xp import ACTIVATIONS, LOSSES, OPTIMIZERS, Activation
from mlp_xp.fast import cuda_source, tracing
from mlp_xp.kernels import SPEC

ROOT = Path(__file__).parents[1]


# -- tracing -----------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_can_be_traced(name: str) -> None:
    (z,) = tracing.leaves("z", dtype="float32")
    for formula in (ACTIVATIONS[name].f, ACTIVATIONS[name].slope):
        assert "h = " in tracing.elementwise({"h": tracing.trace(formula, z)})


def test_every_loss_and_optimizer_can_be_traced() -> None:
    for loss in LOSSES.values():
        assert "delta" in cuda_source.score("float64", loss, False, True, 0.0).code
    for optimizer in OPTIMIZERS.values():
        assert "all_theta" in cuda_source.update("float32", optimizer(), True).code


def test_sums_that_value_and_delta_share_are_taken_once() -> None:
    code = cuda_source.score("float32", LOSSES["cross_entropy"], True, False, 0.0).code
    assert code.count("for (I r = y") == 3  # the largest; two sums; the result


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        (lambda xp, Z: Z if Z > 0 else -Z, "branches on a value"),
        (lambda xp, Z: np.dot(Z, Z), "NumPy's dot"),
        (lambda xp, Z: xp.cumulative_sum(Z, axis=-1), r"xp\.cumulative_sum"),
        (lambda xp, Z: xp.sum(Z, axis=-1), "along axis -1"),
        (lambda xp, Z: Z[0], "indexes a value"),
        (lambda xp, Z: np.ones(3) * Z, "takes a ndarray"),
        (lambda xp, Z: xp.where(Z, 1, 0), "where of numbers"),
        (lambda xp, Z: (Z > 0) * Z, "of another kind"),
        (lambda xp, Z: xp.astype(Z, "int64"), "astype to int64"),
        (lambda xp, Z: sum(Z), "iterates"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused_with_a_reason(formula: Any, reason: str) -> None:
    with pytest.raises(tracing.Untraceable, match=reason):
        tracing.trace(formula, *tracing.leaves("z", dtype="float32"))


def test_a_formula_sees_the_dtype_of_its_kernel() -> None:
    def formula(xp: Any, Z: Any) -> Any:
        return Z * float(xp.finfo(Z.dtype).eps) + (2 if Z.dtype == np.float64 else 1)

    for dtype, expected in (("float32", "(T)1.0"), ("float64", "(T)2.0")):
        (z,) = tracing.leaves("z", dtype=dtype)
        assert expected in tracing.elementwise({"h": tracing.trace(formula, z)})


# -- NVIDIA's compiler -------------------------------------------------------


@pytest.fixture
def check() -> Any:
    """The module ci/nvrtc_check.py, where a compiler is installed."""
    spec = importlib.util.spec_from_file_location("nvrtc_check", ROOT / "ci" / "nvrtc_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.installed():
        pytest.skip("no NVRTC is installed: pip install --group cuda-check")
    return module


def test_sources_compile_with_nvrtc(
    check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["nvrtc_check.py", "--arch", "sm_90", "--sample", "8", "--json"]
    )
    monkeypatch.setattr(check, "DTYPES", ("float32",))
    assert check.main() == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"score", "update", "layer_forward_batch"} <= {row["kernel"] for row in rows}
    assert all(0 < row["registers"] <= 255 and row["spill_stores"] == 0 for row in rows)


def test_a_source_that_does_not_compile_fails_the_check(
    check: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cuda_source.totals("float32")
    broken = source._replace(code=source.code.replace("sum += row[j];", "sum += row[j]"))
    monkeypatch.setattr(check, "sources", lambda sample, seed: [("float32", broken)])
    monkeypatch.setattr("sys.argv", ["nvrtc_check.py"])
    assert check.main() == 1
    assert "totals, float32, sm_80" in capsys.readouterr().err


# -- the kernel set ----------------------------------------------------------

LAYOUTS = {
    "contiguous": lambda a: a,
    "transposed": lambda a: np.swapaxes(np.swapaxes(a, -1, -2).copy(), -1, -2),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "empty": lambda a: a[..., :0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fast_kernel_equals_its_specification(
    cupy: Any, layout: str, dtype: str, leading: tuple[int, ...], activation: str
) -> None:
    import array_api_compat.cupy as xp

    from mlp_xp.fast.cupy_kernels import KERNELS

    random = np.random.default_rng(0)
    f = ACTIVATIONS[activation]

    def array(*shape: int, moved: bool = False) -> Any:
        host = random.normal(size=(*leading, *shape)).astype(dtype) * 3
        return device_array(cupy, LAYOUTS[layout](host) if moved else host)

    W, b, A, S = array(4, 3), array(4, 1), array(3, 9, moved=True), array(4, 9, moved=True)
    gain, mean, variance = array(4, 1), array(4, 1), abs(array(4, 1))
    before = [x.copy() for x in (W, b, A, S, gain, mean, variance)]
    calls: dict[str, tuple[Any, ...]] = {
        "rounded": (S, 8),
        "layer": (W, A, b, f),
        "activate": (S, f),
        "normalise_by": (S, gain, b, mean, variance),
    }
    changed = {n for n in SPEC._fields if getattr(SPEC, n) is not getattr(KERNELS, n)}
    assert {*calls, "measure"} == changed  # which has tests of its own
    for name, arguments in calls.items():
        found = getattr(KERNELS, name)(xp, *arguments)
        expected = getattr(SPEC, name)(xp, *arguments)
        if name == "layer":  # Z may be left out where the slope does not need it
            found, expected = (r[1] if f.slope_of == "A" else r for r in (found, expected))
        pairs = (
            zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        )
        for mine, theirs in pairs:
            assert mine.dtype == theirs.dtype
            np.testing.assert_allclose(mine.get(), theirs.get(), **tolerance(dtype, 8))
    for now, then in zip((W, b, A, S, gain, mean, variance), before, strict=True):
        np.testing.assert_array_equal(now.get(), then.get())  # nothing given was written to


def device_array(cupy: Any, host: np.ndarray) -> Any:
    """On the device with the same strides, where CuPy would otherwise make it contiguous."""
    if host.size == 0 or host.flags.c_contiguous:
        return cupy.asarray(host)
    if host.strides[-1] > host.strides[-2]:
        return cupy.asarray(np.swapaxes(host, -1, -2).copy()).swapaxes(-1, -2)
    return cupy.asarray(host.repeat(2, axis=-1))[..., ::2]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values_pass_through_a_kernel_as_through_the_formula(
    cupy: Any, activation: str
) -> None:
    import array_api_compat.cupy as xp

    from mlp_xp.fast.cupy_kernels import KERNELS

    f = ACTIVATIONS[activation]
    Z = cupy.asarray([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4]], dtype="float32")
    found, expected = KERNELS.activate(xp, Z, f), f.f(xp, Z)
    np.testing.assert_array_equal(np.isnan(found.get()), np.isnan(expected.get()))
    np.testing.assert_allclose(found.get(), expected.get(), rtol=1e-5)


def test_inference_with_a_formula_that_cannot_be_traced_warns_once(cupy: Any) -> None:
    from mlp_xp import MLP
    from mlp_xp.fast.launches import KernelWarning

    odd = Activation(lambda xp, Z: xp.cumulative_sum(Z, axis=-1), lambda xp, Z: xp.ones_like(Z))
    model = MLP((4, 5, 3), activation=odd, device="cuda")
    X = np.ones((4, 6))
    with pytest.warns(KernelWarning, match="bias_activation cannot be used"):
        model.predict(X)
    model.predict(X)


# of CuPy on the CPU, which takes ten seconds for the step that is measured on GPUs
SMALL = ((96, 64, 64, 10), 32)


def test_the_selftest_passes_and_reports(
    cupy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp import selftest
    from mlp_xp.cli import main

    tried = selftest.try_graph

    def smaller(name: str) -> selftest.Check:
        with monkeypatch.context() as patched:
            patched.setattr(selftest, "MEASURED_STEP", SMALL)
            return tried(name)

    if cupy.__version__.endswith("+cpu"):
        monkeypatch.setattr(selftest, "try_graph", smaller)
    few = [row for i, row in enumerate(selftest.settings()) if i % 5 == 0]
    monkeypatch.setattr(selftest, "settings", lambda: few)
    assert main(["selftest", "--device", "cuda", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(check["passed"] for check in report["checks"])
    assert [check["name"] for check in report["checks"]] == [
        "kernels compile",
        "trainings equal the specification's",
        "the digits are learnt as on the CPU",
        "launches a step",
        "graph replay",
        "products",
    ]
    if cupy.__version__.endswith("+cpu"):
        assert (report["launches"]["products"], report["launches"]["kernels"]) == (0, 6)
        assert report["measured"] == {}
        assert report["off"] == []


def test_the_selftest_fails_where_a_kernel_is_wrong(
    cupy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp import selftest

    def twice(make: Any) -> Any:
        def wrong(*arguments: Any) -> Any:
            source = make(*arguments)
            code = source.code.replace("scalar0 = s[0]", "scalar0 = 2 * s[0]")
            return source._replace(code=code)

        return wrong

    for name in ("update", "gradients"):  # whichever holds the update
        monkeypatch.setattr(cuda_source, name, twice(getattr(cuda_source, name)))
    monkeypatch.setattr(selftest, "settings", lambda: [("plain", {})])
    from mlp_xp.devices import device

    assert not selftest.compare_trainings(device("cuda")).passed


def test_the_selftest_fails_where_a_product_is_wrong(
    cupy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp import selftest
    from mlp_xp.fast import cublas

    original = cublas.Product
    assert selftest.compare_products().passed

    def wrong(handle: Any, A: Any, B: Any, out: Any, precision: str) -> Any:
        def product() -> None:
            original(handle, A, B, out, precision=precision)()
            out[3, 5] += 0.5

        return product

    monkeypatch.setattr(cublas, "Product", wrong)
    assert not selftest.compare_products().passed


def test_the_selftest_names_what_warned(
    cupy: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp import selftest
    from mlp_xp.cli import main
    from mlp_xp.fast.launches import KernelWarning

    passed = selftest.Check("as if", True, "")

    def warns(*_: Any) -> selftest.Check:
        warnings.warn("the kernel k cannot be used", KernelWarning, stacklevel=1)
        return passed

    if cupy.__version__.endswith("+cpu"):
        monkeypatch.setattr(selftest, "MEASURED_STEP", SMALL)
    monkeypatch.setattr(selftest, "compile_kernels", warns)
    monkeypatch.setattr(selftest, "compare_trainings", lambda device: passed)
    monkeypatch.setattr(selftest, "compare_digits", lambda device: passed)
    assert main(["selftest", "--device", "cuda"]) == 0
    assert "off   warned of: the kernel k cannot be used" in capsys.readouterr().out


# -- what is off: a card's own numbers, and rates measured or made up ------------

H100: dict[str, Any] = {
    "capability": 90,
    "units": 132,
    "clock": 1.98e9,
    "memory": 3.352e12,
    "wide": True,
    "ecc": True,
    "taken": 0,
}
RATES = {
    "gemm_float32_tflops": 48.0,
    "gemm_tf32_tflops": 240.0,
    "gemm_bfloat16_tflops": 700.0,
    "device_gb_per_s": 2900.0,
    "host_to_device_gb_per_s": 50.0,
    "device_to_host_gb_per_s": 50.0,
    "launch_us": 2.0,
    "step_eager_us": 330.0,
    "step_graph_us": 140.0,
}


def test_nothing_is_off_on_a_good_card() -> None:
    from mlp_xp.selftest import Card, what_is_off, whose

    card = Card(**H100)
    assert card.float32 == pytest.approx(66.9e12, rel=0.01)  # what its maker says
    assert what_is_off(card, RATES) == []
    assert whose(card) == []
    assert Card(**{**H100, "capability": 80, "units": 108, "clock": 1.41e9}).float32 == (
        pytest.approx(19.5e12, rel=0.01)
    )


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({"device_gb_per_s": 1200.0}, "copying: 1.2e+03 GB/s, 36 % of the 3.35e+03"),
        ({"gemm_float32_tflops": 20.0}, "float32 products: 20 TFLOP/s, 30 %"),
        ({"gemm_tf32_tflops": 50.0}, "tf32 products: 50 TFLOP/s, hardly more than float32's 48"),
        ({"gemm_bfloat16_tflops": 50.0}, "bfloat16 products: 50 TFLOP/s, hardly more"),
        ({"host_to_device_gb_per_s": 0.7}, "host to device: 0.7 GB/s from pinned memory"),
        ({"step_graph_us": 329.0}, "graph replay: a step takes 329 µs with it, 330 without"),
    ],
)
def test_each_rate_that_is_off_is_a_line(rates: dict[str, float], told: str) -> None:
    from mlp_xp.selftest import Card, what_is_off

    (line,) = what_is_off(Card(**H100), {**RATES, **rates})
    assert line.startswith(told)


def test_what_the_driver_does_not_say_is_not_held_against_a_card() -> None:
    from mlp_xp.selftest import Card, what_is_off

    assert what_is_off(Card(**{**H100, "clock": 0.0, "memory": 0.0}), RATES) == []


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"taken": 5 << 30}, "others use 5.0 GiB"),
        ({"wide": False}, "ECC is on"),
        ({"ecc": False}, "ECC is off"),
    ],
)
def test_others_on_the_device_and_its_memorys_mode_are_a_line(
    card: dict[str, Any], told: str
) -> None:
    from mlp_xp.selftest import Card, whose

    (line,) = whose(Card(**{**H100, **card}))
    assert line.startswith(told)
