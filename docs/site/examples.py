"""Examples of docstrings (`>>> …`) stand in blocks of code; Markdown would take them for quotes.

An extension of Griffe, which reads the docstrings for the site.
"""

from typing import Any

from griffe import Docstring, Extension, Object


def fenced(text: str) -> str:
    """The text with a fence around every run of example lines, up to the blank line after it."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if not inside and line.lstrip().startswith(">>>"):
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


class Examples(Extension):
    """Fences the examples of everything that is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by Griffe for every object, once its docstring is there."""
        if isinstance(obj.docstring, Docstring) and ">>>" in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
