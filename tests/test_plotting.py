"""Pictures show what is there, on any axes, in words too, and change nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from mlp_xp import MLP, MLPClassifier, MLPRegressor, NeuralClassifier, Sequential
from mlp_xp.layers import (
    GRU,
    Activation,
    BatchNorm,
    Conv2d,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Last,
    MaxPool,
    Residual,
)
from mlp_xp.layers.table import LAYERS
from mlp_xp.model import Model
from mlp_xp.plotting import (
    ConfusionDisplay,
    Display,
    HistoryDisplay,
    LearningRateDisplay,
    NetworkDisplay,
    WeightsDisplay,
)
from mlp_xp.plotting.display import BLUE, GREEN, PURPLE, SIGNED, VERMILLION, model_of
from mlp_xp.plotting.network import COLOURS
from mlp_xp.plotting.outline import AFTER, FAMILIES, Block, Box, boxes, in_words, outline

rng = np.random.default_rng(7)
X, Y = rng.normal(size=(60, 16)), rng.integers(0, 3, 60)
X[:, 0] += 3 * Y
BLOCK = Residual([Conv2d(4, 3, padding="same"), Activation("relu"), Residual([Conv2d(4, 1)])])
IMAGES = [BLOCK, MaxPool(2), Flatten(), Dense(5), Activation("tanh"), Dropout(0.1), Dense(3)]


def trained() -> dict[str, Any]:
    """One of each, briefly trained."""
    given: dict[str, Any] = {"epochs": 2, "progress": False, "layout": "rows"}
    given["validation_data"] = (X, Y)
    words = np.array(["ash", "elm", "oak"])[Y]
    return {
        "mlp": MLP((16, 5, 3), residual=True).fit(X, Y, **given),
        "many": MLP((16, 5, 3), seed=[0, 1, 2]).fit(X, Y, **given),
        "sequential": Sequential((1, 4, 4), IMAGES).fit(X, Y, **given),
        "classifier": MLPClassifier((5,), max_iter=2, early_stopping=True).fit(X, words),
        "regressor": MLPRegressor(
            hidden_layer_sizes=(5,), max_iter=2, dropout=0.1, random_state=0
        ).fit(X, 1.0 * Y),
        "neural": NeuralClassifier("dense:5", epochs=2, validation_fraction=0.2).fit(X, words),
    }


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    with pytest.warns(Warning, match="Maximum iterations"):
        return trained()


@pytest.fixture
def mpl(request: pytest.FixtureRequest) -> Any:
    """matplotlib, which is as it was after the test."""
    library = need(request, "matplotlib")
    before = dict(library.rcParams)
    yield library
    assert dict(library.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def axes(mpl: Any, style: str = "default") -> Any:
    from matplotlib import style as styles
    from matplotlib.figure import Figure

    with styles.context(style):
        return Figure((6, 5)).add_subplot()


NAMES = ("mlp", "many", "sequential", "classifier", "regressor", "neural")
MAKE: dict[str, Any] = {
    "history": HistoryDisplay.from_model,
    "weights": WeightsDisplay.from_model,
    "network": NetworkDisplay.from_model,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", MAKE)
def test_every_model_is_drawn_on_axes_of_its_own_and_on_given_ones(
    mpl: Any, models: dict[str, Any], kind: str, name: str
) -> None:
    own = MAKE[kind](models[name])
    assert isinstance(own, Display)
    assert own.figure_.canvas.manager is None
    ax = axes(mpl)
    given = MAKE[kind](models[name], ax=ax)
    assert given.ax_ is ax
    assert given.figure_ is ax.figure
    assert own.alt == given.alt
    assert own.alt in repr(own)
    assert re.fullmatch(r"[^\n]{20,}\.", own.alt)


# -- history --------------------------------------------------------------------------------


def test_a_history_is_drawn_as_it_is(mpl: Any, models: dict[str, Any]) -> None:
    model = models["mlp"]
    display = HistoryDisplay.from_model(model, panels=["loss", "score", "rate"])
    names = (("loss", "validation_loss"), ("validation_score",), ("rate",))
    for ax, curves in zip(display.ax_, names, strict=True):
        drawn = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 2]
        for curve, found in zip(curves, drawn, strict=True):
            np.testing.assert_array_equal(found, model.history[curve])
    assert display.ax_[1].get_ylabel() == "accuracy"
    best = int(np.argmin(model.history["validation_loss"]))
    told = display.ax_[0].get_legend().get_texts()[1].get_text()
    assert told.endswith(f"in epoch {best + 1}")
    assert f"best {model.history['validation_loss'][best]:.4g}" in display.alt


def test_estimators_histories_are_theirs(mpl: Any, models: dict[str, Any]) -> None:
    display = HistoryDisplay.from_model(models["classifier"])
    np.testing.assert_array_equal(display.curves["loss"][:, 0], models["classifier"].loss_curve_)
    assert "validation_score" in display.curves
    alone = HistoryDisplay.from_model(models["regressor"])
    assert alone.score == "R²"
    assert alone.ax_.get_ylabel() == "loss"


def test_many_networks_are_drawn_about_their_median(mpl: Any, models: dict[str, Any]) -> None:
    display = HistoryDisplay.from_model(models["many"], ax=axes(mpl))
    lines = [line for line in display.ax_.lines if line.get_label().startswith("_")]
    assert len(lines) == 2 * 3  # of training and of validation
    (training,) = [line for line in display.ax_.lines if "training" in line.get_label()]
    median = np.median(models["many"].history["loss"], axis=1)
    np.testing.assert_array_equal(training.get_ydata(), median)


def test_a_curve_of_some_epochs_is_left_out_with_a_warning(mpl: Any) -> None:
    model = MLP((16, 3)).fit(X, Y, epochs=1, progress=False, layout="rows")
    model.fit(X, Y, epochs=1, progress=False, validation_data=(X, Y))
    with pytest.warns(UserWarning, match="validation_loss is known of 1 epochs of 2"):
        display = HistoryDisplay(model.history | {"validation_score": [0.5, 0.6]})
    assert set(display.curves) == {"loss", "validation_score", "rate"}


def test_what_has_no_history_is_told_why(mpl: Any) -> None:
    with pytest.raises(ValueError, match="train first, by fit"):
        HistoryDisplay.from_model(MLP((4, 3)))
    lbfgs = MLPClassifier((3,), solver="lbfgs", tol=1.0, random_state=0).fit(X[:30], Y[:30])
    with pytest.raises(ValueError, match="'lbfgs' keeps no history"):
        HistoryDisplay.from_model(lbfgs)
    with pytest.raises(TypeError, match="expected an MLP, a Sequential or a fitted estimator"):
        HistoryDisplay.from_model("model")


def test_panels_and_axes_that_do_not_fit_are_refused(mpl: Any, models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"panels has 'speed', but expected some of loss, score"):
        HistoryDisplay.from_model(models["mlp"], panels=["speed"])
    with pytest.raises(ValueError, match="ax holds 1 axes, but expected one for each of 2"):
        HistoryDisplay.from_model(models["mlp"], ax=axes(mpl), panels=["loss", "score"])


# -- weights --------------------------------------------------------------------------------


def pixels(display: Display) -> np.ndarray:
    (image,) = display.ax_.images
    return np.ma.filled(image.get_array().astype(float), np.nan)


def test_a_matrix_is_drawn_number_by_number(mpl: Any, models: dict[str, Any]) -> None:
    display = WeightsDisplay.from_model(models["many"], "W2", network=1)
    np.testing.assert_array_equal(pixels(display), models["many"].parameters["W2"][1])
    (image,) = display.ax_.images
    assert image.norm.vmin == -image.norm.vmax
    W = WeightsDisplay.from_model(models["classifier"], "W1", ax=axes(mpl)).W
    np.testing.assert_array_equal(W, models["classifier"].coefs_[0].T)


def test_units_are_pictures_where_their_inputs_are(mpl: Any) -> None:
    W = rng.normal(size=(6, 2 * 8 * 9))
    display = WeightsDisplay(W, shape=(2, 8, 9)).plot(most=5)
    found = pixels(display)
    first = np.concatenate(list(W[0].reshape(2, 8, 9)), axis=1)
    np.testing.assert_array_equal(found[:8, :18], first)
    assert np.isnan(found[8]).all()  # a line between two
    assert np.sum(np.isin(found, W)) == 5 * 144
    assert "first 5 of 6 units, 2×8×9" in display.ax_.get_title()


@pytest.mark.parametrize(
    ("layers", "name", "shape"),
    [
        (IMAGES, "W1_1", None),  # inside of a block
        ([Conv2d(4, (3, 2)), Flatten(), Dense(3)], "W1", (1, 3, 2)),
        ([Conv2d(8, 3), Conv2d(4, 2), Flatten(), Dense(3)], "W2", None),  # of 8 channels
        ([Flatten(), Dropout(0.1), Dense(3)], "W3", (1, 4, 4)),
        ([MaxPool(2), Flatten(), Dense(3)], "W3", None),
        ([Flatten(), Dense(4), Dense(3)], "W3", None),
    ],
)
def test_a_sequential_knows_which_units_see_an_image(
    mpl: Any, layers: list[Any], name: str, shape: tuple[int, ...] | None
) -> None:
    assert WeightsDisplay.from_model(Sequential((1, 4, 4), layers), name).shape == shape


def test_weights_that_are_not_there_are_named(mpl: Any, models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="name is 'W9', but expected one of 'W1', 'W3'"):
        WeightsDisplay.from_model(models["neural"], "W9")
    with pytest.raises(IndexError, match="network is 3, but the model has 3: expected 0 … 2"):
        WeightsDisplay.from_model(models["many"], network=3)
    with pytest.raises(ValueError, match=r"shape is \(3, 3\), but a unit of W1 has 16 inputs"):
        WeightsDisplay.from_model(models["mlp"], shape=(3, 3))


# -- networks -------------------------------------------------------------------------------

ARCHITECTURES: dict[str, Model] = {
    "dense": MLP((4, 6, 5, 3), normalization="batch", dropout=0.1, residual=True),
    "sparse": MLP((6, 8, 2), density=0.5, loss="squared_error"),
    "wide": MLP((64, 100, 10)),
    "chain": Sequential(6, [Dense(4), BatchNorm(), Activation("relu"), Dense(1)], loss="huber"),
    "images": Sequential((1, 4, 4), IMAGES),
    "before": Sequential((6,), [BatchNorm(), Activation("relu"), Residual([Dense(4)]), Dense(2)]),
    "aside": Sequential(
        (1, 6, 6),
        [
            Residual([Conv2d(4, 3, stride=2)], skip=[Conv2d(4, 3, stride=2), BatchNorm()]),
            Flatten(),
            Dense(2),
        ],
    ),
    "words": Sequential(
        (5,),
        [Embedding(9, 4), GRU(3, returns="all", directions=2), Last(), Dense(2)],
        lengths=True,
    ),
}


def blocks(items: Any) -> list[Block]:
    found = [item for item in items if isinstance(item, Block)]
    return found + [inner for block in found for inner in blocks(block.items)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_outline_counts_every_parameter_and_names_what_there_is(name: str) -> None:
    model = ARCHITECTURES[name]
    found = outline(model)
    counted = [box.parameters for box in boxes(found.items)]
    counted += [block.parameters for block in blocks(found.items)]
    assert sum(counted) == model.n_parameters
    parameters = model.parameters
    for box in boxes(found.items):
        assert {box.W, box.b} <= {"", *parameters}
        if box.W:
            assert parameters[box.W].shape[0] == box.shape[0]
    assert f"input {'×'.join(map(str, found.shape))}; " in in_words(found)


def test_every_kind_of_layer_has_a_family_or_acts_after_one() -> None:
    families = {kind for kinds in FAMILIES.values() for kind in kinds}
    assert families | {*AFTER, Residual} == set(LAYERS.values())
    assert {*FAMILIES, "other"} == set(COLOURS)


def test_an_outline_tells_what_acts_after_a_layer_and_round_it() -> None:
    first = outline(ARCHITECTURES["dense"]).items[0]
    assert isinstance(first, Block)
    assert first.skip == "P"
    assert isinstance(first.items[0], Box)
    assert first.items[0].then == ("BatchNorm", "relu", "Dropout(0.1)")
    block, pool, _, dense, scores = outline(ARCHITECTURES["images"]).items
    assert isinstance(block, Block)
    assert isinstance(block.items[1], Block)
    assert block.skip == "P"
    assert block.items[1].skip == ""
    assert isinstance(pool, Box)
    assert (pool.family, pool.shape) == ("pooling", (4, 2, 2))
    assert isinstance(dense, Box)
    assert (dense.text, dense.then) == ("Dense(5)", ("tanh", "Dropout(0.1)"))
    assert isinstance(scores, Box)
    assert scores.then == ("softmax",)
    assert blocks(outline(ARCHITECTURES["aside"]).items)[0].skip.startswith("Conv2d(4, 3")
    assert next(boxes(outline(ARCHITECTURES["before"]).items)).then == ("relu",)


@pytest.mark.parametrize("name", ["dense", "sparse", "chain"])
def test_a_small_dense_network_is_drawn_unit_by_unit(mpl: Any, name: str) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Circle, FancyArrowPatch

    model = ARCHITECTURES[name]
    ax = NetworkDisplay.from_model(model).ax_
    sizes = list(model.network.sizes) if isinstance(model, MLP) else [6, 4, 1]
    assert sum(isinstance(patch, Circle) for patch in ax.patches) == sum(sizes)
    drawn = [c for c in ax.collections if isinstance(c, LineCollection)]
    signs = {tuple(c.get_color()[0][:3]): 0 for c in drawn}
    for collection in drawn:
        signs[tuple(collection.get_color()[0][:3])] += len(collection.get_segments())
    W = [w for key, w in model.parameters.items() if key[0] == "W"]
    positive, negative = sum(int((w > 0).sum()) for w in W), sum(int((w < 0).sum()) for w in W)
    assert sorted(signs.values()) == sorted((positive, negative))  # none of what is absent
    skips = sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches)
    assert skips == (2 if name == "dense" else 0)


@pytest.mark.parametrize("name", ["wide", "images", "before", "aside", "words"])
def test_any_other_network_is_drawn_layer_by_layer(mpl: Any, name: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    model = ARCHITECTURES[name]
    display = NetworkDisplay.from_model(model)
    texts = [text.get_text() for text in display.ax_.texts]
    drawn = list(boxes(display.found.items))
    assert sum(isinstance(p, FancyBboxPatch) for p in display.ax_.patches) == len(drawn)
    for box in drawn:
        assert box.text in texts
        assert "×".join(map(str, box.shape)) in texts
    assert texts.count("+") == len(blocks(display.found.items))
    # no letters beyond the picture
    display.figure_.draw_without_rendering()
    whole = display.figure_.bbox
    for text in display.ax_.texts:
        inside = text.get_window_extent()
        assert whole.x0 <= inside.x0
        assert inside.x1 <= whole.x1


def test_units_are_named_where_names_are_known(mpl: Any) -> None:
    import pandas

    table = pandas.DataFrame(X[:, :3], columns=["wind", "sun", "rain"])
    classifier = MLPClassifier((4,), max_iter=400, tol=0.1).fit(
        table, np.array(["dry", "wet"])[Y % 2]
    )
    texts = [text.get_text() for text in NetworkDisplay.from_model(classifier).ax_.texts]
    assert {"wind", "sun", "rain", "wet"} <= set(texts)
    assert "dry" not in texts  # the one output is the second class's


def test_units_of_other_layers_are_refused(mpl: Any, models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected 'layers' or 'auto'"):
        NetworkDisplay.from_model(models["sequential"], kind="units")
    with pytest.raises(ValueError, match="kind is 'tree', but expected 'auto', 'units'"):
        NetworkDisplay.from_model(models["mlp"], kind="tree")  # type: ignore[arg-type]


# -- answers and rates ----------------------------------------------------------------------


def test_a_confusion_matrix_is_scikit_learns(mpl: Any, models: dict[str, Any]) -> None:
    from sklearn.metrics import confusion_matrix

    model, words = models["mlp"], np.array(["ash", "elm", "oak"])[Y]
    truth = confusion_matrix(Y, model.predict(X))
    display = ConfusionDisplay.from_model(model, X, Y)
    np.testing.assert_array_equal(display.matrix, truth)
    one_hot = ConfusionDisplay.from_model(model, X.T, np.eye(3)[Y].T, layout="columns")
    np.testing.assert_array_equal(one_hot.matrix, truth)
    for name in ("classifier", "neural"):
        shown = ConfusionDisplay.from_model(models[name], X, words, normalize="true", ax=axes(mpl))
        called = models[name].predict(X)
        np.testing.assert_array_equal(
            shown.matrix, confusion_matrix(words, called, normalize="true")
        )
        assert [text.get_text() for text in shown.ax_.get_xticklabels()] == ["ash", "elm", "oak"]
    right = int(np.trace(truth))
    assert f"{right} of 60 right" in display.alt


def test_a_neural_estimators_confusion_takes_one_hot_rows_where_it_was_fitted_to_such(
    mpl: Any,
) -> None:
    rows = np.eye(3, dtype=int)[Y]
    neural = NeuralClassifier("dense:3", loss="cross_entropy", epochs=2, random_state=0)
    neural.fit(X, rows)
    expected = ConfusionDisplay.from_model(neural, X, Y).matrix
    np.testing.assert_array_equal(ConfusionDisplay.from_model(neural, X, rows).matrix, expected)


def test_a_confusion_of_masked_labels_is_refused(mpl: Any, models: dict[str, Any]) -> None:
    hidden = np.ma.masked_equal(Y, 1)
    for name in ("mlp", "classifier", "neural"):
        with pytest.raises(TypeError, match="Y is a masked array"):
            ConfusionDisplay.from_model(models[name], X, hidden)


def test_a_confusion_of_two_classes_has_one_output(mpl: Any) -> None:
    model = MLP((16, 1), loss="binary_cross_entropy")
    display = ConfusionDisplay.from_model(model, X, Y > 0, layout="rows")
    called = model.predict(X, layout="rows")
    assert display.matrix[0, 1] == np.sum((called == 1) & (Y == 0))


def test_a_confusion_of_numbers_or_of_many_is_refused(mpl: Any, models: dict[str, Any]) -> None:
    for name in ("regressor", "many"):
        with pytest.raises(ValueError, match="A confusion matrix is of one classifier"):
            ConfusionDisplay.from_model(models[name], X, Y)
    with pytest.raises(TypeError, match="leave layout out"):
        ConfusionDisplay.from_model(models["classifier"], X, Y, layout="rows")


def test_a_search_of_the_rate_is_drawn_with_its_suggestion(mpl: Any) -> None:
    model = MLP((16, 5, 3))
    found = model.find_learning_rate(X, Y, layout="rows", steps=20)
    display = LearningRateDisplay.from_model(model, X, Y, layout="rows", steps=20)
    raw, smooth, line = display.ax_.lines
    np.testing.assert_array_equal(raw.get_ydata(), found.losses)
    assert len(smooth.get_ydata()) == len(found.losses)
    assert set(line.get_xdata()) == {found.suggestion}
    ends = found._replace(losses=np.append(found.losses[:-1], np.inf))
    assert (
        len(LearningRateDisplay(ends).plot(axes(mpl)).ax_.lines[0].get_xdata())
        == len(ends.losses) - 1
    )
    with pytest.raises(TypeError, match="expected an MLP or a Sequential"):
        LearningRateDisplay.from_model(MLPClassifier(), X, Y)


# -- what all displays do -------------------------------------------------------------------


class Images(HTMLParser):
    """The attributes of the images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("div", "img")
        if tag == "img":
            self.found.append(dict(attrs))


