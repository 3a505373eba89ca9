"""Pretrain an encoder: accelerate launch tools/pretrain.py RECIPE [key.path=value ...] [--dry-run]

The same command again resumes an interrupted run, says so when it is finished, and refuses a changed recipe.
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, such as recipes/mae_vit.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="changes to the recipe, such as train.epochs=5 seed=1"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="resolve and check everything, time two steps, write nothing"
    )
    parser.add_argument("--then", default="", help="what the progress bar says comes next")
    args = parser.parse_intermixed_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    import sys

    from ssl_cls import config
    from ssl_cls.data import catalog
    from ssl_cls.data.source import all_labels, labelled
    from ssl_cls.run import Run

    recipe = config.load(args.recipe, args.overrides)
    if args.dry_run:
        return dry_run(recipe)

    from eval.monitor import KNNMonitor
    from ssl_cls import launch, plan, trainer

    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    opened = Run(config.run_dir(recipe), recipe)
    opened.check()
    if opened.finished:
        print(f"{opened.folder} is finished; its encoder is in {opened.folder / 'encoder'}")
        return 0
    accelerator = launch.start(recipe.train.precision, recipe.train.deterministic, recipe.run.timeout_seconds)
    source = plan.training_images(recipe, catalog.open(recipe.data, "train", accelerator.device))
    observers = []
    if accelerator.is_main_process and (wrong := catalog.unfit(recipe.data.source, recipe.views or ())):
        print(f"warning: {wrong}", file=sys.stderr)
    if source.num_classes is not None and source.size is not None and all_labels(source).ndim == 1:
        val = labelled(catalog.open(recipe.data, "val", accelerator.device))
        observers.append(
            KNNMonitor(labelled(source), val, plan.make_plan(recipe, source, accelerator.num_processes).input_size)
        )
    encoder = trainer.pretrain(recipe, source, opened, accelerator, observers, args.then)
    accelerator.end_training()
    if accelerator.is_main_process:
        print(
            f"the encoder is in {encoder}; judge it: python tools/evaluate.py {opened.folder} --evaluators knn linear"
        )
    return 0


def dry_run(recipe) -> int:  # type: ignore[no-untyped-def]
    import time

    from rich.console import Console

    from ssl_cls import assembly, config, launch, plan, trainer
    from ssl_cls.clock import Clock
    from ssl_cls.data import catalog
    from ssl_cls.run import Run

    accelerator = launch.start(recipe.train.precision, recipe.train.deterministic)
    source = plan.training_images(recipe, catalog.open(recipe.data, "train", accelerator.device))
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    Run(config.run_dir(recipe), recipe).check()
    planned, method, step, stream = assembly.assemble(recipe, source, accelerator)
    times = []
    for number, batches in enumerate(stream.batches(0, 3)):
        begun = time.perf_counter()
        step(batches, Clock(number, planned.total_steps, planned.steps_per_epoch))
        times.append(time.perf_counter() - begun)
    if not accelerator.is_main_process:
        return 0
    eta = sum(times[1:]) / 2 * planned.total_steps
    parameters = sum(p.numel() for p in method.parameters())
    memory = trainer.peak_memory(accelerator.device)
    channels = f"{source.channels} x {'x'.join(map(str, source.size)) if source.size else 'various sizes'}"
    shares = f"{accelerator.num_processes} x {planned.micro_batches} x {planned.micro_batch_size}"
    console = Console(highlight=False)
    console.print(config.dump(recipe), end="")
    for label, value in {
        "data": f"{source.name}: {len(source)} images, {channels}, {source.num_classes or 'no'} classes",
        "passed over": catalog.passed_over(recipe.data),
        "warning": catalog.unfit(recipe.data.source, recipe.views or ()),
        "processes": f"{accelerator.num_processes} on {accelerator.device.type}",
        "global batch": f"{recipe.train.batch_size} = {shares} (processes x micro-batches x images)",
        "steps": f"{planned.total_steps} ({planned.steps_per_epoch} an epoch)",
        "learning rate": f"{planned.peak_lr:g} at its peak",
        "parameters": f"{parameters:,}, of which the encoder {sum(p.numel() for p in method.encoder.parameters()):,}",
        "memory": f"{memory / 2**30:.1f} GiB a process, by measurement",
        "eta": f"{eta / 60:.1f} minutes, from two timed steps",
        "run directory": f"{config.run_dir(recipe)} (nothing written)",
    }.items():
        if value:
            console.print(f"[bold]{label:15}[/bold]{value}")
    return 0


if __name__ == "__main__":
    main()
