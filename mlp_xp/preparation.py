"""What training finds before it begins: columns, loss, scales, classes, the held-out share.

What is found (words, means, largest pixel, labels) is a `Preparation`, which the model applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import checks
from .cells import is_number, named_numbers
from .columns import Columns
from .data import Dataset
from .draws import Purpose, permutation
from .losses import LOSSES
from .mlp import MLP
from .model import Model
from .prepared import NO_SCALE, Preparation, Scale, as_labels
from .readers import DataError, Rows, listed, names_in
from .recognise import ALMOST_NUMBER, FEWEST_ROWS, MOST_WORDS, NEARLY, learn
from .streams.scan import MOST_LABELS, Moments
from .streams.streamed import Stream

MOST_CLASSES = 50
FEW_CLASSES = 10  # up to which whole numbers are classes, whichever they are


def _scale(offset: Rows, divisor: Rows) -> Scale:
    """A constant column is shifted, not divided."""
    return Scale(offset.tolist(), np.where(divisor > 0, divisor, 1.0).tolist())


def _standard(X: Rows) -> Scale:
    return _scale(X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64))


def _minmax(X: Rows) -> Scale:
    low, high = (extreme(axis=0).astype(np.float64) for extreme in (X.min, X.max))
    return _scale(low, high - low)


def _auto(X: Rows) -> Scale:
    """Bytes are images: all pixels keep one scale, 0 … 1. Others are standardised."""
    return Scale(0.0, float(max(X.max(), 1))) if X.dtype == np.uint8 else _standard(X)


SCALES: dict[str, Callable[[Rows], Scale]] = {
    "auto": _auto,
    "standard": _standard,
    "minmax": _minmax,
    "none": lambda X: NO_SCALE,
}


def default_loss(y: Rows) -> str:
    """By the targets: words and a few whole numbers are classes (`_are_classes`), columns of 0
    and 1 labels.

    Columns with a single 1 in each row are classes too. Other numbers are numbers. Words that
    are numbers but for a slip raise DataError.
    """
    if y.dtype.kind in "Ub" and y.ndim == 1:
        _check_meant_as_classes(np.unique(y), len(y))
        return "cross_entropy"
    if y.ndim == 2 and np.isin(y, (0, 1)).all():
        return "cross_entropy" if (y.sum(axis=1) == 1).all() else "multilabel"
    if y.ndim == 2:
        return "squared_error"
    classes = bool(np.all(y == np.floor(y))) and _are_classes(np.unique(y), len(y))
    return "cross_entropy" if classes else "squared_error"


def _are_classes(labels: Sequence[Any] | Rows, m: int) -> bool:
    """Whether the different whole numbers of m examples, rising, are names of classes.

    Few numbers are. More are where they count from 0 or 1, nearly without a gap, as people number
    classes. Ages, counts and years do not: of 283 such columns in 750 tables of R's packages some
    ten were names, and a classifier learnt them worse (70 of 75 by R² on the held-out fifth).
    """
    if len(labels) > min(MOST_CLASSES, max(2, m // 3)):
        return False
    span = labels[-1] - labels[0] + 1
    return len(labels) <= FEW_CLASSES or (labels[0] in (0, 1) and len(labels) >= NEARLY * span)


# the same of a stream's moments, and whether its features are bytes
STREAMED: dict[str, Callable[[Moments, bool], Scale]] = {
    "auto": lambda found, raw: (
        Scale(0.0, max(float(found.high.max()), 1.0)) if raw else STREAMED["standard"](found, raw)
    ),
    "standard": lambda found, raw: _scale(found.mean, found.deviation),
    "minmax": lambda found, raw: _scale(found.low, found.high - found.low),
    "none": lambda found, raw: NO_SCALE,
}


def _default_loss_of(stream: Stream) -> str:
    """`default_loss` by what one pass over a stream finds."""
    found = stream.found
    if found.text:
        return "cross_entropy"
    if stream.n_targets != ():
        return (
            ("cross_entropy" if found.one_hot else "multilabel") if found.flags else "squared_error"
        )
    classes = found.whole and found.labels is not None and _are_classes(found.labels, stream.m)
    return "cross_entropy" if classes else "squared_error"


def _prepare_stream(
    stream: Stream, loss: str | None, scale: str, scale_target: bool, beside: Sequence[Stream]
) -> Preparation:
    """`prepare` of a stream, by one pass over it."""
    if stream.n_targets is None:
        raise DataError(f"{stream.name} has no targets, by which a preparation goes.")
    loss, seen = _default_loss_of(stream) if loss is None else loss, stream.found
    found = Preparation(loss=loss, features=stream.features, target=stream.target)
    if found.kind in ("multiclass", "binary") and stream.n_targets == ():
        parts = (stream, *beside)
        if any(part.found.labels is None for part in parts):
            raise DataError(
                f"{stream.name}: the target has more than {MOST_LABELS:,} different values, too "
                "many for classes. Is this the wrong column?"
            )
        labels = np.unique(as_labels([x for part in parts for x in part.found.labels or ()]))
        m = sum(part.m for part in parts)
        found = replace(found, classes=_classes(labels, m, loss, found.kind))
    elif seen.targets is None:
        raise DataError(
            f"{stream.name}: the target holds words, but loss {loss!r} takes numbers. Use "
            "cross_entropy, or leave the loss out."
        )
    elif found.kind == "real" and scale_target:
        outputs = _scale(seen.targets.mean, seen.targets.deviation)
        if stream.n_targets == ():
            outputs = Scale(outputs.offset[0], outputs.divisor[0])
        found = replace(found, outputs=outputs)
    with np.errstate(all="ignore"):  # what overflows is refused
        inputs = STREAMED[scale](seen.features, stream.source.dtype == np.uint8)
    _check_scale(f"{stream.name}, target", found.target or ("y",), found.outputs)
    _check_scale(f"{stream.name}, column", found.features, inputs)
    return replace(found, inputs=inputs)


def take(X: Any, index: Any) -> Any:
    """Rows of an array or of a data frame."""
    return X.iloc[index] if hasattr(X, "iloc") else X[index]


def prepare(
    data: Dataset | Stream,
    rows: Any = None,
    loss: str | None = None,
    scale: str = "auto",
    scale_target: bool = True,
    keep: str | Iterable[str] = (),
    beside: Sequence[Stream] = (),
) -> Preparation:
    """What to do to a data set, found on the training examples `rows`.

    data          a `Dataset`; or a `Stream`, over which one pass is made, unless it was
    rows          (m,) indices; None for all. A stream is taken as a whole
    loss          name of a loss; None goes by the targets
    scale         of the features: a row of `SCALES`
    scale_target  whether numbers to predict are standardised
    keep          name or names of a table's columns to use although they are one value, number
                  the rows, or are nearly all different
    beside        streams of the same source, whose labels are classes, too
    """
    checks.choose("scale", SCALES, scale)
    if loss is not None:
        checks.choose("loss", LOSSES, loss)
    if isinstance(data, Stream):
        return _prepare_stream(data, loss, scale, scale_target, beside)
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data is a {type(data).__name__}, but expected a Dataset or a stream. "
            "mlp_xp.load_table(frame, target) makes one of a data frame or a file, "
            "mlp_xp.data.Dataset('name', X, y) of arrays (m, n_features) and (m,)."
        )
    if data.y is None:
        raise DataError(f"{data.name} has no targets, by which a preparation goes.")
    kept = names_in("keep", keep)
    for name in kept:
        if name not in data.features:
            raise DataError(
                f"{data.name}: keep names {name!r}, but its columns are {listed(data.features)}."
            )
    rows = slice(None) if rows is None else rows
    loss = default_loss(data.y) if loss is None else loss
    found = Preparation(loss=loss, target=data.target, missing=data.missing)
    y = data.y if data.y_test is None else np.concatenate([data.y, data.y_test])
    if found.kind in ("multiclass", "binary") and y.ndim == 1:
        found = replace(found, classes=_classes(np.unique(y), len(y), loss, found.kind))
    elif y.dtype.kind == "U":
        word = y.reshape(-1)[0].item()
        raise DataError(
            f"the target holds words ({word!r}), but loss {loss!r} takes numbers. Use "
            "--loss cross_entropy, or leave it out."
        )
    elif found.kind == "real" and scale_target:
        with np.errstate(all="ignore"):
            found = replace(found, outputs=_standard(data.y[rows]))
    with np.errstate(all="ignore"):  # what overflows is refused
        found = _prepare_inputs(data, rows, found, scale, kept)
    _check_scale(f"{data.name}, column", found.target or ("y",), found.outputs)
    names = found.table.outputs if found.table else found.features
    _check_scale(f"{data.name}, column", names, found.inputs)
    return found


def _check_scale(where: str, names: Sequence[str], scale: Scale) -> None:
    """Raise DataError for numbers so large that no float holds their mean or deviation."""
    offset, divisor = (np.reshape(part, -1) for part in scale)
    bad = ~(np.isfinite(offset) & np.isfinite(divisor))
    if bad.any():
        i = int(np.argmax(bad))
        name = repr(names[i]) if i < len(names) else i
        raise DataError(
            f"{where} {name}: its numbers are too large to be scaled, but expected ones below "
            "1e150 in size. Correct them, or divide them first."
        )


def _prepare_inputs(
    data: Dataset, rows: Any, found: Preparation, scale: str, keep: Iterable[str]
) -> Preparation:
    """The part that concerns the features."""
    X = take(data.X, rows)
    if data.table is None:
        return replace(found, inputs=SCALES[scale](X), features=data.features)
    assert data.y is not None
    holes = data.X.columns[data.X.isna().any()]
    table = learn(X, found.columns_of(data.y[rows]), keep, data.name, holes, data.X)
    names = tuple(column.name for column in table.used)
    if not names and len(X) == 1:
        raise DataError(
            f"{data.name} has one example to train on, of {len(data.X):,}, but what its columns "
            "are is learnt from two or more. Hold out fewer, or bring more rows."
        )
    if not names:
        why = "; ".join(f"{column.name!r}: {column.why}" for column in table.unused[:5])
        raise DataError(f"{data.name} has no column to learn from ({why}). --keep NAME uses one.")
    table.check(data.name, data.X)
    if table.plain(X):
        numbers = named_numbers(data.name, X, names)
        return replace(found, inputs=SCALES[scale](numbers), features=names, left_out=table.unused)
    found = replace(found, table=table, features=names)
    return replace(found, inputs=_scale_of(table, table.rows(data.name, X), scale))


def _scale_of(table: Columns, rows: Rows, scale: str) -> Scale:
    """The scale of a table's numbers; columns of 0 and 1 stay what they are."""
    offset, divisor = SCALES[scale](rows)
    offset = np.where(table.scaled, offset, 0.0)
    return Scale(offset.tolist(), np.where(table.scaled, divisor, 1.0).tolist())


