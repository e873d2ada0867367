"""Multilayer perceptrons on NumPy and CuPy arrays, from one set of kernels."""

from .activations import ACTIVATIONS, Activation
from .devices import Device, devices
from .fitting import EarlyStopping, Epoch, TrainingDiverged
from .initializers import INITIALIZERS
from .inspection import GradientCheck, check_gradients, inspect_step
from .losses import LOSSES, Loss
from .model import MLP
from .optimizers import OPTIMIZERS
from .schedules import SCHEDULES

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
    "EarlyStopping",
    "Epoch",
    "GradientCheck",
    "Loss",
    "TrainingDiverged",
    "check_gradients",
    "devices",
    "inspect_step",
]
