"""Episodes are compared with loops that share no code with the metric."""

import math
import pickle
import statistics
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from kdmm.evaluation import FewShotMetric
from kdmm.evaluation.few_shot import accuracy, draw_episode, groups_of
from tests.errors import refused
from tests.ranks import on_ranks

CLASSES, EACH, WIDTH = 6, 12, 4
NAN = float('nan')
#: 97.5 % quantile of Student's t with 29 degrees of freedom, of printed tables.
QUANTILE_29 = 2.0452


def world(spread: float = 1.0, seed: int = 0, classes: int = CLASSES) -> list[dict]:
    """Samples of classes in a row; the larger ``spread``, the more they overlap."""
    random = np.random.RandomState(seed)
    centres = 3 * random.randn(classes, WIDTH)
    return [
        dict(
            sample_idx=10 * index + 7,
            gt_label=torch.tensor([index // EACH]),
            features=torch.tensor(centres[index // EACH] + spread * random.randn(WIDTH)).float(),
        )
        for index in range(classes * EACH)
    ]


def measure(samples, batches: int = 1, **options) -> dict[str, float]:
    """The metrics of samples that come in so many batches."""
    metric = FewShotMetric(**{**dict(queries=5, episodes=30), **options})
    for batch in np.array_split(np.arange(len(samples)), batches):
        metric.process({}, [samples[i] for i in batch])
    return metric.evaluate(len(samples))


def length(v) -> float:
    return math.sqrt(sum(x * x for x in v))


def mean_of(rows) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def naive_hits(support, queries, kind: str, unit: bool) -> list[bool]:
    """Query by query: support and queries by class, vectors as lists."""
    if unit:
        support = [[[x / length(v) for x in v] for v in rows] for rows in support]
        queries = [[[x / length(v) for x in v] for v in rows] for rows in queries]
    centroids = [mean_of(rows) for rows in support]

    def distance(q, c) -> float:
        if kind == 'euclidean':
            return math.dist(q, c)
        return -sum(x * y for x, y in zip(q, c, strict=True)) / length(q) / length(c)

    hits = []
    for right, rows in enumerate(queries):
        for q in rows:
            distances = [distance(q, c) for c in centroids]
            hits.append(distances.index(min(distances)) == right)
    return hits


def episodes(samples, way: int, shot: int, queries: int, count: int, seed: int = 0) -> Iterator:
    """The episodes' vectors: support and queries by class, as lists."""
    samples = sorted(samples, key=lambda sample: sample['sample_idx'])
    groups = groups_of([int(sample['gt_label']) for sample in samples])
    for episode in range(count):
        found = draw_episode(groups, way, shot, queries, (seed, way, episode))
        yield [
            [[samples[i]['features'].double().tolist() for i in row] for row in part]
            for part in found
        ]


@pytest.mark.parametrize('unit', [True, False])
@pytest.mark.parametrize('kind', ['cosine', 'euclidean'])
@pytest.mark.parametrize('setting', [(3, 1), (4, 5)])
def test_naive_loop(setting, kind, unit):
    samples = world(3.0)
    found = measure(samples, settings=[setting], classifiers=kind, unit=unit)
    values = []
    for support, queries in episodes(samples, setting[0], setting[1], 5, 30):
        hits = naive_hits(support, queries, kind, unit)
        values.append(100 * sum(hits) / len(hits))
    name = f'few_shot/{setting[0]}way_{setting[1]}shot_{kind}'
    half = QUANTILE_29 * statistics.stdev(values) / math.sqrt(30)
    assert found == {
        name: pytest.approx(statistics.mean(values), abs=1e-9),
        f'{name}_ci95': pytest.approx(half, rel=1e-4),
    }
    assert 30 < found[name] < 99 and half > 0


def test_classifiers_and_lengths_differ():
    """So that the comparisons above cannot pass with one in the place of another."""
    # classes of one direction and other lengths, too
    samples = [
        dict(sample, features=sample['features'] * (1 + int(sample['gt_label'])))
        for sample in world(3.0)
    ]
    values = {
        (kind, unit): value
        for unit in (True, False)
        for kind in ('cosine', 'euclidean')
        for value in list(
            measure(samples, settings=[(4, 5)], classifiers=kind, unit=unit).values()
        )[:1]
    }
    assert len(set(values.values())) == 4


def test_logistic_regression_is_scikit_learns():
    """With the penalty ``C``, by its own decisions."""
    linear = pytest.importorskip('sklearn.linear_model')
    samples, found = world(3.0), {}
    for C in (0.1, 10.0):
        options = dict(settings=[(4, 3)], episodes=8, classifiers='logistic', C=C, unit=False)
        found[C] = measure(samples, **options)['few_shot/4way_3shot_logistic']
        values = []
        for support, queries in episodes(samples, 4, 3, 5, 8):
            model = linear.LogisticRegression(C=C, max_iter=1000)
            model.fit(sum(support, []), [n for n in range(4) for _ in range(3)])
            right = [n for n in range(4) for _ in range(5)]
            values.append(100 * model.score(sum(queries, []), right))
        assert found[C] == pytest.approx(statistics.mean(values))
    assert found[0.1] != found[10.0]


def test_two_ways_of_logistic_regression():
    pytest.importorskip('sklearn')
    found = measure(world(0.1), settings=[(2, 2)], episodes=4, classifiers='logistic')
    assert found['few_shot/2way_2shot_logistic'] == 100


def test_missing_scikit_learn_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    words = ('sklearn', 'scikit-learn')
    with refused(key='FewShotMetric.classifiers', problem=words[:1], fix="leave 'logistic' out"):
        FewShotMetric(classifiers=['cosine', 'logistic'])
    FewShotMetric(classifiers=['cosine', 'euclidean'])


# episodes


def test_an_episode_has_different_images_of_different_classes():
    labels = [c for c in range(5) for _ in range(9)]
    seen: set = set()
    for episode in range(40):
        support, query = draw_episode(groups_of(labels), 3, 2, 4, (0, 3, episode))
        assert support.shape == (3, 2) and query.shape == (3, 4)
        both = np.concatenate([support, query], axis=1)
        assert len({*both.ravel()}) == both.size
        classes = both // 9
        assert (classes == classes[:, :1]).all() and len({*classes[:, 0]}) == 3
        seen |= {*both.ravel().tolist()}
    assert seen == set(range(45))


def test_shots_share_classes_and_queries():
    groups = groups_of([c for c in range(5) for _ in range(9)])
    (one, query), (five, same) = (draw_episode(groups, 3, k, 4, (0, 3, 1)) for k in (1, 5))
    assert (query == same).all() and (five[:, :1] == one).all()


@pytest.mark.parametrize('changed', [(1, 3, 0), (0, 4, 0), (0, 3, 1)])
def test_seed_ways_and_number_decide_the_draw(changed):
    groups = groups_of([c for c in range(5) for _ in range(9)])
    support, _ = draw_episode(groups, 3, 2, 4, (0, 3, 0))
    assert (support == draw_episode(groups, 3, 2, 4, (0, 3, 0))[0]).all()
    assert (support != draw_episode(groups, 3, 2, 4, changed)[0]).any()


def test_this_is_what_seed_0_draws():
    """So that a figure can be had again, whatever the versions."""
    support, query = draw_episode(groups_of([0] * 5 + [1] * 5 + [2] * 5), 2, 1, 2, (0, 2, 0))
    assert (support.tolist(), query.tolist()) == DRAWN


DRAWN = ([[5], [2]], [[9, 7], [1, 0]])


def test_neither_the_process_random_state_is_read_nor_moved():
    samples = world()
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    first = measure(samples)
    assert np.random.rand() == expected and measure(samples) == first


def test_settings_do_not_move_each_other():
    samples = world(3.0)
    both = measure(samples, settings=[(3, 1), (4, 5)])
    one, five = measure(samples, settings=[(3, 1)]), measure(samples, settings=[[4, 5]])
    assert both == {**one, **five} and len(both) == 8 and one != five
    assert measure(samples, settings=[(3, 1)], seed=1) != measure(samples, settings=[(3, 1)])


# images


def test_the_order_of_the_images_does_not_matter():
    samples = world(3.0)
    expected = measure(samples)
    for seed in range(2):
        order = np.random.RandomState(seed).permutation(len(samples))
        assert measure([samples[i] for i in order], batches=7) == expected


def test_labels_and_numbers_are_only_compared():
    """Other numbers of the same order are the same data."""
    samples = world(3.0)
    other = [
        dict(sample, gt_label=3 * sample['gt_label'] + 2, sample_idx=sample['sample_idx'] ** 2)
        for sample in samples
    ]
    assert measure(other) == measure(samples)


def test_a_second_evaluation_starts_anew():
    metric = FewShotMetric(queries=5, episodes=5)
    for spread in (3.0, 0.01):
        metric.process({}, world(spread))
        found = metric.evaluate(CLASSES * EACH)
    assert found == measure(world(0.01), episodes=5)


def test_a_row_is_sent_without_its_batch():
    metric, batch = FewShotMetric(), torch.zeros(500, 64)
    metric.process({}, [dict(sample_idx=0, gt_label=torch.tensor([0]), features=batch[0])])
    assert len(pickle.dumps(metric.results)) < 1000


def on_this_rank(padded: bool) -> dict[str, float]:
    """The metrics of every second image, dealt as MMEngine's sampler deals them."""
    import torch.distributed as dist

    samples = world(3.0)[: 6 * EACH - 1]  # an odd number
    rank, ranks = dist.get_rank(), dist.get_world_size()
    dealt = samples + (samples[:1] if padded else [])
    metric = FewShotMetric(queries=5, episodes=10)
    for start in range(rank, len(dealt), 8 * ranks):
        metric.process({}, dealt[start : start + 8 * ranks : ranks])
    return metric.evaluate(len(samples))


def both_ways() -> list[dict[str, float]]:
    return [on_this_rank(padded) for padded in (True, False)]


def test_the_number_of_ranks_does_not_matter():
    """Padded duplicates are dropped, and nothing is lost where nothing is padded."""
    expected = measure(world(3.0)[: 6 * EACH - 1], episodes=10)
    for rank in on_ranks(both_ways, 2):
        assert rank == [expected, expected]


# what features are worth


CLASSIFIERS = ['cosine', 'euclidean', 'logistic']


def test_separable_features_give_100():
    pytest.importorskip('sklearn')
    found = measure(world(0.01), episodes=5, classifiers=CLASSIFIERS)
    means = [value for name, value in found.items() if not name.endswith('ci95')]
    spreads = [value for name, value in found.items() if name.endswith('ci95')]
    assert means == [100.0] * 6 and spreads == [0.0] * 6


def test_shuffled_labels_give_chance_within_the_interval():
    """Of 20 intervals at 95 % at least 17 hold 25 %: 98 % of all times (binomial)."""
    random, covered = np.random.RandomState(0), 0
    samples = world(classes=100)  # so many that 50 episodes share few
    for _ in range(20):
        for sample, label in zip(samples, random.permutation(len(samples)) % 4, strict=True):
            sample['gt_label'] = torch.tensor([label])
        options = dict(settings=[(4, 5)], episodes=50, classifiers='euclidean')
        mean, half = measure(samples, **options).values()
        covered += abs(mean - 25) < half
        assert half < 4
    assert covered >= 17


@pytest.mark.parametrize('value', [0.0, 0.3])
@pytest.mark.parametrize('ways', [2, 5])
def test_equal_features_give_exactly_chance(ways, value):
    """All classes tie, and share each hit."""
    classifiers = CLASSIFIERS if find_spec('sklearn') else CLASSIFIERS[:2]
    samples = [dict(sample, features=torch.full((WIDTH,), value)) for sample in world()]
    found = measure(samples, settings=[(ways, 3)], episodes=3, classifiers=classifiers)
    assert [found[f'few_shot/{ways}way_3shot_{kind}'] for kind in classifiers] == pytest.approx(
        [100 / ways] * len(classifiers)
    )


def test_ties():
    scores = np.array(
        [[1.0, 1.0, 0.0], [0.5, 0.2, 0.1], [-1.0, -1.0, -2.0], [0.0, 1.0, 1.0 - 1e-12]]
    )
    assert accuracy(scores, np.array([0, 0, 2, 2])) == (0.5 + 1 + 0 + 0.5) / 4


# refusals


@pytest.mark.parametrize(
    ('options', 'key', 'fields'),
    [
        (dict(settings=[]), 'settings', dict(expected='different pairs (N, K)')),
        (dict(settings=(5, 1)), 'settings', dict(got=(5, 1))),
        (dict(settings=[(1, 5)]), 'settings', dict(expected='at least 2 classes and 1 image')),
        (dict(settings=[(5, 0)]), 'settings', dict(got=[(5, 0)])),
        (dict(settings=[(5, 1.0)]), 'settings', dict()),
        (dict(settings=[(5, 1, 1)]), 'settings', dict()),
        (dict(settings=[(5, 1), [5, 1]]), 'settings', dict(expected='different pairs')),
        (dict(settings='5way'), 'settings', dict(got='5way')),
        (dict(queries=0), 'queries', dict(got=0, expected='a whole number from 1 on')),
        (dict(episodes=1), 'episodes', dict(got=1, expected='a whole number from 2 on')),
        (dict(seed=-1), 'seed', dict(got=-1)),
        (dict(C=0), 'C', dict(got=0, expected='a positive number')),
        (dict(classifiers=['cosin']), 'classifiers', dict(problem='nearest: cosine', got='cosin')),
        (dict(classifiers=[]), 'classifiers', dict(got=[], expected='some of')),
    ],
)
def test_arguments_that_cannot_be_right(options, key, fields):
    with refused(key=f'FewShotMetric.{key}', **fields):
        FewShotMetric(**options)


@pytest.mark.parametrize(
    ('options', 'fields'),
    [
        (dict(settings=[(2, 1), (7, 1)]), dict(got=(7, 1), expected='at most 6 ways')),
        (dict(settings=[(6, 7)], queries=5), dict(got=(6, 7), problem='class 5 has 11 images')),
        (dict(settings=[(6, 1)], queries=11), dict(problem='1 shots and 11 queries')),
    ],
)
def test_more_than_the_data_has(options, fields):
    with refused(key='FewShotMetric.settings', **fields):
        measure(world()[:-1], **options)


def test_the_largest_that_the_data_has():
    found = measure(world(0.01)[:-1], settings=[(6, 6)], queries=5, episodes=2)
    assert found['few_shot/6way_6shot_cosine'] == 100


def test_images_seen_twice():
    samples = world()
    with refused(key='FewShotMetric', problem='1 ids', fix='each image once'):
        measure([*samples, samples[3]])
    # two folders of images, one behind the other
    both = [
        dict(one, sample_idx=one['sample_idx'] % 360, img_path=f'{place}.jpg')
        for place, one in enumerate(samples)
    ]
    assert len({one['sample_idx'] for one in both}) < len(samples)
    measure(both)


@pytest.mark.parametrize(
    ('change', 'fields'),
    [
        (dict(features=None), dict(problem='have no features', fix='kdmm.FeaturesHook')),
        (dict(gt_label=torch.tensor([0, 1])), dict(problem='the labels [0, 1]')),
        (dict(gt_label=None), dict(problem='the labels []', expected='one label')),
        (dict(sample_idx=None), dict(problem='the sample_idx None', fix='PackInputs')),
        (
            dict(features=torch.full((WIDTH,), float('nan'))),
            dict(problem="(37, '') are not finite"),
        ),
    ],
)
def test_samples_that_are_no_use(change, fields):
    samples = world()
    sample = {k: v for k, v in {**samples[3], **change}.items() if v is not None}
    with refused(key='FewShotMetric', **fields):
        measure([*samples[:3], sample, *samples[4:]])
