"""Class names as vectors: a third modality, keyed by name and never by position.

Read from a table `name,vector` (CSV), a pickled dictionary (.npy, as the AVCA family has them), or
a file of word vectors (.txt, .vec, as word2vec, GloVe and fastText write them); made by a sentence
encoder; kept as a CSV with a column per number.

A name is found as it is written, or else by its words: `ApplyEyeMakeup`, `apply_eye_makeup` and
`Apply Eye Makeup` are one name. So is a word of it: `Turkey` and `turkey` may be two.

Shapes: C = names asked for, n = names known, W = size of a vector.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from store import atomic, safe_pickle
from store.errors import InputError, MissingFile
from store.progress import in_steps

LISTED = 5  # missing names in one message
_SEAMS = re.compile(
    r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W\d_A-Z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"
)  # aB, ABc, a1, 1a


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassEmbeddings:
    """Names and their vectors.

    Raises:
        ValueError: a name twice, or not as many vectors.
    """

    names: tuple[str, ...]
    vectors: Float32[np.ndarray, "n W"]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.vectors) or len(set(self.names)) < len(self.names):
            raise ValueError("a vector for every name, and every name once")

    def of(
        self, names: Sequence[str], *, average_words: bool = False
    ) -> Float32[np.ndarray, "C W"]:
        """The vectors of these names, in that order.

        With `average_words` a name that is not there is the mean of its words, if they all are.

        Raises:
            InputError: lists the names that are not there, with what was probably meant.
        """
        exact = {name: i for i, name in enumerate(self.names)}
        by_words: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            by_words.setdefault(words(name), []).append(i)
        vectors, missing = [], []
        for name in names:
            found = _found(name, self.names, exact, by_words)
            parts = [
                _found(word, self.names, exact, by_words, first=True) for word in spelt_words(name)
            ]
            whole = [part for part in parts if part is not None]
            if found is not None:
                vectors.append(self.vectors[found])
            elif average_words and parts and len(whole) == len(parts):
                vectors.append(np.mean(self.vectors[whole], axis=0))
            else:
                missing.append(name)
        if missing:
            raise InputError(self._missing(missing, by_words))
        return np.stack(vectors).astype(np.float32)

    def has(self, name: str) -> bool:
        """True if `of` finds a vector for this name."""
        try:
            self.of([name])
        except InputError:
            return False
        return True

    @property
    def sha256(self) -> str:
        """Digest of names and vectors."""
        header = json.dumps([self.names, self.vectors.shape]).encode()
        return sha256(header + np.ascontiguousarray(self.vectors, "<f4").tobytes()).hexdigest()

    def _missing(self, missing: Sequence[str], known: Mapping[str, object]) -> str:
        listed = []
        for name in missing[:LISTED]:
            close = get_close_matches(words(name), known, n=1)
            listed.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        more = ", …" if len(missing) > LISTED else ""
        return f"{len(missing)} of the names have no vector: {', '.join(listed)}{more}"


def _found(
    name: str,
    known: Sequence[str],
    exact: Mapping[str, int],
    by_words: Mapping[str, Sequence[int]],
    *,
    first: bool = False,
) -> int | None:
    """Where a name is: as spelt, or the only (or `first`) one of its words, in whatever case."""
    if name in exact:
        return exact[name]
    matches = by_words.get(words(name), ())
    lower = {known[i].lower() for i in matches}
    if len(matches) > 1 and len(lower) == 1 and (low := lower.pop()) in exact:
        return exact[low]
    return matches[0] if len(matches) == 1 or (first and matches) else None


def spelt_words(name: str) -> list[str]:
    """The words of a name as they are spelt."""
    return re.findall(r"[^\W_]+", _SEAMS.sub(" ", name))


def words(name: str) -> str:
    """The words of a name in lower case, separated by spaces."""
    return " ".join(spelt_words(name)).lower()


def read(path: Path, *, trust_pickle: bool = False, wanted: Iterable[str] = ()) -> ClassEmbeddings:
    """The class embeddings in a file; of word vectors only those that the names `wanted` need.

    Raises:
        MissingFile: there is none.
        InputError: not such a file, a pickle that nobody vouched for, vectors of unequal size or
            with numbers that are none.
    """
    if not path.is_file():
        raise MissingFile(f"{path} does not exist; make one with: learn labels DIR -o {path}")
    if path.suffix == ".npy":
        vectors = safe_pickle.mapping(
            safe_pickle.read_npy(path, trust_pickle=trust_pickle), name=str(path)
        )
        pairs = [
            (str(name), safe_pickle.array(vector, name=str(path)).reshape(-1))
            for name, vector in vectors.items()
        ]
    elif path.suffix in (".txt", ".vec"):
        pairs = list(_word_vectors(path, wanted))
    else:
        pairs = list(_table(path))
    return _labels(path, pairs)


def write(path: Path, labels: ClassEmbeddings) -> None:
    """Write a CSV with a row per name, all or nothing."""
    with (
        atomic.staged(path, durable=True) as staged,
        staged.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["name", *range(labels.vectors.shape[1])])
        for name, vector in zip(labels.names, labels.vectors, strict=True):
            table.writerow(
                [name, *(str(x) for x in vector)]
            )  # the shortest text that is this float


def _labels(path: Path, pairs: Sequence[tuple[str, np.ndarray]]) -> ClassEmbeddings:
    if not pairs:
        raise InputError(f"{path} has no names with vectors")
    sizes = {vector.size for _, vector in pairs}
    if len(sizes) > 1 or 0 in sizes:
        raise InputError(f"{path}: vectors have {min(sizes)} to {max(sizes)} numbers")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path} has {twice!r} twice")
    try:
        vectors = np.stack([vector for _, vector in pairs]).astype(np.float32)
    except (ValueError, TypeError):
        raise InputError(f"{path}: vectors are not numbers") from None
    if not np.isfinite(vectors).all():
        raise InputError(f"{path} holds numbers that are none")
    return ClassEmbeddings(names=tuple(names), vectors=vectors)


def _table(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and vectors of a CSV: a header, then a row per name; all numbers may be in one cell."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = next((mark for mark in ",;\t|" if mark in header), ",")
            rows = csv.reader(file, delimiter=delimiter)
            for row in in_steps("lines of vectors", rows, None):
                if row:
                    cells = row[1].strip("[] ").split() if len(row) == 2 else row[1:]
                    if not cells:
                        raise InputError(f"{path} has no numbers for {row[0][:40]!r}")
                    yield row[0], _numbers(path, cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no table of names and vectors ({error})") from None


def _word_vectors(path: Path, wanted: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Words and vectors of the lines that wanted names need: such files have millions."""
    names = {words(name) for name in wanted}
    keys = names | {word for name in names for word in name.split()}
    keys |= {name.replace(" ", "_") for name in names}
    seen = set()
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in in_steps("lines of vectors", file, None):
            word, _, rest = line.rstrip().partition(" ")
            wanted_here = word.lower() in keys and word not in seen
            if wanted_here and " " in rest:  # not a header "400000 300"
                seen.add(word)
                yield word, _numbers(path, rest.split())


def _numbers(path: Path, cells: Sequence[str]) -> np.ndarray:
    try:
        return np.array([float(cell) for cell in cells], np.float32)
    except ValueError:
        raise InputError(f"{path}: {' '.join(cells)[:40]!r} are no numbers") from None
