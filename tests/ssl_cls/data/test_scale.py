"""A million images: what is known of them is shared by all decoding processes, and copied into none."""

import re
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_cls.data.files import Files, Index, Store
from ssl_cls.data.sampler import batch_indices


class Known(Dataset[int]):
    """Looks at sizes, labels and paths of a batch as a decoding process does, and says what memory is its own."""

    def __init__(self, source: Files) -> None:
        self.source = source

    def __getitem__(self, step: int) -> int:
        _, indices = batch_indices(step, n=len(self.source), batch_size=1024, seed=0)
        assert self.source.sizes(indices).shape == (1024, 2)
        assert (self.source.labels(indices) == indices % 100).all()
        assert all(self.source.store.path(index) == f"{index % 100}/{index:040}.jpg" for index in indices.tolist())
        # kilobytes that this process has written to, and so shares with no other
        return int(re.findall(r"Private_Dirty:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[0])


def private_kilobytes(n: int) -> int:
    """Of a decoding process after 40 batches of n images."""
    paths = np.array([f"{number % 100}/{number:040}.jpg".encode() for number in range(n)])
    index = Index(
        Store(Path("x"), paths), torch.full((n, 2), 256), torch.arange(n) % 100, [str(n) for n in range(100)],
        3, (0.5,) * 3, (0.2,) * 3, "0", "0", [],
    )  # fmt: skip
    loader = DataLoader(Known(Files("x/train", index)), batch_size=None, sampler=range(80), num_workers=2)
    return max(loader)


def test_decoding_processes_share_what_is_known_of_a_million_images() -> None:
    assert private_kilobytes(10**6) < private_kilobytes(2_000) + 15_000  # paths alone are 47,000
