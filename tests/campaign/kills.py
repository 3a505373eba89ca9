"""SIGKILL at named points and at random instants, over all methods: the run ends in the same bytes."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from campaign import METHODS, Row, digests, failpoints, lives, run_folder, write_recipe
from campaign.failpoints import POINTS, Failpoint
from campaign.lives import Life
from ssl_cls import checkpoint

_LIVES = 5  # of one run, at most, before it is let go to its end
_INSTANT, _COMMAND = "random instant", "random instant, real command"


def run(folder: Path, kills_per_method: int, real_per_method: int, seed: int = 0) -> list[Row]:
    """One row a kind of instant: kills that landed, and those whose run ended in the bytes of one never killed."""
    landed: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    lost: list[str] = []
    for method in METHODS:
        chance = random.Random(f"{seed} {method}")
        campaign = _Campaign(folder / method, method, chance)
        for aim, count in ((campaign.forked, kills_per_method), (campaign.command, real_per_method)):
            done = 0
            for _ in range(20 * count):
                if done >= count:
                    break
                kinds, same = campaign.one_run(aim, count - done)
                done += len(kinds)
                landed.update(kinds)
                survived.update(kinds if same else [])
                if not same:
                    lost.append(f"{method}: {', '.join(kinds)}")
    kinds = [*POINTS, _INSTANT, _COMMAND]
    rows = [Row(f"SIGKILL: {kind}", landed[kind], survived[kind]) for kind in kinds if landed[kind]]
    missing = (kills_per_method + real_per_method) * len(METHODS) - landed.total()
    if missing > 0:
        rows.append(Row("SIGKILL that did not land", missing, 0))
    return [*rows, *(Row("a killed run that ended otherwise", 0, 0, line) for line in lost)]


class _Campaign:
    """Of one method: a run that is never killed, and others that are."""

    def __init__(self, folder: Path, method: str, chance: random.Random) -> None:
        self.folder, self.method, self.chance, self.number = folder, method, chance, 0
        straight = self._fresh()
        counts = straight / "counts.json"

        def counted() -> None:
            calls: dict[str, int] = {}
            failpoints.count(calls)
            original = checkpoint.save

            def save(*args: object, **kwargs: object) -> Path:
                saved = original(*args, **kwargs)  # type: ignore[arg-type]
                with counts.open("w") as file:
                    json.dump(calls, file)
                return saved

            checkpoint.save = save

        begun = time.monotonic()
        life = lives.forked(straight, [f"{method}.yaml"], counted)
        assert life.wait() == 0, life.said()
        self.seconds = time.monotonic() - begun
        self.expected = digests(run_folder(straight, method))
        self.calls: dict[str, int] = json.loads(counts.read_text())

    def _fresh(self) -> Path:
        self.number += 1
        folder = self.folder / str(self.number)
        folder.mkdir(parents=True)
        write_recipe(folder, self.method)
        return folder

    def one_run(self, aim: Callable[[Path], tuple[str, Life]], most: int) -> tuple[list[str], bool]:
        """Kill one run several times, then let it end: the kinds of kills that landed, and whether nothing is lost."""
        folder, kinds, kept = self._fresh(), [], True
        run = run_folder(folder, self.method)
        for _ in range(_LIVES):
            if len(kinds) >= most:
                break
            before = checkpoint.newest(run / "checkpoints")
            kind, life = aim(folder)
            if life.wait() == 0:
                break
            if life.status != -9:
                return [*kinds, kind], False
            kinds.append(kind)
            after = checkpoint.newest(run / "checkpoints")
            kept &= before is None or (after is not None and after.name >= before.name)
        last = lives.forked(folder, [f"{self.method}.yaml"])
        return kinds, last.wait() == 0 and kept and digests(run) == self.expected

    def forked(self, folder: Path) -> tuple[str, Life]:
        arguments = [f"{self.method}.yaml"]
        if self.chance.random() < 0.3:
            life = lives.forked(folder, arguments)
            time.sleep(self.chance.uniform(0, self.seconds))
            life.kill()
            return _INSTANT, life
        point = self.chance.choice(list(POINTS))
        call = self.chance.randint(1, max(1, self.calls[point] // 2))
        failpoint = Failpoint(point, call, self.chance.choice(["before", "within", "after"]))
        return point, lives.forked(folder, arguments, lambda: failpoints.install(failpoint))

    def command(self, folder: Path) -> tuple[str, Life]:
        run = run_folder(folder, self.method)
        life, before = lives.command(folder, [f"{self.method}.yaml"]), lives.logged(run)
        lives.until(lambda: life.ended() or lives.logged(run) != before, 300)
        time.sleep(self.chance.uniform(0, self.seconds / 4))
        life.kill()
        return _COMMAND, life
