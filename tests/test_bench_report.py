"""The report of bench/: what it says first, that nothing is fetched, and machines side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import charts as drawn
import pytest
import results as stored
import roofline
import sections

pytest.importorskip("vl_convert", reason="the bench group is not installed")
import report

RESULTS = Path(__file__).parent.parent / "bench" / "results"


def devices_run(hardware: str, device: str, status: str = "ok") -> stored.Results:
    """A run of one network at three batches on one device."""
    rows = [
        {
            "kind": "devices",
            "case": f"784-100-10 batch {batch}",
            "device": device,
            "hardware": hardware,
            "contestant": "mlp_xp",
            "dtype": "float32",
            "threads": 2,
            "cold": False,
            "asked": None,
            "batch": batch,
            "status": status,
            "reason": "no driver",
            "setting": "",
            "rounds": [1e-3],
            **dict.fromkeys(("median", "least", "spread", "host_seconds"), 1e-3),
            **{"device_seconds": None, "memory": 1, "memory_of": "host", "blas": ""},
            **{"examples_per_second": 1e3 * batch, "flops": 1e6, "moved": 1e6, "held": 1},
            **{"gflops": 1.0, "percent_gemm": 1.0, "percent_copy": 1.0},
        }
        for batch in (32, 128, 512)
    ]
    return {
        "format": 1,
        "environment": {"date": "2026-11-27", "packages": {}, "gpu": hardware},
        "ceilings": {},
        "rows": rows,
    }


def raced(seconds: dict[str, float], case: str = "20-16-1 batch 32", **more: Any) -> stored.Results:
    """A run of one case on the CPU by contestants that take so many seconds."""
    found = devices_run("Some CPU", "cpu")
    (row, *_) = found["rows"]
    row |= {"kind": "training", "case": case, "batch": 32, **more}
    found["rows"] = [
        row | {"contestant": name, "median": took, "least": took, "rounds": [took] * 3}
        for name, took in seconds.items()
    ]
    return found


def values(spec: drawn.Spec) -> list[dict[str, Any]]:
    """What a chart draws."""
    layers = [spec, *spec["layer"]]
    return [value for one in layers if "data" in one for value in one["data"]["values"]]


class Page(HTMLParser):
    """What a page names to be loaded, what its figures are in words, and what charts it draws."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.labels: list[str] = []
        self.specs: list[drawn.Spec] = []
        self.policy, self.reads = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [str(found[name]) for name in ("src", "href", "srcset") if name in found]
        if tag == "svg":
            self.labels.append(found.get("aria-label") or "")
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = str(found["content"])
        self.reads = found.get("type") == "application/json"

    def handle_data(self, data: str) -> None:
        if self.reads:
            self.specs.append(json.loads(data))
            self.reads = False


@pytest.fixture(scope="module")
def both() -> list[stored.Results]:
    """The kept results of a CPU and of a GPU."""
    names = ("epyc-2-threads", "h200-gpu")
    return report.by_machine([stored.load(RESULTS / f"{name}.json") for name in names])


def test_a_page_loads_nothing_and_says_its_figures_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "png", lambda chart, theme: b"")
    runs = [raced({"mlp_xp": 1.0, "<jax>": 2.0}, asked=3.0), devices_run("Some GPU", "cuda")]
    (out, *_) = report.page(runs, tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert "default-src 'none'" in page.policy
    assert len(page.specs) == len(page.labels) >= 3
    assert all(spec["description"] for spec in page.specs)
    assert page.labels == [spec["description"] for spec in page.specs]
    assert "&lt;jax&gt;" in text
    assert "<jax>" not in text
    assert "✗ missed" in text
    assert len(text.encode()) < 5e6


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"mlp_xp": 1.0, "jax": 2.5, "torch": 4.0}, "trains 2.50 times as fast as the fastest"),
        ({"mlp_xp": 2.0, "jax": 1.0}, "trains 0.50 times as fast as the fastest"),
        ({"mlp_xp": 1.0, "mlp_xp-spec": 2.0}, "no other library was measured"),
    ],
)
def test_the_first_sentence_is_the_ratio_to_the_fastest(
    seconds: dict[str, float], said: str
) -> None:
    sentence = report.headline(report.by_machine([raced(seconds)]))
    assert said in sentence
    assert "Some CPU, 2 threads" in sentence


def test_aims_are_ratios_or_seconds_and_outcomes_are_beyond_noise() -> None:
    def standing(**more: Any) -> stored.Standing:
        (found,) = stored.standings(raced({"mlp_xp": 1.0, "jax": more.pop("jax")}, **more))
        return found

    ahead = standing(jax=1.2, asked=1.1)
    assert (ahead.met, ahead.outcome, ahead.aim) == (True, "ahead", "1.1 ×")
    late = standing(jax=1.04, asked_seconds=0.5)
    assert (late.met, late.outcome, late.aim) == (False, "level", "500 ms at most")
    assert standing(jax=0.9).met is None
    assert standing(jax=0.9).outcome == "behind"


