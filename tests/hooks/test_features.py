"""Features of a run's networks reach its metrics: compared with passes over the images by hand."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner as PlainRunner

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner, cli  # noqa: E402
from kdmm.evaluation import FewShotMetric  # noqa: E402
from kdmm.hooks.features import rows_of  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402
from tests.e2e.tiny_hssakd import (  # noqa: E402
    CLASSES,
    IMAGES,
    MMPRETRAIN,
    Run,
    config,
    train,
    write_images,
)
from tests.errors import refused  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

METRIC = dict(type='kdmm.FewShotMetric', settings=[(2, 1), (3, 2)], queries=2, episodes=20)
SEEN = dict(METRIC, novel=False)
FIRST = 'few_shot/2way_1shot_cosine'
COHORT = dict(type='Cohort', peers=2, taps=dict(logits='head.fc.out'))


@METRICS.register_module(force=True)
class Kept(BaseMetric):
    """Keeps the features that come, by the number of the image."""

    default_prefix = 'kept'
    seen: dict[int, torch.Tensor] = {}

    def process(self, data_batch: Any, data_samples: Any) -> None:
        for sample in data_samples:
            assert sample['features'].dtype == torch.float32
            self.seen[sample['sample_idx']] = sample['features'].clone()
            self.results.append(sample['pred_score'])

    def compute_metrics(self, results: Any) -> dict[str, float]:
        return dict(score=float(torch.stack(results)[:, 0].mean()))


@pytest.fixture(autouse=True)
def no_look_at_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('data'))


def few_shot(
    data: Path, folder: Path, kd: Any = None, metric: Any = SEEN, hook: Any = None, **more: Any
) -> Config:
    """A config with the metric and the hook, for validation and test; batches of 5 and 7 images."""
    options: dict[str, Any] = dict(
        default_hooks__features=dict(type='kdmm.FeaturesHook', **(hook or {})),
        default_hooks__checkpoint__save_best=None,
        val_dataloader__batch_size=5,
        test_dataloader__batch_size=7,
    )
    cfg = config(data, folder, kd, **{**options, **more})
    cfg.val_evaluator = cfg.test_evaluator = metric
    return cfg


@torch.no_grad()
def features_of(model: Any, cfg: Config, stage: str = 'neck') -> torch.Tensor:
    """Of all test images, one by one, (IMAGES, D), by MMPretrain's own function."""
    loader = PlainRunner.build_dataloader(dict(cfg.test_dataloader, batch_size=1))
    model.eval()
    found = []
    for batch in loader:
        features = model.extract_feat(model.data_preprocessor(batch)['inputs'], stage)
        found.append(features[-1] if isinstance(features, tuple) else features)
    return torch.cat(found)