def model_for(
    data: Dataset | Stream,
    hidden: Sequence[int] = (256, 128),
    *,
    found: Preparation | None = None,
    layers: str | None = None,
    shape: Sequence[int] | None = None,
    activation: Any = "relu",
    **options: Any,
) -> Model:
    """A model that takes a data set as it is, and answers in its words and units.

    found    what `prepare` found; None finds it on all examples
    layers   a line of layers (`layers.text`) in the place of `hidden`: then a `Sequential`
    shape    of one example, for them: (channels, height, width) or (features, time); None: a
             vector, or a square image of one channel for what begins with a convolution
    options  of `MLP` or `Sequential`; the loss is that of `found`
    """
    if not isinstance(hidden, Sequence | np.ndarray) or isinstance(hidden, str):
        raise TypeError(f"hidden is {hidden!r}, but expected widths, such as (256, 128), or ().")
    found = prepare(data) if found is None else found
    if options.get("loss", found.loss) != found.loss:
        raise ValueError(
            f"loss is {options['loss']!r}, but the preparation is for {found.loss!r}: pass "
            "found=prepare(data, loss=…) in its place."
        )
    if isinstance(data, Stream):
        n_inputs, shape_of_y = data.width, (data.m, *(data.n_targets or ()))
    else:
        assert data.y is not None
        n_inputs, shape_of_y = len(found.features) or data.X.shape[1], data.y.shape
    if found.table:
        n_inputs = len(found.table.outputs)
    n_out, options = n_outputs(found, shape_of_y), {**options, "loss": found.loss}
    model: Model
    if layers is None:
        model = MLP((n_inputs, *hidden, n_out), activation=activation, **options)
    else:
        from .layers.text import layers_of, shape_for
        from .sequential import Sequential

        of = shape_for(layers, n_inputs, shape)
        model = Sequential(of, layers_of(layers, of, n_out, activation), **options)
    names = found.table.outputs if found.table else found.features
    _check_held(f"{data.name}, column", names, found.inputs, model.dtype)
    _check_held(f"{data.name}, target", found.target, found.outputs, model.dtype)
    model.preparation = found
    _check_told_apart(data.name, found, model.dtype)
    return model


