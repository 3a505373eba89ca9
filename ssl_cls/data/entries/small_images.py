"""Data sets of up to 96 x 96 pixels, which live in memory."""

from functools import partial
from string import ascii_lowercase, ascii_uppercase, digits

from ssl_cls.data.entry import Download, Entry
from ssl_cls.data.formats import cifar, matlab
from ssl_cls.data.formats.digits import digits as uci_digits
from ssl_cls.data.formats.idx import emnist, fashion_mnist, mnist
from ssl_cls.data.formats.pixel_csv import sign_language_mnist
from ssl_cls.data.formats.stl10 import stl10

_IDX = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
)
_MERGED = "".join(c for c in ascii_lowercase if c in "abdefghnqrt")  # small letters that look unlike their capitals


def _idx(url: str, *md5: str) -> tuple[Download, ...]:
    return tuple(Download(url + name, sum_) for name, sum_ in zip(_IDX, md5, strict=True))


def _emnist(subset: str, class_names: str, train: int, test: int) -> Entry:
    """A division of NIST's characters. Letters count from 1 in the file."""
    stem = f"gzip/emnist-{subset}"
    return Entry(
        title=f"EMNIST {subset}",
        url="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        licence="unstated; made from a database of NIST",
        read=partial(emnist, subset, list(class_names), 1 if subset == "letters" else 0),
        counts={"train": train, "test": test},
        num_classes=len(class_names),
        needs=tuple(
            f"{stem}-{part}-{kind}"
            for part in ("train", "test")
            for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
        ),
        get=(
            Download(
                "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e", archive=True
            ),
        ),
        flip=False,
        folder="emnist",
    )


def _svhn(*train: str) -> Entry:
    sums = {
        "train": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test": "eb5a983be6a315427106f1b164d9cef3",
        "extra": "a93ce644f1a588dc4d68dda5feec44a7",
    }
    counts = {"train": 73_257, "extra": 531_131, "test": 26_032}
    files = {part: f"{part}_32x32.mat" for part in (*train, "test")}
    return Entry(
        title="SVHN, cropped digits" + (", with the extra ones" if "extra" in train else ""),
        url="http://ufldl.stanford.edu/housenumbers/",
        licence="non-commercial use only",
        read=matlab.svhn,
        counts={part: counts[part] for part in files},
        num_classes=10,
        needs=tuple(files.values()),
        get=tuple(
            Download(f"http://ufldl.stanford.edu/housenumbers/{name}", sums[part]) for part, name in files.items()
        ),
        train=train,
        flip=False,
        folder="svhn",
    )


SMALL_IMAGES: dict[str, Entry] = {
    "fashion_mnist": Entry(
        title="Fashion-MNIST",
        url="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        read=partial(
            fashion_mnist,
            ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
        ),
        counts={"train": 60_000, "test": 10_000},
        num_classes=10,
        needs=(),  # fetched by need, and verified to the byte each time
        normalisation=((0.2860,), (0.3530,)),
    ),
    "digits": Entry(
        title="UCI handwritten digits, as scikit-learn ships them",
        url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        read=uci_digits,
        counts={"train": 1_294, "val": 144, "test": 359},
        num_classes=10,
        needs=(),
        val="val",
        normalisation=((0.3053,), (0.3759,)),
        flip=False,
    ),
    "mnist": Entry(
        title="MNIST",
        url="http://yann.lecun.com/exdb/mnist/",
        licence="unstated by its authors; usually given as CC BY-SA 3.0",
        read=partial(mnist, list(digits)),
        counts={"train": 60_000, "test": 10_000},
        num_classes=10,
        needs=_IDX,
        get=_idx(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        normalisation=((0.1307,), (0.3081,)),  # pytorch/examples
        flip=False,
    ),
    "kmnist": Entry(
        title="Kuzushiji-MNIST",
        url="https://github.com/rois-codh/kmnist",
        licence="CC BY-SA 4.0",
        read=partial(mnist, ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
        counts={"train": 60_000, "test": 10_000},
        num_classes=10,
        needs=_IDX,
        get=_idx(
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        flip=False,
    ),
    "emnist_balanced": _emnist("balanced", digits + ascii_uppercase + _MERGED, 112_800, 18_800),
    "emnist_byclass": _emnist("byclass", digits + ascii_uppercase + ascii_lowercase, 697_932, 116_323),
    "emnist_bymerge": _emnist("bymerge", digits + ascii_uppercase + _MERGED, 697_932, 116_323),
    "emnist_letters": _emnist("letters", ascii_lowercase, 124_800, 20_800),
    "emnist_digits": _emnist("digits", digits, 240_000, 40_000),
    "sign_language_mnist": Entry(
        title="Sign-Language-MNIST",
        url="https://www.kaggle.com/datasets/datamunge/sign-language-mnist",
        licence="CC0",
        read=sign_language_mnist,
        counts={"train": 27_455, "test": 7_172},
        num_classes=24,
        needs=("sign_mnist_train.csv", "sign_mnist_test.csv"),
        how="log in to Kaggle, download it, and put both CSV files there",
    ),
    "cifar10": Entry(
        title="CIFAR-10, binary version",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="unstated; cite Krizhevsky 2009",
        read=cifar.cifar10,
        counts={"train": 50_000, "test": 10_000},
        num_classes=10,
        needs=tuple(
            f"cifar-10-batches-bin/{name}"
            for name in (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin", "batches.meta.txt")
        ),
        get=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", True
            ),
        ),
        normalisation=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": Entry(
        title="CIFAR-100, binary version, 100 classes",
        url="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="unstated; cite Krizhevsky 2009",
        read=cifar.cifar100,
        counts={"train": 50_000, "test": 10_000},
        num_classes=100,
        needs=tuple(f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")),
        get=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", True
            ),
        ),
        normalisation=((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "svhn": _svhn("train"),
    "svhn_extra": _svhn("train", "extra"),
    "stl10": Entry(
        title="STL-10, with its unlabelled images",
        url="https://cs.stanford.edu/~acoates/stl10/",
        licence="unstated; its images are from ImageNet",
        read=stl10,
        counts={"train": 5_000, "unlabeled": 100_000, "test": 8_000},
        num_classes=10,
        needs=tuple(
            f"stl10_binary/{name}"
            for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin", "test_X.bin", "test_y.bin", "class_names.txt")
        ),
        get=(
            Download(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", True
            ),
        ),
        train=("train", "unlabeled"),
    ),
}
