"""The choice of an encoder and its weights, as far as it can be judged without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from extract.weights import by_name
from store import plugins
from store.errors import ConfigError, MissingFile, WeightsError

TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def check_encoder(
    text: str, modality: str, precision: str = "auto", *, elsewhere: bool = False
) -> None:
    """Refuse an encoder that cannot be had, or not for this modality; `elsewhere`, files are not
    looked for.

    Raises:
        UnknownPlugin, UnknownSetting, ConfigError, WeightsError, MissingFile: says what to write.
    """
    spec = plugins.parse_spec(text, by_name.FAMILY)
    config = plugins.check(by_name.FAMILY, spec)
    description = plugins.glance(by_name.FAMILY, spec.name, "DESCRIPTION")
    check_modality(spec.name, description.modality, modality)
    check_precision(spec.name, precision, description.precisions)
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    if "weights" not in settings or "weights" in by_name.named(spec) or elsewhere:
        return
    weights, untrained = settings["weights"], settings["untrained"]
    if description.packaged and not untrained and weights in ("", by_name.PRETRAINED):
        description.packaged[settings.get("variant", "")].path()
        return
    check_weights(spec.name, weights, untrained)


def frames_per_second(visual: Sequence[str], known: Mapping[str, float] | None = None) -> float:
    """The frames a second that these encoders look at where nobody says how many; `known` are
    those of encoders that are loaded.

    Raises:
        UnknownPlugin: says what exists and what was probably meant.
        ConfigError: they differ.
    """
    rates = dict(known or {})
    for text in visual:
        name = plugins.parse_spec(text, by_name.FAMILY).name
        rates[name] = plugins.glance(by_name.FAMILY, name, "DESCRIPTION").frames_per_second
    if len(set(rates.values())) > 1:
        each = " and ".join(f"{name} {rate:g}" for name, rate in rates.items())
        raise ConfigError(
            f"encoders look at other numbers of frames a second ({each}): give --fps, --frames or "
            "--sample for all of them, or run one after the other into the same store"
        )
    return next(iter(rates.values()), 1.0)


def check_modality(name: str, modality: str, wanted: str) -> None:
    """Refuse an encoder of the other modality.

    Raises:
        ConfigError: says which option it belongs to.
    """
    if modality and modality != wanted:  # else the model says which it is of
        raise ConfigError(f"{name} is an encoder for --{modality}, not for --{wanted}")


def check_precision(name: str, precision: str, offered: Sequence[str]) -> None:
    """Refuse a precision in which the encoder's rows would point elsewhere.

    Raises:
        ConfigError: says which there are.
    """
    if precision == "bf16" and precision not in offered:
        raise ConfigError(
            f"{name} keeps its rows in {', '.join(offered)} only (in bf16 they would point "
            f"elsewhere by a cosine below .999); use precision=auto"
        )


def check_weights(encoder: str, weights: str, untrained: bool) -> None:
    """Refuse a choice that is none, or of a file that cannot be read.

    Raises:
        WeightsError: neither weights nor `untrained`, or a file of another kind.
        MissingFile: the file is not there.
        ConfigError: both.
    """
    if weights and untrained:
        raise ConfigError(
            f"{encoder}: weights={weights} and untrained exclude each other; drop one"
        )
    if not weights and not untrained:
        raise WeightsError(
            f"{encoder} needs weights=FILE (published ones: extract weights list), or "
            f"{encoder}:untrained for random ones (results are then stamped untrained)"
        )
    if weights:
        check_file(Path(weights))


def check_file(path: Path) -> None:
    """Refuse a file that is not there, or of a kind that is not read.

    Raises:
        MissingFile: no such file.
        WeightsError: another kind.
    """
    if not path.is_file():
        raise MissingFile(f"weights {path} are not there; check the path")
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise WeightsError(
            f"weights {path} end in {path.suffix!r}; "
            f"those read are .safetensors, {', '.join(TORCH_SUFFIXES)}"
        )
