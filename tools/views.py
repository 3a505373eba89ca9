"""What a method is shown: python tools/views.py RECIPE [key.path=value ...] [--out views.png]

A PNG with an image of the first epoch a row: the original, then each view as training draws it. For MAE also
what the mask leaves of it and, once the run has a checkpoint, what the decoder makes of that.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssl_cls.config import Recipe
    from ssl_cls.data.batch import Batch
    from ssl_cls.data.source import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a YAML file, such as recipes/simclr_resnet.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--out", type=Path, default=Path("views.png"), metavar="PNG")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="images, one a row (default: 8)")
    parser.add_argument("--run", type=Path, metavar="RUNDIR", help="a run of the recipe, if not in its usual place")
    args = parser.parse_intermixed_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    import torch

    from ssl_cls import config
    from ssl_cls.augment.augment import Augment
    from ssl_cls.data import catalog
    from ssl_cls.data.stream import Stream
    from ssl_cls.errors import UserError

    if not 1 <= args.count <= 64:
        raise UserError(f"a picture cannot have {args.count} rows", "--count", "use 1 to 64")
    if args.out.suffix.lower() != ".png" or not args.out.parent.is_dir():
        raise UserError(f"{args.out} is not a PNG file in an existing folder", "--out", "use --out views.png")
    recipe = config.load(args.recipe, args.overrides)
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, catalog.input_size(source), source.channels)
    assert recipe.views is not None
    augment = Augment(recipe.views, source.mean, source.std)
    stream = Stream(source, augment, seed=recipe.seed, batch_size=args.count, device=torch.device("cpu"), workers=0)
    (batch,) = next(stream.batches(0, 1))
    columns = originals(source, batch) | views(source, batch)
    if recipe.method.name == "mae":
        columns |= masked(recipe, source, batch, args.run or config.run_dir(recipe))
    labels = source.labels(batch.index)
    names = (
        [source.class_names[i] if source.class_names and i >= 0 else "" for i in labels.tolist()]
        if labels.ndim == 1
        else [""] * args.count
    )
    draw(columns, names, f"{recipe.name}: views of {source.name}", args.out)
    print(f"{args.count} images, {len(augment.views)} views of each: {args.out}")


def originals(source: Source, batch: Batch) -> dict[str, Tensor]:
    """The images, or the central squares of those that differ in size: [B, C, h, w] in [0, 1]."""
    from ssl_cls.augment.augment import centre_boxes

    if source.size is not None:
        height, width = source.size
        return {f"original\n{height} x {width}": source.pixels(batch.index) / 255}
    boxes = centre_boxes(source.sizes(batch.index), fraction=1.0)
    return {"original\ncentral square": source.crops(batch.index, [boxes], [224], "bilinear")[0] / 255}


def views(source: Source, batch: Batch) -> dict[str, Tensor]:
    return {
        f"{kind} view {number}\n{view.shape[2]} x {view.shape[3]}": _pixels(view, source)
        for kind in ("global", "local")
        for number, view in enumerate(batch.views.get(kind, []), 1)
    }


def masked(recipe: Recipe, source: Source, batch: Batch, folder: Path) -> dict[str, Tensor]:
    """What MAE's encoder sees and, if `folder` holds a checkpoint, what its decoder answers."""
    from eval.report.reconstruction import reconstruct

    found = reconstruct(recipe, source, batch, folder)
    columns = {f"visible\n{found.share:.0%} of patches": _pixels(found.visible, source)}
    if found.answer is not None:
        given = "\npatch mean and std given" if found.norm_pixels else ""
        columns[f"reconstruction, step {found.step:,}{given}"] = _pixels(found.answer, source)
    return columns


def _pixels(images: Tensor, source: Source) -> Tensor:
    """Normalisation undone: in [0, 1]."""
    shape = (1, len(source.mean), 1, 1)
    std, mean = images.new_tensor(source.std).view(shape), images.new_tensor(source.mean).view(shape)
    return (images * std + mean).clamp(0, 1)


def draw(columns: dict[str, Tensor], names: list[str], title: str, out: Path) -> None:
    """One column an entry, one row an image."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        len(names),
        len(columns),
        figsize=(1.25 * len(columns) + 1, 1.25 * len(names) + 0.8),
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(title, fontsize=12)
    for column, (heading, images) in enumerate(columns.items()):
        grid[0, column].set_title(heading, fontsize=8)
        for row, image in enumerate(images):
            cell = grid[row, column]
            cell.imshow(
                image.permute(1, 2, 0).squeeze(2).numpy(),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set_color("0.8")
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(name, fontsize=8, rotation=0, horizontalalignment="right", verticalalignment="center")
    figure.savefig(out, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
