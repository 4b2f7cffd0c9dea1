"""The shape of the code: how large its pieces are, who imports whom, what is said about them.

    python benchmarks/shape.py                        # this checkout
    python benchmarks/shape.py --root DIR --json      # another one, for a script
    python benchmarks/shape.py --words                # how often the words to be replaced are used

Reads the sources and imports none of them, so any checkout can be measured, whatever its layout.
The code is `store/`, `extract/`, `learn/` and `cli.py`; tests and benchmarks are not part of it.

Rules:

    quantile     the value at position int(q * (n - 1)) of the sorted ones, the first being 0
    modules      the .py files directly in a folder, `__init__.py` included
    function     every `def`, methods and nested ones too, from the line of `def` to the last one,
                 so without decorators
    complexity   1, and 1 for each if, elif, for, while, except, case, conditional expression,
                 `for` and `if` of a comprehension, and operand of and/or after the first. Lambdas
                 belong to the function around them, nested functions count for themselves. `C901`
                 of ruff gives less: it sees statements only
    parameters   all of a function's, keyword-only, *args and **kwargs too, but not self or cls.
                 Left out are command modules (`cli.py`, `commands.py`, folders `commands`), where
                 parameters are command-line options, and the functions of KEPT where the package
                 `learn` exports them from. Fields of dataclasses are listed on their own
    circle       modules that reach one another through imports, those inside functions included,
                 those under `if TYPE_CHECKING` not. `from package import name` means the
                 submodule of that name, or the module from which the package imports that name
                 on first use (its `__getattr__`), or else the package. Importing a submodule
                 does not count as importing the packages around it. Plug-ins that are loaded by
                 a name made at run time are not seen
    docstrings   share of public functions, classes and methods that have one. Public is what has no
                 leading underscore, is in a module without one, and stands at module level or
                 in a public class. "with private modules" drops the condition on the module
    annotated    share of parameters with an annotation, self and cls aside
    words        whole identifiers, wherever the syntax has one (names, attributes, parameters,
                 keywords, definitions, imports), so never comments, docstrings or parts of
                 longer names. Phrases are counted in string literals, as they are for help texts
"""

import argparse
import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("store", "extract", "learn")
MAX_COMPLEXITY = 20
MAX_PARAMETERS = 8
# Public signatures that stay as they are, however long.
KEPT = (
    "run_episodes",
    "run_protocol",
    "train",
    "predict",
    "search",
    "report",
    "sweep",
    "compare",
    "make_labels",
)
# What this code says, and what the field says.
WORDS = {
    "Side sides": "evaluation set",
    "Hands rich poor may": "EpisodeSampler, eligible, lacking, has_role",
    "Goal Ledger Spent heard": "Output, RunProgress, Timings, on_commit",
    "Engine Place Job": "Trainer, TrainerState, TrainingSetup",
    "Scene Moment Survey": "ObjectiveContext, EpochStart, TrainingEmbeddings",
    "blocks Block": "modality_dims, EmbeddedBatch",
    "inflation guard": "leakage, group separation",
    "hubs reach": "global_tokens, one_sided_window",
    "Labels": "ClassEmbeddings",
    "as_json": "to_dict",
    "Space Standard": "Embedder, Standardiser",
    "places codes real there": "indices, class_ids, mask, present",
    "answers answered right": "targets, predictions, correct",
    "shares": "probabilities",
    "told found one some": "the thing itself",
    "beside other uneven": "extra_shots, ragged",
    "pieces": "segments of a clip, chunks of rows",
    "_Crew _Seat _Way Fitting": "pool, slot, cluster run, OOM halving",
    "stamps twins gallery": "caveats, references, vector index",
    "by": "head (and --head)",
}
PHRASES = {
    "numbers a row": "dimension",
    "groups may meet": "groups not separated",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
    ast.IfExp,
)


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str  # dotted, the package's own for an `__init__.py`
    path: Path  # below the root
    tree: ast.Module
    lines: int

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All of the tree, walked once: most figures need it."""
        return list(ast.walk(self.tree))

    @property
    def package(self) -> str:
        """What a relative import in this module starts from."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]

    @property
    def area(self) -> str:
        """The part of the code it is reported under: one of PACKAGES, or cli.py."""
        return self.path.parts[0]

    @property
    def is_private(self) -> bool:
        return any(part.startswith("_") for part in self.name.split("."))

    @property
    def has_commands(self) -> bool:
        return self.path.name in ("cli.py", "commands.py") or "commands" in self.path.parts[:-1]


