"""Data sets of files: photographs, scans and satellite images, one label or several."""

from functools import partial

from ssl_cls.data.entry import Download, Entry
from ssl_cls.data.formats import annotations, image_lists, matlab
from ssl_cls.data.formats.class_folders import class_folders
from ssl_cls.data.formats.imagenet import imagenet

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # fb.resnet.torch, and all since
_UNSTATED = "unstated; its images belong to others: research only"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip


def _voc(year: int, counts: dict[str, int], get: tuple[Download, ...], test: str) -> Entry:
    inner = f"VOCdevkit/VOC{year}"
    return Entry(
        title=f"Pascal VOC {year}, multi-label classification",
        url=f"http://host.robots.ox.ac.uk/pascal/VOC/voc{year}/",
        licence="flickr's terms of use",
        read=partial(annotations.voc, year),
        counts=counts,
        num_classes=20,
        needs=(
            *(f"{inner}/ImageSets/Main/{part}.txt" for part in counts),
            f"{inner}/JPEGImages",
            f"{inner}/Annotations",
        ),
        get=get,
        val="val" if test == "test" else None,
        test=test,
    )


PHOTOGRAPHS: dict[str, Entry] = {
    "medical_mnist": Entry(
        title="Medical-MNIST",
        url="https://www.kaggle.com/datasets/andrewmvd/medical-mnist",
        licence="unknown; its sources are listed at https://github.com/apolanco3225/Medical-MNIST-Classification",
        read=partial(class_folders, {"all": "."}, {}),
        counts={"all": 58_954},
        num_classes=6,
        needs=("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"),
        how="log in to Kaggle, download it, and put its six folders there",
        train=("all",),
        test=None,
    ),
    "imagenette": Entry(
        title="Imagenette, second version, shorter side 160",
        url="https://github.com/fastai/imagenette",
        licence="Apache-2.0; its images as ImageNet's",
        read=partial(class_folders, {"train": "imagenette2-160/train", "val": "imagenette2-160/val"}, _IMAGENETTE),
        counts={"train": 9_469, "val": 3_925},
        num_classes=10,
        needs=("imagenette2-160/train", "imagenette2-160/val"),
        get=(
            Download(
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
                "e793b78cc4c9e9a4ccc0c1155377a412",
                True,
            ),
        ),
        test="val",
        normalisation=_IMAGENET,
    ),
    "imagenet100": Entry(
        title="ImageNet-100: any 100 classes of ImageNet; the CMC list has 126,689 training images",
        url="https://github.com/HobbitLong/CMC/blob/master/imagenet100.txt",
        licence="as ImageNet's",
        read=partial(class_folders, {"train": "train", "val": "val"}, {}),
        counts={"train": 126_689, "val": 5_000},
        num_classes=100,
        needs=("train", "val"),
        how="from ImageNet, put (or link) the class folders of the list into train/ and into val/",
        test="val",
        normalisation=_IMAGENET,
        classes="469d277522bc36e827b1bc5121a8d837f7c0fe14737e8326ce34c6e5553f75af",  # of CMC's list
    ),
    "imagenet": Entry(
        title="ImageNet, ILSVRC 2012",
        url="https://image-net.org/challenges/LSVRC/2012/",
        licence="research and education only, by agreement",
        read=imagenet,
        counts={"train": 1_281_167, "val": 50_000},
        num_classes=1_000,
        needs=(
            "train",
            "val",
            "ILSVRC2012_devkit_t12/data/meta.mat",
            "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        ),
        how=(
            "register and download ILSVRC2012_img_train.tar (MD5 1d675b47d978889d74fa0da5fadfb00e), _img_val.tar "
            "(29b22e2961454d5413ddabcf34fc5622) and _devkit_t12.tar.gz (fa75699e90414af021442c21a62c3abf); unpack each "
            "class's tar into train/n01440764/ and so on, the val images into val/, and the devkit beside them"
        ),
        test="val",
        normalisation=_IMAGENET,
    ),
    "imagenet21k": Entry(
        title="ImageNet-21k, fall 2011",
        url="https://image-net.org/download-images.php",
        licence="research and education only, by agreement",
        read=partial(class_folders, {"all": "images"}, {}),
        counts={"all": 14_197_122},
        num_classes=21_841,
        needs=("images",),
        how="register, download it, and unpack each class's tar into images/n00004475/ and so on",
        train=("all",),
        test=None,
        normalisation=_IMAGENET,
    ),
    "coco": Entry(
        title="COCO 2017, multi-label: which of 80 categories are in an image",
        url="https://cocodataset.org/#download",
        licence="annotations CC BY 4.0; images on flickr's terms of use",
        read=annotations.coco,
        counts={"train": 118_287, "val": 5_000},
        num_classes=80,
        needs=("train2017", "val2017", "annotations/instances_train2017.json", "annotations/instances_val2017.json"),
        get=tuple(
            Download(f"http://images.cocodataset.org/{name}.zip", None, True)
            for name in ("zips/train2017", "zips/val2017", "annotations/annotations_trainval2017")
        ),
        test="val",
    ),
    "voc2007": _voc(
        2007,
        {"train": 2_501, "val": 2_510, "test": 4_952},
        (
            Download(f"{_VOC}/voc2007/VOCtrainval_06-Nov-2007.tar", "c52e279531787c972589f7e41ab4ae64", True),
            Download(f"{_VOC}/voc2007/VOCtest_06-Nov-2007.tar", "b6e924de25625d8de591ea690078ad9f", True),
        ),
        "test",
    ),
    "voc2012": _voc(
        2012,
        {"train": 5_717, "val": 5_823},
        (Download(f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar", "6cd6e144f989b92b3379bac3b3de84fd", True),),
        "val",
    ),
    "cub200": Entry(
        title="Caltech-UCSD Birds 200, 2011",
        url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        licence=_UNSTATED,
        read=image_lists.cub200,
        counts={"train": 5_994, "test": 5_794},
        num_classes=200,
        needs=tuple(
            f"CUB_200_2011/{name}"
            for name in ("images", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
        ),
        get=(
            Download(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "97eceeb196236b17998738112f37df78",
                True,
            ),
        ),
    ),
    "stanford_cars": Entry(
        title="Stanford Cars",
        url="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        licence=_UNSTATED,
        read=matlab.stanford_cars,
        counts={"train": 8_144, "test": 8_041},
        num_classes=196,
        needs=(
            "cars_train",
            "cars_test",
            "devkit/cars_train_annos.mat",
            "devkit/cars_meta.mat",
            "cars_test_annos_withlabels.mat",
        ),
        how=(
            "its authors' server is gone; from a copy, put there cars_train/ (MD5 of cars_train.tgz "
            "065e5b463ae28d29e77c1b4b166cfe61), cars_test/ (4ce7ebf6a94d07f1952d94dd34c4d501), devkit/ "
            "(c3b158d763b6e2245038c8ad08e45376) and cars_test_annos_withlabels.mat (b0a2b23655a3edd16d84508592a98d10)"
        ),
    ),
    "fgvc_aircraft": Entry(
        title="FGVC Aircraft, variants",
        url=f"{_VGG}/fgvc-aircraft/",
        licence="non-commercial research only",
        read=image_lists.fgvc_aircraft,
        counts={"train": 3_334, "val": 3_333, "test": 3_333},
        num_classes=100,
        needs=tuple(
            f"fgvc-aircraft-2013b/data/{name}"
            for name in ("images", "variants.txt", *(f"images_variant_{part}.txt" for part in ("train", "val", "test")))
        ),
        get=(
            Download(
                f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", "d4acdd33327262359767eeaa97a4f732", True
            ),
        ),
        val="val",
    ),
    "flowers102": Entry(
        title="Oxford 102 Flowers",
        url=f"{_VGG}/flowers/102/",
        licence=_UNSTATED,
        read=matlab.flowers102,
        counts={"train": 1_020, "val": 1_020, "test": 6_149},
        num_classes=102,
        needs=("jpg", "imagelabels.mat", "setid.mat"),
        get=(
            Download(f"{_VGG}/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", True),
            Download(f"{_VGG}/flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
            Download(f"{_VGG}/flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
        val="val",
    ),
    "pets": Entry(
        title="Oxford-IIIT Pets, 37 breeds",
        url=f"{_VGG}/pets/",
        licence="CC BY-SA 4.0",
        read=image_lists.pets,
        counts={"train": 3_680, "test": 3_669},
        num_classes=37,
        needs=("images", "annotations/trainval.txt", "annotations/test.txt"),
        get=(
            Download(f"{_VGG}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c", True),
            Download(f"{_VGG}/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f", True),
        ),
    ),
    "food101": Entry(
        title="Food-101",
        url="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence=_UNSTATED,
        read=image_lists.food101,
        counts={"train": 75_750, "test": 25_250},
        num_classes=101,
        needs=("food-101/images", "food-101/meta/classes.txt", "food-101/meta/train.txt", "food-101/meta/test.txt"),
        get=(Download("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87", True),),
    ),
    "eurosat": Entry(
        title="EuroSAT, RGB",
        url="https://github.com/phelber/EuroSAT",
        licence="MIT; images on the terms of Copernicus Sentinel data",
        read=partial(class_folders, {"all": "2750"}, {}),
        counts={"all": 27_000},
        num_classes=10,
        needs=("2750",),
        get=(
            Download(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
                True,
            ),
        ),
        train=("all",),
        test=None,
    ),
}
