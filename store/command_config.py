"""`--config FILE` and `--save-config FILE`: the options of a command as TOML, a key for each.

    learn episodes my_store --shots 1 --shots 5 --save-config episodes.toml
    learn episodes --config episodes.toml --seed 1

Keys are options without their dashes, and names of arguments; what may repeat is a list. What the
command line says goes before what the file says, and that before the defaults. Paths are relative
to where the command runs, as on the command line. The file is written when the command is done, so
that what it refused is in none.
"""

import inspect
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, no_type_check

import typer
from typer.models import ArgumentInfo

from store import atomic
from store.errors import ConfigError, InputError, MissingFile, UnknownSetting, choices

MANY = 8  # options; a command with more has a file for them
PANEL = "Configuration"
Function = TypeVar("Function", bound=Callable[..., Any])
NOT_KEPT = ("config", "save_config", "help", "as_json", "json")  # ways of asking, not the question


def with_files(function: Function) -> Function:
    """A command's function with the two options, if it has many already; else as it is."""
    if sum(map(_is_option, inspect.signature(function).parameters.values())) <= MANY:
        return function

    @wraps(function)
    def command(*args: Any, config: Path | None, save_config: Any, **values: Any) -> Any:
        code = function(*args, **values)
        if save_config is not None and (code or 0) in (0, 1):  # done, perhaps with findings
            save_config()
        return code

    own = {"config": Config, "save_config": SaveConfig}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in own.items()
    ]
    signature = inspect.signature(function)
    known = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    # What typer reads: the options of the function and these.
    command.__signature__ = signature.replace(parameters=[*known, *more])  # type: ignore[attr-defined]
    command.__annotations__ = {**function.__annotations__, **own}
    return command  # type: ignore[return-value]


def _is_option(parameter: inspect.Parameter) -> bool:
    hints = getattr(parameter.annotation, "__metadata__", ())
    return not any(isinstance(hint, ArgumentInfo) for hint in hints)


# typer finds the context by this annotation, and hands over one of its own click's.
@no_type_check
def _load(context: typer.Context, value: Path | None) -> Path | None:
    """Let the file's values stand where the command line says nothing."""
    if value is not None:
        context.default_map = read(value, context.command.params)
    return value


@no_type_check
def _saving(context: typer.Context, value: Path | None) -> Callable[[], None] | None:
    """What writes the file once the command is done; a file that exists is refused before."""
    if value is None:
        return None
    if value.exists() or value.is_symlink():
        raise InputError(f"{value} exists; name a new file for `save_config`")
    if not value.absolute().parent.is_dir():
        raise MissingFile(f"no directory to write {value} in; make it first")
    return lambda: write(value, context.command_path, context.command.params, context.params)


Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Options from a TOML file; those given here go before.",
        is_eager=True,
        callback=_load,
        rich_help_panel=PANEL,
    ),
]
SaveConfig = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write all options to a new TOML file, once the command is done.",
        callback=_saving,
        rich_help_panel=PANEL,
    ),
]


def read(path: Path, parameters: list[Any]) -> dict[str, Any]:
    """What a file says, by parameter, as the command line would have it.

    Raises:
        MissingFile: there is none.
        ConfigError: it is not TOML, or a value is not of the kind that its option takes.
        UnknownSetting: the command has no such option.
    """
    if not path.is_file():
        raise MissingFile(f"no configuration {path}; check the path")
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise ConfigError(f"{path} is not TOML: {fault}") from None
    known = {key: p for p in parameters if p.name not in NOT_KEPT for key in _keys(p)}
    values: dict[str, Any] = {}
    for key, value in said.items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None:
            shown = {_key(p) for p in known.values()}
            raise UnknownSetting(f"{path}: no option {key!r}; there are {choices(key, shown)}")
        if parameter.name in values:
            raise ConfigError(f"{path}: {key} is there twice")
        values[parameter.name] = _as_written(path, key, value, parameter)
    return values


def write(path: Path, command: str, parameters: list[Any], values: Mapping[str, Any]) -> None:
    """Write the values of a command's options to a new file, which appears whole.

    Raises:
        InputError: a value that TOML cannot hold, or a file that came in between.
    """
    lines = [f"# {command}"]
    for parameter in parameters:
        value = values.get(parameter.name)
        if parameter.name in NOT_KEPT or value is None:
            continue
        lines.append(f"{_key(parameter)} = {_toml(value)}")
    try:
        text = "".join(f"{line}\n" for line in lines).encode()
    except UnicodeEncodeError:
        raise InputError(f"a path is no text, so that it cannot stand in {path}") from None
    atomic.write_bytes(path, text, replace=False)


def _keys(parameter: Any) -> Iterator[str]:
    """The names under which a parameter may stand in a file."""
    yield parameter.name.replace("_", "-")
    yield from (option[2:] for option in parameter.opts if option.startswith("--"))


def _key(parameter: Any) -> str:
    """The name under which a parameter is written."""
    return next((o[2:] for o in parameter.opts if o.startswith("--")), parameter.name)


def _as_written(path: Path, key: str, value: Any, parameter: Any) -> Any:
    """A value as text, or as a list of texts, which the command reads as its own words."""
    several = bool(getattr(parameter, "multiple", False)) or parameter.nargs != 1
    if several != isinstance(value, list):
        wanted = "a list" if several else "one value"
        raise ConfigError(f"{path}: {key} = {value!r}: {key} takes {wanted}")
    is_flag = bool(getattr(parameter, "is_flag", False))
    if is_flag != isinstance(value, bool) or isinstance(value, dict):
        wanted = "true or false" if is_flag else "text or a number"
        raise ConfigError(f"{path}: {key} = {value!r}: {key} takes {wanted}")
    if isinstance(value, list):
        if bad := [item for item in value if isinstance(item, bool | dict | list)]:
            raise ConfigError(f"{path}: {key} has {bad[0]!r}; its items are text or numbers")
        return [str(item) for item in value]
    return value if is_flag else str(value)


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    text = value.value if isinstance(value, Enum) else str(value)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
