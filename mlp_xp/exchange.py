"""Arrays of other libraries, and other things that hold numbers: in, and out as they came.

    NumPy, lists, data frames    as they are; answers are arrays of the model's device
    PyTorch, JAX, CuPy, any      taken without a copy where memory allows it, and answered with
    array API library            arrays of that library, where the given one lies
    Arrow tables and tensors     as NumPy's, and answered with those
    what has `__dlpack__` alone  likewise
    Dask                         computed as a whole, as scikit-learn does, and then NumPy's

Nothing is copied between devices unasked: what lies on a GPU is taken by a model of that GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .hardware import Device
from .types import Array, Namespace

HOST_KINDS = (1, 3, 11, 13)  # of `__dlpack_device__`: CPU, and memory that it shares with a GPU


def _from(value: Any, *libraries: str) -> bool:
    """Whether a value is of one of these libraries, which need not be imported for that."""
    return type(value).__module__.partition(".")[0] in libraries


def is_foreign(value: Any) -> bool:
    """Whether a value is an array of a library other than NumPy; Dask's are none yet."""
    if isinstance(value, np.ndarray | np.generic | list | tuple) or hasattr(value, "toarray"):
        return False
    if _from(value, "dask"):
        return False
    from array_api_compat import is_array_api_obj

    return bool(is_array_api_obj(value))


def library(xp: Namespace) -> str:
    """The name of the array library behind a namespace: "cupy", "torch", "jax"."""
    return str(xp.__name__).removeprefix("array_api_compat.").partition(".")[0]


def library_of(value: Any) -> str:
    """The name of a foreign array's library."""
    import array_api_compat

    return library(array_api_compat.array_namespace(value))


def plain(value: Array) -> Array:
    """A tensor without its graph, and in float32 where NumPy does not have its dtype.

    A view that PyTorch negates when it is read, such as z.conj().imag, says nothing of that in
    DLPack: it is copied.
    """
    if hasattr(value, "detach"):  # PyTorch
        value = value.detach().resolve_neg()
    if str(value.dtype).endswith("bfloat16"):
        value = value.float() if hasattr(value, "float") else value.astype("float32")
    return value


def on_host(value: Any) -> bool:
    """Whether an array lies where the CPU reads it."""
    try:
        return int(value.__dlpack_device__()[0]) in HOST_KINDS
    except (AttributeError, BufferError, RuntimeError, ValueError):
        return True  # what cannot say so is asked by NumPy, which has its own error


def as_numpy(value: Any) -> npt.NDArray[Any]:
    """An array of the host as NumPy's, without a copy where that can be."""
    value = plain(value)
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return np.asarray(value)


def hosted(argument: str, value: Any) -> Any:
    """A foreign array that lies on the host as NumPy's; TypeError for one that does not.

    What is no array of another library is left as it is.
    """
    if not is_foreign(value):
        return value
    if on_host(value):
        return as_numpy(value)
    raise TypeError(
        f"{argument} is a {type(value).__module__}.{type(value).__name__} that lies on a GPU, and "
        "nothing is copied between devices unasked: expected an array of the host, whatever the "
        f"device of the model. Bring it there first, {argument}.get() of CuPy, {argument}.cpu() of "
        "PyTorch."
    )


def unmasked(argument: str, value: Any) -> None:
    """Raise TypeError for a masked array, what lies under whose mask would be taken for numbers.

    Or for a list of such: NumPy makes an array without a mask of it.
    """
    if isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            if isinstance(entry, np.ma.MaskedArray):
                unmasked(f"{argument}[{i}]", entry)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(
            f"{argument} is a masked array of which {int(np.ma.getmaskarray(value).sum())} entries "
            f"are masked, but expected none. Fill them first, {argument}.filled(0), or leave their "
            "examples out."
        )


