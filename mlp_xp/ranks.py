"""Data-parallel training: several processes, the ranks, share every batch.

They are connected by MPI, or are workers of a Dask cluster (`ranks_dask`): each is a `Link`.

Each rank has all examples and the same state. Of a batch of m it computes the examples
[r m / n, (r + 1) m / n); then the flat gradient, the loss and the weights are summed over the
ranks by one exchange, and each makes the same update. What is drawn (shuffles, dropout), decided
(schedules, early stopping) and clipped is that of the whole batch, on every rank alike. A batch
of fewer examples than ranks is computed whole by each of them.

The formulas are the specification's. `over` gives a kernel set of it in which

    score        is of sums over the examples: ℓ and δ are not yet divided by their weight
    means        of batch normalisation, forward and backward, are over all ranks
    whole_batch  sums over the ranks, and divides by the weight of the batch

Under the compiler's tracer an exchange is an opaque call in the traced step (`Graph.opaque`):
of MPI on the CPU, of NCCL on CUDA (`ranks_cuda`).

Sums are taken in the order of the ranks, so that as many ranks give the same bits in every run
and however they are connected: MPI_Allreduce leaves order and grouping to the algorithm that an
implementation picks by size and network. With MPI small arrays go whole to every rank
(MPI_Allgather). Of large ones each rank sums one part (MPI_Alltoall) and gives it to all
(MPI_Allgather), as in Rabenseifner's algorithm: 2 (n - 1) / n of the array in and out, the least
there can be (Thakur, Rabenseifner & Gropp 2005, "Optimization of Collective Communication
Operations in MPICH", §4.5).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial, wraps
from typing import Any, NoReturn, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import ranks_cuda
from .devices import circumstances
from .fitting import Best, Passed, Rates, Run, moved
from .hardware import Device
from .kernels import SPEC, Kernels
from .losses import Loss
from .training import Recipe, Step, stepper
from .types import Array, Namespace, State

SMALL = 1 << 14  # bytes up to which an array goes whole to every rank
PATIENCE = 3.0  # seconds that an error waits for the same on all ranks, before it ends them
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS")  # of Open MPI, MPICH, Intel MPI

F = TypeVar("F", bound=Callable[..., Any])


class RanksDiffer(ValueError):
    """Ranks that were given different trainings."""


class Link(Protocol):
    """How a rank is connected to the others; every call is one that all of them make.

    rank, size  this one's number, from 0, and how many there are
    """

    rank: int
    size: int

    def total(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum of the ranks' arrays x (n,), in the order of the ranks, on all of them."""
        ...

    def all(self, value: Any) -> list[Any]:
        """What each rank gives, in the order of the ranks, on all of them."""
        ...

    def first(self, value: Any) -> Any:
        """What rank 0 has, on all ranks."""
        ...

    def failed(self, error: BaseException, traced: bool) -> None:
        """What comes of an error that left a training, or a command, on this rank.

        traced  whether it matters where the error came from
        """
        ...


