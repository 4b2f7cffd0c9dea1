"""What MkDocs asks of us: pages that lie elsewhere or are made, and pointers that become links."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [path for path in (str(HERE), str(ROOT)) if path not in sys.path]

import command_pages  # noqa: E402
import pointers  # noqa: E402


def on_config(config: Any) -> Any:
    """Put the commands' pages into the navigation."""
    made = list(command_pages.pages())
    commands: list[Any] = ["commands/index.md"]
    for program in command_pages.PROGRAMS:
        of = [{title: path} for path, title, _ in made if title.split()[0] == program]
        commands.append({program: of})
    (entry,) = [entry for entry in config.nav if isinstance(entry, dict) and "Commands" in entry]
    entry["Commands"] = commands
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what lies elsewhere, and what is made."""
    for source, target in pointers.ELSEWHERE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for path, _, text in command_pages.pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links of what points at other pages."""
    return pointers.linked(markdown, page.file.src_uri)
