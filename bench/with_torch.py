"""PyTorch: eager, compiled, and as CUDA graphs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from cases import BETA1, BETA2, EPSILON, RATE, STEPS_BEFORE_CHECK, Arrays, Case, parameters
from contest import Make, Peer, batches_of, copies_of, nothing, rotating
from reference import adam_scalars
from timing import DEVICES, Session

from mlp_xp.bench import targets_for


def _torch() -> Any:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return torch


def _torch_precision(
    torch: Any, case: Case, device: str
) -> Callable[[], AbstractContextManager[Any]]:
    """Set how float32 products are made; returns what to compute scores and loss in.

    bfloat16 is autocast, PyTorch's own way: float32 parameters, moments and loss.
    """
    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    if case.precision != "bfloat16":
        return nullcontext
    name = DEVICES[device].names["torch"]
    # a weight is cast once a step: there is nothing to remember, and a graph must not
    return lambda: torch.autocast(name, dtype=torch.bfloat16, cache_enabled=False)


def _torch_network(torch: Any, case: Case, arrays: Arrays, device: str) -> Any:
    parts = []
    for W, b in parameters(case, arrays):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=torch.from_numpy(W).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W))
            linear.bias.copy_(torch.from_numpy(b))
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1]).to(DEVICES[device].names["torch"])


def _torch_wait(torch: Any, device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else nothing


def _torch_data(torch: Any, case: Case, arrays: Arrays, device: str) -> tuple[Any, Any, Any]:
    """Rows, targets and order on the device."""
    where = DEVICES[device].names["torch"]
    targets = targets_for(case.sizes, arrays["labels"], case.dtype)
    return tuple(torch.from_numpy(a).to(where) for a in (arrays["rows"], targets, arrays["order"]))


def _torch_loss(torch: Any, case: Case) -> Any:
    functional = torch.nn.functional
    if case.n_outputs == 1:
        return functional.binary_cross_entropy_with_logits
    return functional.cross_entropy


def _torch_loop(
    order: Any, size: int, step: Callable[[Any], Any], wait: Callable[[], None]
) -> Session:
    """Steps over the shuffled index, one after another."""
    place, loss = 0, float("nan")

    def run(n: int) -> None:
        nonlocal place, loss
        for _ in range(n):
            loss = step(order[place : place + size])
            place = (place + size) % len(order)

    def result() -> float:
        run(STEPS_BEFORE_CHECK + 1)
        return float(loss)

    return Session(run, wait, result)


def _torch_modules(compiled: bool) -> Make:
    """`nn.Sequential`, autograd and `torch.optim.Adam`; the setting is Adam's implementation."""

    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        torch = _torch()
        rows, targets, order = _torch_data(torch, case, arrays, device)
        network = _torch_network(torch, case, arrays, device)
        adam = "fused" if compiled else setting
        optimizer = torch.optim.Adam(network.parameters(), lr=RATE, **{adam: True})
        criterion = _torch_loss(torch, case)
        precision = _torch_precision(torch, case, device)

        def objective(index: Any) -> Any:
            X, T = torch.index_select(rows, 0, index), torch.index_select(targets, 0, index)
            with precision():
                return criterion(network(X), T)

        loss_of = torch.compile(objective) if compiled else objective

        def step(index: Any) -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(index)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return _torch_loop(order, case.batch, step, _torch_wait(torch, device))

    return make


WARM_UPS = 3  # steps before a capture, as PyTorch asks for


