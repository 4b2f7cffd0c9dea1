"""3MASSIV: lists of posts with five label columns, and lists of concepts with their numbers.

3massiv_{train,val,test}.csv have PostIndex, Topic, Emotion, AudioFormat, VideoFormat and Language;
3massiv_concept_*.csv have post_id, concept and concept_id. Files are named by the post's number.

A post's concept stands in both, as Topic and as concept: they are compared, and where one is
missing the other is taken. With numbers there are families too, concepts that are told apart by
details: romance (0 to 2), comedy (3 to 6), pets and animals (7 and 8); any other concept is a
family of its own.

`test_languages=Tamil+Telugu` makes the splits cross-lingual: test keeps posts in these languages
only, train and val keep those in others (val in `val_languages`, where they are named), and all
others are in no split.

Source: Gupta et al., CVPR 2022, "3MASSIV: Multilingual, multimodal and multi-aspect dataset of
social media short videos".
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extract.datasets.layouts import Layout, Row
from extract.datasets.layouts._lists import named, split_in, table_of
from extract.datasets.media_files import MediaFiles
from store.errors import ConfigError, InputError, MissingFile, choices
from store.settings import Settings, setting

TOPIC, LANGUAGE = "Topic", "Language"
ASPECTS = {
    "Emotion": "emotion", "AudioFormat": "audio_format", "VideoFormat": "video_format",
    "Language": "language",
}  # fmt: skip
FAMILIES = {"romance": range(3), "comedy": range(3, 7), "pets and animals": range(7, 9)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the layout `3massiv`."""

    pattern: str = "*3massiv*.csv"  # names of lists, where SOURCE is a folder
    # Whose word counts where both lists name a concept and they differ: nobody's, or that one's.
    concept_of: str = setting("", among=("", "topics", "concepts"))
    test_languages: str = ""  # with + between; none: splits are those of the lists
    val_languages: str = ""

    def check(self) -> None:
        """Refuse languages that cannot be split by."""
        if self.val_languages and not self.test_languages:
            raise ConfigError("3massiv: val_languages without test_languages splits nothing")
        if both := set(_several(self.test_languages)) & set(_several(self.val_languages)):
            raise ConfigError(f"3massiv: {sorted(both)[0]} is a language of test and of val")


def build(config: Config) -> Layout:
    """The layout that these settings describe."""

    def rows(source: Path, media: MediaFiles) -> Iterator[Row]:
        lists = named(source, config.pattern, "3MASSIV comes as 3massiv_train.csv, …")
        concepts = _Concepts(config.concept_of)
        for path in lists:
            if "concept" in path.stem:
                concepts.add(path)
        tables = {
            path: list(table_of(path, ("PostIndex", TOPIC, *ASPECTS)))
            for path in lists
            if "concept" not in path.stem
        }
        if not tables:
            columns = ", ".join((TOPIC, *ASPECTS))
            raise MissingFile(f"{source} has no list with the columns {columns}")
        posts = {row["PostIndex"]: row[TOPIC] for table in tables.values() for row in table}
        told = concepts.united(posts, source)
        across = _CrossLingual(config, [row[LANGUAGE] for t in tables.values() for row in t])
        has_splits = across or any(split_in(path.stem) for path in tables)
        for path, table in tables.items():
            for row in table:
                post = row["PostIndex"]
                cells = {"clip_id": post, **told[post]}
                cells |= {ASPECTS[name]: row[name] for name in ASPECTS}
                if has_splits:
                    split = split_in(path.stem)
                    cells["split"] = across.split(split, row[LANGUAGE]) if across else split
                yield Row(names=(post,), columns=cells)

    return rows


@dataclass(slots=True)
class _Concepts:
    """The concept lists, and the concept of every post by all lists."""

    prefer: str
    of_post: dict[str, str] = field(default_factory=dict)
    number_of: dict[str, str] = field(default_factory=dict)  # by concept, without case and signs

    def add(self, path: Path) -> None:
        """Take a list in.

        Raises:
            InputError: a concept has two numbers, or a number two concepts.
        """
        for row in table_of(path, ("post_id", "concept")):
            self.of_post[row["post_id"]] = row["concept"]
            number, key = row.get("concept_id", ""), _plain(row["concept"])
            if not number or not key:
                continue
            if not number.isdecimal():
                raise InputError(f"{path}: concept_id {number!r} is no number")
            known = self.number_of.setdefault(key, str(int(number)))
            if known != str(int(number)):
                raise InputError(
                    f"{path}: the concept {row['concept']!r} has the numbers {known} and {number}"
                )

    def united(self, topics: Mapping[str, str], source: Path) -> dict[str, dict[str, str]]:
        """The columns concept and, with numbers, concept_id and family of every post.

        Raises:
            InputError: the lists differ, and nobody's word counts.
        """
        differ = [
            post
            for post, topic in topics.items()
            if topic and self.of_post.get(post) and _plain(topic) != _plain(self.of_post[post])
        ]
        if differ and not self.prefer:
            first = differ[0]
            raise InputError(
                f"{source}: the lists differ about the concept of {len(differ)} of {len(topics)} "
                f"posts (first {first}: Topic {topics[first]!r}, concept {self.of_post[first]!r}); "
                "say whose word counts with 3massiv:concept_of=concepts (or topics)"
            )
        found = {}
        spelling = {_plain(name): name for name in self.of_post.values() if name}
        for post, topic in topics.items():
            listed = self.of_post.get(post, "")
            concept = (topic or listed) if self.prefer == "topics" else (listed or topic)
            # One spelling of a name: a topic that fills a gap must not make a class of its own.
            concept = spelling.get(_plain(concept), concept)
            found[post] = {"concept": concept}
            if self.number_of:
                number = self.number_of.get(_plain(concept), "")
                found[post] |= {"concept_id": number, "family": _family(number, concept)}
        return found


class _CrossLingual:
    """Splits by language; false where none are asked for."""

    def __init__(self, config: Config, languages: Sequence[str]) -> None:
        self._test = set(_several(config.test_languages))
        self._val = set(_several(config.val_languages))
        for name in sorted(self._test | self._val):
            if name not in languages:
                raise InputError(
                    f"no post is in {name!r}; there are {choices(name, sorted(set(languages)))}"
                )

    def __bool__(self) -> bool:
        return bool(self._test)

    def split(self, listed: str, language: str) -> str:
        """The split of a post that a list has in `listed`, or in none."""
        if language in self._test:
            own = "test"
        elif self._val:
            own = "val" if language in self._val else "train"
        else:
            own = listed if listed != "test" else ""
        return own if listed in ("", own) else ""


def _family(number: str, concept: str) -> str:
    if not number:
        return concept
    return next((name for name, of in FAMILIES.items() if int(number) in of), concept)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _several(text: str) -> list[str]:
    return [name.strip() for name in text.split("+") if name.strip()]
