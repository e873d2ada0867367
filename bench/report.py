"""One self-contained HTML page of runs, with its charts as PNG beside it.

    python bench/report.py results.json --out report.html
    python bench/report.py here.json gpu.json       # runs of several machines on one page

Files are those of `run.py` and of `gpu.py`. The page needs no network: Vega-Lite, which draws
its charts, stands in it. Without scripts it shows the charts as they are, and all tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import charts as drawn
import results as stored
import roofline
import sections
from report_tables import GROUPS, STANDINGS, escaped, overview, rows

try:
    import vl_convert
except ImportError as error:
    raise SystemExit(
        f"A report needs the package vl-convert-python ({error}): pip install -e . --group bench"
    ) from error

HERE = Path(__file__).parent
TALL = 320  # CSS pixels, beyond which a chart stands beside two
WIDTH = 720  # of a chart in a file, CSS pixels
STILL = 480  # of one where the page has no scripts
VERBS = {
    "training": "trains",
    "inference": "predicts",
    "startup": "starts up",
    "kernels": "runs single kernels",
}
# nothing may be loaded, and so nothing is
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)


# -- what is said first ----------------------------------------------------------


def hardware(row: stored.Row) -> str:
    """What a row was measured on: a processor with so many threads, or a GPU."""
    name = str(row["hardware"] or row["device"])
    if row["device"] != "cpu":
        return name
    return f"{name}, {row['threads']} thread" + "s" * (row["threads"] > 1)


def by_machine(runs: Sequence[stored.Results]) -> list[stored.Results]:
    """A run for each machine and device of the runs, under a "name" that no other has.

    Rows of a device on which nothing could be measured stay with the first of their run.
    """
    found: list[stored.Results] = []
    for results in runs:
        timed = stored.timed(results) or results["rows"]
        devices = list(dict.fromkeys(row["device"] for row in timed))
        for device in devices:
            one = next(row for row in timed if row["device"] == device)
            name = hardware(one)
            if name in (other["name"] for other in found):
                name += f", {day(results)}"
            while name in (other["name"] for other in found):
                name += " again"
            rest = [d for d in stored.HARDWARE if d not in devices] if device == devices[0] else []
            mine = [
                row | {"machine": name}
                for row in results["rows"]
                if row["device"] in (device, *rest)
            ]
            roofs = {k: v for k, v in results["ceilings"].items() if k.startswith(f"{device} ")}
            found.append({**results, "name": name, "rows": mine, "ceilings": roofs})
    return found


def day(results: stored.Results) -> str:
    """22 November 2026; or that it is not known, of files of before dates were kept."""
    kept = results["environment"].get("date")
    if kept is None:
        return "date not recorded"
    when = date.fromisoformat(kept)
    return f"{when.day} {when:%B %Y}"


def headline(runs: Sequence[stored.Results]) -> str:
    """The page in one sentence: how fast beside the fastest other library, and where."""
    parts: dict[str, list[str]] = {}
    for results in runs:
        found = stored.groups(results)
        if found:
            verb = VERBS.get(found[0].kind, "runs")
            less = any(group.dtype != found[0].dtype for group in found)
            than = "" if parts else " as fast as the fastest other library"
            how = f"{found[0].ratio:.2f} times{than} on {results['name']}"
            how += f" in {found[0].dtype}" * less
            parts.setdefault(verb, []).append(how)
    if not parts:
        where = " and ".join(results["name"] for results in runs)
        return f"mlp_xp on {where}: no other library was measured beside it"
    return "mlp_xp " + ", and ".join(f"{verb} {listed(hows)}" for verb, hows in parts.items())


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _verdict(results: stored.Results) -> str:
    """In how many cases we are ahead, and how many of the aims were met."""
    found = [
        one for group in stored.groups(results) for one in group.found if group.kind != "kernels"
    ]
    aims = [one for one in stored.standings(results) if one.met is not None]
    said = []
    if found:
        counts = {name: sum(one.outcome == name for one in found) for name in drawn.OUTCOMES}
        told = ", ".join(f"{name} in {n}" for name, n in counts.items() if n)
        said.append(f"of {len(found)} cases {told}.")
    if aims:
        met = sum(bool(one.met) for one in aims)
        missed = len(aims) - met
        said.append(f'<b class="good">✓ {met} of {len(aims)} aims met</b>')
        if missed:
            said.append(f'<b class="bad">✗ {missed} missed</b>')
    return f'<p class="verdict">{escaped(results["name"])}: {" ".join(said)}</p>' if said else ""


def _meant(results: stored.Results) -> str:
    """What the ratio of the sentence is."""
    first = stored.groups(results)[:1]
    if not first:
        return ""
    names = sorted({row["contestant"] for row in stored.timed(results)})
    others = listed([name for name in names if not name.startswith(stored.OURS)])
    many = len(first[0].found)
    what = f"the geometric mean of {many} cases" if many > 1 else "one case"
    told = f"{results['name']}, {first[0].name}: {what}, each against the fastest of {others}."
    return f'<p class="quiet">{escaped(told)}</p>'


def _first(runs: Sequence[stored.Results]) -> str:
    """Machine and date, the sentence."""
    lines = []
    for results in runs:
        packages = results["environment"]["packages"]
        with_ = ", ".join(f"{name} {version}" for name, version in packages.items())
        lines.append(
            f"<li><b>{escaped(results['name'])}</b> · {escaped(day(results))}"
            f'<span class="packages"> · {escaped(with_)}</span></li>'
        )
    return f'<ul class="where">{"".join(lines)}</ul><h1>{escaped(headline(runs))}</h1>'


# -- charts --------------------------------------------------------------------


def charts(runs: Sequence[stored.Results]) -> dict[str, list[drawn.Chart]]:
    """Heading → its charts, in the order of the page: a chart is added by a line here."""
    found: dict[str, list[drawn.Chart]] = {"": []}
    several = len(runs) > 1

    def add(heading: str, made: drawn.Chart | None) -> None:
        if made is not None:
            found.setdefault(heading, []).append(made)

    for i, results in enumerate(runs):
        number = f"-{i + 1}" if several else ""
        where = results["name"]
        mine = [one for g in stored.groups(results) if g.kind != "kernels" for one in g.found]
        if mine:
            title = f"{where}: times as fast as the fastest other library"
            add("", drawn.standing(f"standing{number}", title, mine))
    for made in drawn.machines(runs):
        add("Machines and devices beside each other", made)
    for i, results in enumerate(runs):
        number = f"-{i + 1}" if several else ""
        at = f" on {results['name']}" if several else ""
        add(f"Each library{at}", drawn.everyone(f"contestants{number}", results))
        for made in drawn.throughput(f"throughput{number}", results):
            add(f"Each library{at}", made)
        add(
            f"How near to what the machine can do{at}",
            roofline.roofline(f"roofline{number}", results),
        )
        kernels = [one for g in stored.groups(results) if g.kind == "kernels" for one in g.found]
        if kernels:
            add(f"Kernels by themselves{at}", drawn.standing(f"kernels{number}", KERNELS, kernels))
    return found


KERNELS = "Times as fast as the fastest other library, one operation called alone"


def _in_page(chart: drawn.Chart) -> str:
    spec = chart.spec(drawn.PAGE) | {"description": chart.alt}
    spec["config"]["legend"]["disable"] = True  # the page has its own, which wraps
    key = "".join(
        f'<li style="--of: {escaped(colour)}">{escaped(name)}</li>'
        for name, colour in chart.key.items()
    )
    text = json.dumps(spec, ensure_ascii=False).replace("<", "\\u003c")
    still = _svg(spec).replace("<svg ", f'<svg role="img" aria-label="{escaped(chart.alt)}" ', 1)
    tall = ' class="tall"' if spec["height"] > TALL else ""
    return (
        f"<figure{tall}><h3>{escaped(chart.title)}</h3>"
        f'<ul class="key">{key}</ul><div class="chart">'
        f'<script type="application/json">{text}</script><noscript>{still}</noscript></div>'
        f"<figcaption>{escaped(chart.note)}</figcaption></figure>"
    )


def _svg(spec: drawn.Spec) -> str:
    return str(vl_convert.vegalite_to_svg({**spec, "width": STILL}))


def png(chart: drawn.Chart, theme: str) -> bytes:
    """The chart as a file."""
    spec = {**chart.spec(drawn.THEMES[theme]), "width": WIDTH, "title": _title(chart, theme)}
    return bytes(vl_convert.vegalite_to_png(spec, scale=2))


def _title(chart: drawn.Chart, theme: str) -> dict[str, Any]:
    return {"text": chart.title, "color": drawn.THEMES[theme]["ink"], "anchor": "start"}


# -- page ----------------------------------------------------------------------


def _environment(results: stored.Results) -> str:
    found = {**results["environment"]}
    found |= found.pop("packages")
    for name, rates in results["ceilings"].items():
        found[name] = f"{rates['gemm'] / 1e9:,.0f} GFLOP/s, copying {rates['copy'] / 1e9:,.1f} GB/s"
    if not results["ceilings"]:
        found["ceilings"] = "none were measured, and so there is no roofline"
    return _pairs(found.items())


def _pairs(found: Iterable[tuple[str, Any]]) -> str:
    pairs = "".join(
        f"<dt>{escaped(k)}</dt><dd>{escaped(f'{v:.6g}' if isinstance(v, float) else v)}</dd>"
        for k, v in found
    )
    return f"<dl>{pairs}</dl>"


def _body(runs: Sequence[stored.Results], found: dict[str, list[drawn.Chart]]) -> str:
    many = len(runs) > 1

    def each(heading: str, made: Callable[[stored.Results], str]) -> str:
        parts = []
        for results in runs:
            content = made(results)
            if content:
                parts.append((f"<h3>{escaped(results['name'])}</h3>" if many else "") + content)
        return f"<h2>{heading}</h2>{''.join(parts)}" if parts else ""

    numbers = {id(results): i for i, results in enumerate(runs)}
    first = "".join(map(_in_page, found[""]))
    parts = [
        _first(runs),
        *map(_verdict, runs),
        f'<div class="charts first">{first}</div>',
        *map(_meant, runs),
        each("In numbers", lambda r: overview(f"Summary of {r['name']}", GROUPS, stored.groups(r))),
        each(
            "Case by case: aims met and missed",
            lambda r: overview(f"Cases on {r['name']}", STANDINGS, stored.standings(r)),
        ),
    ]
    for heading, ones in found.items():
        if heading:
            parts.append(f"<h2>{escaped(heading)}</h2>")
            parts.append(f'<div class="charts">{"".join(map(_in_page, ones))}</div>')
    parts += [
        each("Every row", lambda r: rows(f"Rows of {r['name']}", r, numbers[id(r)])),
        """<p class="quiet">Times are medians over rounds in which contestants took turns; the
