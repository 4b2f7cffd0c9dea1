"""The one grammar in which people write a plug-in down: a SPEC.

    SPEC     NAME, or NAME:SETTING,SETTING,…
    NAME     a name of the listings (hyphens may stand for underscores), or, from outside, the
             place of a plug-in: module.path/attr
    SETTING  KEY=VALUE, or KEY alone, which turns a switch on. The first may be a VALUE alone: the
             plug-in's main argument (`fps:2` is `fps:rate=2`). A first word that is one of the
             plug-in's switches turns that on; in quotes it is the argument
    VALUE    text without a comma; or any text in "…" or '…', where a doubled quote is one quote

`docs/spec.md` is the same for users. Which words are switches and which setting is the main one is
known to a plug-in only, so `store.plugins.parse_spec` finishes what `parse` begins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.errors import ConfigError

_QUOTED = r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'"
_SETTING = re.compile(
    rf"\s*(?:(?P<key>[^=,\"'][^=,]*)=)?(?:(?P<quoted>{_QUOTED})\s*|(?P<plain>[^,]*))(?:,|$)"
)
_PART = re.compile(rf"((?:(?<=[:=,])\s*(?:{_QUOTED})|[^,])*)(?:,|$)")
_NEEDS_QUOTES = re.compile(r"[,\"']|^\s|\s$|^$")


@dataclass(frozen=True, slots=True)
class Spec:
    """One plug-in and its settings, as text from a command line or a recipe.

    >>> str(Spec("npz", {"label": "a, b", "untrained": True}))
    'npz:label="a, b",untrained'
    """

    name: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        """The SPEC that says this."""
        words = [key if value is True else f"{key}={_written(value)}" for key, value in
                 self.settings.items()]  # fmt: skip
        return f"{self.name}:{','.join(words)}" if words else self.name


@dataclass(frozen=True, slots=True)
class Word:
    """One SETTING as it stands: `key` is None where there is no `=`."""

    key: str | None
    value: str
    quoted: bool


def parse(text: str) -> tuple[str, list[Word]]:
    """The name that a SPEC begins with, and its settings in order.

    Raises:
        ConfigError: no name, an empty key, or a quote that is not closed or has text behind it.
    """
    name, _, rest = text.partition(":")
    if not name.strip():
        raise ConfigError(f"{text!r} names nothing; write NAME or NAME:key=value,…")
    words, at = [], 0
    while at < len(rest):
        found = _SETTING.match(rest, at)
        assert found, text  # anything matches, if only as plain text
        at = found.end()
        quoted, plain = found["quoted"], (found["plain"] or "").rstrip()
        if quoted is None and found["key"] is None and not plain:
            continue
        if plain[:1] in ('"', "'"):
            raise ConfigError(
                f"{text!r}: the quote at {plain!r} is not closed, or text follows it; write "
                f"{plain[0]}{plain[0]} for a quote within"
            )
        if plain.startswith("=") and found["key"] is None:
            raise ConfigError(f"{text!r}: empty key at {plain!r}")
        value = plain if quoted is None else quoted[1:-1].replace(quoted[0] * 2, quoted[0])
        words.append(Word(found["key"], value, quoted is not None))
    # Plug-ins of ours are files, whose names have no hyphens.
    return (name if "/" in name else name.replace("-", "_")), words


def split_specs(text: str) -> list[str]:
    """Several SPECs with commas between; a part that is KEY=VALUE belongs to the SPEC before.

    >>> split_specs('ridge:alpha=1,unit=true,nearest')
    ['ridge:alpha=1,unit=true', 'nearest']
    """
    found: list[str] = []
    at = 0
    while at <= len(text):
        part = _PART.match(text, at)
        assert part, text
        at = part.end() + (part.end() == len(text) and not part[0].endswith(","))
        name, has_value, _ = part[1].partition("=")
        if has_value and ":" not in name and found:
            found[-1] = f"{found[-1]},{part[1].strip()}"
        else:
            found.append(part[1].strip())
    return found


def _written(value: Any) -> str:
    """A value as a SPEC has it."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not _NEEDS_QUOTES.search(text):
        return text
    return '"{}"'.format(text.replace('"', '""'))
