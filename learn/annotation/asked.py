"""What `learn annotate` is asked, as far as it can be judged before anything is read."""

from dataclasses import dataclass
from pathlib import Path

from learn.annotation.label_file import check_columns, name_fault
from learn.fewshot import default_head
from store.errors import ConfigError, InputError, MissingFile

POOL = 20_000  # clips that are candidates at once; their vectors lie in memory
LEAST_POOL = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateSettings:
    """The clips, the columns, and how the next clip is chosen."""

    store: str
    media: tuple[Path, ...]
    output: Path
    labels: tuple[str, ...] = ("label",)
    classes: tuple[str, ...] = ()  # offered from the beginning
    strategy: str = "uncertain_diverse"
    group: str | None = None
    mode: str | None = None
    projection: Path | None = None
    head: str | None = None
    visual: str | None = None
    audio: str | None = None
    text: str | None = None
    pool: int = POOL
    port: int = 0  # 0: any that is free
    seed: int = 0

    def __post_init__(self) -> None:
        check_columns(self.labels)
        if len(set(self.labels)) < len(self.labels):
            raise InputError("a column of labels is named twice")
        for name in self.classes:
            if (fault := name_fault(name)) is not None:
                raise ConfigError(f"class {name!r}: {fault}")
        for folder in self.media:
            if not folder.is_dir():
                raise MissingFile(f"no directory {folder}; `media` is where the clips lie")
        if self.output.suffix.lower() != ".csv":
            raise InputError(f"{self.output.name} is no .csv, and labels are kept in one")
        if not self.output.parent.is_dir():
            folder, name = self.output.parent, self.output.name
            raise MissingFile(f"no directory {folder} to write {name} in; make it first")
        if self.pool < LEAST_POOL:
            raise ConfigError(f"pool={self.pool}: at least {LEAST_POOL} clips are candidates")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} is none; 0 takes any that is free")

    @property
    def head_spec(self) -> str:
        """The full SPEC of the head."""
        return default_head.resolved(self.head or default_head.NAME)
