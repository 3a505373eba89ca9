"""Hostile images, recipes, weights and archives: the tests of each, counted."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from campaign import ROOT, Row

CORPORA = {
    "bad image": ["tests/ssl_cls/data/test_hostile_images.py"],
    "bad recipe": ["tests/ssl_cls/test_config_hostile.py"],
    "hostile weights": ["tests/eval/test_hostile_weights.py"],
    "hostile archive": ["tests/ssl_cls/data/test_download.py::test_hostile_archives_leave_nothing"],
}


class Counts:
    """pytest's plug-in: cases and those that passed, of parametrised tests alone."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if "[" not in report.nodeid or (report.when != "call" and report.passed):
            return
        self.tries["all"] += not report.skipped
        self.passed["all"] += report.passed


def count(paths: list[str], temporary: Path) -> tuple[int, int]:
    """In a process of its own: what tests patch and import stays there."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with (temporary / "screen.txt").open("a") as screen:
            os.dup2(screen.fileno(), 1)
            os.dup2(screen.fileno(), 2)
        os.chdir(ROOT)
        counts = Counts()
        sys.modules.pop("conftest", None)
        pytest.main(["-q", "--basetemp", str(temporary / "tests"), *paths], plugins=[counts])
        os.write(write, f"{counts.tries['all']} {counts.passed['all']}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        tries, passed = told.read().split()
    os.waitpid(pid, 0)
    return int(tries), int(passed)


def run(size: int, folder: Path) -> list[Row]:
    rows = []
    for fault, paths in CORPORA.items():
        (where := folder / fault.replace(" ", "-")).mkdir()
        rows.append(Row(fault, *count(paths, where), "handled as documented"))
    return rows
