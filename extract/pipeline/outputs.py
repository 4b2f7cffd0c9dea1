"""The outputs of a run: features with their encoders, and the units that are left to do."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from resource import RLIM_INFINITY
from typing import Any, TypeVar

from extract import load_encoder
from extract.encoders import DEFAULTS, AudioEncoder, Encoder, StackEncoder, VisualEncoder
from extract.media.answers import checked
from extract.media.clip import NVDEC, Clip, Request, failed
from extract.media.decode import Decoder, safely
from extract.media.parts import joined, rest_of
from extract.media.sampling import Sampling
from extract.media.torchcodec_reader import DEVICES, RESIDENT_BYTES, TORCH_BYTES
from extract.pipeline.batching import items_of, limits_of
from extract.pipeline.media_folders import media_folders
from extract.pipeline.options import Options
from extract.pipeline.planned import Planned
from extract.pipeline.unit_encoder import UnitEncoder, feature_spec, offered_by, provenance
from extract.processes.child import Outcome
from extract.processes.pool import Limits, Parts, process_map
from extract.processes.sandbox import Sandbox
from extract.weights.choice import check_modality, frames_per_second
from store import Feature, FeatureSpec, Manifest, Status, Store
from store.errors import InputError
from store.spec import settings_of

Named = TypeVar("Named", bound=str | Encoder)
PARTS = Parts(rest_of, joined)
UNITS_HELD = 16
DEATHS = (Status.CRASH, Status.OUT_OF_MEMORY)  # of a decode process


@dataclass(slots=True, kw_only=True, eq=False)
class Output:
    """A feature this run fills, and its encoder."""

    feature: Feature
    encoder: Encoder
    batch_size: int
    device: str
    new: int = 0  # clips committed by this run
    by_others: int = 0  # clips done by this run that another had committed first
    items: int = 0  # given to the network by finished units
    slots: int = 0  # and what it computed, padding included
    units: dict[int, UnitEncoder] = field(default_factory=dict)  # begun and not finished

    def encoder_of(self, number: int) -> UnitEncoder:
        """The encoder of a unit, which gathers its rows."""
        if number not in self.units:
            self.units[number] = UnitEncoder(self.encoder, batch_size=self.batch_size)
        return self.units[number]

    @property
    def fill(self) -> float:
        """Share of the network's work that was not padding."""
        return self.items / self.slots if self.slots else 1.0

    def notes(self) -> dict[str, Any]:
        """Provenance of a part made now."""
        size = limits_of(self.encoder).batch_size(items_of(self.encoder, self.batch_size))
        return provenance(device=self.device, batch_size=size) | offered_by(self.encoder)


Unit = list[tuple[int, list[Output]]]  # rows of the manifest, each with the features that want it


class Units(Sequence[Unit]):
    """Units with the outputs that want each row; a few are held at a time."""

    def __init__(self, planned: Planned, outputs: Sequence[Output]) -> None:
        self.planned = planned
        self._outputs = outputs
        self._held: dict[int, Unit] = {}

    def __len__(self) -> int:
        return len(self.planned)

    def __getitem__(self, number: int) -> Unit:  # type: ignore[override]
        if number not in self._held:
            if len(self._held) >= UNITS_HELD:
                del self._held[next(iter(self._held))]
            unit = self.planned[number]
            self._held[number] = [(row, [self._outputs[i] for i in mask]) for row, mask in unit]
        return self._held[number]

    def wanted(self) -> Iterator[tuple[int, list[Encoder]]]:
        """Every row with the encoders that want it, unit after unit."""
        encoders = [output.encoder for output in self._outputs]
        return ((row, [encoders[i] for i in mask]) for row, mask in self.planned.all_rows())

    def retry(self, number: int, output: Output) -> int:
        """Which retry of its clips a unit is for a feature; 0 if none was tried."""
        (index,) = (i for i, other in enumerate(self._outputs) if other is output)
        return int(self.planned.retries[number, index])