def test_a_notebook_has_the_picture_with_its_text(mpl: Any, models: dict[str, Any]) -> None:
    display = NetworkDisplay.from_model(models["mlp"])
    (image,) = Images(display._repr_html_() or "").found
    assert image["alt"] == display.alt
    assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
    from matplotlib import pyplot

    _, ax = pyplot.subplots()
    try:
        assert NetworkDisplay.from_model(models["mlp"], ax=ax)._repr_html_() is None
    finally:
        pyplot.close(ax.figure)


def test_a_file_has_the_text_too(mpl: Any, models: dict[str, Any], tmp_path: Path) -> None:
    display = HistoryDisplay.from_model(models["mlp"])
    display.save(tmp_path / "a.svg", metadata={"Creator": "me"})
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert f"<title>{display.alt}</title>" in text
    assert "<dc:title>me</dc:title>" in text
    display.save(tmp_path / "a.png", dpi=40)
    from matplotlib import image
    from PIL import Image

    assert image.imread(tmp_path / "a.png").ndim == 3
    assert Image.open(tmp_path / "a.png").text["Description"] == display.alt


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_letters_and_lines_follow_the_style(mpl: Any, models: dict[str, Any], style: str) -> None:
    from matplotlib.colors import to_hex

    expected = {"default": "#000000", "dark_background": "#ffffff"}[style]
    for make in (NetworkDisplay.from_model, HistoryDisplay.from_model):
        ax = make(models["mlp"], ax=axes(mpl, style)).ax_
        texts = [*ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else [])]
        assert {to_hex(text.get_color()) for text in texts} == {expected}


