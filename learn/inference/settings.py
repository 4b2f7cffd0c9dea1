"""What `learn predict` is asked, and how it is answered."""

from dataclasses import dataclass
from pathlib import Path

from learn.fewshot import default_head
from store import plugins
from store.errors import ConfigError, InputError, MissingFile, UnknownSetting, choices
from store.settings import Settings, setting

INDICES = ("exact", "ivf")
HEADS = ("prototypes", "nearest")  # of the gallery
GUARDS = SWITCH = ("on", "off")
WORDS = "t"  # the mode that a text of the asker's own is searched from


def check_head(head: str) -> None:
    """Refuse a head that cannot answer about single clips.

    Raises:
        ConfigError: names those that can.
    """
    if head not in HEADS:
        raise ConfigError(f"no classifier by {head!r}; there are {choices(head, HEADS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverted(Settings):
    """Settings of the index `ivf`: k-means cells, of which the nearest few are searched."""

    cells: int = setting(0, at_least=0)  # 0: four times the root of the index's size
    probes: int = setting(16, at_least=1)

    @classmethod
    def prefix(cls) -> str:
        """The text that errors begin with."""
        return "ivf: "


def parse_index(text: str) -> Inverted | None:
    """The settings of `ivf:cells=…,probes=…`, or None for `exact`.

    Raises:
        ConfigError: another word or setting.
    """
    spec = plugins.parse_spec(text)
    if spec.name not in INDICES:
        raise ConfigError(f"no index {spec.name!r}; there are {choices(spec.name, INDICES)}")
    if spec.name == "exact":
        if spec.settings:
            raise UnknownSetting(f"exact has no setting {next(iter(spec.settings))!r}; it has none")
        return None
    return plugins.settle(Inverted, "ivf", spec.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSettings:
    """The question and the way of answering it."""

    support: str | Path
    query: str | Path | None
    output: Path
    labels: tuple[str, ...]
    group: str | None
    group_file: str | Path | None = None
    manifest: str | Path | None = None  # what is known of classes that are not asked about
    by: str | None  # of the gallery
    head: str | None  # SPECs; None: the default
    fusion: str | None
    guard: str
    names: str = "on"
    index: str
    top: int
    abstain_below: float
    memory_bytes: int

    def __post_init__(self) -> None:
        if self.by is not None:
            check_head(self.by)
        if self.guard not in GUARDS:
            raise ConfigError(f"`guard` {self.guard!r} is none of {choices(self.guard, GUARDS)}")
        check_names(self.names)
        if self.gallery and (self.head or self.fusion):
            raise ConfigError(
                "`head` and `fusion` judge by all labelled clips, `by` and an approximate `index` "
                "look for the nearest; name one"
            )
        if self.top < 1 or not 0 <= self.abstain_below <= 1:
            raise ConfigError(
                f"top={self.top}, abstain_below={self.abstain_below}: top is at least 1, and "
                "abstain_below a probability from 0 to 1"
            )
        if self.output.exists():
            raise InputError(f"{self.output} exists; name a new file")
        if not self.output.parent.is_dir():
            folder, name = self.output.parent, self.output.name
            raise MissingFile(f"no directory {folder} to write {name} in; make it first")

    @property
    def gallery(self) -> bool:
        """Whether the nearest of labelled clips, or of their means, answer."""
        return self.by is not None or self.index != "exact"

    @property
    def head_spec(self) -> str | None:
        """The full SPEC of the head; None of a gallery."""
        return None if self.gallery else default_head.resolved(self.head or default_head.NAME)


def check_names(names: str) -> None:
    """Refuse what says neither that names of classes are a sense nor that they are none.

    Raises:
        ConfigError: says what there is.
    """
    if names not in SWITCH:
        raise ConfigError(f"`names` {names!r} is none of {choices(names, SWITCH)}")


def check_words(clip: str, words: str, source: str | None) -> None:
    """Refuse anything but a clip or a text, and a text that is to be searched as something else.

    Raises:
        InputError: says what to name.
    """
    words = words.strip()
    if bool(clip) == bool(words):
        raise InputError("name a clip or a text to search by, and not both")
    if words and source not in (None, WORDS):
        raise InputError(f"a text is searched from {WORDS}, not from {source}; leave `source` out")