def named(
    visual: Sequence[Named], audio: Sequence[Named]
) -> tuple[Sequence[Named | str], Sequence[Named | str], list[str]]:
    """The encoders asked for, or those of an install, with a line that says so."""
    if visual or audio:
        return visual, audio, []
    line = (
        f"no encoder is named: frames by {DEFAULTS['visual']} (ImageNet), sound by "
        f"{DEFAULTS['audio']} (statistics, nothing learnt); with a GPU and a download more can be "
        "had: --visual simclrv2 --audio panns (extract weights list)"
    )
    return (DEFAULTS["visual"],), (DEFAULTS["audio"],), [line]


def usual_sampling(visual: Sequence[str | Encoder]) -> Sampling:
    """How clips are looked at for these encoders where nobody says it.

    Raises:
        ConfigError: they differ.
    """
    rates = {
        encoder.name: encoder.frames_per_second if isinstance(encoder, StackEncoder) else 1.0
        for encoder in visual
        if not isinstance(encoder, str)
    }
    return Sampling(fps=frames_per_second([v for v in visual if isinstance(v, str)], rates))


def encoders_of(
    visual: Sequence[str | Encoder], audio: Sequence[str | Encoder], options: Options
) -> list[Encoder]:
    """The visual and audio encoders, loaded.

    Raises:
        ConfigError: one that cannot be had, or of the other modality.
    """
    return [
        *(_loaded(spec, "visual", options) for spec in visual),
        *(_loaded(spec, "audio", options) for spec in audio),
    ]


def specs_of(encoders: Sequence[Encoder], policy: Sampling, decoder: str) -> list[FeatureSpec]:
    """The identities of the features that the encoders make.

    Raises:
        InputError: two of them are the same.
    """
    specs = [feature_spec(encoder, policy, decoder) for encoder in encoders]
    if len({spec.feature_id for spec in specs}) < len(specs):
        raise InputError("the same encoder with the same settings is asked for twice; name it once")
    return specs