class Ranks:
    """The processes that share a training, and this one's number among them, from 0."""

    def __init__(self, link: Link) -> None:
        self.link, self.rank, self.size = link, link.rank, link.size
        self.depth = 0
        self.sums: Any = None  # of what lies on GPUs: `ranks_cuda.connect`

    def total(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The sum of the ranks' arrays x, in the order of the ranks, on all of them."""
        return self.link.total(np.ascontiguousarray(x).reshape(-1)).reshape(x.shape)

    def first(self, value: Any) -> Any:
        """What rank 0 has, on all ranks."""
        return self.link.first(value)

    # -- one training ----------------------------------------------------------

    def check(self, device: Device, recipe: Mapping[str, Any]) -> None:
        """Raise `RanksDiffer`, on all ranks, unless all were given the same training.

        Of the same libraries, too: weights that were rounded otherwise would drift apart.
        """
        from . import __version__
        from .checkpoints import short

        own = {"mlp_xp": __version__, **circumstances(device), **recipe}
        if ranks_cuda.is_cuda(device):
            own |= ranks_cuda.told(device)
        told = {name: str(value) for name, value in own.items()}
        others = self.link.all(told)
        for rank, other in enumerate(others):
            what = "; ".join(
                f"{name} is {short(others[0].get(name))} on rank 0, but {short(other.get(name))} "
                f"on rank {rank}"
                for name in {**others[0], **other}
                if others[0].get(name) != other.get(name)
            )
            if what:
                raise RanksDiffer(
                    f"The ranks were given different trainings: {what}. Expected the same call "
                    "with the same data, seed and libraries on every rank."
                )
        self.sums = None
        if ranks_cuda.is_cuda(device):
            self.sums = ranks_cuda.connect(self.link.all, self.rank, device)

    def begin(
        self,
        device: Device,
        run: Run,
        rates: Rates,
        best: Best | None,
        over: bool,
        passed: Passed | None,
    ) -> tuple[bool, Passed | None]:
        """Bring every rank to where rank 0 begins, perhaps from a checkpoint.

        Returns what rank 0 was given: whether it is over, and what its epoch has passed.
        """
        kept = None if best is None else (best.loss, best.waited, best.stopped)
        states = [run.state, *([] if best is None else [best.state])]
        host = [moved(state, device.get)._replace(loss=None) for state in states]
        got = self.first((host, run.epoch, run.history, rates.plateau, kept, over, passed))
        if self.rank > 0:
            host, run.epoch, run.history, rates.plateau, kept, over, passed = got
            run.state, *others = (moved(state, device.put) for state in host)
            if best is not None and kept is not None:
                best.state = others[0]
                best.loss, best.waited, best.stopped = kept
        return over, passed

    def stepper(self, recipe: Recipe, device: Device, data: Any) -> Step:
        """A `training.Step` that takes whole batches and computes this rank's share of them."""
        if self.sums is not None:
            summed, votes = over(self, SPEC, device, self.sums), self.link.all
            of = {"rank": self.rank, "size": self.size, "summed": summed, "votes": votes}
            return cast(Step, ranks_cuda.stepper(recipe, device, data, **of))
        shared = replace(recipe, kernels=over(self, recipe.kernels, device))
        whole, mine = (stepper(each, device, data) for each in (recipe, shared))
        rank, size, dropped = self.rank, self.size, recipe.network.n_dropped

        def step(state: State, index: Array, bits: Array | None, rate: Any) -> State:
            m = int(index.shape[-1])
            if m < size:
                return whole(state, index, bits, rate)
            share = slice(rank * m // size, (rank + 1) * m // size)
            if bits is not None:
                lead = bits.shape[:-1]
                bits = device.xp.reshape(bits[..., : dropped * m], (*lead, dropped, m))
                bits = device.xp.reshape(bits[..., share], (*lead, -1))
            return mine(state, index[..., share], bits, rate)

        return step

    # -- errors ----------------------------------------------------------------

    @contextmanager
    def together(self, said: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
        """An error inside that not all ranks have ends all of them: see `Link.failed`.

        said  errors whose words are enough, without where they came from
        """
        self.depth += 1
        try:
            yield
        except BaseException as error:
            if self.depth == 1:
                self.link.failed(error, traced=not isinstance(error, said))
            raise
        finally:
            self.depth -= 1

    def silence(self) -> None:
        """Of ranks other than 0 nothing is printed any more."""
        if self.rank > 0:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


class Mpi:
    """A `Link` of the processes of one MPI job."""

    def __init__(self, mpi: Any) -> None:
        self.comm, self.errors = mpi.COMM_WORLD.Dup(), mpi.COMM_WORLD.Dup()
        self.rank, self.size = int(self.comm.Get_rank()), int(self.comm.Get_size())

    def total(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        n = self.size
        if n == 2 or x.nbytes <= SMALL:
            parts = np.empty((n, x.size), x.dtype)
            self.comm.Allgather(x, parts)
            return in_order(parts)
        whole = np.zeros((n, -(-x.size // n)), x.dtype)
        whole.reshape(-1)[: x.size] = x
        parts = np.empty_like(whole)
        self.comm.Alltoall(whole, parts)
        self.comm.Allgather(in_order(parts), whole)
        return whole.reshape(-1)[: x.size]

    def all(self, value: Any) -> list[Any]:
        found: list[Any] = self.comm.allgather(value)
        return found

    def first(self, value: Any) -> Any:
        return self.comm.bcast(value, root=0)

    def failed(self, error: BaseException, traced: bool) -> None:
        """End all processes, naming this rank, unless all come here soon."""
        request, until = self.errors.Ibarrier(), time.monotonic() + PATIENCE
        while not request.Test():
            if time.monotonic() > until:
                self._abort(error, traced)
            time.sleep(0.01)

    def _abort(self, error: BaseException, traced: bool) -> NoReturn:
        out = sys.__stderr__
        if out is not None:
            if traced:
                traceback.print_exception(error, file=out)
            who, why = f"rank {self.rank} of {self.size}", str(error) or type(error).__name__
            print(f"mlp_xp: {who} failed, which ends all: {why}", file=out, flush=True)
        self.comm.Abort(1)
        raise AssertionError("MPI_Abort returned")


def in_order(parts: Sequence[npt.NDArray[Any]] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """parts[0] + parts[1] + …, one after the other."""
    found: npt.NDArray[Any] = parts[0].copy()
    for part in parts[1:]:
        found += part
    return found


@cache
def world() -> Ranks:
    """All processes that the launcher started; ImportError with the cure without mpi4py."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no library of MPI is found
        raise ImportError(
            f"Training on several processes needs mpi4py and a library of MPI ({error}): "
            "pip install 'mlp_xp[mpi]'",
            name="mpi4py",
        ) from None
    return Ranks(Mpi(MPI))


def launched() -> bool:
    """Whether a launcher of MPI says that it started several processes."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in SIZES)


def is_first() -> bool:
    """Whether this process is the one that prints and writes: rank 0, or alone."""
    return world.cache_info().currsize == 0 or world().rank == 0


def find(processes: Any, device: Device) -> Ranks | None:
    """The ranks of a training's `processes`; None for this process alone."""
    if processes is None or isinstance(processes, Ranks):
        return processes
    if processes != "mpi" and not on_cluster(processes):
        raise ValueError(
            f"processes is {processes!r}, but expected 'mpi', a Dask scheduler's address, such as "
            "'tcp://host:8786', a distributed.Client or None."
        )
    if processes != "mpi" and ranks_cuda.is_cuda(device):
        raise ValueError(
            f"processes is {processes!r}, but the device is {device.name!r}: expected 'cpu' on a "
            "cluster of Dask, or 'mpi', whose ranks have a GPU each."
        )
    return world() if processes == "mpi" else None


def on_cluster(processes: Any) -> bool:
    """Whether a training's `processes` are the workers of a Dask cluster."""
    if isinstance(processes, str):
        return "://" in processes
    return type(processes).__module__.partition(".")[0] == "distributed"


def shares(method: F) -> F:
    """A method with `processes`: where these are several, an error of one ends all."""

    @wraps(method)
    def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        processes = kwargs.get("processes")
        ranks = find(processes, self.device)
        if ranks is not None:
            with ranks.together():
                return method(self, *args, **kwargs)
        if processes is not None:
            from .ranks_dask import fit

            return fit(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return cast(F, inside)


# -- the seam in the formulas --------------------------------------------------------


@cache  # the same set for the same arguments: compiled steps are told apart by it
def over(ranks: Ranks, kernels: Kernels, device: Device, sums: Any = None) -> Kernels:
    """A kernel set for this rank's share of a batch, whose sums are over all ranks.

    sums  of what lies on GPUs; None: it goes through the host
    """

    def on_host(x: Array) -> Array:
        return device.put(ranks.total(device.get(x)))

    def total(xp: Namespace, x: Array) -> Array:
        opaque = getattr(xp, "opaque", None)
        if opaque is not None:
            return opaque(sums or ranks.total, x)
        return on_host(x) if sums is None else sums(x)

    def score(
        xp: Namespace, loss: Loss, S: Array, T: Array, weights: Array | None
    ) -> tuple[Array, Array, Array]:
        J, delta, db = kernels.score(xp, loss, S, T, weights)
        if weights is None:
            m = S.shape[-1]
            return J * m, delta * m, db * m
        own = xp.sum(weights, axis=-1, keepdims=True)
        return J * own[..., 0], delta * own[..., None], db * own[..., None]

    def means(xp: Namespace, arrays: tuple[Array, ...], axis: int) -> tuple[Array, ...]:
        if axis != -1:  # over the units: of each example by itself
            return tuple(xp.mean(x, axis=axis, keepdims=True) for x in arrays)
        counts = xp.full_like(arrays[0][..., :1, :1], float(arrays[0].shape[-1]))
        sums = [xp.sum(x, axis=-1, keepdims=True) for x in arrays]
        found, n = total(xp, xp.concat([*sums, counts], axis=-2)), arrays[0].shape[-2]
        found = found[..., :-1, :] / found[..., -1:, :]
        return tuple(found[..., i * n : (i + 1) * n, :] for i in range(len(arrays)))

    def whole_batch(
        xp: Namespace, J: Array, g: Array, m: int, weights: Array | None
    ) -> tuple[Array, Array, Array, Array]:
        ones, n = xp.ones_like(g[..., :1]), g.shape[-1]
        own = ones * m
        if weights is not None:
            own = ones * xp.sum(weights, axis=-1, keepdims=True)
        found = total(xp, xp.concat([g, J[..., None], own, ones * m], axis=-1))
        weight, count = found[..., n + 1 : n + 2], found[..., n + 2 :]
        divisor = xp.where(weight > 0, weight, xp.ones_like(weight))
        mean = found[..., : n + 1] / divisor
        return mean[..., n], mean[..., :n], count[..., None], weight

    return kernels._replace(
        score=score,
        normalise=partial(kernels.normalise, means=means),
        normalise_gradient=partial(kernels.normalise_gradient, means=means),
        whole_batch=whole_batch,
    )


__all__ = ["Link", "Ranks", "RanksDiffer", "find", "is_first", "launched", "shares", "world"]
