"""Kinetics 400, 600 and 700: CSVs with label, youtube_id, time_start, time_end and split.

Files are YOUTUBEID_SSSSSS_SSSSSS, as the usual downloaders cut them, or whole videos YOUTUBEID, of
which the rows are pieces. `group` is the video.

Source: Kay et al., 2017, "The Kinetics human action video dataset".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import SPLITS, named, number_in, table_of
from extract.datasets.media_files import MediaFiles
from store.settings import Settings

COLUMNS = ("youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `kinetics`."""

    pattern: str = "*.csv"  # names of lists, where SOURCE is a folder


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        for path in named(source, config.pattern, "Kinetics comes with a CSV per split"):
            for row in table_of(path, COLUMNS):
                start = number_in(path, row["time_start"], "time_start")
                end = number_in(path, row["time_end"], "time_end")
                video = row["youtube_id"]
                stem = f"{video}_{int(start):06}_{int(end):06}"
                label = row.get("label", "")  # lists of the test split may have none
                split = SPLITS.get(row["split"].lower(), row["split"])
                yield Row(
                    names=(f"{label.replace(' ', '_')}/{stem}", stem) if label else (stem,),
                    columns={"clip_id": stem, "label": label, "group": video, "split": split},
                    whole=video,
                    start_seconds=start,
                    end_seconds=end,
                )

    return rows
