"""What the five documents print, to all the digits printed.

`docs/documents.md` says what is reproduced from where.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conftest import Backend
from mlp_xp import tutorial as t

HALF_A_DIGIT = 0.5001e-8  # the documents print 8 decimals


def is_printed_as(got: Any, printed: Any, atol: float = HALF_A_DIGIT) -> None:
    """`got` agrees with a print to all its digits."""
    np.testing.assert_allclose(got, np.array(printed), rtol=0, atol=atol)


def close(got: Any, expected: Any, rtol: float = 1e-7) -> None:
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-9)


def on(backend: Backend, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: backend.asarray(array) for name, array in arrays.items()}


def off(backend: Backend, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: backend.get(array) for name, array in arrays.items()}


def test_initialize_parameters_draws_what_the_fifth_document_prints(backend: Backend) -> None:
    like = backend.asarray(np.zeros((1, 1)))
    p = off(backend, t.initialize_parameters(3, 2, 1, like=like))
    assert list(p) == ["W1", "b1", "W2", "b2"]
    is_printed_as(
        p["W1"], [[0.01624345, -0.00611756, -0.00528172], [-0.01072969, 0.00865408, -0.02301539]]
    )
    is_printed_as(p["W2"], [[0.01744812, -0.00761207]])
    is_printed_as(p["b1"], [[0.0], [0.0]])
    is_printed_as(p["b2"], [[0.0]])

    p = off(backend, t.initialize_parameters(4, 3, 2, like=like))
    is_printed_as(
        p["W1"],
        [
            [0.01624345, -0.00611756, -0.00528172, -0.01072969],
            [0.00865408, -0.02301539, 0.01744812, -0.00761207],
            [0.00319039, -0.0024937, 0.01462108, -0.02060141],
        ],
    )
    is_printed_as(
        p["W2"], [[-0.00322417, -0.00384054, 0.01133769], [-0.01099891, -0.00172428, -0.00877858]]
    )
    is_printed_as(p["b1"], np.zeros((3, 1)))
    is_printed_as(p["b2"], np.zeros((2, 1)))


def test_initialize_parameters_deep_draws_what_the_fifth_document_prints(
    backend: Backend,
) -> None:
    like = backend.asarray(np.zeros((1, 1)))
    p = off(backend, t.initialize_parameters_deep([5, 4, 3], like=like))
    is_printed_as(
        p["W1"],
        [
            [0.01788628, 0.0043651, 0.00096497, -0.01863493, -0.00277388],
            [-0.00354759, -0.00082741, -0.00627001, -0.00043818, -0.00477218],
            [-0.01313865, 0.00884622, 0.00881318, 0.01709573, 0.00050034],
            [-0.00404677, -0.0054536, -0.01546477, 0.00982367, -0.01101068],
        ],
    )
    is_printed_as(
        p["W2"],
        [
            [-0.01185047, -0.0020565, 0.01486148, 0.00236716],
            [-0.01023785, -0.00712993, 0.00625245, -0.00160513],
            [-0.00768836, -0.00230031, 0.00745056, 0.01976111],
        ],
    )
    is_printed_as(p["b1"], np.zeros((4, 1)))
    is_printed_as(p["b2"], np.zeros((3, 1)))

    p = off(backend, t.initialize_parameters_deep([4, 3, 2], like=like))
    is_printed_as(
        p["W1"],
        [
            [0.01788628, 0.0043651, 0.00096497, -0.01863493],
            [-0.00277388, -0.00354759, -0.00082741, -0.00627001],
            [-0.00043818, -0.00477218, -0.01313865, 0.00884622],
        ],
    )
    is_printed_as(
        p["W2"], [[0.00881318, 0.01709573, 0.00050034], [-0.00404677, -0.0054536, -0.01546477]]
    )
    is_printed_as(p["b1"], np.zeros((3, 1)))
    is_printed_as(p["b2"], np.zeros((2, 1)))


def test_summing_over_examples_gives_the_column_the_fifth_document_prints(
    backend: Backend,
) -> None:
    """np.sum(A, axis=1, keepdims=True) is printed as [[3] [7]]: with m = 2, twice db."""
    A = backend.asarray(np.array([[1.0, 2.0], [3.0, 4.0]]))
    _, _, db = t.linear_backward(A, (A, A, A[:, :1]))
    np.testing.assert_array_equal(2 * backend.get(db), [[3.0], [7.0]])


# The third document prints parameters of an unseeded draw to 8 decimals, and not the X
# they were applied to. The numbers below were calculated from what it prints. The zeros
# and dA0 = W1ᵀ dZ1 tell which units were active; then X (columns 1, 2 and 4; where all
# units of a layer are dead nothing depends on the example, so that column 3 is any
# that leaves them so) and the digits of W beyond the eighth were solved for by linear
# programming such that every printed number comes out in all its digits. The
# 9 significant digits of the updated b1 need those further digits of W.
THIRD = {
    "W1": [
        [-0.48801735515, 0.36878669463, -0.29370009515, 0.57356558889, 0.25579563485],
        [-0.89222787515, 0.15173943485, 0.37397418485, 0.04629985515, 0.72582663074],
        [-0.01686242877, -0.36319177036, -0.15185666654, 0.63758029325, 0.93262974405],
        [-0.14462259945, 0.17641405485, -0.23852769515, 0.46009671458, 0.09729178485],
    ],
    "b1": [[0.0], [0.0], [0.0], [0.0]],
    "W2": [
        [-0.23618476532, -0.49271990532, -0.55171078532, -0.47334634532],
        [-0.16752299208, 0.35649675005, -0.05892275484, 0.39333935485],
        [-0.42956899532, 0.08679652653, -0.40196400532, -0.41667963532],
    ],
    "b2": [[0.0], [0.0], [0.0]],
    "W3": [[-0.26504678532, 0.35880477979, 0.11373019113]],
    "b3": [[0.0]],
}
THIRD_X = [
    [-1.544967218003, 0.181699586489, 1.8337, -1.943379692115],
    [0.484074473454862, 1.081177863093, -3.6183, -0.861566088979],
    [0.158305967663, 1.942646462005, 0.5226, -0.371919600109],
    [-0.322330286831, -0.012390505455, 0.9282, -1.612808215904],
    [0.488160181345, 1.667368060979, 1.7409, 0.636539328688],
]
THIRD_Y = [[0, 1, 1, 0]]
THIRD_PRINTED = {
    "W1": [
        [-0.48801736, 0.36878669, -0.2937001, 0.57356559, 0.25579563],
        [-0.89222788, 0.15173943, 0.37397418, 0.04629986, 0.72582663],
        [-0.01686243, -0.36319177, -0.15185667, 0.63758029, 0.93262974],
        [-0.1446226, 0.17641405, -0.2385277, 0.46009671, 0.09729178],
    ],
    "b1": [[0.0], [0.0], [0.0], [0.0]],
    "W2": [
        [-0.23618477, -0.49271991, -0.55171079, -0.47334635],
        [-0.16752299, 0.35649675, -0.05892275, 0.39333935],
        [-0.429569, 0.08679653, -0.40196401, -0.41667964],
    ],
    "b2": [[0.0], [0.0], [0.0]],
    "W3": [[-0.26504679, 0.35880478, 0.11373019]],
    "b3": [[0.0]],
}
THIRD_AL = [[0.55217926, 0.55484082, 0.5, 0.56343183]]
THIRD_COST = 0.7285985463399304
THIRD_GRADS = {
    "dA2": [
        [-0.14635334, 0.11798801, 0.13252339, -0.14933579],
        [0.19812456, -0.15972524, -0.17940239, 0.20216203],
        [0.06279945, -0.05062804, -0.0568651, 0.06407921],
    ],
    "dW3": [[0.0, 0.10525171, 0.02263592]],
    "db3": [[0.04261298]],
    "dA1": [
        [-0.03319042, 0.02675765, 0.0, -0.06139323],
        [0.07063076, -0.05694153, 0.0, 0.07763196],
        [-0.01167404, 0.00941145, 0.0, -0.03766948],
        [0.07793019, -0.06282622, 0.0, 0.05281778],
    ],
    "dW2": [
        [0.0, 0.0, 0.0, 0.0],
        [0.03456726, 0.10784149, -0.0304345, 0.00843343],
        [0.0, 0.02966002, 0.0, 0.0],
    ],
    "db2": [[0.0], [0.06014034], [0.0160198]],
    "dA0": [  # the print breaks off after three of five rows
        [-0.05789485, 0.03758792, 0.0, -0.0692654],
        [0.01646518, -0.00219057, 0.0, 0.01177983],
        [0.01934638, -0.03058258, 0.0, 0.02903235],
    ],
}
THIRD_UPDATED = {
    "W1": [
        [-0.4887191, 0.36862591, -0.29428418, 0.573436, 0.25544048],
        [-0.88884866, 0.15291767, 0.37557805, 0.04814068, 0.72596473],
        [-0.01710925, -0.36324832, -0.1520621, 0.63753471, 0.93250482],
        [-0.1431176, 0.1759425, -0.23868191, 0.46041071, 0.09681625],
    ],
    "b1": [[8.04096028e-05], [-1.14151490e-03], [2.82824182e-05], [-9.74127316e-04]],
    "W2": [
        [-0.23618477, -0.49271991, -0.55171079, -0.47334635],
        [-0.16925136, 0.35110468, -0.05740103, 0.39291768],
        [-0.429569, 0.08531353, -0.40196401, -0.41667964],
    ],
    "b2": [[0.0], [-0.00300702], [-0.00080099]],
    "W3": [[-0.26504679, 0.35354219, 0.1125984]],
    "b3": [[-0.00213065]],
}
# b1 is printed with an exponent: 8 decimals of the mantissa
THIRD_B1_ATOL = HALF_A_DIGIT * np.array([[1e-5], [1e-3], [1e-5], [1e-4]])


def test_the_third_documents_outputs_gradients_and_update_come_out_as_printed(
    backend: Backend,
) -> None:
    parameters = on(backend, {name: np.array(value) for name, value in THIRD.items()})
    for name, printed in THIRD_PRINTED.items():
        is_printed_as(THIRD[name], printed)
    assert tuple(parameters["W1"].shape) == (4, 5)
    X, Y = backend.asarray(np.array(THIRD_X)), backend.asarray(np.array(THIRD_Y))

    AL, caches = t.L_model_forward(X, parameters)
    is_printed_as(backend.get(AL), THIRD_AL)
    cost = float(t.compute_cost(AL, Y))
    np.testing.assert_allclose(cost, THIRD_COST, rtol=4 * np.finfo(float).eps)

    grads = t.L_model_backward(AL, Y, caches)
    assert list(grads) == ["dA2", "dW3", "db3", "dA1", "dW2", "db2", "dA0", "dW1", "db1"]
    for name, printed in THIRD_GRADS.items():
        is_printed_as(backend.get(grads[name])[: len(printed)], printed)

    updated = off(backend, t.update_parameters(parameters, grads, 0.05))
    for name, printed in THIRD_UPDATED.items():
        if name == "b1":
            assert np.all(np.abs(updated[name] - np.array(printed)) <= THIRD_B1_ATOL)
        else:
            is_printed_as(updated[name], printed)


def test_the_third_documents_cost_follows_from_the_outputs_it_prints(
    backend: Backend,
) -> None:
    """No number of ours is in this one; AL has 8 digits, and so the cost."""
    AL, Y = backend.asarray(np.array(THIRD_AL)), backend.asarray(np.array(THIRD_Y))
    is_printed_as(float(t.compute_cost(AL, Y)), THIRD_COST, atol=1e-8)


def test_layers_of_the_fourth_document_give_what_it_prints(backend: Backend) -> None:
    W, b = backend.asarray(np.array([[-1.0, 0.5]])), backend.asarray(np.zeros(1))
    relu, sigmoid = t.DenseLayer(1, 1, "relu"), t.DenseLayer(1, 1, "sigmoid")
    assert (relu.activation_type, sigmoid.activation_type) == ("relu", "sigmoid")
    X = np.array([[1.0, 2.0], [1.0, 4.0], [0.0, 0.0]])
    printed = [(0.0, 0.5, 0.0), (1.0, 0.73105858, 1.0), (0.0, 0.5, 0.0)]  # relu, sigmoid, z
    for x, (a_relu, a_sigmoid, z) in zip(X, printed, strict=True):
        for layer, expected in (relu, a_relu), (sigmoid, a_sigmoid):
            a, score = layer.forward_propagation(backend.asarray(x), W, b)
            assert tuple(a.shape) == tuple(score.shape) == (1,)
            is_printed_as(backend.get(a), [expected])
            is_printed_as(backend.get(score), [z])


def fourth_network(**options: Any) -> t.NN:
    return t.NN([t.DenseLayer(2, 1, "relu"), t.DenseLayer(1, 1, "sigmoid")], **options)


def test_NN_draws_the_parameters_the_fourth_document_prints(backend: Backend) -> None:
    p = off(backend, fourth_network(like=backend.asarray(np.zeros((1, 1)))).params_values)
    assert list(p) == ["W1", "b1", "W2", "b2"]
    is_printed_as(p["W1"], [[0.01488609, 0.00676011]])
    is_printed_as(p["b1"], [[-0.00418451]])
    is_printed_as(p["W2"], [[-0.00806521]])
    is_printed_as(p["b2"], [[0.00555876]])


def test_NN_adds_the_bias_the_fourth_document_leaves_out(backend: Backend) -> None:
    """Without: Z1 = 0.04192653 and y = 0.49991546, as printed. With: what b says."""
    nn = fourth_network(like=backend.asarray(np.zeros((1, 1))))
    with_bias, parameters = nn.params_values, off(backend, nn.params_values)
    x = backend.asarray(np.array([1.0, 4.0]))

    nn.params_values = {
        name: 0 * value if name[0] == "b" else value for name, value in with_bias.items()
    }
    y, memory = nn.forward_propagation(x)
    kept = off(backend, memory)
    assert list(kept) == ["A0", "Z1", "A1", "Z2"]
    is_printed_as(backend.get(y), [0.49991546])
    is_printed_as(kept["A0"], [1.0, 4.0])
    is_printed_as(kept["Z1"], [0.04192653])
    is_printed_as(kept["A1"], [0.04192653])
    is_printed_as(kept["Z2"], [-0.00033815])

    nn.params_values = with_bias
    y, memory = nn.forward_propagation(x)
    Z1 = parameters["W1"] @ np.array([1.0, 4.0]) + parameters["b1"][:, 0]
    close(backend.get(memory["Z1"]), Z1)
    is_printed_as(Z1, [0.04192653 - 0.00418451], atol=1e-8)
    Z2 = parameters["W2"] @ np.maximum(Z1, 0) + parameters["b2"][:, 0]
    close(backend.get(y), 1 / (1 + np.exp(-Z2)))
    assert Z2[0] > 0  # the missing bias changes the answer from class 0 to class 1


FOURTH_X = [3.31080257, 3.92155066, 0.48447198, 0.29285643, 4.81197995]
FOURTH_X += [3.08278722, 0.43314981, 2.80636181, 3.08262354, 4.81921511]
FOURTH_N = [0.36919292, 0.74114184, -1.35205787, -1.46875279, 1.28341815]
FOURTH_N += [0.23033032, -1.38331335, 0.06198574, 0.23023064, 1.2878244]


def test_batch_normalisation_gives_what_the_fourth_document_prints(backend: Backend) -> None:
    """Its X is drawn after the network's five parameters, from the same seeded stream."""
    legacy = np.random.RandomState(2021)
    legacy.standard_normal(5)
    X = legacy.uniform(0, 5.0, size=10)
    is_printed_as(X, FOURTH_X)
    assert f"{X.mean():.2f} {X.std():.2f}" == "2.70 1.64"

    Y, _ = t.batch_norm_forward(backend.asarray(X), gamma=1.0, beta=0.0, epsilon=0.0)
    is_printed_as(backend.get(Y), FOURTH_N)
    assert f"{abs(backend.get(Y).mean()):.2f} {backend.get(Y).std():.2f}" == "0.00 1.00"
    Y = t.batch_normalization(
        backend.asarray(X), float(X.mean()), float(X.var()), 0.0, 1.0, variance_epsilon=0.0
    )
    is_printed_as(backend.get(Y), FOURTH_N)
