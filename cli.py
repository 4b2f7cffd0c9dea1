"""The three console scripts, and `learn report`, which needs both halves of the project.

Commands stand in `extract/commands.py`, `store/commands.py` and `learn/commands/`; what all of them
share, exit codes above all, in `store/console.py`.
"""

from pathlib import Path
from typing import Annotated

import typer

from extract.commands import SandboxMode
from extract.commands import app as extract_app
from learn.commands import app as learn_app
from store import console
from store.commands import app as store_app
from store.console import Json

__all__ = ["extract_app", "extract_main", "learn_app", "learn_main", "store_app", "store_main"]


@learn_app.command("report")
def report_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Of learn episodes, evaluate or train -o.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="HTML", help="The page: a new file.")
    ],
    media: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="Where clips lie, for their pictures; may repeat."),
    ] = [],  # noqa: B006
    map_by: Annotated[
        str, typer.Option("--map", metavar="tsne|pca|none", help="How clips are laid out flat.")
    ] = "tsne",
    sandbox: SandboxMode = "auto",
    title: Annotated[str, typer.Option(show_default="named by the stores")] = "",
    remote_stores: Annotated[
        bool, typer.Option("--remote-stores", help="Read stores in buckets that runs name.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Show what runs found in one page that opens offline: figures, tables, confused clips."""
    from learn.commands.checks import check_page

    check_page(runs, output, media, map_by)

    import learn
    from extract.media.thumbnails import Segment, thumbnails
    from learn.commands.tables import report_lines

    with console.progress("pictures", quiet=as_json) as progress:
        result = learn.report(
            tuple(runs), output, title=title, map_by=map_by, media=tuple(media),
            remote_stores=remote_stores,
            thumbnails=lambda clips: thumbnails(
                [Segment(c.root, c.path, c.start_seconds, c.end_seconds) for c in clips], progress,
                sandbox=sandbox,
            ),
        ).to_dict()  # fmt: skip
    console.give(result, as_json, lambda: report_lines(result))
    return console.DONE


def extract_main() -> None:
    """The console script `extract`."""
    console.run(extract_app)


def store_main() -> None:
    """The console script `store`."""
    console.run(store_app)


def learn_main() -> None:
    """The console script `learn`."""
    console.run(learn_app)
