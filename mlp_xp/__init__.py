"""Multilayer perceptrons on NumPy and CuPy arrays, from one set of kernels."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .activations import ACTIVATIONS, Activation
from .devices import Device, DeviceUnavailable, device, devices
from .fitting import EarlyStopping, Epoch, TrainingDiverged
from .initializers import INITIALIZERS
from .inspection import GradientCheck, check_gradients, inspect_step
from .losses import LOSSES, Loss
from .model import MLP
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

if TYPE_CHECKING:
    from .data import load_table as load_table
    from .estimators import MLPClassifier as MLPClassifier
    from .estimators import MLPRegressor as MLPRegressor
    from .preparation import model_for as model_for
    from .preparation import prepare as prepare
    from .searching import search as search

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "LOSSES",
    "MLP",
    "OPTIMIZERS",
    "SCHEDULES",
    "Activation",
    "Device",
    "DeviceUnavailable",
    "EarlyStopping",
    "Epoch",
    "GradientCheck",
    "Loss",
    "TrainingDiverged",
    "check_gradients",
    "device",
    "devices",
    "inspect_step",
]


ESTIMATORS = ("MLPClassifier", "MLPRegressor")
OF_DATA = {
    "load_table": "data",
    "model_for": "preparation",
    "prepare": "preparation",
    "search": "searching",
}


def __dir__() -> list[str]:
    """What is public: modules, and names that they import, are not."""
    return sorted([*__all__, *ESTIMATORS, *OF_DATA, "__version__"])


def __getattr__(name: str) -> Any:
    """What is imported when asked for: scikit-learn takes ten times as long as NumPy."""
    if name in OF_DATA:
        return getattr(import_module(f".{OF_DATA[name]}", __name__), name)
    if name not in ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import estimators
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):
            raise
        raise ImportError(
            f"mlp_xp.{name} needs scikit-learn ({error}): pip install 'mlp_xp[sklearn]'",
            name=error.name,
        ) from None
    return getattr(estimators, name)
