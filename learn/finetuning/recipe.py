"""Recipes of `learn finetune`: TOML with every setting of a training of encoders.

[data]         which clips, and how often each is looked at
[frames]       how copies of frames differ
[sound]        how copies of sound differ
[head]         what lies between an encoder's rows and the objectives while it learns
[objectives.NAME]    a plug-in of learn/training/objectives with its settings, and its `weight`
[masked]       in the place of objectives: patches are hidden, and painted in by a decoder
[optimiser]    how long, how fast, which parts, and how much at once
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from learn.training import recipe as of_rows
from store import plugins
from store.errors import ConfigError, UnknownSetting, choices
from store.settings import Settings, setting
from store.sizes import parse_size

USUAL_VAL, NO_VAL = "val", "none"
FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings(Settings):
    """The clips to train on, and what of them a step sees."""

    split: str = ""  # trained on; empty: train where there are splits, else all
    # its classes, where training lacks them, say what was gained; none: some of train's may
    val_split: str = USUAL_VAL
    # the encoders that it trains; any: one or both
    encoders: str = setting("any", among=("any", "visual", "audio", "both"))
    label: str = "label"
    frames: int = setting(2, at_least=1)  # of a clip in a step; as many windows of its sound
    # moments of a clip that may be looked at; 0: any, drawn anew each epoch, and nothing is kept
    looks: int = setting(8, at_least=0)
    memory: str = "1GiB"  # decoded clips that are kept; the others are decoded every epoch
    copies: int = setting(1, among=(1, 2))  # of each clip in a step, which differ
    # whether the copies of a clip show the same moments
    moments: str = setting("same", among=("same", "different"))

    def check(self) -> None:
        """Refuse a memory that is no size."""
        parse_size(self.memory)

    @property
    def drawn(self) -> int:
        """Moments of a clip in a step."""
        return self.frames * (self.copies if self.moments == "different" else 1)

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "data."


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSettings(Settings):
    """Random changes of frames (`learn/finetuning/pictures.py`)."""

    crop: float = setting(0.08, above=0, at_most=1)  # least share of the picture that is kept
    flip: float = setting(0.5, at_least=0, at_most=1)  # chance
    jitter: float = setting(0.0, at_least=0)  # strength; 1 is published
    jitter_chance: float = setting(0.8, at_least=0, at_most=1)
    grey: float = setting(0.0, at_least=0, at_most=1)  # chance
    blur: float = setting(0.0, at_least=0, at_most=1)  # chance

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "frames."


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundSettings(Settings):
    """Random changes of sound (`learn/finetuning/waves.py`); windows begin anywhere."""

    gain: float = setting(0.0, at_least=0)  # decibels, up or down
    mix: float = setting(0.0, at_least=0, below=1)  # most of another clip's sound that is added
    time_masks: int = setting(0, at_least=0)
    time_share: float = setting(0.2, above=0, at_most=1)  # most of the time that one mask takes
    band_masks: int = setting(0, at_least=0)
    band_share: float = setting(0.2, above=0, at_most=1)  # most of the bands that one mask takes

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "sound."


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings(Settings):
    """The head that is thrown away after the training: SimCLRv2's, layer for layer."""

    layers: int = setting(0, at_least=0, at_most=4)  # 0: objectives see the encoder's rows
    hidden: int = setting(0, at_least=0)  # 0: as wide as the rows
    dim_out: int = setting(128, at_least=1)

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "head."


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSettings(Settings):
    """Masked autoencoding (`learn/finetuning/masked.py`); the decoder's sizes are the published."""

    share: float = setting(0.75, above=0, below=1)  # of the patches, hidden
    width: int = setting(512, at_least=8)  # of the decoder, as the next two
    depth: int = setting(8, at_least=1)
    heads: int = setting(16, at_least=1)
    normalise: bool = True  # each patch to paint has mean 0 and deviation 1

    def check(self) -> None:
        """Refuse a width that its heads do not share."""
        if self.width % self.heads or self.width % 4:
            raise ConfigError(
                f"masked.width={self.width} is no multiple of 4 and of masked.heads={self.heads}"
            )

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "masked."


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimiserSettings(Settings):
    """How long and how fast, which parts learn, and how much goes through a network at once."""

    method: str = setting("adamw", among=("adamw", "sgd", "lars"))
    epochs: int = setting(20, at_least=1)
    batch_size: int = setting(32, at_least=2)  # clips
    ways: int = setting(0, at_least=0)  # classes of a batch; 0: any clips meet
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(1e-4, at_least=0)  # not of biases and norms
    momentum: float = setting(0.9, at_least=0, below=1)  # of sgd and lars
    schedule: str = setting("cosine", among=("constant", "cosine"))
    warmup_epochs: float = setting(0.0, at_least=0)
    # a layer learns this many times as fast as the one behind it; heads at the full rate
    layer_decay: float = setting(1.0, above=0, at_most=1)
    frozen: float = setting(0.0, at_least=0, below=1)  # share of layers, from the input on
    # of batch norms; frozen: as the weights brought them
    statistics: str = setting("live", among=("live", "frozen"))
    # clips that go through an encoder together; 0: the batch. Less costs a second pass
    at_once: int = setting(0, at_least=0)
    recompute: bool = False  # layers are run again on the way back, rather than kept in memory
    precision: str = setting("auto", among=("auto", "fp32", "bf16"))  # auto: bf16 on a GPU
    seed: int = setting(0, at_least=0)

    def check(self) -> None:
        """Refuse batches that are too small for their classes."""
        if 2 * self.ways > self.batch_size:
            raise ConfigError(
                f"optimiser.ways={self.ways} leaves less than two clips of a class in batches of "
                f"{self.batch_size}; lower it or raise optimiser.batch_size"
            )

    @classmethod
    def prefix(cls) -> str:
        """The section, as `--set` and errors name its settings."""
        return "optimiser."