def _check_held(where: str, names: Sequence[str], scale: Scale, dtype: str) -> None:
    """Raise DataError for numbers whose scale a dtype does not hold: no file could keep it."""
    if scale.fits(dtype):
        return
    parts = zip(*np.broadcast_arrays(*(np.reshape(part, -1) for part in scale)), strict=True)
    i, one = next((i, one) for i, one in enumerate(parts) if not Scale(*one).fits(dtype))
    name = repr(names[i]) if i < len(names) else i
    raise DataError(
        f"{where} {name}: its numbers are {one[0]:.3g} and {one[1]:.3g} more or less, which "
        f"{dtype} does not hold. Write them in another unit, or train in float64 (--dtype; "
        "dtype= in Python)."
    )


def _check_told_apart(where: str, found: Preparation, dtype: str) -> None:
    """Raise DataError for targets so close to each other, far from 0, that a dtype has no answers.

    The model learns them scaled, in float64, and would score well; its answers are of its dtype.
    """
    offset, divisor = (np.reshape(part, -1) for part in found.outputs)
    step = np.finfo(dtype).eps * np.abs(offset)
    if (step > divisor).any():
        i = int(np.argmax(step > divisor))
        name = repr(found.target[i]) if i < len(found.target) else i
        raise DataError(
            f"{where}, target {name}: its numbers are {offset[i]:g} and {divisor[i]:.3g} more or "
            f"less, but {dtype} has none there that are closer than {step[i]:.3g}. Subtract "
            f"{offset[i]:.3g} from it, or train in float64 (--dtype; dtype= in Python)."
        )


