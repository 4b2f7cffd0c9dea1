"""AudioSet: segments CSVs with several labels each, and class_labels_indices.csv with their names.

Labels of a clip are separated by `;`. Files are YOUTUBEID, YYOUTUBEID, YOUTUBEID_SSSSSS or
YOUTUBEID_START_END in seconds or milliseconds; a whole video is cut at the segment. Segments of the
evaluation list are the split `test`.

Source: Gemmeke et al., ICASSP 2017, "Audio Set: An ontology and human-labeled dataset".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import cells_of, named, number_in, split_in, table_of
from extract.datasets.media_files import MediaFiles
from store.errors import ConfigError, InputError
from store.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `audioset`."""

    cut: bool = True  # files YOUTUBEID are the segments; false: they are whole videos
    names: str = "class_labels_indices.csv"
    pattern: str = "*_segments.csv"

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.names or not self.pattern:
            raise ConfigError("names and pattern are names of files")


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        folder = source.parent if source.is_file() else source
        (index, *_) = named(folder, config.names, "it has the names of AudioSet's classes")
        names = {
            row["mid"]: row["display_name"].replace(";", ",")
            for row in table_of(index, ("mid", "display_name"))
        }
        for path in named(source, config.pattern, "AudioSet has balanced_train_segments.csv, …"):
            for cells in cells_of(path, comment="#"):
                if len(cells) != 4:
                    raise InputError(f"{path} has {len(cells)} columns; AudioSet's have 4")
                video, first, last, labels = cells
                start, end = (number_in(path, text, "a segment's second") for text in (first, last))
                mids = labels.split(",")
                if unknown := [mid for mid in mids if mid not in names]:
                    raise InputError(f"{path}: {video} has the label {unknown[0]!r}, "
                                     f"which {index.name} does not name")  # fmt: skip
                yield _row(config, video, start, end, ";".join(names[mid] for mid in mids),
                           split_in(path.stem))  # fmt: skip

    return rows


def _row(config: Config, video: str, start: float, end: float, labels: str, split: str) -> Row:
    milliseconds = f"{video}_{round(1000 * start)}_{round(1000 * end)}"
    seconds = f"{video}_{int(start)}_{int(end)}"
    cut = (f"{video}_{int(start):06}", milliseconds, seconds, f"Y{seconds}", f"Y{milliseconds}")
    return Row(
        names=(*cut, video, f"Y{video}") if config.cut else cut,
        columns={
            "clip_id": f"{video}_{int(start):06}",
            "label": labels,
            "group": video,
            "split": split,
        },
        whole="" if config.cut else video,
        start_seconds=start,
        end_seconds=end,
    )
