import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402
from kdmm.hooks.peers import PeersHook  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import Run, config, logits, snapshot, train, write_images  # noqa: E402
from tests.errors import refused  # noqa: E402

NAMES = ('accuracy/top1', 'mean_score')
PEERS = ('peer1', 'peer2')


@METRICS.register_module(force=True)
class MeanScore(BaseMetric):
    """A number that no two networks share: the mean score of class 0."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample['pred_score'][0]) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(mean_score=sum(results) / len(results))


EVALUATOR = [dict(type='Accuracy', topk=(1,)), dict(type='mmengine.MeanScore')]


def options(**more: Any) -> dict[str, Any]:
    return dict(val_dataloader__batch_size=5, val_evaluator=EVALUATOR, **more)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp('peers')
    kd = dict(type='HSSAKDOnline', peers=3)
    best: Any = dict(default_hooks__checkpoint__save_best='mean_score',
                     default_hooks__checkpoint__rule='greater')  # fmt: skip
    return train(config(write_images(root / 'data'), root / 'run', kd, **options(**best)))


def history(run: Run, name: str) -> list[float]:
    return list(run.runner.message_hub.get_scalar(f'val/{name}').data[0])


def evaluated(run: Run, file: Path, tmp_path: Path) -> dict[str, float]:
    """The metrics of a plain model of the base library with the weights of ``file``."""
    data = Path(run.cfg.val_dataloader.dataset.data_root)
    cfg = config(data, tmp_path, load_from=str(file), strict_load=True, **options())
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return build_runner(cfg).test()


def test_metrics_are_those_of_the_files_as_plain_models(run: Run, tmp_path: Path) -> None:
    found = {name: history(run, name)[-1] for name in NAMES}
    assert evaluated(run, run.folder / 'epoch_2.pth', tmp_path) == pytest.approx(found)
    for peer in PEERS:
        found = {name: history(run, f'{peer}/{name}')[-1] for name in NAMES}
        assert evaluated(run, run.folder / f'{peer}.pth', tmp_path) == pytest.approx(found)
    scores = [history(run, name) for name in ('mean_score', *(f'{p}/mean_score' for p in PEERS))]
    assert len({value for values in scores for value in values}) == 6


def test_files_are_the_networks(run: Run) -> None:
    for peer, network in zip(PEERS, objective_of(run.model).peers, strict=True):
        content = run.file(f'{peer}.pth')
        assert set(content) == {'meta', 'state_dict'}
        assert_same(dict(content['state_dict']), snapshot(network.network))
        assert torch.equal(logits(run.plain(f'{peer}.pth')), logits(network.network.eval()))
        assert content['meta']['epoch'] == 2
        assert tuple(content['meta']['dataset_meta']['classes']) == (
            'class_00', 'class_01', 'class_02',
        )  # fmt: skip


def test_summary_has_all_metrics(run: Run) -> None:
    summary = json.loads((run.folder / 'run_summary.json').read_text())
    for name in NAMES:
        for whose in (name, *(f'{peer}/{name}' for peer in PEERS)):
            assert summary['metrics'][whose] == pytest.approx(history(run, whose)[-1])


def test_best_is_the_first_networks(run: Run) -> None:
    scores = history(run, 'mean_score')
    best = 1 + scores.index(max(scores))
    (file,) = run.folder.glob('best_*.pth')
    assert file.name == f'best_mean_score_epoch_{best}.pth'
    same = run.file(f'epoch_{best}.pth')['state_dict']
    assert_same(dict(run.file(file.name)['state_dict']), dict(same))


def test_evaluation_leaves_the_training_alone(run: Run, tmp_path: Path) -> None:
    """With a validation at the end only, the run is the same."""
    kd, data = run.cfg.kd.to_dict(), Path(run.cfg.val_dataloader.dataset.data_root)
    other = train(config(data, tmp_path, kd, **options(train_cfg__val_interval=2)))
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(run.file('epoch_2.pth')[entry], other.file('epoch_2.pth')[entry], entry)


def test_no_ensemble_is_asked_for(run: Run) -> None:
    """The branches of HSSAKD have one of their own."""
    names = [key for key in run.runner.message_hub.log_scalars if key.startswith('val/')]
    assert names and not any('ensemble' in name for name in names)


class Steps:
    """Stands for a network: gives back what it is shown, and writes into it, as networks do."""

    def __init__(self, score: float) -> None:
        self.score, self.seen = score, 0

    def eval(self) -> None:
        pass

    def val_step(self, batch: list[dict[str, float]]) -> list[dict[str, float]]:
        self.seen += 1
        for sample in batch:
            assert sample['score'] == 0.5  # the first network's, and no other peer's
            sample['score'] = self.score
        return batch


class Given:
    """Stands for an evaluator: keeps what it is given."""

    dataset_meta = 'that of the data'

    def __init__(self) -> None:
        self.given: list[float] = []

    def process(self, data_samples: Any, data_batch: Any) -> None:
        self.given += [sample['score'] for sample in data_samples]

    def evaluate(self, size: int) -> dict[str, float]:
        assert size == len(self.given)
        return dict(total=sum(self.given))


def test_every_network_sees_each_batch_once_and_its_own_predictions_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers = dict(peer1=Steps(1.0), peer2=Steps(2.0))
    monkeypatch.setattr('kdmm.hooks.peers.plain_networks', lambda model: [('', 0), *peers.items()])
    loop = SimpleNamespace(evaluator=Given(), fp16=False)
    loader = SimpleNamespace(dataset=range(4))
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), val_loop=loop, val_dataloader=loader)
    hook, metrics = PeersHook(), {}
    for epoch in (1, 2):  # nothing is left of the first
        hook.before_val_epoch(runner)
        for _ in range(2):
            batch = [dict(score=0.5), dict(score=0.5)]
            hook.after_val_iter(runner, 0, batch, batch)
            assert batch == [dict(score=0.5)] * 2
        hook.after_val_epoch(runner, metrics)
        assert metrics == {'peer1/total': 4.0, 'peer2/total': 8.0}
        assert [peer.seen for peer in peers.values()] == [2 * epoch] * 2
    assert loop.evaluator.given == [] and hook.evaluators['peer1'].dataset_meta


@pytest.mark.parametrize('best', ['peer1/mean_score', ['mean_score', 'peer2/mean_score']])
def test_a_peers_metric_chooses_no_checkpoint(tmp_path: Path, best: Any) -> None:
    """The file would hold the first network."""
    kd = dict(type='HSSAKDOnline', peers=3)
    chosen: Any = dict(default_hooks__checkpoint__save_best=best,
                       default_hooks__checkpoint__rule='greater')  # fmt: skip
    named = best if isinstance(best, str) else best[-1]
    key = 'default_hooks.checkpoint.save_best'
    with refused(key=key, got=named, problem='checkpoints hold the first network'):
        train(config(write_images(tmp_path / 'data'), tmp_path / 'run', kd, **options(**chosen)))