spread is half the distance between quartiles. Ratios are paired by round. Memory is the peak
above the bare import and the examples, on a GPU that of the device above the examples. Every
row gave the numbers of a float64 run first; one that did not was not timed.</p>""",
        each(
            "What else was measured",
            lambda r: _pairs(sections.others(r)) if "sections" in r else "",
        ),
        each("Machine and software", _environment),
    ]
    return "\n".join(parts)


def page(runs: Sequence[stored.Results], out: Path) -> list[Path]:
    """Write the page, and its charts as NAME-light.png and NAME-dark.png; returns the files."""
    runs = by_machine(runs)
    found, files = charts(runs), [out]
    for chart in (chart for ones in found.values() for chart in ones):
        for theme in drawn.THEMES:
            path = out.with_name(f"{out.stem}-{chart.name}-{theme}.png")
            path.write_bytes(png(chart, theme))
            files.append(path)
    style, script = ((HERE / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    vega = vl_convert.javascript_bundle().replace("</script", "<\\/script")
    out.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escaped(headline(runs))}</title>
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body><main>
{_body(runs, found)}
</main><script>{vega}</script><script>{script}</script></body></html>
""",
        encoding="utf-8",
    )
    return files


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", nargs="+", help="files of run.py or gpu.py, one a machine")
    parser.add_argument("--out", help="page to write (default: beside the first, .html)")
    args = parser.parse_args(argv)
    out = Path(args.out) if args.out else Path(args.results[0]).with_suffix(".html")
    for path in page([stored.load(path) for path in args.results], out):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