def measured(features: torch.Tensor, **options: Any) -> dict[str, float]:
    """The metrics of these features."""
    metric = FewShotMetric(**{**{k: v for k, v in SEEN.items() if k != 'type'}, **options})
    samples = [
        dict(sample_idx=i, gt_label=torch.tensor([i // (IMAGES // CLASSES)]), features=row)
        for i, row in enumerate(features)
    ]
    metric.process({}, samples)
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('runner', ['kdmm', 'mmengine'])
def test_an_untrained_network_of_the_base_library(data: Path, tmp_path: Path, runner: str) -> None:
    """With MMEngine's own Runner, too."""
    cfg = few_shot(data, tmp_path)
    made = build_runner(cfg) if runner == 'kdmm' else PlainRunner.from_cfg(cfg)
    found = made.test()
    assert found == pytest.approx(measured(features_of(made.model, cfg)))
    assert len(found) == 8 and 20 < found[FIRST] < 100
    assert not made.model._forward_hooks and not made.model._forward_pre_hooks


@pytest.mark.parametrize('tap', ['head.in', 'head.fc.in', 'backbone.out[0]', 'neck.in[0]'])
def test_taps_of_the_same_features(data: Path, tmp_path: Path, tap: str) -> None:
    """Maps are averaged over positions, as the neck does; predictions are what they were."""
    Kept.seen.clear()
    kept = dict(type='mmengine.Kept')
    cfg = few_shot(data, tmp_path, metric=[kept], hook=dict(tap=tap))
    runner = build_runner(cfg)
    score = runner.test()['kept/score']
    expected = features_of(runner.model, cfg)
    torch.testing.assert_close(torch.stack([Kept.seen[i] for i in range(IMAGES)]), expected)
    with torch.no_grad():
        logits = runner.model.head.fc(expected)
    assert score == pytest.approx(float(logits.softmax(1)[:, 0].mean()))


def test_the_order_of_the_images_does_not_matter(data: Path, tmp_path: Path) -> None:
    found = []
    for seed in (None, 1, 2):
        cfg = few_shot(data, tmp_path / str(seed))
        if seed is not None:
            cfg.test_dataloader.sampler = dict(type='DefaultSampler', shuffle=True, seed=seed)
        found.append(build_runner(cfg).test())
    assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])


@pytest.fixture(scope='module')
def cohort(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(few_shot(data, tmp_path_factory.mktemp('run'), COHORT))


def last(run: Run, name: str) -> float:
    return run.runner.message_hub.get_scalar(f'val/{name}').current()


def test_each_network_of_a_cohort(cohort: Run) -> None:
    """The ensemble has the features of both."""
    networks = [cohort.model, *objective_of(cohort.model).networks().values()]
    features = [features_of(network, cohort.cfg) for network in networks]
    features.append(torch.cat(features, dim=1))
    scores = []
    for prefix, each in zip(('', 'peer1/', 'ensemble/'), features, strict=True):
        expected = measured(each)
        assert {key: last(cohort, f'{prefix}{key}') for key in expected} == pytest.approx(expected)
        scores.append(tuple(expected.values()))
    assert len(set(scores)) == 3


@pytest.mark.parametrize('file, prefix', [('epoch_2.pth', ''), ('peer1.pth', 'peer1/')])
def test_files_by_the_command(cohort: Run, tmp_path: Path, file: str, prefix: str) -> None:
    """``tools/test.py CONFIG CHECKPOINT``, the section ``kd`` in the config."""
    cfg = Config(cohort.cfg.to_dict())
    cfg.update(work_dir=str(tmp_path), experiment_name=f'command {file}')
    cfg.dump(tmp_path / 'c.py')
    found: list[dict[str, float]] = []
    test = PlainRunner.test

    def keep(runner: Any) -> Any:
        found.append(test(runner))
        return found[-1]

    with mock.patch.object(PlainRunner, 'test', keep):
        cli.test([str(tmp_path / 'c.py'), str(cohort.folder / file)])
    assert found == [pytest.approx({key: last(cohort, f'{prefix}{key}') for key in found[0]})]
    assert len(found[0]) == 8


def test_looking_changes_nothing(cohort: Run, data: Path, tmp_path: Path) -> None:
    """Neither the course of the training nor the networks."""
    cfg = config(data, tmp_path, COHORT, default_hooks__checkpoint__save_best=None)
    other = train(cfg)
    for key, value in other.model.state_dict().items():
        assert torch.equal(value, cohort.model.state_dict()[key]), key
    peer = objective_of(cohort.model).networks()['peer1']
    assert not cohort.model._forward_hooks and not peer._forward_hooks


def eleven(data: Path, folder: Path, launcher: str) -> dict[str, float]:
    """11 images; with two ranks the last round has one, and MMEngine pads it with the first."""
    indices = dict(test_dataloader__dataset__indices=list(range(11)))
    metric = dict(SEEN, queries=1)
    return build_runner(few_shot(data, folder, None, metric, launcher=launcher, **indices)).test()


def test_the_number_of_ranks_does_not_matter(data: Path, tmp_path: Path) -> None:
    expected = eleven(data, tmp_path / 'one', 'none')
    for found in on_ranks(eleven, 2, data, tmp_path / 'two', 'pytorch'):
        assert found == pytest.approx(expected)


# classes that the network has seen


def split(data: Path, folder: Path, metric: Any = None, **more: Any) -> Config:
    """Trained on two classes, evaluated on the third and one of them, or as ``more`` says."""
    metric = metric or dict(METRIC, settings=[(2, 1)])
    cfg = few_shot(data, folder, metric=metric, epochs=1)
    for stage, kept in {**dict(train=[0, 1], val=[1, 2], test=[1, 2]), **more}.items():
        loader = cfg[f'{stage}_dataloader']
        loader.dataset = dict(type='kdmm.ClassSubset', dataset=loader.dataset, classes_kept=kept)
    return cfg


def test_classes_of_the_training_are_refused_before_it_begins(data: Path, tmp_path: Path) -> None:
    words = dict(problem='trained on class_01', fix='kdmm.ClassSubset')
    with refused(key='val_dataloader.dataset', **words):
        train(split(data, tmp_path))
    assert not list(tmp_path.glob('*.pth'))


def test_classes_of_the_checkpoint_are_refused(data: Path, tmp_path: Path) -> None:
    seen = dict(METRIC, settings=[(2, 1)], novel=False)
    run = train(split(data, tmp_path / 'run', seen))
    assert last(run, FIRST) > 0  # of one class that was trained, as asked for
    cfg = split(data, tmp_path / 'test')
    cfg.load_from = str(run.folder / 'epoch_1.pth')
    for runner in (build_runner(cfg), PlainRunner.from_cfg(cfg)):
        with refused(key='test_dataloader.dataset', problem='trained on class_01'):
            runner.test()


def test_novel_classes_may_be_more_than_the_heads(data: Path, tmp_path: Path) -> None:
    """Labels of a data set that only this metric judges are not the head's."""
    cfg = split(data, tmp_path, train=[0], val=[1, 2], test=[2, 1])
    cfg.model.head.num_classes = 1
    assert last(train(cfg), FIRST) > 0
    assert build_runner(cfg).test()[FIRST] > 0
    cfg.test_evaluator = [cfg.test_evaluator, dict(type='Accuracy')]
    with refused(problem='label 1 in the annotation'):
        build_runner(cfg).test()


# refusals at the start


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
@pytest.mark.parametrize(
    ('changes', 'fields'),
    [
        (dict(settings=[(4, 1)]), dict(got=(4, 1), expected='at most 3 ways')),
        (dict(settings=[(3, 3)]), dict(got=(3, 3), problem='class 0 has 4 images')),
    ],
)
def test_more_than_the_data_has(
    data: Path, tmp_path: Path, stage: str, changes: Any, fields: Any
) -> None:
    runner = build_runner(few_shot(data, tmp_path, metric=dict(SEEN, **changes)))
    seen = runner.model.register_forward_pre_hook(lambda *_: pytest.fail('an image was seen'))
    with refused(key='FewShotMetric.settings', **fields):
        getattr(runner, stage)()
    seen.remove()


@pytest.mark.parametrize(
    ('tap', 'fields'),
    [
        ('nek.out', dict(key='FeaturesHook.tap', problem="no module 'nek'; nearest: neck")),
        ('neck', dict(key='FeaturesHook.tap', got='neck', expected='ends in .in, .out')),
        ('backbone.stages.0.out.5', dict(key='FeaturesHook.tap')),
        ('head.fc.weight', dict(key='FeaturesHook.tap')),
    ],
)
def test_taps_that_there_are_not(data: Path, tmp_path: Path, tap: str, fields: Any) -> None:
    runner = build_runner(few_shot(data, tmp_path, hook=dict(tap=tap)))
    for run in (runner.train, runner.test):
        with refused(**fields):
            run()


@pytest.mark.parametrize(
    ('tap', 'fields'),
    [
        ('data_preprocessor.out', dict(problem='did not run')),
        ('backbone.layer1.0.relu.out', dict(got='backbone.layer1.0.relu.out', expected='one call')),
        ('backbone.out[3]', dict(problem='[3] of backbone.out, which is 1 items')),
    ],
)
def test_taps_that_give_no_features(data: Path, tmp_path: Path, tap: str, fields: Any) -> None:
    cfg = few_shot(data, tmp_path, hook=dict(tap=tap), backbone=MMPRETRAIN)
    with refused(key='FeaturesHook.tap', **fields):
        build_runner(cfg).test()


@pytest.mark.parametrize(
    'value', [torch.zeros(2, 3, 4), torch.zeros(1, 3), torch.zeros(2), (), (torch.ones(2, 3), 'x')]
)
def test_a_vector_for_each_image(value: Any) -> None:
    if isinstance(value, tuple) and value:
        assert rows_of(value, 2, 'a.out').tolist() == [[1.0] * 3] * 2
        return
    with refused(key='FeaturesHook.tap', got='a.out', expected='a vector or a map'):
        rows_of(value, 2, 'a.out')


def test_half_precision_becomes_float32() -> None:
    """The mean of neighbours in float16 lies between them."""
    maps = torch.ones(2, 3, 2, 2, dtype=torch.float16)
    maps[..., 0] += 2**-10
    assert rows_of([torch.zeros(2, 3), maps], 2, 'a.out').tolist() == [[1 + 2**-11] * 3] * 2


def test_without_the_hook(data: Path, tmp_path: Path) -> None:
    cfg = few_shot(data, tmp_path)
    cfg.default_hooks.pop('features')
    with refused(key='FewShotMetric', problem='no features', fix='kdmm.FeaturesHook'):
        build_runner(cfg).test()