SECTIONS: dict[str, Any] = {
    "data": DataSettings, "frames": FrameSettings, "sound": SoundSettings, "head": HeadSettings,
    "optimiser": OptimiserSettings,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """An objective, and how much it counts."""

    spec: plugins.Spec
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete training of encoders: every setting has its value."""

    data: DataSettings
    frames: FrameSettings
    sound: SoundSettings
    head: HeadSettings
    optimiser: OptimiserSettings
    objectives: tuple[Weighted, ...]
    masked: MaskedSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """All settings, by section."""
        sections = {name: asdict(getattr(self, name)) for name in SECTIONS}
        objectives = {
            of.spec.name: {"weight": of.weight, **of.spec.settings} for of in self.objectives
        }
        masked = {"masked": asdict(self.masked)} if self.masked else {}
        return {**sections, "objectives": objectives, **masked}


def check_encoders(recipe: str | Path, loaded: Recipe, modalities: Sequence[str]) -> None:
    """Refuse encoders that a recipe does not train.

    Raises:
        ConfigError: none, or not those that `data.encoders` names.
    """
    if not modalities:
        raise ConfigError("no encoder to train; name one with `visual` or `audio`")
    wanted, given = loaded.data.encoders, set(modalities)
    needed = {"visual", "audio"} if wanted == "both" else {wanted}
    if wanted != "any" and given != needed:
        what = " and ".join(f"`{m}`" for m in sorted(needed, reverse=True))
        raise ConfigError(
            f"recipe {Path(recipe).stem} trains the encoder of {what}, not of "
            f"{' and '.join(f'`{m}`' for m in sorted(given, reverse=True))}; name what it trains, "
            "or take another recipe (learn recipes)"
        )


def recipes() -> list[dict[str, str]]:
    """Name, path and header of every recipe for encoders."""
    return of_rows.recipes(FOLDER)


def load(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or in that file, with `section.key=value` changes.

    Raises:
        MissingFile: neither a recipe's name nor a file.
        ConfigError: not TOML, or a value of the wrong type or out of bounds.
        UnknownSetting, UnknownPlugin: says what exists and what was probably meant.
    """
    tables, source = of_rows.read_tables(recipe, changes, FOLDER)
    known = (*SECTIONS, "objectives", "masked")
    for section, table in tables.items():
        if section not in known:
            raise UnknownSetting(
                f"{source} has no section {section!r}; there are {choices(section, known)}"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {section} is not a [section]")
    objectives = tables.get("objectives", {})
    if bool(objectives) == ("masked" in tables):
        raise ConfigError(
            f"{source}: it needs [objectives.NAME] sections, such as cross_entropy, or [masked]"
        )
    if not all(isinstance(table, dict) for table in objectives.values()):
        raise ConfigError(f"{source}: objectives are sections, such as [objectives.cross_entropy]")
    settled = {
        name: plugins.settle(kind, name, tables.get(name, {})) for name, kind in SECTIONS.items()
    }
    masked = plugins.settle(MaskedSettings, "masked", tables["masked"]) if not objectives else None
    return Recipe(
        **settled,
        objectives=tuple(_objective(name, table) for name, table in objectives.items()),
        masked=masked,
    )


def _objective(name: str, table: Mapping[str, Any]) -> Weighted:
    settings = {key: value for key, value in table.items() if key != "weight"}
    text = table.get("weight", 1.0)
    try:
        weight = float(text)
    except (TypeError, ValueError):
        raise ConfigError(f"objectives.{name}.weight={text!r} is not a number") from None
    if not 0 < weight < float("inf"):
        raise ConfigError(f"objectives.{name}.weight={text} is not above 0 and finite")
    return Weighted(spec=of_rows.plugin_of("objective", {"name": name, **settings}), weight=weight)
