"""How close training is to the speed of its backbone: python tools/bench.py RECIPE [key.path=value ...] [--vs lightly]

In one process, alternating, medians over rounds, in images a second (an image gives all the method's views):
  bare        the method's own forward, backward and optimizer step on constant views: the speed of light
  views       augmentation alone
  end to end  the real loop: views, step, logging
  lightly     with --vs lightly: the same backbone, batch and step, fed by lightly's transform (SimCLR's, or MAE's) in a
              DataLoader with a worker a core
"""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--vs", choices=["lightly"], help="also time lightly's transform and DataLoader")
    parser.add_argument("--rounds", type=int, default=7, help="alternations; medians are over these")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps a round")
    args = parser.parse_intermixed_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    import statistics

    from rich.console import Console
    from rich.table import Table

    timings = measure(args)
    bare = timings["bare"]
    table = Table("what", "images/s", "min", "max", "of bare, median of rounds")
    for name, rates in timings.items():
        ratios = [rate / reference for rate, reference in zip(rates, bare, strict=True)]
        table.add_row(
            name,
            *(f"{x:,.0f}" for x in (statistics.median(rates), min(rates), max(rates))),
            f"{statistics.median(ratios):.3f}",
        )
    console = Console(highlight=False, width=100)
    console.print(table)
    if args.vs:
        for ours, theirs, what in (
            ("end to end", "lightly", "end to end"),
            ("views, one core", "lightly views, one core", "views a core"),
        ):
            ratio = statistics.median(a / b for a, b in zip(timings[ours], timings[theirs], strict=True))
            console.print(f"{what}: {ratio:.2f} times lightly (median of {args.rounds} alternated rounds)")
    return 0


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each part, one figure a round."""
    import time
    from collections.abc import Callable

    import torch

    from ssl_cls import config, launch, plan, trainer
    from ssl_cls.augment.augment import Augment
    from ssl_cls.clock import Clock
    from ssl_cls.data import catalog
    from ssl_cls.errors import UserError
    from ssl_cls.rng import DrawKey
    from ssl_cls.step import Step

    recipe = config.load(args.recipe, args.overrides)
    accelerator = launch.start(recipe.train.precision)
    source = catalog.open(recipe.data, "train", accelerator.device)
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    planned = plan.make_plan(recipe, source, 1)
    method = plan.build_method(recipe, source, planned)
    step = Step(recipe, method, planned, accelerator)
    stream = plan.build_stream(recipe, source, planned, accelerator.device, 0, 1, method.needs_labels)
    batch_size, threads = recipe.train.batch_size, torch.get_num_threads()
    clock = Clock(1, planned.total_steps, planned.steps_per_epoch)
    constant = next(iter(stream.batches(0, 1)))
    real = stream.batches(0, 10**9)
    augment = Augment(recipe.views, source.mean, source.std)

    def bare() -> None:
        for _ in range(args.steps):
            step(constant, clock)

    def views() -> None:
        for _ in range(args.steps):
            next(real)

    def end_to_end() -> None:
        for number in range(args.steps):
            outputs, _, _ = step(next(real), clock)
            if (number + 1) % recipe.run.log_every_steps == 0:
                trainer.figures(outputs)

    def views_one_core() -> None:
        torch.set_num_threads(1)
        for number in range(args.steps):
            index = torch.arange(batch_size) + number * batch_size
            augment.from_pixels(source.pixels(index), index, DrawKey(0, 0))
        torch.set_num_threads(threads)

    parts: dict[str, Callable[[], None]] = {"bare": bare, "views": views, "end to end": end_to_end}
    use_up: Callable[[], None] = lambda: None  # noqa: E731
    if args.vs:
        if source.size is None or any(view.kind != "global" for view in recipe.views or ()):
            what = "lightly's pipeline is timed on arrays of images of one size, with global views alone"
            raise UserError(what, f"{args.recipe} --vs lightly", "leave out --vs, or bench another recipe")
        theirs, use_up = lightly_parts(args.steps, recipe, source, planned, step, clock)
        parts |= {"views, one core": views_one_core, **theirs}
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(-1, args.rounds):  # the first round warms up
        for name, part in parts.items():
            if name == "lightly":
                use_up()
            begun = time.perf_counter()
            part()
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                images = _LIGHTLY_IMAGES if name == "lightly views, one core" else args.steps * batch_size
                rates[name].append(images / (time.perf_counter() - begun))
            if name == "lightly":
                time.sleep(_SETTLES)
    return rates


_SETTLES = 1.0  # seconds in which lightly's workers fill their queues, and nothing is timed
_LIGHTLY_IMAGES = 256  # transformed a round in one process: PIL is slow


class _PilImages:
    """A map-style dataset as lightly's users have it: a PIL image through lightly's transform."""

    def __init__(self, source, transform) -> None:  # type: ignore[no-untyped-def]
        import numpy as np
        import torch
        from PIL import Image

        pixels = source.pixels(torch.arange(min(len(source), 20_000))).cpu().permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(np.squeeze(array)) for array in pixels]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        return self.transform(self.images[index])


def lightly_parts(steps, recipe, source, planned, step, clock):  # type: ignore[no-untyped-def]
    """The same step fed the usual way, and lightly's transform alone on one core; and what uses up the batches that
    its workers have made beforehand, while other parts were timed."""
    import torch
    from lightly.transforms import MAETransform, SimCLRTransform
    from torch.utils.data import DataLoader

    from ssl_cls.cores import usable_cores
    from ssl_cls.data.batch import Batch
    from ssl_cls.rng import DrawKey

    size, normalize = recipe.views[0].size, {"mean": list(source.mean), "std": list(source.std)}
    if recipe.method.name == "mae":
        transform = MAETransform(input_size=size, normalize=normalize)
    else:
        transform = SimCLRTransform(
            input_size=size, cj_strength=0.5, gaussian_blur=0.0, min_scale=0.4, normalize=normalize
        )
    images = _PilImages(source, transform)
    loader = DataLoader(
        images,
        batch_size=recipe.train.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=usable_cores(),
        persistent_workers=True,
    )

    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield from loader

    batches = endless()
    labels = source.labels(torch.arange(recipe.train.batch_size)) if step.method.needs_labels else None

    def lightly() -> None:
        for _ in range(steps):
            views = [view.to(step.accelerator.device) for view in next(batches)][: planned.views_per_image]
            index = torch.arange(recipe.train.batch_size, device=step.accelerator.device)
            step([Batch({"global": views}, index, DrawKey(0, 0), labels)], clock)

    def one_core() -> None:
        for index in range(_LIGHTLY_IMAGES):
            images[index]

    def use_up() -> None:
        for _ in range(loader.num_workers * (loader.prefetch_factor or 0)):
            next(batches)

    return {"lightly": lightly, "lightly views, one core": one_core}, use_up


if __name__ == "__main__":
    main()
