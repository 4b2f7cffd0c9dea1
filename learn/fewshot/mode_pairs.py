"""The modes in which the two sides of an episode are seen, by name.

A mode looks at modalities: `v` at sight, `a` at sound, `t` at the text of a clip, and `av`, `vt`,
`at`, `avt` at several. A modality is a sense, or several where it has several features: the first
is called by its modality, as `visual`, the others `visual 2`, `visual 3`.
"""

from collections.abc import Collection, Iterable, Sequence

from store.errors import ConfigError, choices

# The fewer modalities, the earlier; those of a store without text as they ever were.
MODES = {
    "v": ("visual",),
    "a": ("audio",),
    "av": ("visual", "audio"),
    "t": ("text",),
    "vt": ("visual", "text"),
    "at": ("audio", "text"),
    "avt": ("visual", "audio", "text"),
}
SINGLE = {mode: of[0] for mode, of in MODES.items() if len(of) == 1}
# The mode of a vector by its name: that of a modality, or of what a network makes of several.
MODE_OF = {**{modality: mode for mode, modality in SINGLE.items()}, "av": "av"}


def cells(
    support: Sequence[str], query: Sequence[str], modalities: Sequence[str]
) -> list[tuple[str, str]]:
    """(support mode, query mode) of every comparison asked for.

    Both given: every combination. One given: the same on the other side. None: every mode that the
    store's modalities allow, the same on both sides.

    Raises:
        ConfigError: an unknown mode.
    """
    for mode in (*support, *query):
        if mode not in MODES:
            raise ConfigError(f"no mode {mode!r}; there are {choices(mode, MODES)}")
    if support and query:
        return list(dict.fromkeys((s, q) for s in support for q in query))
    known = set(map(modality_of, modalities))
    possible = [mode for mode, of in MODES.items() if set(of) <= known]
    return [(mode, mode) for mode in dict.fromkeys(support or query or possible)]


def mode_of(senses: Collection[str]) -> str:
    """The mode that looks at exactly the modalities of these senses."""
    modalities = {modality_of(sense) for sense in senses}
    return next(mode for mode, of in MODES.items() if set(of) == modalities)


def modality_of(sense: str) -> str:
    """The modality of a sense: `visual` of `visual 2`."""
    return sense.partition(" ")[0]


def modes_of(names: Iterable[str]) -> list[str]:
    """The mode of each of these senses, or of what a network makes of several; each once."""
    return list(dict.fromkeys(MODE_OF[modality_of(name)] for name in names))


def named(modality: str, count: int) -> list[str]:
    """The names of a modality's senses."""
    return [modality, *(f"{modality} {n}" for n in range(2, count + 1))][:count]


def senses_in(mode: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known senses that a mode looks at, modality by modality."""
    names = list(known)
    return tuple(n for modality in MODES[mode] for n in names if modality_of(n) == modality)
