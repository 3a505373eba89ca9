"""Where the encoders of a comparison come from, and the commands that make them and their rows again."""

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.base import specification
from eval.comparison.compare import Group
from eval.comparison.record import Row
from eval.comparison.rows import data_config
from eval.overrides import Evaluation
from ssl_cls.data.catalog import DataConfig

_DATA = ("source", "path", "labels", "window")
_TIGHT = (",", ":")


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
    if row.method == "weights":
        return f"weights:FILE@{row.backbone}"  # rows do not say where the file was
    if row.method == "random":
        runs = (run for run in folders(group) if (run / "encoder").is_dir())
        return f"random:{next(runs, row.backbone.split(' ')[0])}"
    return str(row.folder or row.run)


def folders(group: Group) -> list[Path]:
    """The run directories that rows come from."""
    return list(dict.fromkeys(row.folder for line in group.lines for row in line.every_row if row.folder))


def commands(group: Group) -> Iterator[str]:
    """Pretraining and evaluation of each encoder, as typed; pretraining first.

    They give the same rows; those of what is no run, such as pixels, go to a folder of their own below runs/.
    """
    for (*_, run, _seed), rows in encoders(group).items():
        if rows[0].images_seen:
            recipe = f"{rows[0].folder or run}/recipe.yaml"
            yield shlex.join(["accelerate", "launch", "tools/pretrain.py", recipe])
    judged = data_config(group.dataset, folders(group))
    for (method, _run, seed), rows in encoders(group).items():
        encoder = spec(rows[0], group)
        seeded = ["--seed", str(seed)] if method == "random" or (seed and method in ("timm", "weights")) else []
        data = (
            [] if judged is None or _is_its_own(rows[0], encoder, judged) else _changes("data", asdict(judged), _DATA)
        )
        for settings in _settings(rows):
            words = ["python", "tools/evaluate.py", encoder, "--evaluators", *settings]
            changed = [word for name, told in settings.items() for word in _changes(name, told, told)]
            yield shlex.join([*words, *changed, *data, *seeded])


def _settings(rows: list[Row]) -> Iterator[dict[str, dict[str, Any]]]:
    """What each evaluator was told that is not its default: a command takes one specification of each."""
    usual = Evaluation()
    told: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = row.evaluator.split("/")[0]
        known = specification(getattr(usual, name)) if hasattr(usual, name) else {}
        own = {key: value for key, value in row.record.get("spec", {}).items() if known.get(key) != value}
        if own not in told.setdefault(name, []):
            told[name].append(own)
    for number in range(max(map(len, told.values()))):
        yield {name: each[number] for name, each in told.items() if number < len(each)}


def _changes(name: str, values: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """As words of a command line, without what is not set."""
    said = ((key, values[key]) for key in keys if values[key] is not None)
    return [
        f"{name}.{key}={value if isinstance(value, str) else json.dumps(value, separators=_TIGHT)}"
        for key, value in said
    ]


def _is_its_own(row: Row, encoder: str, judged: DataConfig) -> bool:
    """Whether an encoder was judged on what evaluation takes by itself: the data of the run that it is named by."""
    if row.method == "random":
        run = Path(encoder.removeprefix("random:"))
        return judged == (data_config(row.dataset, [run]) if (run / "recipe.yaml").is_file() else DataConfig())
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
