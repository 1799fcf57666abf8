"""Few-shot classification with frozen features."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import WARNING
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from kdmm.compat.packages import require
from kdmm.errors import ConfigError, listed, nearest
from kdmm.registry import METRICS
from kdmm.utils.statistics import mean_and_half

WHERE = 'FewShotMetric'
CLASSIFIERS = ('cosine', 'euclidean', 'logistic')
#: Scores that differ by less than this share of the largest are a tie.
TIE = 1e-9


@METRICS.register_module()
class FewShotMetric(BaseMetric):
    """Accuracy of N-way K-shot episodes over the features of a data set, in percent.

    An episode draws N classes, and of each of them K labelled images, the support, and Q others,
    the queries. A classifier is made from the support, and the queries are classified. The network
    is not trained. Its features are put into the data samples by `kdmm.hooks.FeaturesHook`, which
    belongs into the config beside this metric.

    For each setting and classifier there are ``5way_1shot_cosine``, the mean over the episodes, and
    ``5way_1shot_cosine_ci95``, half the width of its 95 % interval (Student's t over the episodes;
    it says nothing of other images, classes or trainings).

    - ``cosine``: the class whose centroid (mean of the support) has the largest cosine.
    - ``euclidean``: the class whose centroid is nearest (the rule of arXiv 1703.05175, equation 2).
    - ``logistic``: multinomial logistic regression by scikit-learn, as in arXiv 2003.11539.

    Classes that tie share the hit: one of two is half a hit, so that a network that gives the same
    features for all images has 100 / N.

    Episodes depend on ``seed``, N and the labels of the images in the order of their ids, and
    neither on the order in which images are seen nor on the number of ranks. Settings of the same N
    have the same classes and queries in each episode, and the support of the smaller K is part of
    the larger's. The first of many episodes are those of few.

    Args:
        settings: Pairs (N, K).
        queries: Q, the queries of each class.
        episodes: Number of episodes a setting, from 2 on.
        classifiers: Some of the above.
        unit: Whether features are first divided by their length.
        C: Inverse strength of scikit-learn's penalty on the weights of ``logistic``.
        seed: Of the episodes, from 0 on.
        novel: Refuse classes that the network was trained on, by their names, see `FeaturesHook`.
        collect_device, prefix: As ``BaseMetric``.

    Raises:
        ConfigError: For a value out of range; for ``logistic`` without scikit-learn; for samples
            without features, label or id; for more ways, shots and queries than the data has.
    """

    default_prefix = 'few_shot'

    def __init__(
        self,
        settings: Sequence[tuple[int, int]] = ((5, 1), (5, 5)),
        queries: int = 15,
        episodes: int = 600,
        classifiers: Sequence[str] = ('cosine', 'euclidean'),
        unit: bool = True,
        C: float = 1.0,
        seed: int = 0,
        novel: bool = True,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.settings = _checked_settings(settings)
        for name, value, least in (('queries', queries, 1), ('episodes', episodes, 2)):
            _check_whole(name, value, least)
        _check_whole('seed', seed, 0)
        self.classifiers = [classifiers] if isinstance(classifiers, str) else list(classifiers)
        for name in self.classifiers:
            if name not in CLASSIFIERS:
                raise ConfigError(
                    nearest(str(name), CLASSIFIERS), key=f'{WHERE}.classifiers', got=name
                )
        if not self.classifiers:
            raise ConfigError(
                key=f'{WHERE}.classifiers', got=classifiers, expected=f'some of {CLASSIFIERS}'
            )
        if not (isinstance(C, int | float) and C > 0):
            raise ConfigError(key=f'{WHERE}.C', got=C, expected='a positive number')
        if 'logistic' in self.classifiers:
            try:
                require('sklearn', f'{WHERE}.classifiers')
            except ConfigError as error:
                raise error.advised("Install it, or leave 'logistic' out.") from error
        self.queries, self.episodes, self.seed = queries, episodes, seed
        self.unit, self.C, self.novel = unit, C, novel

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep id, label and features of each sample."""
        for sample in data_samples:
            if 'features' not in sample:
                raise ConfigError(
                    'the data samples have no features',
                    key=WHERE,
                    fix="Add default_hooks=dict(features=dict(type='kdmm.FeaturesHook')).",
                )
            label = np.asarray(sample.get('gt_label', ())).ravel()
            if len(label) != 1 or sample.get('sample_idx') is None:
                raise ConfigError(
                    f'a data sample has the labels {label.tolist()} and the sample_idx '
                    f'{sample.get("sample_idx")}',
                    key=WHERE,
                    expected='one label and a number',
                    fix='Its pipeline ends with PackInputs, whose meta_keys have sample_idx.',
                )
            # an array: a tensor that is a view would be sent to other ranks with its whole batch
            row = sample['features'].detach().float().cpu().numpy()
            self.results.append((sample_id(sample), int(label[0]), row))

    def compute_metrics(self, results: list[tuple[Any, int, np.ndarray]]) -> dict[str, float]:
        """Run the episodes."""
        results = sorted(results, key=lambda one: one[0])
        self.check([label for _, label, _ in results], [name for name, _, _ in results])
        features = np.stack([row for _, _, row in results]).astype(np.float64)  # (n, D)
        wrong = [results[i][0] for i in np.flatnonzero(~np.isfinite(features).all(1))]
        if wrong:
            raise ConfigError(f'the features of {listed(wrong, 3)} are not finite', key=WHERE)
        features = unit_rows(features) if self.unit else features
        groups = groups_of([label for _, label, _ in results])
        hits: dict[str, list[float]] = {}
        with _warnings_in_one():
            for way, shot in self.settings:
                right = np.repeat(np.arange(way), self.queries)
                for episode in range(self.episodes):
                    entropy = (self.seed, way, episode)
                    support, query = draw_episode(groups, way, shot, self.queries, entropy)
                    for name in self.classifiers:
                        # (N, K, D) and (N, Q, D) -> (N * Q, N)
                        scores = self._scores(name, features[support], features[query.ravel()])
                        found = hits.setdefault(f'{way}way_{shot}shot_{name}', [])
                        found.append(100 * accuracy(scores, right))
        metrics: dict[str, float] = {}
        for name, values in hits.items():
            mean, half = mean_and_half(values)
            metrics.update({name: mean, f'{name}_ci95': half or 0.0})
        return metrics

    def _scores(self, name: str, support: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Support (N, K, D), queries (M, D) -> scores (M, N)."""
        if name == 'logistic':
            return logistic_scores(support, query, self.C)
        return centroid_scores(support, query, name == 'cosine')

    def check(self, labels: Sequence[int], ids: Sequence[Any]) -> None:
        """Refuse data that the episodes cannot be drawn from.

        Args:
            labels: The class of each image.
            ids: What `sample_id` says of each.

        Raises:
            ConfigError: For too few classes, a class of too few images, or ids that are equal.
        """
        names, counts = np.unique(np.asarray(labels, np.int64), return_counts=True)
        for way, shot in self.settings:
            if way > len(names):
                raise ConfigError(
                    key=f'{WHERE}.settings',
                    got=(way, shot),
                    expected=f'at most {len(names)} ways, the classes that the data has',
                )
            if shot + self.queries > counts.min():
                raise ConfigError(
                    f'{shot} shots and {self.queries} queries of a class, and class '
                    f'{names[counts.argmin()]} has {counts.min()} images',
                    key=f'{WHERE}.settings',
                    got=(way, shot),
                    fix='Lower shots or queries.',
                )
        if len(set(ids)) < len(ids):
            twice = [name for name, often in Counter(ids).items() if often > 1]
            raise ConfigError(
                f'{len(twice)} ids (sample_idx, img_path) are those of several images: '
                f'{listed(twice, 3)}',
                key=WHERE,
                fix='Evaluate each image once, and data sets that are concatenated one by one.',
            )


@contextmanager
def _warnings_in_one() -> Iterator[None]:
    """Log the warnings of scikit-learn, which may come with every episode, as one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        yield
    if caught:
        text = ' '.join(str(caught[0].message).split())[:120]
        print_log(f'{WHERE}: {len(caught)} warnings, the first: {text}', 'current', WARNING)


def sample_id(info: Any) -> tuple[int, str]:
    """Return what tells an image from others: ``sample_idx``, and the path of its file if any."""
    return int(info['sample_idx']), str(info.get('img_path') or '')


def groups_of(labels: Sequence[int]) -> list[np.ndarray]:
    """Return the places of each class's images, classes in the order of their numbers."""
    array = np.asarray(labels)
    return [np.flatnonzero(array == label) for label in np.unique(array)]


def draw_episode(
    groups: Sequence[np.ndarray], way: int, shot: int, queries: int, entropy: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an episode.

    Args:
        groups: The images of each class.
        way: N, the number of classes.
        shot: K, the labelled images of each.
        queries: Q, other images of each.
        entropy: Numbers that decide the draw.

    Returns:
        Support (N, K) and queries (N, Q), places of images; row n is of the n-th class drawn.
    """
    # RandomState: NumPy keeps its stream the same for all versions
    random = np.random.RandomState(list(entropy))
    drawn = [random.permutation(groups[c]) for c in random.permutation(len(groups))[:way]]
    support = np.stack([members[queries : queries + shot] for members in drawn])
    return support, np.stack([members[:queries] for members in drawn])


def centroid_scores(support: np.ndarray, query: np.ndarray, cosine: bool) -> np.ndarray:
    """Score queries (M, D) by the centroids of the support (N, K, D).

    Returns:
        (M, N), the cosines, or the negative squared distances up to a constant of each query.
    """
    centroids = support.mean(axis=1)  # (N, K, D) -> (N, D)
    if cosine:
        return unit_rows(query) @ unit_rows(centroids).T
    # -|q - c|^2 + |q|^2
    return 2 * query @ centroids.T - np.square(centroids).sum(axis=1)


def logistic_scores(support: np.ndarray, query: np.ndarray, C: float) -> np.ndarray:
    """Score queries (M, D) by a logistic regression on the support (N, K, D).

    Returns:
        (M, N), probabilities.
    """
    from sklearn.linear_model import LogisticRegression

    way, shot, width = support.shape
    model = LogisticRegression(C=C, max_iter=1000)
    # (N, K, D) -> (N * K, D)
    model.fit(support.reshape(way * shot, width), np.repeat(np.arange(way), shot))
    return model.predict_proba(query)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of hits of scores (M, N) with labels (M,); classes that tie share a hit."""
    top = scores.max(axis=1, keepdims=True)
    tied = scores >= top - TIE * np.abs(top)
    return float((tied[np.arange(len(labels)), labels] / tied.sum(axis=1)).mean())


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Divide rows (n, D) by their length; rows of zeros stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _checked_settings(settings: Any) -> list[tuple[int, int]]:
    pairs = list(settings) if isinstance(settings, list | tuple) else []
    good = all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(number) is int for number in pair)
        and pair[0] >= 2
        and pair[1] >= 1
        for pair in pairs
    )
    if not pairs or not good or len({tuple(pair) for pair in pairs}) < len(pairs):
        raise ConfigError(
            key=f'{WHERE}.settings',
            got=settings,
            expected='different pairs (N, K) of at least 2 classes and 1 image',
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _check_whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or not least <= value < 2**32:
        raise ConfigError(
            key=f'{WHERE}.{name}', got=value, expected=f'a whole number from {least} on'
        )
