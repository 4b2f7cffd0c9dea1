"""3MASSIV: lists of posts with five label columns, and a sixth where the concept lists are there.

3massiv_{train,val,test}.csv have PostIndex, Topic, Emotion, AudioFormat, VideoFormat and Language;
3massiv_concept_*.csv have post_id and concept. Files are named by the post's number.

Source: Gupta et al., CVPR 2022, "3MASSIV: Multilingual, multimodal and multi-aspect dataset of
social media short videos".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import named, split_in, table_of
from extract.datasets.media_files import MediaFiles
from store.errors import MissingFile
from store.settings import Settings

ASPECTS = {
    "Topic": "topic", "Emotion": "emotion", "AudioFormat": "audio_format",
    "VideoFormat": "video_format", "Language": "language",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `3massiv`."""

    pattern: str = "*3massiv*.csv"  # names of lists, where SOURCE is a folder


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = named(source, config.pattern, "3MASSIV comes as 3massiv_train.csv, …")
        concepts = {
            row["post_id"]: row["concept"]
            for path in lists
            if "concept" in path.stem
            for row in table_of(path, ("post_id", "concept"))
        }
        aspects = [path for path in lists if "concept" not in path.stem]
        if not aspects:
            raise MissingFile(f"{source} has no list with the columns {', '.join(ASPECTS)}")
        has_splits = any(split_in(path.stem) for path in aspects)
        for path in aspects:
            for row in table_of(path, ("PostIndex", *ASPECTS)):
                post = row["PostIndex"]
                columns = {"clip_id": post} | {ASPECTS[name]: row[name] for name in ASPECTS}
                if concepts:
                    columns["concept"] = concepts.get(post, "")
                if has_splits:
                    columns["split"] = split_in(path.stem)
                yield Row(names=(post,), columns=columns)

    return rows
