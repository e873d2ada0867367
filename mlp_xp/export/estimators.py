"""What estimators have of all this: a file of their own, and a place in skl2onnx's pipelines."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model import Model
    from .deploy import Entry


class Exportable:
    """Methods of fitted estimators that write ONNX."""

    def _exported(self) -> tuple[Model, Entry | None]:
        """A model that predicts the same, and how X lies where it is not rows."""
        raise NotImplementedError

    def to_onnx(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        input_dtype: str | None = None,
    ) -> Any:
        """The fitted estimator as an ONNX graph (opset 18).

        Parameters
        ----------
        path : of a file to write, atomically; None writes none
        dtype : "float32" or "float64" of weights and products; None is the fitted one
        input_dtype : likewise of X; None is as `dtype`

        Returns
        -------
        An `onnx.ModelProto`: X in, `label` and `probabilities` of classes out, or `variable`
        (n_samples, n_outputs) of numbers. X lies as in `fit`, images with the axis of their
        channels; lists of sequences come padded with zeros, with their `lengths` (n_samples,) as
        an input of its own.
        """
        from .deploy import to_onnx

        model, entry = self._exported()
        return to_onnx(model, path, dtype=dtype, input_dtype=input_dtype, entry=entry)

    def onnx_parser(self) -> None:
        """For skl2onnx: its own way to name the answers, from the next time on ours."""
        from .pipelines import register

        register(type(self))

    def onnx_shape_calculator(self) -> Callable[..., None]:
        """For skl2onnx: what tells the types of the answers."""
        from .pipelines import shape_calculator

        return partial(shape_calculator, *self._exported())

    def onnx_converter(self) -> Callable[..., None]:
        """For skl2onnx: what writes the nodes."""
        from .pipelines import converter

        return partial(converter, *self._exported())


__all__ = ["Exportable"]
