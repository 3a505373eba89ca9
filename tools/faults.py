"""Break real runs on purpose and count what is lost: python tools/faults.py [--short] [--only PART...] [--soak MINUTES]

One table: fault, how often it took place, survived, lost. Status 1 if anything was lost. Works in the repository only;
the parts are in tests/campaign.
"""

import argparse

_PARTS = {  # name: (default size, size with --short)
    "kills": (12, 3),  # forked lives to kill, each method
    "commands": (2, 0),  # the same by the real command
    "damage": (600, 60),  # checkpoint files to harm
    "streams": (12, 4),  # of workers {0, 1, 2, 4} x ranks {1, 2, 4}
    "signals": (2, 0),  # rounds of signals to launcher, rank 0, rank 1, group; SIGKILL and SIGSTOP of either rank
    "disks": (48, 8),  # amounts of room that a save finds
    "hostile": (1, 0),  # bad images, recipes, weights, archives: all of them
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a small part of everything, in about a minute")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="these parts")
    parser.add_argument("--soak", type=int, default=0, metavar="MINUTES", help="only one long run, killed each minute")
    parser.add_argument("--size", nargs="+", metavar="PART=N", default=[], help="another size of a part")
    parser.add_argument("--out", default="", help="a JSON file; what it says of other parts stays")
    args = parser.parse_args()

    import os
    import sys
    import tempfile
    from pathlib import Path

    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root), str(root / "tests")]
    os.environ["OMP_NUM_THREADS"] = "1"  # the networks are tiny: a second thread would only wait

    sizes = {name: size[args.short] for name, size in _PARTS.items() if name in args.only}
    for part, _, number in (text.partition("=") for text in args.size):
        if part not in _PARTS or not number.isdigit():
            parser.error(f"--size takes PART=N, with PART one of {', '.join(_PARTS)}")
        sizes[part] = int(number)
    if args.soak:
        sizes = {"soak": args.soak}
    with tempfile.TemporaryDirectory(prefix="ssl_cls_faults_") as temporary:
        sys.exit(campaign(Path(temporary), sizes, args.out))


def campaign(folder, sizes, out) -> int:  # type: ignore[no-untyped-def]
    import json
    import sys
    import time
    from pathlib import Path

    import torch
    from campaign import damage, disks, hostile, kills, lives, processes, soak, streams
    from rich.console import Console
    from rich.table import Table

    lives.preload()
    parts = {
        "kills": lambda size, where: kills.run(where, size, 0),
        "commands": lambda size, where: kills.run(where, 0, size),
        "damage": damage.run,
        "streams": streams.run,
        "signals": processes.run,
        "disks": disks.run,
        "hostile": hostile.run,
        "soak": soak.run,
    }
    rows, seconds = [], 0.0
    for name, size in sizes.items():
        if not size:
            continue
        begun, where = time.monotonic(), folder / name
        where.mkdir()
        found = parts[name](size, where)
        seconds += time.monotonic() - begun
        rows += found
        for row in found:
            print(f"{row.fault}: {row.survived} of {row.tries} survived {row.note}", file=sys.stderr, flush=True)
        if out:
            path = Path(out)
            told = json.loads(path.read_text()) if path.exists() else {}
            made = {"size": size, "seconds": round(time.monotonic() - begun), "rows": [row._asdict() for row in found]}
            command = f"python tools/faults.py --only {name} --size {name}={size}"
            told[name] = {"command": command, "torch": torch.__version__, **made}
            path.write_text(json.dumps(told, indent=1) + "\n")
    table = Table("fault", "tries", "survived", "lost", "")
    for row in rows:
        table.add_row(row.fault, str(row.tries), str(row.survived), str(row.tries - row.survived), row.note)
    tries, survived = sum(row.tries for row in rows), sum(row.survived for row in rows)
    table.add_section()
    table.add_row("all", str(tries), str(survived), str(tries - survived), f"{seconds / 60:.0f} minutes")
    Console(highlight=False, width=130).print(table)
    return 0 if tries == survived and tries else 1


if __name__ == "__main__":
    main()