@cache
def load(root: Path) -> tuple[Module, ...]:
    """The code below `root`, read and parsed."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    paths += [root / "cli.py"] if (root / "cli.py").is_file() else []
    return tuple(_read(root, path) for path in paths)


def _read(root: Path, path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    below = path.relative_to(root)
    name = ".".join(below.with_suffix("").parts).removesuffix(".__init__")
    return Module(name, below, ast.parse(text, str(path)), len(text.splitlines()))


# Sizes


def quantile(values: Iterable[int], q: float) -> int:
    """No interpolation: half a line is nobody's length."""
    ordered = sorted(values)
    return ordered[int(q * (len(ordered) - 1))] if ordered else 0


def spread(sizes: Mapping[str, int]) -> dict[str, Any]:
    """How many things there are, their p50, p90 and max, and which thing is the largest."""
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return {
        "count": len(sizes),
        "p50": quantile(sizes.values(), 0.5),
        "p90": quantile(sizes.values(), 0.9),
        "max": sizes.get(largest, 0),
        "largest": largest,
    }


def folders(modules: Sequence[Module]) -> dict[str, int]:
    """Modules per folder, fullest first. The root is none of them: it holds `cli.py` alone."""
    counts = Counter(str(m.path.parent) for m in modules if m.path.parent != Path())
    return dict(counts.most_common())


def functions(modules: Iterable[Module]) -> dict[str, tuple[Module, Function]]:
    """Every function by a label that finds it, `name path:line`."""
    return {
        f"{node.name} {module.path}:{node.lineno}": (module, node)
        for module in modules
        for node in module.nodes
        if isinstance(node, FUNCTION)
    }


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def complexity(node: ast.AST) -> int:
    """The number of ways through a function, by the rule at the top of this file."""
    return 1 + sum(map(_branches, _own(node)))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is inside `node` but not inside a function nested in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTION):
            yield child
            yield from _own(child)


def _branches(node: ast.AST) -> int:
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    return 1 + len(node.ifs) if isinstance(node, ast.comprehension) else 0


