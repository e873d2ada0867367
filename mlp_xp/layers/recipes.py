"""Layers in the order that papers put them: functions that return lists for `Sequential`."""

from __future__ import annotations

from collections.abc import Sequence

from . import options
from .base import Kind
from .convolution import Conv1d
from .dense import Activation, Dropout
from .residual import Residual


def steps_seen(kernel: int, blocks: int) -> int:
    """How many steps, its own among them, a step sees after `blocks` of `temporal_convolutions`.

    Block i has two convolutions that each reach (kernel - 1) 2ⁱ steps back.
    """
    return 1 + 2 * (kernel - 1) * ((1 << blocks) - 1)


def temporal_convolutions(
    channels: int | Sequence[int],
    *,
    kernel: int = 3,
    dropout: float = 0.0,
    time: int | None = None,
) -> list[Kind]:
    """A temporal convolutional network: (features, time) → (channels, time).

    Bai, Kolter & Koltun 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling", §3.

    Block i is relu(A + F(A)), F twice a causal convolution of dilation 2ⁱ, relu and dropout;
    where the channels differ A goes through a convolution of kernel 1 (`Residual`'s P). The
    paper's convolutions are weight-normalised, these are not, and it drops whole channels,
    this entries.

    channels  a width for each block, [32, 32, 64]; or one for all, with `time`
    kernel    steps that a convolution sees
    dropout   rate in [0, 1)
    time      as many blocks as the last of so many steps needs to see the first

    What follows takes the last step, or the mean over time, or a score for every step:

        [*temporal_convolutions(24, kernel=6, time=100), Last(), Dense(1)]
    """
    kernel = options.whole("kernel", kernel, 2)
    if isinstance(channels, Sequence) and not isinstance(channels, str):
        widths = [options.whole(f"channels[{i}]", n, 1) for i, n in enumerate(channels)]
        if time is not None:
            raise ValueError(
                f"channels is {channels!r}, a width for each block, and time is {time}, which "
                "asks for as many blocks as are needed: expected one number with time."
            )
        if not widths:
            raise ValueError("channels is empty, but expected a width for each block.")
    else:
        width = options.whole("channels", channels, 1)
        if time is None:
            raise ValueError(
                f"channels is {width}, but nothing says how many blocks: expected a list, "
                f"[{width}, {width}], or time, the number of steps that the last is to see."
            )
        time, blocks = options.whole("time", time, 1), 1
        while steps_seen(kernel, blocks) < time:
            blocks += 1
        widths = [width] * blocks
    layers: list[Kind] = []
    for i, n in enumerate(widths):
        convolution = Conv1d(n, kernel, dilation=2**i, padding="causal")
        half: list[Kind] = [convolution, Activation("relu")]
        if dropout != 0:
            half.append(Dropout(dropout))
        layers += [Residual((*half, *half)), Activation("relu")]
    return layers
