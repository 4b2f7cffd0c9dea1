"""The published weights, as data: what each file is, who gives it and what it is known to reach.

A size or digest that its publisher does not state is None, and a set without whole digests is
`unverified`: it is fetched only where that is accepted. Accuracies are the publishers' own.

Source: google-research/simclr (README, tables of SimCLRv2); Zenodo 3987831 and the PANNs
repository; harritaylor/torchvggish; tensorflow/models; facebookresearch/mae (README).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import quote

from store.errors import WeightsError


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file as published."""

    name: str
    url: str
    size_bytes: int | None = None
    md5: str | None = None  # as far as it is published: all of it, or its first digits

    @property
    def verified(self) -> bool:
        """True if its publisher states a whole digest, which what comes is held against."""
        return self.md5 is not None and len(self.md5) == MD5_DIGITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One set of weights."""

    name: str
    encoder: str  # the SPEC it serves, without weights=
    files: tuple[RemoteFile, ...]  # the first one names the set to the encoder or the converter
    use: str  # "load": as it is; "convert": with `extract weights convert`; "none": not yet
    licence: str
    attribution: str
    accuracy: str | None
    source: str
    word: str = "pretrained"  # what names it in the SPEC of its encoder
    setting: str = "weights"  # the setting that takes the word, or a file

    @property
    def spec(self) -> str:
        """The SPEC that asks for these weights by name."""
        joint = "," if ":" in self.encoder else ":"
        return f"{self.encoder}{joint}{self.setting}={self.word}"

    @property
    def verified(self) -> bool:
        """True if every file's digest is its publisher's; else what comes first is believed."""
        return all(file.verified for file in self.files)

    @property
    def command(self) -> str:
        """The command that fetches it."""
        accept = "" if self.verified else " --accept-unverified"
        return f"extract weights fetch {self.name}{accept}"

    @property
    def size_bytes(self) -> int | None:
        """The size of all files, where it is known."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


MD5_DIGITS = 32
_SIMCLR = "https://storage.googleapis.com/simclr-checkpoints/simclrv2"
_STEPS = {
    "pretrained": 250228, "supervised": 28151, "finetuned_100pct": 37535,
    "finetuned_10pct": 3754, "finetuned_1pct": 751,
}  # fmt: skip
# ImageNet top-1 in %, columns as in _COLUMNS.
_COLUMNS = ("pretrained", "finetuned_1pct", "finetuned_10pct", "finetuned_100pct", "supervised")
_TOP1 = {
    "r50_1x_sk0": (71.7, 57.9, 68.4, 76.3, 76.6),
    "r50_1x_sk1": (74.6, 64.5, 72.1, 78.7, 78.5),
    "r50_2x_sk0": (75.6, 66.3, 73.9, 79.1, 77.8),
    "r50_2x_sk1": (77.7, 70.6, 77.0, 81.3, 79.3),
    "r101_1x_sk0": (73.6, 62.1, 71.4, 78.2, 78.0),
    "r101_1x_sk1": (76.3, 68.3, 75.1, 80.6, 79.6),
    "r101_2x_sk0": (77.0, 69.1, 75.8, 80.7, 78.9),
    "r101_2x_sk1": (79.0, 73.2, 78.8, 82.4, 80.1),
    "r152_1x_sk0": (74.5, 64.0, 73.0, 79.3, 78.3),
    "r152_1x_sk1": (77.2, 70.0, 76.5, 81.3, 79.9),
    "r152_2x_sk0": (77.4, 70.2, 76.6, 81.1, 79.1),
    "r152_2x_sk1": (79.4, 74.2, 79.4, 82.9, 80.4),
    "r152_3x_sk1": (79.8, 74.9, 80.1, 83.1, 80.5),
}
_PANNS = {  # variant: file, mAP on AudioSet, size, md5
    "cnn6": ("Cnn6_mAP=0.343.pth", 0.343, None, None),
    "cnn10": ("Cnn10_mAP=0.380.pth", 0.380, 25_237_595, "bfb1f1f9968938fa8ef4012b8471f5f6"),
    "cnn14": ("Cnn14_mAP=0.431.pth", 0.431, None, None),
    "cnn14_16k": ("Cnn14_16k_mAP=0.438.pth", 0.438, None, None),
    "mobilenetv1": ("MobileNetV1_mAP=0.389.pth", 0.389, None, None),
}


