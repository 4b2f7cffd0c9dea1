"""Any image or sound model of transformers by ORG/NAME, with its own processor; one row each.

A row is the model's own vector of a frame or window: the joint space of CLIP, SigLIP and CLAP, else
the pooled output, else the first token (`pool=mean`: the mean of all). Models and processors are
found as transformers finds them: a folder, its cache, or the network if that is allowed. Code that
comes with a model is never run.

Perception encoders of video (PE-V, PE-AV) see a frame as a video of one frame.

Sound is resampled to what the processor wants; windows are as long as `window_seconds` says.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
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
        # What transformers has to say when it makes a model is talk, and no result.
        with redirect_stdout(sys.stderr):
            settings = transformers.AutoConfig.from_pretrained(config.model, **which)
            sense = config.sense or _sense(settings)
            processor = getattr(transformers, _processor(settings, sense)).from_pretrained(
                config.model, **which
            )
            network = _network(transformers, settings, config, which)
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


def _network(transformers: Any, settings: Any, config: Config, which: dict[str, str]) -> Any:
    """The model with its weights, or random ones that were asked for."""
    with seeded(config.seed):
        if config.untrained:
            return transformers.AutoModel.from_config(settings)
        return transformers.AutoModel.from_pretrained(config.model, **which)


def _of_frames(
    named: dict[str, Any], identity: dict[str, Any], processor: Any,
    rows: Callable[[Tensor], Tensor], where: torch.device,
) -> LibraryFrames:  # fmt: skip
    takes_videos = "pixel_values_videos" in processor.model_input_names

    def prepare(frames: UInt8[Tensor, "B H W 3"]) -> Tensor:
        pictures = list(frames.cpu().numpy())
        if takes_videos:
            videos = [picture[None] for picture in pictures]
            return processor(videos, return_tensors="pt", do_sample_frames=False)[
                "pixel_values_videos"
            ]
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
        "visual": hasattr(settings, "vision_config") or hasattr(settings, "image_size")
        or hasattr(settings, "video_config"),
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


def _processor(settings: Any, sense: str) -> str:
    """The class of transformers that finds what prepares a model's input."""
    if sense == "audio":
        return "AutoFeatureExtractor"
    return "AutoVideoProcessor" if hasattr(settings, "video_config") else "AutoImageProcessor"


def _of_perception(
    network: nn.Module, sense: str, pool: str
) -> Callable[[Tensor], Float[Tensor, "B D"]] | None:
    """The same of a perception encoder (PE-A, PE-V, PE-AV), which has a head for each sense.

    Its joint vector is written out here, as transformers 5.24 lacks the function for videos.
    """
    kind = {"visual": "video", "audio": "audio"}[sense]
    whole = getattr(network, f"{kind}_model", network)
    encoder, head = getattr(whole, f"{kind}_encoder", None), getattr(whole, f"{kind}_head", None)
    if encoder is None or head is None:
        return None

    def rows(x: Tensor) -> Float[Tensor, "B D"]:
        out = encoder(x)
        if pool == "mean":
            return out.last_hidden_state.mean(1)
        return head(out.pooler_output) if pool == "model" else out.pooler_output

    return rows


def _rows(network: nn.Module, sense: str, pool: str) -> Callable[[Tensor], Float[Tensor, "B D"]]:
    """The function from a prepared batch to rows."""
    if perception := _of_perception(network, sense, pool):
        return perception
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
