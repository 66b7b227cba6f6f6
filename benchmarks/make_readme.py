"""Write benchmarks/README.md: one table over benchmarks/results/*.json. Run: python benchmarks/make_readme.py"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Benchmarks
Each is run by the command in its row and writes `results/<name>.json`. `ratio` is ours over the peer's in the same run
(higher is better), empty where there is no peer. This table is made by `python benchmarks/make_readme.py`.

| name | ratio | aim | met | figures | command |
| --- | --- | --- | --- | --- | --- |
"""


def row(file: Path) -> str:
    """One table row from one result file."""
    result = json.loads(file.read_text(encoding="utf-8"))
    figures = "; ".join(f"{k}: {v}" for k, v in result["figures"].items() if not isinstance(v, (dict, list)))
    cells = (result["name"], result["ratio"], result["aim"], result["met"], figures, f"`{result['command']}`")
    return "| " + " | ".join("" if c is None else str(c) for c in cells) + " |"


if __name__ == "__main__":
    rows = [row(file) for file in sorted((HERE / "results").glob("*.json"))]
    (HERE / "README.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
