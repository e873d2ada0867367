"""The sections of `gpu.py` as rows of the form that `run.py` writes, and the aims on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cases import Case, work

KINDS = {"steps": "training", "precision": "training", "predict": "inference"}
# microseconds of a step or call that the project means to reach on an H100
AIMS = {
    ("steps", "20-16-1 batch 32"): 15,
    ("steps", "784-100-10 batch 200"): 48,
    ("steps", "784-100-10 batch 1000"): 65,
    ("steps", "784-256-10 batch 128"): 50,
    ("steps", "784-512-512-10 batch 128"): 80,
    ("steps", "64-[128]×8-10 batch 256"): 150,
    ("predict", "784-100-10 rows 1"): 20,
    ("predict", "784-1024-1024-10 rows 1"): 20,
}
MEASURED = {  # what of the self-test is a ceiling: in TFLOP/s, by what products are computed in
    "float32": "gemm_float32_tflops",
    "tf32": "gemm_tf32_tflops",
    "bfloat16": "gemm_bfloat16_tflops",
}


def rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each contestant at each case of the sections that are races."""
    roofs = ceilings(document)
    races = ((name, f) for name, f in document["sections"].items() if isinstance(f, list))
    return [_row(document, roofs, name, row) for name, found in races for row in found]


def ceilings(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    """FLOP/s of products and bytes/s of copies, as the self-test of the same run found them."""
    measured = (document["sections"].get("selftest", {}).get("found") or {}).get("measured") or {}
    copy = measured.get("device_gb_per_s")
    return {
        f"cuda {name}": {"gemm": measured[key] * 1e12, "copy": copy * 1e9}
        for name, key in MEASURED.items()
        if copy and measured.get(key)
    }


def others(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of what is measured in sections of another form, in the order of the file."""
    for name, found in document.get("sections", {}).items():
        if isinstance(found, dict):
            if found["status"] != "ok":
                yield name, f"{found['status']}: {found['reason']}"
            yield from _leaves(name, found.get("found"))


def _leaves(name: str, found: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(found, dict) and "passed" in found:
        yield (
            f"{name}: {found['name']}",
            f"{'passed' if found['passed'] else 'FAILED'}: " + str(found["detail"]),
        )
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _leaves(f"{name} {key}", value)
    elif isinstance(found, list) and any(isinstance(part, dict) for part in found):
        for part in found:
            yield from _leaves(name, part)
    elif found is not None:
        yield name, ", ".join(map(str, found)) if isinstance(found, list) else found


def _row(
    document: dict[str, Any], roofs: dict[str, Any], section: str, row: dict[str, Any]
) -> dict[str, Any]:
    contestant, _, setting = row["contestant"].partition(", ")
    kind = KINDS.get(section, section)
    at_once = int(setting) if section == "networks" and setting else 1
    aim = AIMS.get((section, row["case"]))
    found = {
        "kind": kind,
        "case": row["case"],
        "contestant": contestant,
        "setting": f"{setting} at once" if at_once > 1 else setting,
        "device": row["device"],
        "dtype": row["precision"],
        "sizes": row["sizes"],
        "batch": row["batch"],
        "cold": False,
        "asked": None,
        "asked_seconds": None if aim is None else aim * 1e-6,
        "threads": document["environment"]["cores"],
        "status": row["status"],
        "reason": row.get("reason", ""),
        "memory": None,
        "blas": "",
        "kernels": row.get("kernels"),
    }
    if found["status"] == "ok" and "seconds" not in row:
        return found | {"status": "missing", "reason": "right, but nothing was timed"}
    if found["status"] != "ok":
        return found
    needed = work(
        Case(
            row["case"],
            kind if kind == "inference" else "training",
            tuple(row["sizes"]),
            row["batch"],
        )
    )
    assert needed is not None
    flops, moved = at_once * needed.flops, at_once * needed.moved
    found |= {
        "median": row["seconds"],
        "least": row["least"],
        "spread": row["spread"],
        "rounds": row["turns"],
        "host_seconds": row["host_seconds"],
        "device_seconds": row["device_seconds"],
        "examples_per_second": at_once * row["batch"] / row["seconds"],
        "flops": flops,
        "moved": moved,
        "held": at_once * needed.held,
        "gflops": flops / row["seconds"] / 1e9,
    }
    roof = roofs.get(f"{row['device']} {row['precision']}")
    if roof:
        found["percent_gemm"] = 100 * flops / row["seconds"] / roof["gemm"]
        found["percent_copy"] = 100 * moved / row["seconds"] / roof["copy"]
    return found