def parameters(node: Function) -> list[ast.arg]:
    """Those that a caller fills, so neither `self` nor `cls`."""
    args = node.args
    stars = [arg for arg in (args.vararg, args.kwarg) if arg]
    named = [*args.posonlyargs, *args.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    return [*named, *args.kwonlyargs, *stars]


def fields(node: ast.ClassDef) -> int:
    """The number of fields, if the class is a dataclass."""
    marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
    if "dataclass" not in map(_last_name, marks):
        return 0
    return sum(
        isinstance(line, ast.AnnAssign) and "ClassVar" not in ast.unparse(line.annotation)
        for line in node.body
    )


def above(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Those that are over the limit, largest first."""
    return dict(sorted(((k, n) for k, n in sizes.items() if n > limit), key=lambda kn: -kn[1]))


# Imports


class Imports:
    """Who imports whom, with names followed to the module that has them."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self.modules = {module.name: module for module in modules}
        self.lazy = {m.name: self._lazy(m) for m in self.modules.values() if _has_getattr(m)}

    def graph(self) -> dict[str, set[str]]:
        return {name: self._needs(module) - {name} for name, module in self.modules.items()}

    def home(self, package: str, name: str) -> str:
        """The module that a public name comes from, lazily or not."""
        module = self.modules.get(package)
        if module is None or module.name != module.package:
            return package
        exports = self._named(module.nodes, module) | self.lazy.get(package, {})
        home = exports.get(name, package)
        return home if home == package else self.home(home, name)

    def _lazy(self, module: Module) -> dict[str, str]:
        """Names that a package imports on first use: its table of them, and what checkers see."""
        hidden = set(module.nodes) - set(live(module.tree))
        names = self._named(hidden, module)
        for line in module.tree.body:
            names |= self._table(line, module)
        return names

    def _table(self, line: ast.stmt, module: Module) -> dict[str, str]:
        """A dictionary from names to modules, `{"Store": "root"}` or `{"Store": "store.root"}`."""
        value = getattr(line, "value", None)
        if not isinstance(value, ast.Dict):
            return {}
        return {
            key.value: full
            for key, home in zip(value.keys, value.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(home, ast.Constant)
            if isinstance(key.value, str) and isinstance(home.value, str)
            for full in (home.value, f"{module.name}.{home.value}")
            if full in self.modules
        }

    def _named(self, nodes: Iterable[ast.AST], module: Module) -> dict[str, str]:
        """Names taken with `from`, and the modules written there."""
        return {
            alias.asname or alias.name: _base(node, module)
            for node in nodes
            if isinstance(node, ast.ImportFrom) and _base(node, module) in self.modules
            for alias in node.names
        }

    def _needs(self, module: Module) -> set[str]:
        """The modules that one module imports, at its top or inside a function."""
        needs: set[str] = set()
        bound: dict[str, str] = {}
        nodes = list(live(module.tree))
        for node in nodes:
            for name, target in self._targets(node, module):
                needs.add(target)
                bound[name] = target
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                package = bound.get(node.value.id, "")
                needs |= {self.target(package, node.attr)} if package in self.lazy else set()
        return needs & set(self.modules)

    def _targets(self, node: ast.AST, module: Module) -> Iterator[tuple[str, str]]:
        """Pairs of a name that an import binds and the module behind it."""
        if isinstance(node, ast.ImportFrom):
            base = _base(node, module)
            yield from ((a.asname or a.name, self.target(base, a.name)) for a in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.Call) and _last_name(node.func) == "import_module":
            yield "", str(getattr(node.args[0], "value", "")) if node.args else ""

    def target(self, base: str, name: str) -> str:
        """The module that `from base import name` is about."""
        if f"{base}.{name}" in self.modules:
            return f"{base}.{name}"
        home = self.lazy.get(base, {}).get(name, base)
        return home if home == base else self.target(home, name)


def _last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`, and nothing for what is no name."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def _has_getattr(module: Module) -> bool:
    return any(isinstance(n, FUNCTION) and n.name == "__getattr__" for n in module.tree.body)


def _base(node: ast.ImportFrom, module: Module) -> str:
    """The module named after `from`, relative ones made absolute."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept)


def live(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that run for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _last_name(child.test) == "TYPE_CHECKING":
            for line in child.orelse:
                yield line
                yield from live(line)
        else:
            yield child
            yield from live(child)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which reaches all the others."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return sorted(map(list, groups))


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += graph[name]
    return seen


# Docstrings, annotations and words


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    have: int
    total: int

    @classmethod
    def of(cls, answers: Iterable[bool]) -> "Share":
        counts = Counter(answers)
        return cls(counts[True], counts.total())

    @property
    def percent(self) -> float:
        return round(100 * self.have / self.total, 1) if self.total else 100.0


def documented(modules: Iterable[Module], private: bool = False) -> Share:
    """Public definitions with a docstring; `private` lets in those of private modules."""
    chosen = (m for m in modules if private or not m.is_private)
    return Share.of(bool(ast.get_docstring(d)) for m in chosen for d in _public(m.tree))


def _public(body: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    for node in body.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def annotated(modules: Iterable[Module]) -> Share:
    return Share.of(
        arg.annotation is not None
        for _, node in functions(modules).values()
        for arg in parameters(node)
    )


def words(modules: Sequence[Module]) -> dict[str, int]:
    """How often each of WORDS is an identifier and each of PHRASES is in a string."""
    nodes = [node for module in modules for node in module.nodes]
    used = Counter(name for node in nodes for name in _identifiers(node))
    texts = list(_strings(nodes))
    counts = {word: used[word] for word in " ".join(WORDS).split()}
    return counts | {phrase: _mentions(phrase, texts) for phrase in PHRASES}


def _strings(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _identifiers(node: ast.AST) -> Iterator[str]:
    """The identifiers that stand in this very node. Dotted ones, as of imports, fall apart."""
    if isinstance(node, ast.Constant):
        return
    for field in ("id", "attr", "arg", "name", "asname", "module", "names", "rest", "kwd_attrs"):
        value = getattr(node, field, None)
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                yield from name.split(".")


def _mentions(phrase: str, texts: Iterable[str]) -> int:
    words_of = r"\s+".join(map(re.escape, phrase.split()))
    whole = re.compile(rf"(?<![\w-]){words_of}(?![\w-])")
    return sum(len(whole.findall(text)) for text in texts)


# The report


def shape(root: Path) -> dict[str, Any]:
    """All figures but those of `words`, ready for JSON."""
    modules = load(root)
    code = sum(module.lines for module in modules)
    tests = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((root / "tests").rglob("*.py"))
    )
    return {
        "modules_per_folder": folders(modules),
        "folders": spread(folders(modules)),
        "file_lines": spread({str(module.path): module.lines for module in modules}),
        **_of_functions(modules),
        "wide_dataclasses": above(_dataclasses(modules), MAX_PARAMETERS),
        "circles": circles(Imports(modules).graph()),
        "packages": _by_package(modules),
        "code_lines": code,
        "test_lines": tests,
        "test_lines_per_line": round(tests / code, 2) if code else 0.0,
        "cli_lines": sum(module.lines for module in modules if module.name == "cli"),
    }


def _of_functions(modules: Sequence[Module]) -> dict[str, Any]:
    known = functions(modules)
    imports = Imports(modules)
    kept = {(imports.home("learn", name), name) for name in KEPT}
    counted = {
        label: len(parameters(node))
        for label, (module, node) in known.items()
        if not module.has_commands and (module.name, node.name) not in kept
    }
    hard = {label: complexity(node) for label, (_, node) in known.items()}
    return {
        "function_lines": spread({label: length(node) for label, (_, node) in known.items()}),
        "complex_functions": above(hard, MAX_COMPLEXITY),
        "wide_functions": above(counted, MAX_PARAMETERS),
    }


def _dataclasses(modules: Iterable[Module]) -> dict[str, int]:
    return {
        f"{node.name} {module.path}:{node.lineno}": fields(node)
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.ClassDef)
    }


def _by_package(modules: Sequence[Module]) -> dict[str, dict[str, Any]]:
    """What is worth comparing between the packages."""
    parts: dict[str, list[Module]] = {}
    for module in modules:
        parts.setdefault(module.area, []).append(module)
    return {name: _package(part) for name, part in (parts | {"all": list(modules)}).items()}


def _package(modules: Sequence[Module]) -> dict[str, Any]:
    public = documented(modules)
    return {
        "modules": len(modules),
        "lines": sum(module.lines for module in modules),
        "public": public.total,
        "docstrings": public.percent,
        "docstrings_with_private_modules": documented(modules, private=True).percent,
        "annotated": annotated(modules).percent,
    }


def table(figures: Mapping[str, Any]) -> Iterator[str]:
    """The report as lines of text."""
    yield f"{'':16} {'count':>6} {'p50':>5} {'p90':>5} {'max':>5}  largest"
    for title in ("folders", "file_lines", "function_lines"):
        row = figures[title]
        numbers = f"{row['count']:6} {row['p50']:5} {row['p90']:5} {row['max']:5}"
        yield f"{title.replace('_', ' '):16} {numbers}  {row['largest']}"
    yield ""
    yield from _packages(figures["packages"])
    yield ""
    lines = f"{figures['test_lines']} / {figures['code_lines']}"
    yield f"lines of tests per line of code  {figures['test_lines_per_line']} ({lines})"
    yield f"lines of cli.py  {figures['cli_lines']}"
    full = (f"{folder} {count}" for folder, count in figures["modules_per_folder"].items())
    yield from _wrapped("modules per folder  ", full)
    yield f"import circles  {len(figures['circles'])}"
    yield from (f"  {', '.join(circle)}" for circle in figures["circles"])
    yield from _list(f"functions of complexity over {MAX_COMPLEXITY}", figures["complex_functions"])
    wide = f"functions with over {MAX_PARAMETERS} parameters"
    yield from _list(wide, figures["wide_functions"])
    fat = [f"{label.split()[0]} {size}" for label, size in figures["wide_dataclasses"].items()]
    yield from _wrapped(f"dataclasses with over {MAX_PARAMETERS} fields  {len(fat)}: ", fat)


def _packages(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"{'':32}" + "".join(f"{name:>9}" for name in parts)
    for key in parts["all"]:
        title = key.replace("_", " ")
        sign = " %" if isinstance(parts["all"][key], float) else ""
        yield f"{title + sign:32}" + "".join(f"{part[key]:9}" for part in parts.values())


def _wrapped(title: str, items: Iterable[str]) -> Iterator[str]:
    line = title
    for item in items:
        if len(line) + len(item) > 98:
            yield line.rstrip()
            line = "  "
        line += f"{item}, "
    yield line.rstrip(", ")


def _list(title: str, sizes: Mapping[str, int]) -> Iterator[str]:
    yield f"{title}  {len(sizes)}"
    for label, size in sizes.items():
        name, _, place = label.partition(" ")
        yield f"  {size:3}  {name:24} {place}"


def vocabulary(counts: Mapping[str, int]) -> Iterator[str]:
    """A line for each word, and the field's words for its group on the first."""
    yield f"words  {sum(counts.values())}"
    for group, instead in WORDS.items():
        for word in group.split():
            note = instead if word == group.split()[0] else ""
            yield f"  {counts[word]:5}  {word:16} {note}".rstrip()
    for phrase, instead in PHRASES.items():
        yield f"  {counts[phrase]:5}  {phrase:16} {instead}"


def measure(root: Path | None = None) -> Iterator[dict[str, Any]]:
    """The figures with a goal, as rows for `python -m benchmarks shape`."""
    figures = shape(root or ROOT)
    counts = {
        f"functions of complexity over {MAX_COMPLEXITY}": len(figures["complex_functions"]),
        f"functions with over {MAX_PARAMETERS} parameters": len(figures["wide_functions"]),
        "import circles": len(figures["circles"]),
    }
    rest = {"ratio": None, "against": None}
    for what, count in counts.items():
        yield {"what": what, "value": count, "unit": "", "goal": 0, **rest}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the shape of the code.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--words", action="store_true", help="count the words to be replaced too")
    options = parser.parse_args()
    if not load(options.root):
        parser.error(f"{options.root} holds none of {', '.join(PACKAGES)} and no cli.py")
    figures = shape(options.root)
    counts = words(load(options.root)) if options.words else None
    if options.json:
        print(json.dumps(figures | ({"words": counts} if counts else {}), indent=2))
    else:
        print("\n".join([*table(figures), *(vocabulary(counts) if counts else [])]))


if __name__ == "__main__":
    main()
