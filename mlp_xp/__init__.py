"""Multilayer perceptrons on NumPy and CuPy arrays, from one set of kernels."""

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
    from .estimators import MLPClassifier as MLPClassifier
    from .estimators import MLPRegressor as MLPRegressor

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


def __dir__() -> list[str]:
    """What is public: modules, and names that they import, are not."""
    return sorted([*__all__, "MLPClassifier", "MLPRegressor", "__version__"])


def __getattr__(name: str) -> Any:
    """The estimators, when asked for: scikit-learn takes ten times as long to import as NumPy."""
    if name not in ("MLPClassifier", "MLPRegressor"):
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
