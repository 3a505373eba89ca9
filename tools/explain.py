"""Where a classifier looks: python tools/explain.py CLASSIFIER IMAGE... [--out explain.png]

A PNG with a row an image: what the classifier is shown, and over it, warm, what spoke for its answer (Grad-CAM, for
ResNets) or where its attention went (for vision transformers). CLASSIFIER as for tools/predict.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path, metavar="CLASSIFIER")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--out", type=Path, default=Path("explain.png"), metavar="PNG")
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    import torch

    from eval import classifier
    from eval.explain import heatmaps
    from eval.predict import prepared, probabilities, square
    from ssl_cls.data.scan import shown
    from ssl_cls.errors import UserError

    if len(args.images) > _MOST:
        raise UserError(f"a picture cannot have {len(args.images)} rows", "IMAGE", f"give at most {_MOST} images")
    if args.out.suffix.lower() != ".png" or not args.out.parent.is_dir():
        raise UserError(f"{args.out} is not a PNG file in an existing folder", "--out", "use --out explain.png")
    trained = classifier.load(args.classifier)
    squares = []
    for path in args.images:
        try:
            squares.append(square(trained, path))
        except Exception as error:  # decoders raise what they like on damaged bytes
            raise UserError(f"cannot read this image: {error}", shown(str(path)), "leave it out") from error
    images = prepared(trained, torch.stack(squares))
    with torch.no_grad():
        logits = trained.model(images)
    chosen = logits.argmax(1)
    certain = probabilities(trained, logits)
    answers = [trained.class_names[number] for number in chosen.tolist()]
    if certain is not None:
        answers = [f"{name}\n{p:.0%}" for name, p in zip(answers, certain.amax(1).tolist(), strict=True)]
    vit = trained.model.network.is_vit
    draw(
        torch.stack(squares) / 255,
        heatmaps(trained.model, images, chosen),
        [shown(path.name) for path in args.images],
        answers,
        "attention" if vit else "Grad-CAM",
        args.out,
    )
    print(f"{len(squares)} images: {args.out}")


def draw(images: Tensor, maps: Tensor, names: list[str], answers: list[str], how: str, out: Path) -> None:
    """A row an image: [B, C, s, s] in [0, 1], its heat [B, s, s] over it, its name and the answer beside them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        len(images), 2, figsize=(4.0, 1.5 * len(images) + 0.3), squeeze=False, layout="constrained"
    )
    for heading, cell in zip(("image", how), grid[0], strict=True):
        cell.set_title(heading, fontsize=9)
    for row, (image, heat) in enumerate(zip(images, maps, strict=True)):
        gray = image.shape[0] == 1
        for cell in grid[row]:
            cell.imshow(
                image.permute(1, 2, 0).squeeze(2).numpy() if gray else image.permute(1, 2, 0).numpy(),
                cmap="gray", vmin=0, vmax=1, interpolation="nearest",
            )  # fmt: skip
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set_color("0.8")
        # where nothing is, the image shows through; what is warm covers it
        grid[row, 1].imshow(
            heat.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.6 * heat.numpy(), interpolation="bilinear"
        )
        name = names[row] if len(names[row]) <= 24 else f"{names[row][:11]}…{names[row][-12:]}"
        grid[row, 0].set_ylabel(name.replace("$", r"\$"), fontsize=8, rotation=0, ha="right", va="center")
        grid[row, 1].yaxis.set_label_position("right")
        grid[row, 1].set_ylabel(answers[row].replace("$", r"\$"), fontsize=8, rotation=0, ha="left", va="center")
    figure.savefig(out, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
