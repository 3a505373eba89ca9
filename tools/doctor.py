"""Look into a run that failed: python tools/doctor.py replay RUN

replay: the step whose loss or gradient was not finite (nonfinite.json), once more from the last checkpoint. Status 1
and the figure where it is not finite again, 0 where it is finite this time.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser("replay", help="take the step again that was not finite")
    replay.add_argument("run", help="a run directory, such as runs/mae_vit-seed0")
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run_replay(args.run))


def run_replay(run: str) -> int:
    from pathlib import Path

    from ssl_cls import config, launch, plan
    from ssl_cls.data import catalog
    from ssl_cls.replay import read_report, replay

    folder = Path(run)
    report = read_report(folder)
    recipe = config.load(folder / "recipe.yaml")
    accelerator = launch.start(recipe.train.precision, recipe.train.deterministic)
    source = plan.training_images(recipe, catalog.open(recipe.data, "train", accelerator.device))
    judged = replay(folder, recipe, source, accelerator)
    print(f"step {report['step'] + 1} of {folder.name}, {len(report['indices'])} images")
    print(f"  then: loss {float(report['loss']):g}, gradient norm {float(report['grad_norm']):g}")
    print(f"  now:  loss {judged.loss:g}, gradient norm {judged.grad_norm:g}")
    if judged.bad_rank >= 0:
        print(f"not finite in step {judged.step + 1}: it reproduces")
        return 1
    print("finite: it does not reproduce here")
    return 0


if __name__ == "__main__":
    main()
