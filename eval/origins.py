"""Where the encoders of a comparison come from, and the commands that make them and their rows again."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.compare import Group
from eval.record import Row
from eval.rows import data_config


def encoders(group: Group) -> dict[tuple[str, str, int], list[Row]]:
    """The rows of each encoder, by (method, run, seed)."""
    found: dict[tuple[str, str, int], list[Row]] = {}
    for line in group.lines:
        for row in line.every_row:
            found.setdefault((row.method, row.run, row.seed), []).append(row)
    return found


def spec(row: Row, group: Group) -> str:
    """The encoder as tools/evaluate.py takes it. A random one is named by a run that has its architecture."""
    if row.method == "pixels":
        return "pixels"
    if row.method == "timm":
        return f"timm:{row.backbone}"
    if row.method == "random":
        runs = (run for run in folders(group) if (run / "encoder").is_dir())
        return f"random:{next(runs, row.backbone.split(' ')[0])}"
    return str(row.folder or row.run)


def folders(group: Group) -> list[Path]:
    """The run directories that rows come from."""
    return list(dict.fromkeys(row.folder for line in group.lines for row in line.every_row if row.folder))


def commands(group: Group) -> Iterator[str]:
    """Pretraining and evaluation of each encoder, as typed; pretraining first."""
    for (*_, run, _seed), rows in encoders(group).items():
        if rows[0].images_seen:
            recipe = f"{rows[0].folder or run}/recipe.yaml"
            yield shlex.join(["accelerate", "launch", "tools/pretrain.py", recipe])
    for (method, _run, seed), rows in encoders(group).items():
        evaluators = dict.fromkeys(row.evaluator.split("/")[0] for row in rows)
        words = ["python", "tools/evaluate.py", spec(rows[0], group), "--evaluators", *evaluators]
        if method == "random":
            words += ["--seed", str(seed)]
        elif not _is_its_own(rows[0]) and (data := data_config(group.dataset, folders(group))):
            words += [f"data.source={data.source}", *([f"data.path={data.path}"] if data.path else [])]
        yield shlex.join(words)


def _is_its_own(row: Row) -> bool:
    """Whether an encoder was judged on the data that it was pretrained on: those that evaluation takes by itself."""
    return bool(row.record["pretrain"].get("dataset") == f"{row.dataset}/train")


def facts(rows: list[Row]) -> dict[str, Any]:
    """What it takes to find and check one encoder: its name, facts as (term, text), its recipe's text."""
    first = rows[0]
    found = [
        ("method", first.method),
        ("seed", str(first.seed)),
        ("backbone", first.backbone or "none"),
        ("encoder sha256", first.encoder_sha256),
        ("pretrained on", first.record["pretrain"].get("dataset") or "nothing"),
        ("images seen", f"{first.images_seen:,}"),
        ("view forwards", f"{first.view_forwards:,}"),
    ]
    for row in rows:
        labels = "" if row.n_labels is None else f", {row.n_labels} labels, draw {row.draw}"
        settings = f"settings chosen on {row.record['chosen_on']}: {json.dumps(row.record['settings'])}"
        found.append((row.evaluator + labels, f"{row.measure} {row.score:.2f} % ({settings})"))
    recipe = first.folder / "recipe.yaml" if first.folder else None
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe and recipe.is_file() else ""
    return {"name": first.run, "facts": found, "recipe": text}
