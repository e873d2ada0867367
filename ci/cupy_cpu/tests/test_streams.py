"""Streams, events, callbacks, memory, devices."""

import cupy as cp
import numpy as np
import pytest
from support import Run, pool_needed


def test_stream_and_events() -> None:
    stream, before, after = cp.cuda.Stream(non_blocking=True), cp.cuda.Event(), cp.cuda.Event()
    with stream:
        before.record()
        x = cp.arange(1000).sum()
        after.record()
    after.synchronize()
    stream.synchronize()
    assert before.done
    assert after.done
    assert stream.done
    assert int(x) == 499500


def test_callbacks_run_in_stream_order() -> None:
    stream, seen = cp.cuda.Stream(non_blocking=True), []
    stream.launch_host_func(seen.append, 1)
    stream.add_callback(lambda s, status, value: seen.append(value), 2)
    stream.synchronize()
    assert seen == [1, 2]


@pool_needed
def test_memory_pool_keeps_what_is_freed() -> None:
    pool = cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc):
        x = cp.zeros(1000, "f4")
    assert pool.used_bytes() == pool.total_bytes() == 4096
    del x
    assert pool.used_bytes() == 0
    assert pool.n_free_blocks() == 1
    pool.free_all_blocks()
    assert pool.n_free_blocks() == pool.total_bytes() == 0


def test_pinned_memory() -> None:
    memory = cp.cuda.alloc_pinned_memory(400)
    x = np.frombuffer(memory, "f4", 100)
    x[:] = 3
    y = cp.empty(100, "f4")
    y.set(x)
    assert y.get().tolist() == [3] * 100


@pool_needed  # it is the pool that raises this
def test_too_much_memory_is_an_error() -> None:
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.empty(1 << 40, "u1")


def test_total_memory_is_a_switch(run: Run) -> None:
    done = run(
        """
assert cp.cuda.Device().mem_info[1] == 1 << 20
x = cp.empty(1 << 18, "u1")
try:
    cp.empty(1 << 20, "u1")
except cp.cuda.memory.OutOfMemoryError as error:
    print(error)
""",
        CUPYCPU_TOTAL_MEMORY=str(1 << 20),
    )
    assert "Out of memory allocating 1,048,576 bytes" in done.stdout, done.stderr


def test_copy_in_the_wrong_direction_is_an_error() -> None:
    x, host = cp.zeros(4, "f4"), np.zeros(4, "f4")
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="InvalidValue"):
        cp.cuda.runtime.memcpy(host.ctypes.data, x.data.ptr, 16, 1)


def test_copy_past_the_end_is_an_error() -> None:
    memory = cp.cuda.memory.Memory(16)
    host = np.zeros(8, "f4")
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="InvalidValue"):
        cp.cuda.runtime.memcpy(memory.ptr, host.ctypes.data, 32, 1)


def test_there_is_one_device_that_says_what_it_is() -> None:
    assert cp.cuda.is_available()
    name = cp.cuda.runtime.getDeviceProperties(0)["name"].decode()
    assert "not a GPU" in name


def test_second_device(run: Run) -> None:
    done = run(
        """
assert cp.cuda.runtime.getDeviceCount() == 2
with cp.cuda.Device(1):
    x = cp.arange(5)
assert x.device.id == 1
with cp.cuda.Device(0):
    y = cp.asarray(x)
    cp.cuda.runtime.memcpyPeer(y.data.ptr, 0, x.data.ptr, 1, x.nbytes)
print(y.device.id, int(y.sum()))
try:
    cp.cuda.Device(2).use()
except cp.cuda.runtime.CUDARuntimeError as error:
    print(error)
""",
        CUPYCPU_DEVICE_COUNT="2",
    )
    assert "0 10" in done.stdout, done.stderr
    assert "cudaErrorInvalidDevice" in done.stdout


def test_no_time_is_given() -> None:
    start, end = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    end.record()
    end.synchronize()
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="say nothing of a GPU"):
        cp.cuda.get_elapsed_time(start, end)


def test_benchmark_is_refused() -> None:
    from cupyx.profiler import benchmark

    x = cp.ones(3)
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="TimingRefused"):
        benchmark(lambda: x + x, n_repeat=2, n_warmup=1)


def test_forked_child_cannot_go_on(run: Run) -> None:
    done = run(
        """
import os
x = cp.zeros(3) + 1
reader, writer = os.pipe()
if os.fork() == 0:
    try:
        x + 1
        message = "went on"
    except Exception as error:
        message = str(error)
    os.write(writer, message.encode())
    os._exit(0)
os.wait()
print(os.read(reader, 200).decode())
"""
    )
    assert "cudaErrorInitializationError" in done.stdout, done.stderr
