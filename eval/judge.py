"""Evaluators applied to an encoder, and what is kept of it in the run's eval/ folder."""

import fcntl
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval import classifier
from eval.base import (
    PLACE,
    Context,
    Encoder,
    EvalData,
    Evaluator,
    Result,
    full_name,
    input_of,
    row,
    specification,
    stem,
)
from eval.metrics import by_class, by_label
from eval.whole import whole
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError


def judge(
    encoder: Encoder,
    data: EvalData,
    evaluators: Iterable[Evaluator],
    context: Context,
    say: Callable[[str], None] = lambda text: None,
    again: bool = False,
) -> list[dict[str, Any]]:
    """The rows of these evaluations, made where encoder.out/results.jsonl lacks them.

    Of several ranks every one must call it; they share the work, the first keeps what comes of it, and the others
    return no rows that were not there.

    A row is there already if evaluator, its whole specification, weights, data and seed are the same. A new
    one takes the place of a row of the same data, evaluator, variant, number of labels and draw. Files are rewritten
    whole and then renamed, the rows last, so that what they speak of is always there; one process at a time adds its
    own to what others have left by then. Classifiers to use go beside eval/, to classifier/. `again`: rows that are
    there are made again, and with them their classifiers.
    """
    own = {"data_sha256": data.sha256}
    kept = _read_rows(encoder.out / "results.jsonl")
    context.barrier()  # all have read what is known before anybody writes
    answer = []
    for evaluator in evaluators:
        identity = {
            "spec": specification(evaluator),
            "encoder_sha256": encoder.sha256,
            "dataset": data.name,
            **own,
            "seed": encoder.provenance.seed,
        }
        if encoder.provenance.input is not None:
            identity["input"] = input_of(encoder, data)
        known = [old for old in kept if all(old.get(key) == value for key, value in identity.items())]
        if known and not again:
            say(f"{evaluator.name}: known")
            answer += known
            continue
        begun = time.perf_counter()
        results = [replace(one, evaluator=full_name(evaluator)) for one in evaluator.run(encoder, data, context)]
        if context.rank:
            continue
        seconds = (time.perf_counter() - begun) / max(1, len(results))
        told = {"spec": identity["spec"], **own, "labelled_sha256": data.labelled_sha256}
        made = [{**row(encoder, data, context, result), **told} for result in results]
        usable = []
        for result, its_row in zip(results, made, strict=True):
            if result.classifier is not None:
                folder = encoder.out.parent / "classifier" / stem(*_place(its_row))
                plain = classifier.save(result.classifier, folder, its_row)
                usable.append(f"  to use it: {folder}" + ("" if plain else ", by ssl_cls alone: timm pools otherwise"))
        kept = _store(encoder.out, results, seconds, made, data)
        for line in (f"{evaluator.name}: {seconds * len(results):.1f} s", *usable):
            say(line)
        answer += made
    return answer


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in PLACE)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line
        ]
        if all(isinstance(row, dict) for row in rows):
            return rows
        raise ValueError("a line is not an object")
    except ValueError as error:
        raise UserError(f"malformed result rows: {error}", str(path), "remove the file and evaluate again") from error


def _store(
    out: Path, results: list[Result], seconds: float, made: list[dict[str, Any]], data: EvalData
) -> list[dict[str, Any]]:
    """Every row that is then there."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = {_place(one) for one in made}
        rows = [old for old in _read_rows(out / "results.jsonl") if _place(old) not in new] + made
        _write(out, results, seconds, rows, data)
    return rows


def _write(out: Path, results: list[Result], seconds: float, rows: list[dict[str, Any]], data: EvalData) -> None:
    labels, names = all_labels(data.test), data.test.class_names
    stems = [stem(data.name, result.evaluator, result.n_labels, result.draw) for result in results]
    for name, result in zip(stems, results, strict=True):
        for folder in ("predictions", "by_class"):
            (out / folder / name).parent.mkdir(parents=True, exist_ok=True)
        with whole(out / "predictions" / f"{name}.npy") as path, path.open("wb") as file:
            np.save(file, result.predictions.cpu().numpy())
        each = by_class if labels.ndim == 1 else by_label
        with whole(out / "by_class" / f"{name}.json") as path:
            path.write_text(json.dumps(each(result.predictions.cpu(), labels, names), indent=1))
    path = out / "optimism.json"
    optimism = json.loads(path.read_text()) if path.exists() else {}
    optimism.update({name: result.optimism for name, result in zip(stems, results, strict=True)})
    with whole(path) as writing:
        writing.write_text(json.dumps(optimism, indent=1))
    with (out / "timing.jsonl").open("a") as timing:
        for result in results:
            timing.write(
                json.dumps(
                    {
                        "dataset": data.name,
                        "evaluator": result.evaluator,
                        "n_labels": result.n_labels,
                        "draw": result.draw,
                        "seconds": seconds,
                    }
                )
                + "\n"
            )
    with whole(out / "results.jsonl") as writing:
        writing.write_text("".join(json.dumps(row) + "\n" for row in rows))
