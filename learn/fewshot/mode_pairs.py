"""The modes in which the two sides of an episode are seen, by name."""

from collections.abc import Collection, Sequence

from store.errors import ConfigError, choices

MODES = {"v": ("visual",), "a": ("audio",), "av": ("visual", "audio")}


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
    possible = [mode for mode, of in MODES.items() if set(of) <= set(modalities)]
    return [(mode, mode) for mode in dict.fromkeys(support or query or possible)]


def mode_of(modalities: Collection[str]) -> str:
    """The mode that looks at exactly these modalities."""
    return next(mode for mode, of in MODES.items() if set(of) == set(modalities))
