"""What encoders answered: how classes are confused, and the images that run after run gets wrong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.comparison.compare import Group
from eval.comparison.lines import Column, Line
from eval.comparison.rows import predictions

_MOST_CLASSES = 16  # of a confusion matrix that can still be read


@dataclass(frozen=True)
class Answers:
    """What a line answered in one column, over its seeds and draws."""

    label: str
    column: Column
    given: NDArray[np.int64]  # [runs, n_test]


@dataclass(frozen=True)
class Confusion:
    title: str
    names: list[str]
    percent: NDArray[np.float64]  # [K, K]: of the images of class i, those that were taken for class j


@dataclass(frozen=True)
class Mistake:
    image: int  # index in the test split
    true: int
    taken_for: int  # the most frequent wrong answer
    share: float  # of runs that gave it


def best_and_scratch(group: Group) -> list[Answers]:
    """The best pretrained line and scratch, where both were fine-tuned on the most labels; else the best line alone.

    Empty where no predictions have been kept.
    """
    known = {
        line.label: {column: found for column in line.rows if len(found := _given(line, column))}
        for line in group.lines
    }
    pretrained = [line for line in group.lines if line.kind == "pretrained"]
    scratch = next((line for line in group.lines if line.kind == "scratch"), None)
    latest = reversed(group.columns)  # the most labels stand last
    for column in sorted(latest, key=lambda column: (column.family != "finetune", bool(column.variant))):
        able = [line for line in pretrained if column in known[line.label]]
        if able and (scratch is None or column.family != "finetune" or column in known[scratch.label]):
            best = max(able, key=lambda line: line.cells[column].mean)
            shown = [best, *([scratch] if scratch and column in known[scratch.label] else [])]
            return [Answers(line.label, column, known[line.label][column]) for line in shown]
    return []


def confusion(answers: Answers, labels: NDArray[np.int64], names: list[str]) -> Confusion:
    """Percent of each class's images, over all runs; of many classes those with the most errors."""
    count = len(names)
    runs = answers.given
    matrix = np.bincount((labels * count + runs).ravel(), minlength=count * count).reshape(count, count)
    totals = matrix.sum(1)
    worst = np.sort(np.argsort(-(totals - matrix.diagonal()), kind="stable")[:_MOST_CLASSES])
    percent = 100 * matrix / np.maximum(totals, 1)[:, None]
    title = f"{answers.label}, {answers.column.title}"
    return Confusion(title, [names[k] for k in worst], percent[np.ix_(worst, worst)])


def mistakes(answers: Answers, labels: NDArray[np.int64], num_classes: int, most: int) -> list[Mistake]:
    """The images that most runs take for the same wrong class, one of each pair of classes first."""
    votes = np.zeros((len(labels), num_classes), np.int64)
    for given in answers.given:
        votes[np.arange(len(labels)), given] += 1
    votes[np.arange(len(labels)), labels] = 0
    wrong, share = votes.argmax(1), votes.max(1) / len(answers.given)
    order = [int(i) for i in np.argsort(-share, kind="stable") if share[i] > 0]
    seen: dict[tuple[int, int], int] = {}
    turns = []
    for i in order:
        pair = (int(labels[i]), int(wrong[i]))
        seen[pair] = turn = seen.get(pair, 0) + 1
        turns.append((-float(share[i]), turn, i))
    return [Mistake(i, int(labels[i]), int(wrong[i]), -share) for share, _, i in sorted(turns)[:most]]


def _given(line: Line, column: Column) -> NDArray[np.int64]:
    found = [answers for row in line.rows[column] if (answers := predictions(row)) is not None]
    return np.stack(found) if found else np.empty((0, 0), np.int64)