def _simclrv2(variant: str, category: str) -> Published:
    stem = f"model.ckpt-{_STEPS[category]}"
    folder = f"{_SIMCLR}/{category}/{variant}"
    files = (f"{stem}.index", f"{stem}.data-00000-of-00001", f"{stem}.meta")
    top1 = _TOP1[variant][_COLUMNS.index(category)]
    protocol = "linear evaluation" if category == "pretrained" else category.replace("_", " ")
    return Published(
        name=f"simclrv2-{variant}-{category}",
        encoder=f"simclrv2:variant={variant}",
        files=tuple(RemoteFile(name=name, url=f"{folder}/{name}") for name in files),
        use="convert",
        licence="Apache-2.0",
        attribution="SimCLRv2, Chen et al. 2020, google-research/simclr; trained on ImageNet",
        accuracy=f"ImageNet top-1 {top1} %, {protocol}",
        source="https://github.com/google-research/simclr",
        word=category,
    )


def _panns(variant: str) -> Published:
    file, mean_ap, size, md5 = _PANNS[variant]
    url = f"https://zenodo.org/record/3987831/files/{quote(file)}?download=1"
    return Published(
        name=f"panns-{variant}",
        encoder=f"panns:variant={variant}",
        files=(RemoteFile(name=file, url=url, size_bytes=size, md5=md5),),
        use="load",
        licence="CC BY 4.0",
        attribution="PANNs, Kong et al. 2020, doi:10.5281/zenodo.3987831; trained on AudioSet",
        accuracy=f"AudioSet mAP {mean_ap:.3f}",
        source="https://zenodo.org/record/3987831",
    )


def _vggish(name: str, file: str, accuracy: str | None, setting: str = "weights") -> Published:
    release = "https://github.com/harritaylor/torchvggish/releases/download/v0.1"
    return Published(
        name=name,
        encoder="vggish",
        files=(RemoteFile(name=file, url=f"{release}/{file}"),),
        use="load",
        licence="Apache-2.0",
        attribution="VGGish, Hershey et al. 2017, tensorflow/models; ported by torchvggish",
        accuracy=accuracy,
        source="https://github.com/harritaylor/torchvggish",
        setting=setting,
    )


def _others() -> list[Published]:
    yamnet = Published(
        name="yamnet",
        encoder="yamnet",
        files=(
            RemoteFile(name="yamnet.h5", url="https://storage.googleapis.com/audioset/yamnet.h5"),
        ),
        use="none",
        licence="Apache-2.0",
        attribution="YAMNet, Plakal and Ellis, tensorflow/models; trained on AudioSet",
        accuracy="AudioSet mAP 0.306",
        source="https://github.com/tensorflow/models/tree/master/research/audioset/yamnet",
    )
    mae = Published(
        name="mae-vit_b16",
        encoder="mae",
        files=(
            RemoteFile(
                name="mae_pretrain_vit_base.pth",
                url="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
                md5="8cad7c",
            ),
        ),
        use="load",
        licence="CC BY-NC 4.0",
        attribution="MAE, He et al. 2021, facebookresearch/mae; trained on ImageNet",
        accuracy="ImageNet top-1 83.6 %, fine-tuned",
        source="https://github.com/facebookresearch/mae",
    )
    return [
        _vggish("vggish", "vggish-10086976.pth", "AudioSet mAP 0.314, as features"),
        _vggish("vggish-pca", "vggish_pca_params-970ea276.pth", None, "pca"),
        yamnet,
        mae,
    ]


_EVERYTHING = [
    *(_simclrv2(variant, category) for variant in _TOP1 for category in _STEPS),
    *map(_panns, _PANNS),
    *_others(),
]
CATALOGUE: Mapping[str, Published] = {published.name: published for published in _EVERYTHING}


def find(name: str) -> Published:
    """The weights of that name.

    Raises:
        WeightsError: there are none; says what was probably meant.
    """
    if name not in CATALOGUE:
        close = get_close_matches(name, CATALOGUE, n=3)
        guess = f"; did you mean {', '.join(close)}?" if close else ""
        raise WeightsError(
            f"no published weights {name!r}{guess} See all with `extract weights list`"
        )
    return CATALOGUE[name]
