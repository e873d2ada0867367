"""Threads on no more processors than a container's quota gives: fast/quota.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mlp_xp.fast import native, quota
from mlp_xp.fast.quota import processors  # before `any_number_of_threads`
from mlp_xp.fast.threads import Shared

V2, V1 = "0::/pod/box\n", "9:memory:/pod/box\n4:cpu,cpuacct:/pod/box\n0::/\n"


def v1(folder: str, allowed: int, period: int) -> dict[str, str]:
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    numbers = (allowed, period)
    return {f"{folder}/{name}": f"{n}\n" for name, n in zip(names, numbers, strict=True)}


def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str]) -> int:
    """`processors` where the groups have these files."""
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(quota, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(quota, "OWN", tmp_path / "own")
    return processors.__wrapped__()


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {"pod/box/cpu.max": "200000 100000\n"}, 2),
        (V2, {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "350000 100000\n"}, 4),
        (V2, {"pod/box/cpu.max": "400000 100000\n", "pod/cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),  # a container sees its own as the topmost
        ("0::/../other\n", {"cpu.max": "50000 100000\n"}, 1),
        (V1, v1("cpu/pod/box", 200_000, 50_000), 4),
        (V1, v1("cpu", 100_000, 100_000), 1),
        (V1, v1("cpu,cpuacct/pod/box", 200_000, 100_000), 2),  # no link names it "cpu" alone
        (V1, v1("cpu", -1, 100_000), quota.MANY),
        (V1, v1("cpu", 100_000, 0), quota.MANY),
        (V2, {"pod/box/cpu.max": "max 100000\n"}, quota.MANY),
        (V2, {"pod/box/cpu.max": "what is this?\n"}, quota.MANY),
        (V2, {}, quota.MANY),
        ("no such line\n", {}, quota.MANY),
    ],
)
def test_processors_are_the_least_quota_of_all_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], expected: int
) -> None:
    assert told(tmp_path, monkeypatch, own, files) == expected


def test_without_control_groups_there_is_no_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "OWN", tmp_path / "none")
    assert processors.__wrapped__() == quota.MANY


def test_steps_take_no_more_threads_than_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not native.available():
        pytest.skip("nothing is compiled here")
    blas = SimpleNamespace(enter=lambda: 4, leave=lambda: None)
    monkeypatch.setattr("mlp_xp.fast.threads.HELD", blas)
    for granted, expected in ((1, 1), (2, 2), (quota.MANY, 4)):
        monkeypatch.setattr(quota, "processors", lambda granted=granted: granted)
        with Shared() as allowed:
            assert (allowed, native.threads()) == (expected, expected)
