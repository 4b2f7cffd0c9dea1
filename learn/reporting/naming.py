"""Names of results, modes, questions and pages: what tells each from the others."""

from dataclasses import dataclass
from pathlib import Path

from learn.reporting.inputs import Question, ReportInputs, Row
from learn.reporting.plots import Reference

MODES = {
    "v": "v (sight)", "a": "a (sound)", "av": "av (both)", "t": "t (text)",
    "vt": "vt (sight and text)", "at": "at (sound and text)", "avt": "avt (all three)",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNames:
    """The names of a question's rows."""

    question: Question
    inputs: ReportInputs

    def full(self, row: Row) -> str:
        """The name of a row: what tells it from others of its mode."""
        return " · ".join(filter(None, (self.head(row), self.without_head(row))))

    def head(self, row: Row) -> str:
        """The head's name, and its settings where another of that name has others."""
        name = row.head.partition(":")[0]
        of_name = {peer.head for peer in self.question.rows if peer.head.partition(":")[0] == name}
        return name if len(of_name) == 1 else row.head

    def without_head(self, row: Row) -> str:
        """The projection, fusion, guard and directory of a row, where rows differ in them."""
        parts = []
        if len({peer.projection for peer in self.question.rows}) > 1:
            parts.append(self.inputs.projection_name(row.projection))
        if len({peer.fusion for peer in self.question.rows if peer.mode == row.mode}) > 1:
            parts.append(row.fusion)
        alike = {
            peer.guard
            for peer in self.question.rows
            if (peer.projection, peer.mode) == (row.projection, row.mode)
        }
        if row.guard and len(alike) > 1:
            parts.append("guarded" if row.guard == "on" else "bare")
        key = _key(row)
        if any(_key(peer) == key and peer.run != row.run for peer in self.question.rows):
            parts.append(self.inputs.run_name(row.run))
        return " · ".join(parts)


def _key(row: Row) -> tuple[str, str, str, str, str, str, int]:
    return row.head, row.projection, row.fusion, row.guard, row.support, row.query, row.shots


def mode_name(mode: str) -> str:
    """A mode, or a pair of modes, for people."""
    support, _, query = mode.partition("→")
    return f"support {support} → query {query}" if query else MODES[mode]


def chance_line(question: Question) -> Reference | None:
    """The accuracy of guessing, as a line of a drawing."""
    return None if question.chance is None else Reference(name="chance", value=question.chance)


def page_title(inputs: ReportInputs) -> str:
    """The title of a page that was given none."""
    stores = dict.fromkeys(_store_name(question) for question in inputs.questions)
    if stores:
        return f"Few-shot results on {', '.join(stores)}"
    return "Evaluation" if inputs.evaluations else "Training"


def question_title(question: Question, inputs: ReportInputs) -> str:
    """The store, and whatever else tells this question from the others."""
    name = _store_name(question)
    others = [
        peer.sampling
        for peer in inputs.questions
        if peer is not question and _store_name(peer) == name
    ]
    sampling = question.sampling
    texts = {
        "label": f"column {sampling['label']}",
        "split": f"split {sampling['split']}",
        "ways": f"{sampling['ways']}-way",
        "queries": f"{sampling['queries']} queries",
        "group": "groups apart" if sampling["group"] else "groups ignored",
        "groups": f"groups {sampling.get('groups', 'within')}",
        "clips": f"{sampling['clips']} clips",
    }
    differing = [
        text
        for key, text in texts.items()
        if any(peer.get(key) != sampling.get(key) for peer in others)
    ]
    return ", ".join([name, *differing])


def _store_name(question: Question) -> str:
    """The name of its store, with the folder's where that only says that it is one."""
    store = question.sampling.get("store")
    if not store:
        return question.results[0].path.name
    path = Path(store)
    return "/".join(path.parts[-2:]) if path.name == "store" else path.name
