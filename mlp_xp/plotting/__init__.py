"""Pictures of models, their training and their answers, by matplotlib, in scikit-learn's way.

    HistoryDisplay.from_model(model)                  loss and score of every epoch
    WeightsDisplay.from_model(model, "W1")            a parameter, as pictures or as a matrix
    NetworkDisplay.from_model(model)                  units and weights, or layers
    ConfusionDisplay.from_model(model, X, y)          which classes are taken for which
    LearningRateDisplay.from_model(model, X, y)       the learning-rate finder's curve

Each takes an `MLP`, a `Sequential` or a fitted estimator, draws on `ax` or on a figure of its
own, and keeps `ax_` and `figure_`; `plot(ax)` draws again, `save(path)` writes a file, `alt` says
the same in words. `pip install 'mlp_xp[plot]'`.
"""

from .confusion import ConfusionDisplay
from .display import Display
from .history import HistoryDisplay
from .network import NetworkDisplay
from .rates import LearningRateDisplay
from .weights import WeightsDisplay

__all__ = [
    "ConfusionDisplay",
    "Display",
    "HistoryDisplay",
    "LearningRateDisplay",
    "NetworkDisplay",
    "WeightsDisplay",
]
