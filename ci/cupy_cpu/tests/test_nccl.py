"""NCCL between processes: what arrives, in what order, captured and put off."""

import pytest
from support import Run

TWO = """
import os, sys
from cupy.cuda import nccl, runtime
name = nccl.get_unique_id()
child = os.fork()  # before CUDA is used
rank = 1 if child == 0 else 0
cp.cuda.Device(0 if SAME else rank).use()

def end():
    sys.stdout.flush()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def check(found, *expected):
    if found.get().tolist() != list(expected):
        print(rank, found, expected)
        os._exit(1)
"""
JOIN = "comm = nccl.NcclCommunicator(2, name, rank)\n"


def two(run: Run, source: str, same: bool = False, **variables: str) -> str:
    """What two processes print that run this."""
    done = run(f"SAME = {same}\n{TWO}{source}end()\n", CUPYCPU_DEVICE_COUNT="2", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("defer", ["0", "1"])
def test_collectives_and_messages_arrive(run: Run, defer: str) -> None:
    source = """
x, parts, total = cp.arange(3.0) + 10 * rank, cp.zeros((2, 3)), cp.zeros(3)
stream = cp.cuda.get_current_stream().ptr
f8, (a, b, c) = nccl.NCCL_FLOAT64, (array.data.ptr for array in (x, parts, total))
comm.allGather(a, b, 3, f8, stream)
check(parts, [0, 1, 2], [10, 11, 12])
comm.allReduce(a, c, 3, f8, nccl.NCCL_SUM, stream)
check(total, 10, 12, 14)
large = cp.full(100_000, float(rank))  # more than a line holds: both send at once
there = cp.empty_like(large)
nccl.groupStart()
for peer in (0, 1):
    comm.send(a, 3, f8, peer, stream)
    comm.recv(b + 24 * peer, 3, f8, peer, stream)
comm.send(large.data.ptr, 100_000, f8, 1 - rank, stream)
comm.recv(there.data.ptr, 100_000, f8, 1 - rank, stream)
nccl.groupEnd()
check(parts, [0, 1, 2], [10, 11, 12])
check(cp.unique(there), 1 - rank)
"""
    two(run, JOIN + source, CUPYCPU_DEFER=defer)


@pytest.mark.parametrize("defer", ["0", "1"])
def test_calls_are_captured_and_replayed(run: Run, defer: str) -> None:
    source = """
x, parts = cp.full(2, float(rank)), cp.zeros((2, 2))
cp.cuda.Device().synchronize()
with cp.cuda.Stream(non_blocking=True) as stream:
    stream.begin_capture(runtime.streamCaptureModeThreadLocal)
    comm.allGather(x.data.ptr, parts.data.ptr, 2, nccl.NCCL_FLOAT64, stream.ptr)
    graph = stream.end_capture()
    check(parts, [0, 0], [0, 0])
    for number in range(3):
        x.fill(rank + number)
        graph.launch()
        check(parts, [number] * 2, [number + 1] * 2)
"""
    two(run, JOIN + source, CUPYCPU_DEFER=defer)


def test_a_call_is_put_off_and_waits_for_nobody(run: Run) -> None:
    source = """
x, parts = cp.zeros(1), cp.zeros(2)
if rank == 0:  # the other one never comes
    comm.allGather(x.data.ptr, parts.data.ptr, 1, nccl.NCCL_FLOAT64, 0)
    print("submitted", flush=True)
    os._exit(0)
"""
    assert two(run, JOIN + source, CUPYCPU_DEFER="1").split() == ["submitted"]


def test_two_ranks_cannot_have_one_gpu(run: Run) -> None:
    source = """
try:
    nccl.NcclCommunicator(2, name, rank)
except nccl.NcclError as error:
    print(error.status)
"""
    assert sorted(two(run, source, same=True).replace("\n", "")) == ["5", "5"]


@pytest.mark.parametrize("call", ["send(x, 1, 99, 0, 0)", "recv(x, 1, 8, 2, 0)"])
def test_what_is_wrong_is_refused(run: Run, call: str) -> None:
    source = f"""
x = cp.zeros(1).data.ptr
try:
    comm.{call}
except nccl.NcclError as error:
    print(error.status)
"""
    assert sorted(two(run, JOIN + source).replace("\n", "")) == ["4", "4"]
