"""A head of `learn episodes` as a classifier of scikit-learn.

    model = learn.FewShotClassifier(head="ridge:alpha=0.5")
    model.fit(X, y).predict_proba(X_new)

A row of X is a clip's vector, such as the mean of its rows (`Feature.to_pandas(rows="mean")`). With
`senses`, X holds the vectors of several senses side by side and a fusion weighs them, as mode av
does; a sense that a clip lacks is NaN throughout, and such a clip is judged by the others.

Probabilities are scores under one temperature, which is fitted on the training clips, each judged
by a head that was fitted without it (`learn/inference/fitted_head.py`); `groups` keep clips of one
source together there. Numbers are in double precision, so that a clip's answer does not depend on
the clips that are asked about with it.

Shapes: S = training clips, Q = clips asked about, D = numbers of a clip, C = classes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from learn.fewshot import default_head
from learn.fewshot.fusions import DEFAULT, FAMILY, Fusion, equal
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.heads import ExtraShotsHead, Head
from learn.inference.fitted_head import HeadClassifier, Judge, Labelled
from store import plugins
from store.errors import ConfigError, InputError

HEADS = "learn.fewshot.heads"
MEMORY_BYTES = 1 << 30


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A few-shot head with `fit`, `predict` and `predict_proba`.

        head    SPEC of a head that judges clips one by one (`learn heads`)
        fusion  SPEC of what joins senses (`learn fusions`); of several senses only
        senses  how many columns of X each sense has, in order; None: X is one sense

    >>> import numpy as np
    >>> X, y = np.repeat(np.eye(3), 4, axis=0), np.repeat(["cat", "dog", "fox"], 4)
    >>> model = learn.FewShotClassifier("prototypes").fit(X, y)
    >>> model.predict(X[[0, 4, 8]]).tolist()
    ['cat', 'dog', 'fox']
    >>> model.predict_proba(X).shape
    (12, 3)
    """

    def __init__(
        self,
        head: Any = default_head.NAME,
        *,
        fusion: Any = DEFAULT,
        senses: Any = None,
        memory_bytes: Any = MEMORY_BYTES,
    ) -> None:
        """Keep the settings as they are; `fit` looks at them, as scikit-learn has it."""
        self.head = head
        self.fusion = fusion
        self.senses = senses
        self.memory_bytes = memory_bytes

    def __sklearn_tags__(self) -> Any:
        """Facts for scikit-learn: NaN stands for a sense that is missing."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.senses is not None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """What was learnt is functions; the training clips, from which they come anew, travel."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_models": {}} if "_models" in state else state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "FewShotClassifier":
        """Learn from clips [S, D] and their labels [S]; clips of one of `groups` [S] are never
        told from each other where probabilities are fitted.

        Raises:
            ValueError: what scikit-learn refuses; senses that do not add up to D.
            ConfigError: no such head or fusion, or one that does not judge single clips.
        """
        X, y = validate_data(self, X, y, ensure_all_finite=self._finite(), dtype=np.float64)
        check_classification_targets(y)
        self.classes_, class_ids = np.unique(y, return_inverse=True)
        vectors, present = self._senses(X)
        if not np.stack(list(present.values())).any(0).all():
            raise ValueError("a clip lacks every sense: drop it")
        sources = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if sources is not None and len(sources) != len(class_ids):
            raise ValueError(f"{len(sources)} groups for {len(class_ids)} clips")
        self._vectors, self._present = vectors, present
        self._class_ids, self._groups = class_ids, sources
        self._models: dict[tuple[str, ...], HeadClassifier] = {}
        self._model(tuple(vectors))  # refusals come now, not with the first question
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores [Q, C] of the classes; of two classes, the second's less the first's [Q]. Minus
        infinity is that of a class of which no training clip has a sense that the clip has."""
        scores = self._answer(X, probabilities=False)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [Q, C] of the classes, which sum to one."""
        return self._answer(X, probabilities=True)

    def predict(self, X: Any) -> np.ndarray:
        """The best class [Q] of each clip."""
        scores = self._answer(X, probabilities=False)
        return self.classes_[scores.argmax(1)]

    def _answer(self, X: Any, *, probabilities: bool) -> np.ndarray:
        """Scores or probabilities; clips that have the same senses are judged together."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite=self._finite(), dtype=np.float64)
        vectors, present = self._senses(X)
        there = np.stack(list(present.values()))
        if not there.any(0).all():
            raise ValueError("a clip lacks every sense: there is nothing to judge it by")
        # A class of which no clip has the senses that a clip has is not its class.
        answers = np.full((len(X), len(self.classes_)), 0.0 if probabilities else -np.inf)
        for pattern in np.unique(there.T, axis=0):
            asked = np.flatnonzero((pattern == there.T).all(1))
            names = tuple(name for name, has in zip(vectors, pattern, strict=True) if has)
            model = self._model(names)
            scores = model.fitted.scores(
                {name: torch.from_numpy(vectors[name][asked]) for name in names}
            )
            if probabilities:
                scores = (scores / model.calibration.temperature).softmax(-1)
            answers[np.ix_(asked, model.fitted.classes.numpy())] = scores.numpy()
        return answers

    def _finite(self) -> bool | str:
        return "allow-nan" if self.senses is not None else True

    def _senses(
        self, X: Float[np.ndarray, "V D"]
    ) -> tuple[dict[str, Float[np.ndarray, "V _"]], dict[str, Bool[np.ndarray, "V"]]]:
        """The vectors of each sense, and who has it."""
        sizes = (X.shape[1],) if self.senses is None else tuple(self.senses)
        if sum(sizes) != X.shape[1] or min(sizes, default=0) < 1:
            raise ValueError(f"senses={list(sizes)} do not add up to the {X.shape[1]} columns of X")
        ends = np.cumsum(sizes)
        vectors, present = {}, {}
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            part = X[:, end - size : end]
            lacks = np.isnan(part)
            if (lacks.any(1) != lacks.all(1)).any():
                raise ValueError(
                    f"sense {number} of a clip is NaN in part; NaN means it is missing"
                )
            vectors[f"sense{number}"] = np.ascontiguousarray(np.nan_to_num(part))
            present[f"sense{number}"] = ~lacks.all(1)
        return vectors, present

    def _model(self, names: tuple[str, ...]) -> HeadClassifier:
        """The classifier for clips that have these senses, of the training clips that do."""
        if names not in self._models:
            has = np.stack([self._present[name] for name in names]).any(0)
            shots = Labelled(
                vectors={name: torch.from_numpy(self._vectors[name]) for name in names},
                present={name: torch.from_numpy(self._present[name]) for name in names},
                class_ids=torch.from_numpy(self._class_ids.astype(np.int64)),
                groups=None if self._groups is None else torch.from_numpy(self._groups),
            ).keep(torch.from_numpy(np.flatnonzero(has)))
            self._models[names] = HeadClassifier(self._judge(len(names)), shots, self.memory_bytes)
        return self._models[names]

    def _judge(self, senses: int) -> Judge:
        spec = default_head.resolved(self.head)
        head: Head = plugins.build(HEADS, spec)
        if head.transductive or isinstance(head, ExtraShotsHead):
            raise ConfigError(
                f"{spec} needs more than labelled clips and one clip to judge; use a head such as "
                "default or prototypes"
            )
        if senses == 1:
            return Judge(head=head, fusion=None, prior=None)
        fusion: Fusion = plugins.build(FAMILY, self.fusion)
        if need := fusion.lacks(dict.fromkeys(f"sense{i}" for i in range(senses))):
            raise InputError(f"fusion {self.fusion} needs {need}; use weighted, early or late")
        prior = equal(senses) if isinstance(fusion, Weighted) else None
        return Judge(head=head, fusion=fusion, prior=prior)