def _torch_captured(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """The whole step, gather to update, as one CUDA graph; its forward and backward compiled
    where the setting says so."""
    torch = _torch()
    rows, targets, order = _torch_data(torch, case, arrays, device)
    network = _torch_network(torch, case, arrays, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True, capturable=True)
    criterion = _torch_loss(torch, case)
    precision = _torch_precision(torch, case, device)

    def objective(index: Any) -> Any:
        X, T = torch.index_select(rows, 0, index), torch.index_select(targets, 0, index)
        with precision():
            return criterion(network(X), T)

    loss_of = torch.compile(objective) if setting == "CUDA graph, compiled" else objective
    index = order[: case.batch].clone()

    def whole_step() -> Any:
        loss = loss_of(index)
        loss.backward()
        optimizer.step()
        return loss

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            optimizer.zero_grad(set_to_none=True)
            whole_step()
    torch.cuda.current_stream().wait_stream(aside)
    optimizer.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = whole_step()
    with torch.no_grad():  # as if nothing had been done yet
        begun = _torch_network(torch, case, arrays, device)
        for mine, first in zip(network.parameters(), begun.parameters(), strict=True):
            mine.copy_(first)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    found = loss.detach()

    # a graph knows addresses alone: what lies there must live as long
    def step(now: Any, kept: Any = whole_step) -> Any:
        index.copy_(now)
        graph.replay()
        return found

    return _torch_loop(order, case.batch, step, _torch_wait(torch, device))


def _torch_training(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """By the setting's name: captured, or step by step."""
    captured = setting.startswith("CUDA graph")
    make = _torch_captured if captured else _torch_modules(compiled=False)
    return make(case, arrays, device, setting)


def _torch_graph(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
    """Gather, forward, backward and Adam compiled as one graph that updates in place."""
    if setting == "modules":
        return _torch_modules(compiled=True)(case, arrays, device, setting)
    torch = _torch()
    rows, targets, order = _torch_data(torch, case, arrays, device)
    network = _torch_network(torch, case, arrays, device)
    flat = [p.detach().clone() for p in network.parameters()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in flat]
    powers = torch.ones(2, dtype=torch.float64, device=rows.device)  # of β₁ and β₂
    betas = torch.tensor([BETA1, BETA2], dtype=torch.float64, device=rows.device)
    criterion, functional = _torch_loss(torch, case), torch.nn.functional
    _torch_precision(torch, case, device)
    # what autocast does, by hand: inside a compiled transform autocast itself does nothing
    held = torch.bfloat16 if case.precision == "bfloat16" else rows.dtype

    def objective(flat: Any, X: Any, T: Any) -> Any:
        for i in range(0, len(flat), 2):
            X = functional.linear(X.to(held), flat[i].to(held), flat[i + 1].to(held))
            X = X if i == len(flat) - 2 else functional.relu(X)
        return criterion(X.to(rows.dtype), T)

    gradient = torch.func.grad_and_value(objective)

    def update(flat: Any, moments: Any, powers: Any, index: Any) -> Any:
        X, T = torch.index_select(rows, 0, index), torch.index_select(targets, 0, index)
        gradients, loss = gradient(flat, X, T)
        powers.mul_(betas)
        corrections = 1 - powers
        rate = (RATE / corrections[0]).to(rows.dtype)
        root = torch.sqrt(corrections[1]).to(rows.dtype)
        for p, g, (m, s) in zip(flat, gradients, moments, strict=True):
            m.mul_(BETA1).add_(g, alpha=1 - BETA1)
            s.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
            p.sub_(rate * m / (s.sqrt() / root + EPSILON))
        return loss

    mode = "max-autotune-no-cudagraphs" if setting == "one graph, autotuned" else None
    if setting == "one graph, CUDA graphs":
        mode = "reduce-overhead"
    compiled = torch.compile(update, mode=mode)

    def step(index: Any) -> Any:
        return compiled(flat, moments, powers, index)

    with torch.no_grad():
        session = _torch_loop(order, case.batch, step, _torch_wait(torch, device))

    def run(n: int) -> None:
        with torch.no_grad():
            session.run(n)

    def result() -> Any:
        with torch.no_grad():
            return session.result()

    return Session(run, session.wait, result)


def _torch_replayed(torch: Any, network: Any, batch: Any, precision: Any) -> Callable[[Any], Any]:
    """The network captured for batches of one size."""
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode(), precision():
        X = batch.clone()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                network(X)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            found = network(X)

    # as in `_torch_captured`
    def call(batch: Any, kept: Any = network) -> Any:
        X.copy_(batch)
        graph.replay()
        return found

    return call


def _torch_inference(compiled: bool) -> Make:
    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        torch = _torch()
        network = _torch_network(torch, case, arrays, device)
        end = torch.nn.Softmax(-1) if case.n_outputs > 1 else torch.nn.Sigmoid()
        network = torch.nn.Sequential(*network, end).eval()
        call = torch.compile(network) if compiled else network
        rows = _torch_data(torch, case, arrays, device)[0]
        batches = [rows[piece] for piece in batches_of(case, arrays)]
        precision = _torch_precision(torch, case, device)
        if setting == "CUDA graph":
            call = _torch_replayed(torch, network, batches[0], precision)
        rotate, first = rotating(batches, call)

        def run(n: int) -> None:
            with torch.inference_mode(), precision():
                rotate(n)

        def result() -> Any:
            with torch.inference_mode(), precision():
                return first().float().cpu().numpy()

        return Session(run, _torch_wait(torch, device), result)

    return make


def _torch_kernels(compiled: bool) -> Make:
    def make(case: Case, arrays: Arrays, device: str, setting: str) -> Session:
        torch = _torch()
        rate, epsilon = adam_scalars(1)

        def update(a: Any) -> Any:
            a["m"].mul_(BETA1).add_(a["g"])
            a["s"].mul_(BETA2).addcmul_(a["g"], a["g"])
            a["theta"].sub_(rate * (a["m"] / (a["s"].sqrt() + epsilon)))
            return a["theta"]

        def score(a: Any) -> Any:
            # the derivative of the mean loss, in columns as the others have it
            P = torch.softmax(a["S"], 0)
            T = torch.nn.functional.one_hot(a["labels"], case.n_outputs).T
            return (P - T) / case.batch

        calls: dict[str, Callable[[Any], Any]] = {
            "layer": lambda a: torch.relu(torch.addmm(a["b"], a["W"], a["A"])),
            "input_gradient": lambda a: a["W"].T @ a["delta"],
            "weight_gradient": lambda a: a["delta"] @ a["A"].T,
            "activation_gradient": lambda a: a["dA"] * (a["A"] > 0),
            "score": score,
            "update": update,
            "gather": lambda a: torch.index_select(a["rows"], 0, a["index"]),
        }
        call = torch.compile(calls[case.kernel]) if compiled else calls[case.kernel]
        where = DEVICES[device].names["torch"]
        shared = torch.from_numpy(arrays["rows"]).to(where) if "rows" in arrays else None
        batches = [
            {k: shared if k == "rows" else torch.from_numpy(v).to(where) for k, v in copy.items()}
            for copy in copies_of(arrays, case.cold)
        ]
        rotate, first = rotating(batches, call)

        def run(n: int) -> None:
            with torch.inference_mode():
                rotate(n)

        def result() -> Any:
            with torch.inference_mode():
                found = first()
                if case.kernel == "update":
                    found = torch.cat([batches[0][name] for name in ("theta", "m", "s")])
                return found.cpu().numpy()

        return Session(run, _torch_wait(torch, device), result)

    return make


TORCH_STARTUP = """
import sys
import numpy as np
import torch
with np.load(sys.argv[1]) as file:
    X = torch.from_numpy((file["X"] / 16).astype("float32"))
    y = torch.from_numpy(file["y"].astype("int64"))
network = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
order = torch.randperm(len(X))
for start in range(0, len(X), 32):
    index = order[start : start + 32]
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(X[index]), y[index]).backward()
    optimizer.step()
print((network(X).argmax(1) == y).float().mean().item())
"""


ROWS = {
    "torch": Peer(
        ("torch",),
        "torch",
        training=_torch_training,
        inference=_torch_inference(compiled=False),
        kernels=_torch_kernels(compiled=False),
        startup=TORCH_STARTUP,
        settings={
            ("training", "cpu"): ("fused", "foreach"),
            ("training", "cuda"): ("CUDA graph", "CUDA graph, compiled"),
            ("inference", "cuda"): ("CUDA graph",),
        },
        devices=("cpu", "cuda"),
    ),
    "torch-compile": Peer(
        ("torch",),
        "torch",
        training=_torch_graph,
        inference=_torch_inference(compiled=True),
        kernels=_torch_kernels(compiled=True),
        settings={
            ("training", "cpu"): ("one graph", "one graph, autotuned", "modules"),
            ("training", "cuda"): ("one graph, CUDA graphs",),
        },
        devices=("cpu", "cuda"),
    ),
}
