"""Weights by name: `simclrv2`, or `simclrv2:variant=r50_1x_sk1,weights=supervised`, to a file.

An encoder that is named without weights, or with a word in place of a file, gets the catalogue's
set that fits its settings: from the cache, else from the network, held against its digest. What a
feature is called by is the digest of the file, so a name and a path of the same file are the same.

    DIRECTORY/<name>/<file>                 as published (`extract/weights/fetch.py`)
    DIRECTORY/<name>/<name>.safetensors     made of it once, where an encoder cannot read that
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from extract.weights.catalogue import CATALOGUE, Published
from store import plugins
from store.errors import ConfigError, WeightsError, choices

FAMILY = "extract.encoders"
PRETRAINED = "pretrained"
POLL_SECONDS = 1.0

Result = TypeVar("Result")
Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, a line for people


def _silent(done: int, total: int, message: str) -> None:
    """Nothing: nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How weights that are named may be had."""

    offline: bool = False
    accept_unverified: bool = False
    directory: Path | None = None  # None: `fetch.default_directory`
    progress: Progress = _silent


def resolved(spec: plugins.Spec, fetching: Fetching) -> plugins.Spec:
    """The SPEC with a file in place of every name of weights, which is fetched if need be.

    Raises:
        UnknownPlugin, UnknownSetting, ConfigError: as `plugins.check`; a name of no weights.
        WeightsError: they are not here, and cannot or may not be fetched.
    """
    names = named(spec)
    files = {setting: _file(spec, published, fetching) for setting, published in names.items()}
    settings = {**spec.settings, **{setting: str(path) for setting, path in files.items()}}
    if is_packaged(spec) and settings.get("weights") == PRETRAINED:
        del settings["weights"]  # those of the package are what it has without a word
    return plugins.Spec(spec.name, settings)


def named(spec: plugins.Spec) -> Mapping[str, Published]:
    """The sets of weights that a SPEC asks for by name, by the setting that takes the file.

    Raises:
        UnknownPlugin, UnknownSetting, ConfigError: as `plugins.check`; a name of no weights.
        WeightsError: weights that are published and cannot be read.
    """
    config = plugins.check(FAMILY, spec)
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    if "weights" not in settings or settings.get("untrained") or is_packaged(spec):
        return {}
    offered = [entry for entry in CATALOGUE.values() if _encoder(entry).name == spec.name]
    found = {}
    for setting in dict.fromkeys(("weights", *(entry.setting for entry in offered))):
        word = settings[setting] or (PRETRAINED if setting == "weights" else "")
        if not word or is_path(word):
            continue
        fitting = [e for e in offered if e.setting == setting and _fits(e, settings)]
        if not settings[setting] and not fitting:
            continue  # nothing was asked for, and nothing is published: the encoder says so
        found[setting] = _one(spec, setting, word, fitting)
    return found


def is_path(text: str) -> bool:
    """True for what names a file rather than weights."""
    return "/" in text or "\\" in text or bool(Path(text).suffix)


def is_packaged(spec: plugins.Spec) -> bool:
    """True for an encoder whose weights come with an install."""
    return bool(plugins.glance(FAMILY, spec.name, "DESCRIPTION").packaged)


def _encoder(published: Published) -> plugins.Spec:
    return plugins.parse_spec(published.encoder, FAMILY)


def _fits(published: Published, settings: Mapping[str, Any]) -> bool:
    """True if the encoder with these settings is the one that the weights are of."""
    wanted = _encoder(published).settings
    return all(settings.get(key) == value for key, value in wanted.items())


def _one(spec: plugins.Spec, setting: str, word: str, fitting: list[Published]) -> Published:
    """The set that the word names, among those that fit."""
    for published in fitting:
        if word not in (published.word, published.name):
            continue
        if published.use == "none":
            raise WeightsError(
                f"the published {published.files[0].name} is of a kind that is not read; "
                f"{_else(spec)}"
            )
        return published
    if word in CATALOGUE and _encoder(CATALOGUE[word]).name == spec.name:
        other = CATALOGUE[word]
        raise ConfigError(f"{setting}={word} is of another variant; write {other.spec}")
    known = [published.word for published in fitting if published.use != "none"]
    there = f"those by name are {choices(word, known)}" if known else "none are known by name"
    raise WeightsError(f"{spec.name} has no {setting} {word!r}: {there}; {_else(spec)}")


def _else(spec: plugins.Spec) -> str:
    """What else can be done than naming weights."""
    return (
        f"otherwise it needs weights=FILE of yours, or {spec.name}:untrained for random ones "
        "(results are then stamped untrained)"
    )


def _file(spec: plugins.Spec, published: Published, fetching: Fetching) -> Path:
    """The file of a set of weights, as its encoder reads it."""
    try:
        return _patiently(lambda: _here(published, fetching))
    except WeightsError as error:
        raise WeightsError(f"{error}; {_else(spec)}") from None


def _patiently(call: Callable[[], Result]) -> Result:
    """What the call gives once nobody else fetches the same file: workers start together."""
    from extract.weights.fetch import Busy  # speaks http, which few calls need

    while True:
        try:
            return call()
        except Busy:
            time.sleep(POLL_SECONDS)


def _here(published: Published, fetching: Fetching) -> Path:
    from extract.weights.fetch import default_directory, fetch

    folder = (fetching.directory or default_directory()) / published.name
    made = folder / f"{published.name}.safetensors"
    if published.use == "convert" and made.is_file():
        return _unchanged(made)
    fetched = fetch(
        published.name, fetching.directory, accept_unverified=fetching.accept_unverified,
        offline=fetching.offline, progress=fetching.progress,
    )  # fmt: skip
    if published.use == "convert":
        return _converted(published, fetched.files[0], made)
    return fetched.files[0]


def _converted(published: Published, checkpoint: Path, made: Path) -> Path:
    """The file that its encoder reads, made of a checkpoint by whoever comes first."""
    from extract.weights.convert import convert
    from extract.weights.download import disk, write_json
    from extract.weights.fetch import alone_with

    with alone_with(made):
        if not made.is_file():
            record = made.with_name(f"{made.name}.json")
            record.unlink(missing_ok=True)
            facts = convert(checkpoint, published.encoder, made)
            with disk(record):
                write_json(record, {"sha256": facts["sha256"], "made_of": checkpoint.name})
    return made


def _unchanged(made: Path) -> Path:
    """A file that was made here, if it is still what it was."""
    from extract.weights.download import disk, read_json

    with disk(made), made.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recorded = read_json(made.with_name(f"{made.name}.json")).get("sha256")
    if recorded not in (None, digest):
        raise WeightsError(
            f"{made} has sha256 {digest}, but {recorded} when it was made; delete it, and it is "
            "made again"
        )
    return made
