"""ESC-50: meta/esc50.csv with filename, fold, category, esc10 and src_file.

`group` is the recording (src_file); the published folds keep recordings apart. One fold is the
split `test`, one may be `val`.

Source: Piczak, ACM MM 2015, "ESC: Dataset for environmental sound classification".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import named, table_of
from extract.datasets.media_files import MediaFiles
from store.errors import ConfigError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `esc50`."""

    test_fold: int = setting(5, at_least=1, at_most=5, main=True)
    val_fold: int = setting(0, at_least=0, at_most=5)  # 0: none
    esc10: bool = False  # only the ten classes of ESC-10

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.test_fold == self.val_fold:
            raise ConfigError(f"fold {self.test_fold} cannot be test and val")


def build(config: Config) -> Layout:
    """The layout that these settings describe."""
    folds = {str(config.test_fold): "test", str(config.val_fold): "val"}

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        columns = ("filename", "fold", "category", "esc10", "src_file")
        (path, *_) = named(source, "esc50.csv", "ESC-50 has it in meta/")
        for row in table_of(path, columns):
            if config.esc10 and row["esc10"].lower() != "true":
                continue
            yield Row(
                names=(row["filename"],),
                columns={
                    "label": row["category"],
                    "group": row["src_file"],
                    "fold": row["fold"],
                    "split": folds.get(row["fold"], "train"),
                },
            )

    return rows
