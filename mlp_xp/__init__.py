"""Multilayer perceptrons on NumPy and CuPy arrays, from one set of kernels."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .activations import ACTIVATIONS, Activation
from .devices import device, devices
from .fitting import EarlyStopping, Epoch, TrainingDiverged
from .hardware import Device, DeviceUnavailable
from .initializers import INITIALIZERS
from .losses import LOSSES, Loss
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

if TYPE_CHECKING:
    from . import data as data
    from . import layers as layers
    from . import plotting as plotting
    from . import trackers as trackers
    from . import tutorial as tutorial
    from .data import load_table as load_table
    from .estimators.mlp import MLPClassifier as MLPClassifier
    from .estimators.mlp import MLPRegressor as MLPRegressor
    from .estimators.neural import NeuralClassifier as NeuralClassifier
    from .estimators.neural import NeuralRegressor as NeuralRegressor
    from .export.from_torch import from_torch as from_torch
    from .export.to_torch import to_torch as to_torch
    from .inspection import GradientCheck as GradientCheck
    from .inspection import check_gradients as check_gradients
    from .inspection import inspect_step as inspect_step
    from .mlp import MLP as MLP
    from .preparation import model_for as model_for
    from .preparation import prepare as prepare
    from .searching.front import search as search
    from .sequential import Sequential as Sequential
    from .streams import stream as stream

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
    "Sequential",
    "TrainingDiverged",
    "check_gradients",
    "device",
    "devices",
    "from_torch",
    "inspect_step",
    "load_table",
    "model_for",
    "prepare",
    "search",
    "stream",
    "to_torch",
]


# Imported when they are asked for: they are many, or bring scikit-learn, which takes ten times as
# long to import as NumPy.
LATE = {
    "GradientCheck": "inspection",
    "MLP": "mlp",
    "MLPClassifier": "estimators.mlp",
    "MLPRegressor": "estimators.mlp",
    "NeuralClassifier": "estimators.neural",
    "NeuralRegressor": "estimators.neural",
    "Sequential": "sequential",
    "check_gradients": "inspection",
    "from_torch": "export.from_torch",
    "inspect_step": "inspection",
    "load_table": "data",
    "model_for": "preparation",
    "prepare": "preparation",
    "search": "searching.front",
    "stream": "streams",
    "to_torch": "export.to_torch",
}
MODULES = ("data", "layers", "plotting", "trackers", "tutorial")


def __dir__() -> list[str]:
    """What is public: other modules, and names that this one imports, are not."""
    return sorted({*__all__, *LATE, *MODULES, "__version__"})


def __getattr__(name: str) -> Any:
    """What is imported late."""
    if name in MODULES:
        return import_module(f".{name}", __name__)
    if name not in LATE:
        raise AttributeError(  # with what Python asks for the name that was meant
            f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )
    try:
        module = import_module(f".{LATE[name]}", __name__)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("sklearn", "scipy"):
            raise
        from .extras import missing

        raise missing(f"mlp_xp.{name} needs scikit-learn", "sklearn", error) from None
    return getattr(module, name)
