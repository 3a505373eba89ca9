"""Recipes x seeds -> pretrain -> evaluate -> compare: python tools/suite.py recipes/suites/demo.yaml

python tools/suite.py recipes/suites/own.yaml data.path=DIR [data.labels=labels.csv]      on your own images
python tools/suite.py recipes/suites/demo.yaml name=short seeds=[0,1] train.epochs=1      changes to the suite, and to
every recipe; with a name of its own it leaves the runs of the unchanged suite alone

Stop it and start it again whenever you like: what is done is skipped. A run with rows in the file that the suite names
as `results` counts as done (with results=null nothing does), and new rows are added to it; the tables and the picture
of label efficiency are put beside it.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a YAML file, such as recipes/suites/demo.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="changes to the suite, or else to every recipe in it"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what there is to do, do nothing")
    args = parser.parse_intermixed_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args.suite, args.overrides, args.dry_run))


def run(path: str, overrides: list[str], dry_run: bool) -> int:
    from rich.console import Console

    from eval import suite
    from eval.comparison import rows
    from eval.data import has_labels, open_data
    from eval.report import report, unlabelled
    from ssl_cls import launch

    asked = suite.load(path, overrides)
    command = ["python", "tools/suite.py", path, *overrides]
    console = Console(highlight=False, stderr=True)
    committed = Path(asked.results) if asked.results else None
    known = rows.collect([committed]) if committed and committed.exists() else []
    runs = everything = list(suite.pretrainings(asked))
    found, known = known, suite.current(known, everything)
    if stale := sorted({row.run for row in found} - {row.run for row in known}):
        console.print(f"{committed}: {', '.join(stale)} had another recipe, and is done anew", markup=False)
    judged = bool(everything) and has_labels(everything[0].recipe.data)
    judgements = []
    if judged:
        data = open_data(everything[0].recipe.data)
        wanted = [suite.undone(one, known) for one in suite.judgements(asked, everything, data)]
        judgements = [one for one in wanted if one.evaluators]
        runs = [one for one in everything if any(one.run.folder == judgement.out for judgement in judgements)]
    if dry_run:
        for one in runs:
            one.check()
            console.print(f"pretrain  {one.run.folder}{'  (finished)' if one.run.finished else ''}", markup=False)
        for judgement in judgements:
            console.print(
                f"evaluate  {judgement.encoder}: {', '.join(e.name for e in judgement.evaluators)}", markup=False
            )
        return 0

    unfinished = [one for one in runs if not one.run.finished]
    for number, one in enumerate(runs):
        one.check()
        if one.run.finished:
            continue
        place = unfinished.index(one)
        then = (
            unfinished[place + 1].recipe.name
            if place + 1 < len(unfinished)
            else f"evaluation of {len(judgements)} encoders"
            if judged
            else "what they find alike"
        )
        console.print(
            f"[bold]pretraining {number + 1} of {len(runs)}: {one.recipe.name}, seed {one.recipe.seed}[/bold]"
        )
        suite.pretrain(one, then)

    launch.use_all_cores()
    launch.keep_freed_memory()
    if runs and not judged:
        screen = Console(highlight=False)
        written = unlabelled.present([one.run.folder for one in runs], command, asked.folder, screen)
        screen.print(f"\n{written}", markup=False, soft_wrap=True)
        return 0
    for one in everything:
        if any(judgement.encoder == f"random:{one.run.folder}" for judgement in judgements):
            suite.leave_recipe(one)
    for number, judgement in enumerate(judgements):
        console.print(f"[bold]evaluation {number + 1} of {len(judgements)}: {judgement.out.name}[/bold]", markup=True)
        suite.evaluate(judgement, lambda text: console.print(f"  {text}", markup=False))

    folders = [judgement.out for judgement in judgements]
    if committed is not None:
        rows.export([*known, *rows.collect(folders)] if folders else known, committed)
    all_rows = [*known, *(rows.collect(folders) if folders else [])]
    screen = Console(highlight=False)
    written = report.present(all_rows, command, asked.folder, screen)
    for name in ("comparison.md", "label_efficiency.svg"):
        made = written.with_name(name)
        if committed is not None and made.exists():
            committed.with_suffix(made.suffix).write_bytes(made.read_bytes())
    screen.print(f"\n{written}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    main()
