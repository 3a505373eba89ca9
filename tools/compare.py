"""Compare encoders: python tools/compare.py RUNDIR... [--out DIR]

Reads the result rows of run directories (or of committed files, results/*.jsonl) and writes the table to the
terminal and, as comparison.md, .csv, .tex and index.html, into DIR.
"""

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="RUNDIR",
        help="an evaluated run directory, or a results file (.jsonl)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/comparison"),
        metavar="DIR",
        help="where the report goes (default: %(default)s)",
    )
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args.sources, args.out))


def run(sources: list[Path], out: Path) -> None:
    from rich.console import Console

    from eval import report, tables
    from eval.compare import compare
    from eval.rows import collect

    groups = compare(collect(sources))
    console = Console(highlight=False)
    tables.terminal(groups, console)
    written = report.write(groups, ["python", "tools/compare.py", *sys.argv[1:]], out)
    console.print(f"\n{written[-1]}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
