"""Judge encoders: python tools/evaluate.py ENCODER... [--evaluators NAME...] [key.path=value ...]

ENCODER is a run directory, pixels, random:BACKBONE (a timm name, a recipe or a run directory), timm:NAME,
weights:FILE@ARCHITECTURE (.safetensors or torch's zip format, as MoCo, MoCo v3, SimSiam, BYOL, DINO, DINOv2, MAE,
lightly, solo-learn, timm or torchvision save them, and the architecture's timm name), or a model.safetensors with its
config.json. Results go to eval/ in the run directory; what is already there is
not done again. finetune and linear also leave classifiers to use, in classifier/ (see tools/predict.py). Data
are those of the encoder's recipe, or of the first encoder that has one, unless data.source and data.path say
otherwise. What an evaluator does is changed by its name, as in finetune.strategy=top or knn.k=[5,20]. Under
accelerate launch the processes share the work (features; the draws and settings of fewlabel and finetune), and the
numbers are those of one process.
"""

import argparse
from typing import Any

NAMES = ("knn", "linear", "linear_layers", "linear_aug", "ridge", "fewlabel", "finetune", "features")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER", help="what to judge, and any key.path=value")
    parser.add_argument(
        "--evaluators",
        nargs="+",
        default=["knn", "linear"],
        metavar="NAME",
        help=f"of {', '.join(NAMES)} (default: knn linear)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights of random:BACKBONE (default: 0)")
    parser.add_argument("--again", action="store_true", help="evaluate again what is known, and keep the new rows")
    args = parser.parse_intermixed_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    specs, names, overrides = sort_words(args.encoders, args.evaluators)

    from rich.console import Console

    from eval import encoders
    from eval.base import Context
    from eval.data import open_data, open_images, overridden, shown
    from eval.judge import judge
    from eval.overrides import evaluators
    from eval.sheet import write_features
    from ssl_cls import launch
    from ssl_cls.data.catalog import DataConfig

    of_data = [word for word in overrides if word.startswith("data.")]
    asked, features = evaluators(names, [word for word in overrides if word not in of_data])
    accelerator = launch.start("fp32")
    console = Console(highlight=False, quiet=not accelerator.is_main_process)
    recipes = [encoders.recipe_of(spec) for spec in specs]
    usual = next((recipe.data for recipe in recipes if recipe), DataConfig())
    rows = []

    def say(text: str) -> None:
        console.print(f"  {text}", soft_wrap=True)

    for spec, recipe in zip(specs, recipes, strict=True):
        config = overridden(recipe.data if recipe else usual, of_data)
        data = open_data(config) if asked else open_images(config)
        encoder = encoders.load(spec, data, args.seed)
        data = shown(data, encoder.channels)
        context = Context(
            accelerator.device, accelerator.process_index, accelerator.num_processes, encoder.provenance.seed
        )
        console.print(f"[bold]{encoder.provenance.run}[/bold] on {data.name}, results in {encoder.out}", soft_wrap=True)
        rows += judge(encoder, data, asked, context, say, args.again)
        if features is not None:
            write_features(encoder, data, context, features)  # last: their table has the answers of all evaluations
    if rows:
        console.print(table(rows))
    accelerator.end_training()


def sort_words(encoders: list[str], evaluators: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Encoders, evaluators and overrides: `--evaluators` takes all that follows it, so overrides may stand in
    either."""
    import difflib
    from pathlib import Path

    from ssl_cls.errors import UserError

    specs = [word for word in encoders if "=" not in word or Path(word).exists()]
    names = [word for word in evaluators if "=" not in word]
    overrides = [word for word in encoders if word not in specs] + [word for word in evaluators if "=" in word]
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            raise UserError(
                f"no evaluator named {name!r}",
                "--evaluators",
                f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}",
            )
    if not specs:
        raise UserError("nothing to judge", "ENCODER", "give a run directory, pixels or random:BACKBONE")
    return specs, names, overrides


def table(rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    scores = [name for name in ("top1", "top5", "mAP") if any(name in row["metrics"] for row in rows)]
    shown = Table(
        "encoder",
        "evaluator",
        "labels",
        "draw",
        *scores,
        "chosen",
        box=None,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for row in rows:
        labels = "all" if row["n_labels"] is None else str(row["n_labels"])
        figures = [f"{row['metrics'][name]:.2f}" if name in row["metrics"] else "" for name in scores]
        short = {key: value for key, value in row["settings"].items() if not isinstance(value, list | dict)}
        settings = " ".join(f"{key}={value}" for key, value in short.items() if key != "why")
        shown.add_row(
            escape(row["run"]),
            row["evaluator"],
            labels,
            "" if row["draw"] is None else str(row["draw"]),
            *figures,
            escape(settings),
        )
    return shown


if __name__ == "__main__":
    main()