def second_features(fs: Store | None, specs: Sequence[FeatureSpec]) -> list[str]:
    """A line for each feature that would stand beside another of the same encoder, because a
    setting is not what it was when that one was made."""
    if fs is None:
        return []
    known = [(name, fs[name]) for name in fs.features]
    notes = []
    for spec in specs:
        beside = [
            (name, feature.spec)
            for name, feature in known
            if (feature.spec.slug, feature.modality) == (spec.slug, spec.modality)
        ]
        if not beside or spec.feature_id in dict(known):
            continue
        name, other = beside[-1]
        then, now = settings_of(other.identity), settings_of(spec.identity)
        changed = [
            f"{key} was {then.get(key, 'not set')} and is {now.get(key, 'not set')}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]
        notes.append(
            f"{spec.feature_id} is a second {spec.modality} feature beside {name} "
            f"({'; '.join(changed[:4])}): commands that read one will ask which. To go on with the "
            f"old one give the old settings; to be rid of it: store remove DIR {name}"
        )
    return notes


def outputs_of(
    fs: Store,
    encoders: Sequence[Encoder],
    specs: Sequence[FeatureSpec],
    *,
    batch_size: int,
    device: str,
) -> list[Output]:
    """An output for each encoder; its feature is made if the store has none."""
    return [
        Output(feature=fs.add_feature(spec), encoder=encoder, batch_size=batch_size, device=device)
        for spec, encoder in zip(specs, encoders, strict=True)
    ]


def with_room(limits: Limits, decoder: str) -> Limits:
    """The limits of a decode process, and room for torch where this decoder needs it. CUDA reserves
    addresses for all memory there is, so a card's process has no limit of them.
    """
    if decoder not in DEVICES:
        return limits
    return replace(
        limits,
        memory_bytes=RLIM_INFINITY if decoder == NVDEC else limits.memory_bytes + TORCH_BYTES,
        recycle_bytes=limits.recycle_bytes + RESIDENT_BYTES * (2 if decoder == NVDEC else 1),
    )


def decoded(
    manifest: Manifest,
    wanted: Iterable[tuple[int, Sequence[Encoder]]],
    policy: Sampling,
    options: Options,
    *,
    ordered: bool,
) -> Generator[Outcome, None, None]:
    """Rows of the manifest, decoded for the encoders that want them by processes of their own."""
    folders = media_folders(manifest, follow_links=options.follow_links)
    limits = Limits(
        deadline_seconds=options.deadline_seconds,
        sandbox=Sandbox(mode=options.sandbox, readable=folders),
    )
    limits = with_room(limits, options.decoder)
    asked: dict[int, Request] = {}  # and not answered
    alike: dict[tuple[int, ...], Request] = {}  # by the encoders that want a clip

    def requests() -> Iterator[Request]:
        for index, (row, encoders) in enumerate(wanted):
            of = tuple(map(id, encoders))
            if of not in alike:
                alike[of] = _request(manifest, encoders, policy, options)
            asked[index] = _of_row(alike[of], manifest, row)
            yield asked[index]

    outcomes = process_map(
        Decoder(options.decoder),
        requests(),
        workers=options.workers,
        limits=limits,
        ordered=ordered,
        together=_file_of,
        again=safely,
        parts=PARTS,
    )
    with closing(outcomes):
        for outcome in outcomes:
            request = asked.pop(outcome.index)
            if outcome.status in DEATHS and request.pick and request.sample_rates:
                yield _one_by_one(request, outcome, limits)
            else:
                yield checked(outcome, request)


def _one_by_one(request: Request, outcome: Outcome, limits: Limits) -> Outcome:
    """The frames and the sound of a clip that killed its decode process, each decoded alone: the
    other one may be what does it.
    """
    alone = (
        replace(
            request, sample_rates=(), alone=True, decoder=request.by_pyav, because="frames alone"
        ),
        replace(request, pick=None, short_sides=(), alone=True),
    )
    clips = []
    parts = process_map(Decoder(), alone, workers=1, limits=limits, parts=PARTS)
    for part, asked in zip(parts, alone, strict=True):
        part = checked(part, asked)
        clips.append(part.value or failed(part.status, part.detail))
    frames, sound = clips
    sha256 = max(frames.sha256, sound.sha256)
    clip = Clip(visual=frames.visual, audio=sound.audio, sha256=sha256)
    return replace(outcome, value=clip, status=Status.OK, earlier=outcome.detail)


def _request(
    manifest: Manifest, encoders: Sequence[Encoder], policy: Sampling, options: Options
) -> Request:
    """The request that one decode of a clip answers for all encoders, but for which clip."""
    assert manifest.root is not None
    short_sides = {e.short_side for e in encoders if isinstance(e, VisualEncoder)}
    rates = {e.sample_rate for e in encoders if isinstance(e, AudioEncoder)}
    return Request(
        path=manifest.root,
        root=None if options.follow_links else manifest.root,
        limit_seconds=policy.max_seconds,
        pick=policy if short_sides else None,
        short_sides=tuple(sorted(short_sides)),
        sample_rates=tuple(sorted(rates)),
        decoder=options.decoder,
    )


def _of_row(request: Request, manifest: Manifest, row: int) -> Request:
    """The same request for one clip."""
    assert manifest.root is not None
    return replace(
        request,
        path=manifest.root / manifest.paths[row],
        start_seconds=float(manifest.start_seconds[row]),
        end_seconds=float(manifest.end_seconds[row]),
    )


def _file_of(request: Request) -> Path:
    """The file of a request: one child decodes all segments of a file from one open."""
    return request.path


def _loaded(encoder: str | Encoder, modality: str, options: Options) -> Encoder:
    """The encoder, loaded if it is a SPEC, which must be of this modality."""
    if isinstance(encoder, str):
        encoder = load_encoder(
            encoder, device=options.device, precision=options.precision, fetching=options.fetching
        )
    check_modality(encoder.name, encoder.modality, modality)
    return encoder