def _classes(labels: Rows, m: int, loss: str, kind: str) -> tuple[Any, ...]:
    """The classes of the different labels of m examples, rising."""
    text = labels.dtype.kind in "Ub"
    if not text and np.any(labels != np.floor(labels)):
        bad = labels[labels != np.floor(labels)][0]
        raise DataError(
            f"a label is {bad:g}, but loss {loss!r} takes whole numbers. To predict numbers "
            "use --loss squared_error."
        )
    if labels.dtype.kind == "f":
        apart = 2 / np.finfo(labels.dtype).eps  # from here on whole numbers are rounded
        if np.abs(labels).max() >= apart:
            bad = labels[np.argmax(np.abs(labels))]
            raise DataError(
                f"a label is {bad:.17g} as {labels.dtype}, which does not tell whole numbers of "
                f"that size apart: expected labels below {apart:.0f} in size, or text. To predict "
                "numbers use --loss squared_error."
            )
    if text and len(labels) > max(2, m // 2):
        _check_almost_numbers(labels.tolist())
        written = all(str(label).isdecimal() for label in labels)  # 0042
        raise DataError(
            f"the target has {len(labels):,} different words in {m:,} rows, too many for "
            f"classes: {labels[0].item()!r}, {labels[1].item()!r} … Is this the wrong column?"
            + (" To predict numbers use --loss squared_error." if written else "")
        )
    if len(labels) == 1:
        raise DataError(
            f"every label is {labels[0]!s}, but a classifier learns from two classes or more. "
            "Is this the wrong column?"
        )
    if kind == "binary" and len(labels) != 2:
        raise DataError(
            f"there are {len(labels)} classes, but loss {loss!r} takes two. Use --loss "
            "cross_entropy."
        )
    return tuple(labels.tolist() if text else (int(label) for label in labels))


def _check_meant_as_classes(labels: Rows, m: int) -> None:
    """Raise DataError for the different labels of m examples that a slip keeps from being numbers.

    As of a column of features: 10+ may be one of a few classes, but no - among numbers.
    """
    slips = [label for label in map(str, labels) if not is_number(label)]
    if not 0 < len(slips) <= (1 - NEARLY) * len(labels):
        return
    mark = not any(char.isalnum() for label in slips for char in label)
    if mark or len(labels) > MOST_WORDS or m < FEWEST_ROWS * len(labels):
        raise DataError(
            f"the target holds {slips[0]!r}, which is no number, but {len(labels) - len(slips):,} "
            f"of its {len(labels):,} different cells are. Correct it, or name it as a gap with "
            f"--missing {slips[0]!r}; if these are classes, say so: --loss cross_entropy."
        )


def _check_almost_numbers(labels: Sequence[str]) -> None:
    """Raise DataError for labels too many for classes that are numbers as text, or so written."""
    slips = [label for label in labels if not is_number(label)]
    written = [label for label in slips if ALMOST_NUMBER.fullmatch(label.strip())]
    if written and NEARLY * len(labels) <= len(labels) - len(slips) + len(written):
        raise DataError(
            f"the target holds numbers written as {written[0]!r}: expected plain ones, such as "
            "1234.5. Rewrite them."
        )
    if not slips and not all(label.isdecimal() for label in labels):
        raise DataError(
            f"the target holds numbers as text, such as {labels[0]!r}: expected a column of "
            "numbers. Convert it, as by .astype(float)."
        )


def n_outputs(preparation: Preparation, shape: tuple[int, ...]) -> int:
    """How many scores the network gives, for targets of a shape, (m,) or (m, n_targets)."""
    if preparation.kind == "multiclass" and preparation.classes is not None:
        return len(preparation.classes)
    return 1 if len(shape) == 1 else int(shape[1])


def split(
    m: int, held_out: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices to train on and indices held out: a random share, the same for a seed."""
    order = permutation(seed, Purpose.SPLIT, 0, m)
    n_held = round(held_out * m)
    if held_out > 0:
        n_held = min(max(n_held, 1), m - 1)
    return order[n_held:], order[:n_held]


class Examples(NamedTuple):
    """Rows to train on, rows to choose by and rows held out, (0, n) where none are.

    Streams have their targets in themselves: y is None, and X is () where no rows are.
    """

    X: Any
    y: Rows | None
    X_choice: Any
    y_choice: Rows | None
    X_held: Any
    y_held: Rows | None

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows are in each part."""
        return {
            "training": len(self.X),
            "validation": len(self.X_choice),
            "held_out": len(self.X_held),
        }


def divide(data: Dataset, held_out: float, validation: float, seed: int) -> tuple[Examples, Any]:
    """The examples' three parts, and the indices of those to train on.

    held_out    share of all that is held out; the data's own test set goes before it
    validation  share of the rest to choose by, 0 for nothing
    """
    X, y = data.X, data.y
    assert y is not None
    if data.X_test is None or data.y_test is None:
        kept, held = split(len(X), held_out, seed)
        X_held, y_held = take(X, held), y[held]
    else:
        X_held, y_held = data.X_test, data.y_test
        if not validation:  # as they lie, without a copy
            return Examples(X, y, X[:0], y[:0], X_held, y_held), slice(None)
        kept, _ = split(len(X), 0.0, seed)
    n = min(max(round(validation * len(kept)), 1), len(kept) - 1) if validation else 0
    choice, kept = kept[:n], kept[n:]  # in random order as it is
    return Examples(take(X, kept), y[kept], take(X, choice), y[choice], X_held, y_held), kept


def divide_stream(stream: Stream, held_out: float, validation: float, seed: int) -> Examples:
    """`divide` by whole units of the source."""
    left, held, choice = stream, None, None
    try:
        if held_out:
            left, held = left.split(held_out, seed)
        if validation:
            left, choice = left.split(validation, seed)
    except DataError as error:
        raise DataError(f"{error} Or keep nothing apart: --held-out 0.") from None
    return Examples(left, None, choice or (), None, held or (), None)
