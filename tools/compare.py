"""Compare encoders: python tools/compare.py RUNDIR... [--out DIR] [--published DATASET]

Reads the result rows of run directories (or of committed files, results/*.jsonl) and writes the table to the
terminal and, as comparison.md, .csv, .tex and index.html, into DIR; with rows at several numbers of labels also
label_efficiency.svg. Run directories add pictures to the report, and the check for test images among those that
were pretrained on.
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
    parser.add_argument(
        "--published",
        metavar="DATASET",
        help="show what others have published on a data set, such as cifar10, in tables of its own; a wrong name lists "
        "them",
    )
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args.sources, args.out, args.published))


def run(sources: list[Path], out: Path, published: str | None) -> None:
    from rich.console import Console

    from eval.comparison.rows import collect
    from eval.report import report

    console = Console(highlight=False)
    command = ["python", "tools/compare.py", *sys.argv[1:]]
    written = report.present(collect(sources), command, out, console, published)
    console.print(f"\n{written}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