def taken(argument: str, value: Any, device: Device) -> Any:
    """What a model is given, as its checks know it: of NumPy, or of the device's own library.

    TypeError for what lies elsewhere, for sparse matrices, and for masked numbers.
    """
    if type(value) is np.ndarray:
        return value
    unmasked(argument, value)
    if _from(value, library(device.xp)):
        return plain(value) if hasattr(value, "detach") else value
    if _from(value, "dask") and hasattr(value, "compute"):
        return value.compute()
    if hasattr(value, "to_numpy_ndarray"):  # Arrow's tensors of a fixed shape
        return value.to_numpy_ndarray()
    if hasattr(value, "toarray"):
        raise TypeError(
            f"{argument} is a sparse {type(value).__name__}, but expected a dense array. Pass "
            f"{argument}.toarray(); MLPClassifier and MLPRegressor take sparse rows as they are."
        )
    if not is_foreign(value):
        alone = not hasattr(value, "dtype") and not hasattr(value, "__array__")
        alone = alone and hasattr(value, "__dlpack__")
        return _by_dlpack(argument, value, device) if alone else value
    if library_of(value) == library(device.xp):
        return plain(value) if hasattr(value, "detach") else value
    return _by_dlpack(argument, value, device)


def check_ready(X: Any, device: Device, dtype: str) -> None:
    """Raise TypeError, or ValueError, for what no predictor of the device takes as it is."""
    kind = library(device.xp)
    if not _from(X, kind):
        raise TypeError(
            f"X is a {type(X).__module__}.{type(X).__name__}, but a predictor takes arrays of its "
            f"model's device, {device.name!r}, as they are: expected one of {kind}. Bring it there "
            "first, model.device.put(X), or ask predict_proba or predict, which take any array."
        )
    if X.ndim != 2:
        raise ValueError(f"X has shape {tuple(X.shape)}, but expected (n_features, n_examples).")
    if X.shape[1] == 0:
        raise ValueError(f"X has shape {tuple(X.shape)}: there are no examples.")
    if kind != "numpy" and str(X.dtype) != dtype:  # NumPy converts
        raise TypeError(
            f"X has dtype {X.dtype}, but a predictor takes arrays as they are: expected its "
            f"model's, {dtype}. X.astype({dtype!r}) first."
        )


def _by_dlpack(argument: str, value: Any, device: Device) -> Any:
    what = f"{argument} is a {type(value).__module__}.{type(value).__name__}"
    try:
        if on_host(value):
            return as_numpy(value) if hasattr(value, "dtype") else np.from_dlpack(value)
        if library(device.xp) == "cupy":
            return device.xp.from_dlpack(plain(value) if hasattr(value, "dtype") else value)
    except Exception as error:
        raise TypeError(
            f"{what}, which cannot be taken ({error}): expected a dense array of numbers."
        ) from None
    raise TypeError(
        f"{what} that lies on another device than the model's, {device.name!r}, and nothing is "
        "copied between devices unasked: expected one on the CPU. Bring it there first "
        "(X.cpu() of PyTorch, X.get() of CuPy), or make the model with device='cuda'."
    )


def given_back(answer: Array, X: Any, device: Device) -> Array:
    """An answer of a device as an array of the library of X, where X lies.

    Of NumPy's arrays, and of all that is none, it is the device's; text stays NumPy's.
    """
    own = type(X) is np.ndarray or _from(X, library(device.xp))
    if own or not is_foreign(X) or library_of(X) == library(device.xp):
        return answer
    if isinstance(answer, np.ndarray) and answer.dtype.kind not in "biuf":
        return answer
    import array_api_compat

    xp, where = array_api_compat.array_namespace(X), array_api_compat.device(X)
    if on_host(X):
        host = answer if isinstance(answer, np.ndarray) else device.get(answer)
        return xp.asarray(np.array(host), device=where)
    flat = device.xp.reshape(answer, (-1,))  # in C order, as JAX wants it
    return xp.from_dlpack(device.xp.reshape(flat, answer.shape))


__all__ = [
    "as_numpy",
    "given_back",
    "hosted",
    "is_foreign",
    "library",
    "library_of",
    "on_host",
    "taken",
    "unmasked",
]
