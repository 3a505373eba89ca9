"""Classify the images of a folder: python tools/predict.py CLASSIFIER DIR [--out predictions.csv]

CLASSIFIER is a folder below classifier/ of a run, or the run directory where it has only one: what
tools/evaluate.py leaves behind for linear and finetune. The file has a line an image, at any depth in DIR:
path,label,probability; where images may have several labels, a line for each that is at least as likely as not, and for
an image of none one with no label. Images that cannot be read are named and left out; the status is then 2.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path, metavar="CLASSIFIER")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("predictions.csv"), metavar="CSV")
    args = parser.parse_args()

    from ssl_cls.screen import guarded

    guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    import csv
    import sys

    from eval import classifier
    from eval.predict import predict
    from ssl_cls import launch
    from ssl_cls.data import scan
    from ssl_cls.errors import UserError

    if args.out.is_dir() or not args.out.parent.is_dir():
        raise UserError(f"{args.out} is not a file in an existing folder", "--out", "use --out predictions.csv")
    trained = classifier.load(args.classifier)
    paths = scan.image_files(args.folder)
    accelerator = launch.start("fp32")
    bad = 0
    writing = args.out.with_name(f".{args.out.name}.tmp")
    # a file's name may hold any bytes, which go out as they came in
    with writing.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(("path", "label", "probability"))
        for path, label, probability, error in predict(trained, args.folder, paths, accelerator.device):
            if error:
                bad += 1
                print(f"cannot read {scan.shown(path)}: {error}", file=sys.stderr)
                continue
            # spreadsheets run a cell that begins with one of these
            safe = [f"./{path}" if path[0] in "=+-@" else path, f"'{label}" if label[:1] in tuple("=+-@") else label]
            lines.writerow([*safe, "" if probability is None else f"{probability:.6f}"])
    writing.replace(args.out)
    print(f"{len(paths) - bad} of {len(paths)} images classified: {args.out}")
    return 2 if bad else 0


if __name__ == "__main__":
    main()