def luminance(colour: Any) -> float:
    """WCAG 2.2, relative luminance."""
    channels = np.asarray(colour[:3])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_stand_out_from_white_and_from_black(mpl: Any) -> None:
    from matplotlib.colors import to_rgb

    for colour in (BLUE, VERMILLION, GREEN, PURPLE, *COLOURS.values()):
        shade = luminance(to_rgb(colour))
        assert min(1.05 / (shade + 0.05), (shade + 0.05) / 0.05) >= 3  # WCAG 2.2, 1.4.11
    below, zero, above = (mpl.colormaps[SIGNED](x) for x in (0.0, 0.5, 1.0))
    assert luminance(zero) > 0.9
    assert max(luminance(below), luminance(above)) < 0.1
    assert above[2] > above[0]  # blue, as positive weights are elsewhere


def test_displays_bring_no_library_before_they_draw() -> None:
    code = "import sys, mlp_xp.plotting, mlp_xp.trackers as t; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    late = {"matplotlib", "sklearn", "tensorboard", "mlflow", "wandb"}
    assert not late & set(done.stdout.split())


@pytest.mark.parametrize("kind", MAKE)
def test_a_missing_matplotlib_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, models: dict[str, Any], kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'mlp_xp[plot]'")):
        MAKE[kind](models["mlp"])


def test_the_model_of_an_estimator_predicts_the_same(models: dict[str, Any]) -> None:
    classifier = models["classifier"]
    model = model_of(classifier)
    np.testing.assert_array_equal(model.predict(X, layout="rows"), classifier.predict(X))
    with pytest.raises(TypeError, match="a fitted estimator"):
        model_of(MLPClassifier)
