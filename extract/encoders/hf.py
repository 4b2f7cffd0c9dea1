"""Any image or sound model of transformers by ORG/NAME, with its own processor; one row each.

A row is the model's own vector of a frame or window: the joint space of CLIP, SigLIP and CLAP, else
the pooled output, else the first token (`pool=mean`: the mean of all). Models and processors are
found as transformers finds them: a folder, its cache, or the network if that is allowed. Code that
comes with a model is never run.

Sound is resampled to what the processor wants; windows are as long as `window_seconds` says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._library import (
    LibraryEncoder,
    LibraryFrames,
    LibrarySound,
    Named,
    at_rest,
    check_model,
    notes_of,
    refused,
    seeded,
    slug_of,
    weights_of,
)
from extract.encoders._spectrogram import Windows
from store.errors import ConfigError
from store.optional import library
from store.settings import Settings, setting

NAME = "hf"
REVISION = 1  # raise when our numbers change
POOLS = ("model", "cls", "mean")
# Of a processor: what follows from its other settings, or decides no number.
NO_SETTINGS = ("transformers_version", "mel_filters", "mel_filters_slaney", "device")
DESCRIPTION = Description(
    modality="", dims={}, licence="each model's own (its card)", weights="library",
    precisions=("fp32",),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `hf`."""

    model: str = setting("", main=True)  # ORG/NAME, or a folder
    commit: str = ""  # branch, tag or commit of the repository
    sense: str = setting("", among=("", "visual", "audio"))  # of models that have both
    untrained: bool = False
    seed: int = 0  # of untrained weights
    pool: str = setting("model", among=POOLS)
    window_seconds: float = setting(10.0, above=0)
    hop_seconds: float = setting(10.0, above=0)


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> LibraryEncoder:
    """The model, with its weights or random ones that were asked for."""
    transformers = library("transformers", NAME)
    check_model(NAME, config.model)
    which = {"revision": config.commit} if config.commit else {}
    seed = config.seed if config.untrained else None
    try:
        settings = transformers.AutoConfig.from_pretrained(config.model, **which)
        sense = config.sense or _sense(settings)
        kind = "AutoImageProcessor" if sense == "visual" else "AutoFeatureExtractor"
        processor = getattr(transformers, kind).from_pretrained(config.model, **which)
        with seeded(config.seed):
            network = (
                transformers.AutoModel.from_config(settings)
                if config.untrained
                else transformers.AutoModel.from_pretrained(config.model, **which)
            )
    except ConfigError:
        raise
    except Exception as error:
        raise refused(NAME, config.model, error) from error
    where = at_rest(network, device, precision, NAME)
    rows = _rows(network, sense, config.pool)
    identity = {
        "network": NAME,
        "model": config.model.rstrip("/").rpartition("/")[2],
        "architecture": type(network).__name__,
        "revision": REVISION,
        "output": config.pool,
        "weights": weights_of(network, seed),
        "precision": precision,
        "preprocessing": _plain(processor.to_dict()),
    }
    licence = getattr(settings, "license", None) or DESCRIPTION.licence
    named = {
        "name": NAME, "slug": slug_of(NAME, config.model, seed),
        "notes": notes_of(
            licence, seed, model=config.model, commit=getattr(settings, "_commit_hash", None) or "",
            transformers=transformers.__version__,
        ),
    }  # fmt: skip
    if sense == "visual":
        return _of_frames(named, identity, processor, rows, where)
    windows = Windows(
        sample_rate=int(processor.sampling_rate),
        length=round(config.window_seconds * processor.sampling_rate),
        hop=round(config.hop_seconds * processor.sampling_rate),
    )
    timing = {"window_seconds": config.window_seconds, "hop_seconds": config.hop_seconds}
    return _of_sound(named, {**identity, **timing}, processor, rows, where, windows)


def _of_frames(
    named: dict[str, Any], identity: dict[str, Any], processor: Any,
    rows: Callable[[Tensor], Tensor], where: torch.device,
) -> LibraryFrames:  # fmt: skip
    def prepare(frames: UInt8[Tensor, "B H W 3"]) -> Tensor:
        pictures = list(frames.cpu().numpy())
        return processor(pictures, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ]

    # A probe says how large frames must be for nothing to be lost, and how many numbers a row has.
    with torch.inference_mode():
        x = prepare(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        dim = rows(x.to(where)).shape[1]
    size = dict(getattr(processor, "size", None) or {})
    side = int(size.get("shortest_edge") or max(size.get("height", 0), x.shape[-2]))
    return LibraryFrames(
        Named(**named, dim=dim, identity=identity), prepare, rows, where, short_side=side
    )


def _of_sound(
    named: dict[str, Any], identity: dict[str, Any], processor: Any,
    rows: Callable[[Tensor], Tensor], where: torch.device, windows: Windows,
) -> LibrarySound:  # fmt: skip
    inputs = next(
        name for name in ("input_features", "input_values")
        if name in (processor.model_input_names or ("input_features",))
    )  # fmt: skip

    def prepare(sounds: Float[Tensor, "R N"]) -> Tensor:
        heard = list(sounds.numpy())
        return processor(heard, sampling_rate=windows.sample_rate, return_tensors="pt")[inputs]

    with torch.inference_mode():
        dim = rows(prepare(torch.zeros(1, windows.length)).to(where)).shape[1]
    return LibrarySound(
        Named(**named, dim=dim, identity=identity), prepare, rows, where, windows=windows
    )


def _sense(settings: Any) -> str:
    """What a model looks at or listens to, by its settings.

    Raises:
        ConfigError: it has both, or neither.
    """
    has = {
        "visual": hasattr(settings, "vision_config") or hasattr(settings, "image_size"),
        "audio": hasattr(settings, "audio_config")
        or hasattr(settings, "num_mel_bins") or hasattr(settings, "conv_kernel"),
    }  # fmt: skip
    found = [sense for sense, there in has.items() if there]
    if len(found) != 1:
        raise ConfigError(
            f"{NAME}: this {settings.model_type} {'sees and hears' if found else 'does neither'}; "
            "say sense=visual or sense=audio"
        )
    return found[0]


def _rows(network: nn.Module, sense: str, pool: str) -> Callable[[Tensor], Float[Tensor, "B D"]]:
    """The function from a prepared batch to rows."""
    joint = getattr(network, {"visual": "get_image_features", "audio": "get_audio_features"}[sense],
                    None)  # fmt: skip

    def rows(x: Tensor) -> Float[Tensor, "B D"]:
        if joint is not None and pool == "model":
            found = joint(x)
            return found if isinstance(found, Tensor) else found.pooler_output
        tower = getattr(network, {"visual": "vision_model", "audio": "audio_model"}[sense], network)
        out = tower(x)
        pooled = getattr(out, "pooler_output", None)
        if pool == "model" and pooled is not None:
            return pooled.flatten(1)
        tokens = out.last_hidden_state
        if tokens.ndim == 4:  # a map of places, which has no first one
            return tokens.mean((2, 3))
        return tokens.mean(1) if pool == "mean" else tokens[:, 0]

    return rows


def _plain(value: Any) -> Any:
    """A processor's settings as JSON, without what does not decide numbers."""
    if isinstance(value, dict):
        kept = {str(k): _plain(v) for k, v in sorted(value.items()) if not k.startswith("_")}
        return {k: v for k, v in kept.items() if k not in NO_SETTINGS}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