def test_sections_of_a_gpu_are_rows_like_all_others(both: list[stored.Results]) -> None:
    gpu = both[1]
    assert gpu["name"] == "NVIDIA H200"
    kept = json.loads((RESULTS / "h200-gpu.json").read_text(encoding="utf-8"))
    races = [row for found in kept["sections"].values() if isinstance(found, list) for row in found]
    assert len(stored.timed(gpu)) == len(races)
    (ours,) = [
        one
        for one in stored.standings(gpu)
        if (one.kind, one.case, one.dtype) == ("training", "20-16-1 batch 32", "float32")
    ]
    assert ours.asked_seconds == pytest.approx(15e-6)
    assert ours.met
    many = [row for row in gpu["rows"] if row["setting"] == "8 at once"]
    (single,) = [r for r in races if r["contestant"] == "mlp_xp-networks, 8" and r["batch"] == 32]
    assert many[1]["examples_per_second"] == pytest.approx(8 * single["examples_per_second"])
    told = dict(sections.others(kept))
    assert told["selftest checks: kernels compile"].startswith("passed")
    assert told["upload link_gb_s"] > 1


def test_a_run_without_times_has_no_rows_with_them() -> None:
    row = {"case": "5-4-1 batch 8", "contestant": "mlp_xp", "device": "cuda", "sizes": [5, 4, 1]}
    row |= {"batch": 8, "precision": "float32", "status": "ok", "difference": 0.0}
    found = sections.rows({"environment": {"cores": 1}, "sections": {"steps": [row]}})
    assert [one["status"] for one in found] == ["missing"]
    assert "nothing was timed" in found[0]["reason"]


def test_what_is_no_file_of_results_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("", "[]", '{"format": 0}'):
        path.write_text(text)
        with pytest.raises(SystemExit, match="is no file of results"):
            stored.load(path)


def test_points_above_a_roof_are_hollow_and_the_reason_is_said(both: list[stored.Results]) -> None:
    for results in both:
        chart = roofline.roofline("roofline", results)
        assert chart is not None
        points = [v for v in values(chart.spec(drawn.PAGE)) if "of the roof" in v]
        above = [point for point in points if point["above"]]
        assert len(points) > 20
        assert {float(p["of the roof"].rstrip(" %")) > 100 for p in above} <= {True}
        said = f"{len(above)} hollow points lie above it" if above else "No point lies above it"
        assert said in chart.note


def test_machines_stand_beside_each_other(both: list[stored.Results]) -> None:
    *by_batch, beside = drawn.machines(both)
    names = {"AMD EPYC, 2 threads", "NVIDIA H200"}
    assert any(set(chart.key) == names for chart in by_batch)
    found: dict[str, set[str]] = {}
    for value in values(beside.spec(drawn.PAGE)):
        found.setdefault(value["case"], set()).add(value["machine"])
    assert len(found) >= 5
    assert all(machines == names for machines in found.values())


def test_one_machine_twice_has_two_names() -> None:
    runs = report.by_machine([devices_run("Some CPU", "cpu") for _ in range(3)])
    assert len({results["name"] for results in runs}) == 3


def test_devices_of_several_runs_stand_in_one_chart() -> None:
    runs = report.by_machine([devices_run("Some CPU", "cpu"), devices_run("Some GPU", "cuda")])
    (chart,) = report.charts(runs)["Machines and devices beside each other"][:1]
    assert chart.name == "devices-1"
    assert list(chart.key) == ["Some CPU, 2 threads", "Some GPU"]
    assert chart.note == ""


def test_a_chart_of_devices_says_that_no_gpu_was_measured() -> None:
    cpu, none = devices_run("Some CPU", "cpu"), devices_run("", "cuda", status="missing")

    def note(results: stored.Results) -> str:
        (chart,) = drawn.machines(report.by_machine([results]))
        return chart.note

    assert note(cpu) == "No GPU was measured."
    cpu["rows"] += none["rows"]
    assert note(cpu) == "No GPU was measured: no driver."


@pytest.mark.parametrize("theme", [drawn.PAGE, *drawn.THEMES.values()])
def test_charts_of_the_page_take_its_colours(
    both: list[stored.Results], theme: drawn.Theme
) -> None:
    """Nothing of another theme is left in any chart."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for part in value:
                yield from texts(part)
        elif isinstance(value, str):
            yield value

    others = {c for one in (drawn.PAGE, *drawn.THEMES.values()) for c in one.values()}
    for charts in report.charts(both).values():
        for chart in charts:
            assert not (others - set(theme.values())) & set(texts(chart.spec(theme))), chart.name
