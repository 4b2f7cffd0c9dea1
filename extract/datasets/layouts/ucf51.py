"""UCF51: the 51 classes of UCF101 whose videos have sound, with the lists and names of UCF101.

Read like `ucf101`; videos of the other 50 classes are left out.

Source: Soomro et al., 2012 (UCF101); the choice of classes as in Chen et al., 2021 (CCL), and
Mercea et al., 2022 (AVCA).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._ucf import ucf_rows
from extract.datasets.media_files import MediaFiles
from store.settings import Settings, setting

CLASSES = frozenset(
    {
        "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam",
        "BandMarching", "BasketballDunk", "BlowDryHair", "BlowingCandles",
        "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag",
        "BrushingTeeth", "CliffDiving", "CricketBowling", "CricketShot", "CuttingInKitchen",
        "FieldHockeyPenalty", "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "Haircut",
        "HammerThrow", "Hammering", "HandStandPushups", "HandstandWalking", "HeadMassage",
        "IceDancing", "Knitting", "LongJump", "MoppingFloor", "ParallelBars",
        "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingSitar",
        "Rafting", "ShavingBeard", "Shotput", "SkyDiving", "SoccerPenalty", "StillRings",
        "SumoWrestling", "Surfing", "TableTennisShot", "Typing", "UnevenBars",
        "WallPushups", "WritingOnBoard",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `ucf51`."""

    fold: int = setting(1, among=(1, 2, 3), main=True)  # of the three published ones


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        for row in ucf_rows(config.fold, source, media):
            if row.columns["label"] in CLASSES:
                yield row

    return rows
