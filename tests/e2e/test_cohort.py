"""Networks that learn together, through the Runner: what is written, resumed and measured.

On several processes: test_cohort_world.py; segmentors and detectors: test_cohort_tasks.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import METRICS
from torch import Tensor

pytest.importorskip('mmpretrain')

from kdmm.config import use_amp  # noqa: E402
from kdmm.distillers import ConfigError  # noqa: E402
from kdmm.engine import build_errors  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import (  # noqa: E402
    EIGHT,
    MMPRETRAIN,
    SMALL,
    Run,
    config,
    logits,
    snapshot,
    train,
    write_images,
)

MOMENTUM = 0.1
TAPS = dict(logits='head.fc.out', embedding='head.fc.in', trunk='backbone.stages.1.in')
MCL = dict(type='MCLLoss', on='embedding', dim=8, weight=dict(vcl=0.1, soft_vcl=1.0, icl=0.1))
DML = dict(type='KDLoss', on='logits', weight=dict(type='Linear', start=0.0, stop=1.0, end=4))
#: All that online distillation keeps: banks, linear heads, a gate, queries and keys.
ONLINE = dict(
    okd=dict(
        type='MCLOKDLoss', on='embedding', num_samples=12, negatives=5, replace=False, dim=8,
        weight=0.025,
    ),
    one=dict(type='ONELoss', on=['logits', 'trunk']),
    okddip=dict(type='OKDDipLoss', on=['logits', 'embedding']),
)  # fmt: skip
PARTS = dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0)
LAYERS = dict(
    layers=dict(type='LMCLLoss', on='stages', dim=8, weight=PARTS),
    mix=dict(type='StageEnsembleLoss', on=['stages', 'stage_logits']),
)
LAYER_BANKS = dict(
    layers=dict(type='LMCLBankLoss', on='stages', num_samples=12, negatives=5, dim=8, weight=PARTS)
)
INNER = dict(type='LMCL', branches=dict(stages='inner'))
SHARED = ['backbone.stem', 'backbone.stages.0']
SHARED18 = [f'backbone.{name}' for name in ('conv1', 'bn1', 'relu', 'layer1', 'layer2')]
EMA = [dict(type='EMAHook', momentum=MOMENTUM)]
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = dict(
    both=(
        dict(peers=3, keep=2, channels_last=True, losses=dict(mcl=MCL, dml=DML)),
        dict(backbone=EIGHT),
    ),
    online=(dict(peers=3, keep=2, trunk=SHARED, trunk_gradient='mean', losses=ONLINE), {}),
    layers=(dict(INNER, peers=2, losses=LAYERS, meta=dict(every=2)), {}),
    layer_banks=(dict(INNER, peers=2, losses=LAYER_BANKS, meta=dict(every=2, form='unrolled')), {}),
    trunk=(dict(peers=3, trunk=SHARED18, losses=dict(dml=DML)), dict(backbone=MMPRETRAIN)),
    average=(dict(peers=2, losses=dict(mcl=MCL)), dict(custom_hooks=EMA)),
    shared_average=(dict(peers=2, trunk=SHARED, losses=dict(mcl=MCL)), dict(custom_hooks=EMA)),
)
STAGED = ('layers', 'layer_banks')
kinds = pytest.mark.parametrize('kind', KINDS)
averages = pytest.mark.parametrize('kind', ['average', 'shared_average'])


@METRICS.register_module(force=True)
class FirstScore(BaseMetric):
    """A number that no two networks share: the mean score of class 0."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample['pred_score'][0]) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(first=sum(results) / len(results))


class Weights(Hook):
    """Keeps all networks' parameters after each iteration."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        named = runner.model.named_parameters()
        self.seen.append({name: p.detach().clone() for name, p in named})


class Dtypes(Hook):
    """Keeps those of all networks' logits in training."""

    def before_train(self, runner: Any) -> None:
        self.seen: set[torch.dtype] = set()
        for network in (runner.model, *objective_of(runner.model).networks().values()):
            network.head.fc.register_forward_hook(self.keep)

    def keep(self, module: Any, args: Any, output: Tensor) -> None:
        if module.training:
            self.seen.add(output.dtype)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('cohort') / 'data').parent


def run(root: Path, folder: Path, kind: str = '', *hooks: Hook, **changes: Any) -> Run:
    """Two epochs of three batches of 2 classes x 2 images."""
    section, options = KINDS.get(kind, ({}, {}))
    kd = {**dict(type='Cohort'), **section, **changes.pop('kd', {})}
    if kd.get('losses') and kind not in STAGED:
        kd['taps'] = {tap: TAPS[tap] for tap in TAPS if kind == 'online' or tap != 'trunk'}
    sampler = dict(type='kdmm.PKSampler', classes_per_batch=2, samples_per_class=2)
    cfg = config(root / 'data', folder, kd, **{'backbone': SMALL, **options, **changes})
    cfg.train_dataloader.sampler = sampler
    cfg.val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='mmengine.FirstScore')]
    cfg.val_dataloader.batch_size = 5
    return train(cfg, *hooks)


class Runs(dict[str, Run]):
    """One of each kind, trained when first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.weights = {kind: Weights() for kind in KINDS}

    def __missing__(self, kind: str) -> Run:
        self[kind] = run(self.root, self.root / kind, kind, self.weights[kind])
        return self[kind]


@pytest.fixture(scope='module')
def runs(root: Path) -> Runs:
    return Runs(root)


def peers_of(made: Run) -> dict[str, Any]:
    return dict(objective_of(made.model).networks())


def without_kd(network: Any) -> dict[str, Tensor]:
    return {key: x for key, x in snapshot(network).items() if not key.startswith('kd.')}


# what is written


@kinds
def test_every_file_is_a_plain_classifier(runs: Runs, kind: str) -> None:
    made = runs[kind]
    names = {file.name for file in made.files()}
    (best,) = (name for name in names if name.startswith('best_accuracy'))
    alone = {f'{name}.pth' for name in peers_of(made)}
    assert names == {'epoch_1.pth', 'epoch_2.pth', best} | alone
    # loaded with strict=True; in the memory format of the run, in which sums are rounded alike
    last = objective_of(made.model).channels_last
    layout = torch.channels_last if last else torch.contiguous_format
    said = {name: logits(made.plain(name).to(memory_format=layout)) for name in names}
    assert len({tuple(x.flatten().tolist()) for x in said.values()}) == len(names) - 1
    assert torch.equal(said[best], said[f'epoch_{best.split("_")[-1]}'])
    for name in alone:
        assert set(made.file(name)) == {'meta', 'state_dict'}
    if not kind.endswith('average'):
        assert torch.equal(said['epoch_2.pth'], logits(made.model.eval()))
        for name, network in peers_of(made).items():
            assert torch.equal(said[f'{name}.pth'], logits(network.eval()))


@kinds
def test_what_belongs_to_the_run_has_entries_of_its_own(runs: Runs, kind: str) -> None:
    """Also in the best file, which has no optimizer: the peers are results."""
    made = runs[kind]
    content = made.file('epoch_2.pth')
    averaged = kind.endswith('average')
    assert ('kdmm_ema' in content) == ('ema_state_dict' in content) == averaged
    own = objective_of(made.model).state_dict()
    raw = {**content['kdmm'], **content.get('kdmm_ema', {})}
    assert_same(dict(own), {key: raw[key] for key in own})
    extra = [key for key in own if key.endswith('_extra_state')]  # wherever they stand
    assert [key for key in raw if key not in extra] == [key for key in own if key not in extra]
    assert len(raw) == len(own)
    (best,) = made.folder.glob('best_*.pth')
    same = made.file(f'epoch_{best.stem.split("_")[-1]}.pth')
    for entry in ('state_dict', 'ema_state_dict'):
        assert_same(made.file(best.name).get(entry), same.get(entry), entry)
    peers = {key: value for key, value in same['kdmm'].items() if key.startswith('peers.')}
    assert_same(dict(made.file(best.name)['kdmm']), peers)
    assert made.file(best.name).keys().isdisjoint(('optimizer', 'kdmm_ema'))
    for key in ('state_dict', 'ema_state_dict'):
        assert not any('kd.' in name for name in content.get(key, ()))
        assert not any('kd' in name for name in getattr(content.get(key), '_metadata', {}))
    ids = [i for group in content['optimizer']['param_groups'] for i in group['params']]
    assert len(ids) == len(list(made.model.parameters()))


@kinds
def test_all_networks_and_heads_learn(runs: Runs, kind: str) -> None:
    seen = runs.weights[kind].seen if runs[kind] else []
    for name, value in seen[0].items():
        if value.ndim > 1 and 'head.fc' not in name:
            assert not torch.equal(value, seen[-1][name]), name


# resuming


@kinds
def test_resumed_is_the_uninterrupted_run(
    runs: Runs, root: Path, kind: str, tmp_path: Path
) -> None:
    """To the bit: networks, averages, heads, optimizer, and the files of the peers."""
    whole = runs[kind]
    first = dict(resume=True, load_from=str(whole.folder / 'epoch_1.pth'))
    rest = run(root, tmp_path, kind, **first)
    assert not (tmp_path / 'epoch_1.pth').exists()
    compared = {file.name for file in rest.files()}
    assert {'epoch_2.pth', 'peer0.pth' if kind == 'both' else 'peer1.pth'} <= compared
    for name in compared:
        one, other = whole.file(name), rest.file(name)
        assert one.keys() == other.keys()
        for entry in one.keys() - {'meta', 'message_hub'}:
            assert_same(one[entry], other[entry], f'{name} {entry}')


# averages


def by_hand(seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The first weights, then a tenth of the way to each of the others."""
    average = {name: value.clone() for name, value in seen[0].items()}
    for weights in seen[1:]:
        for name, value in weights.items():
            average[name] += MOMENTUM * (value - average[name])
    return average


@averages
def test_averages_of_all_networks(runs: Runs, kind: str) -> None:
    """An independent computation; ``state_dict`` and ``kdmm`` have them, and so has peer1.pth."""
    made = runs[kind]
    content = made.file('epoch_2.pth')
    expected = by_hand(runs.weights[kind].seen)
    raw = runs.weights[kind].seen[-1]
    student = {name for name in expected if not name.startswith('kd.')}
    peer = {name for name in expected if name.startswith('kd.peers.')}
    assert len(student) > len(peer) - 1 and peer and len(expected) > len(student) + len(peer)
    for name in student:
        torch.testing.assert_close(content['state_dict'][name], expected[name])
        assert torch.equal(content['ema_state_dict'][f'module.{name}'], raw[name])
    written = made.file('peer1.pth')['state_dict']
    for name in peer:
        key, plain = name.removeprefix('kd.'), name.removeprefix('kd.peers.peer1.')
        torch.testing.assert_close(content['kdmm'][key], expected[name])
        assert torch.equal(content['kdmm_ema'][key], raw[name])
        assert torch.equal(written[plain], content['kdmm'][key])
    for name in student & ({f'{x}' for x in written} - {x[len('kd.peers.peer1.') :] for x in peer}):
        assert torch.equal(written[name], content['state_dict'][name])  # what they share
    for name in expected.keys() - student - peer:  # of the losses: not averaged
        assert torch.equal(content['kdmm'][name.removeprefix('kd.')], raw[name])
    assert any(not torch.equal(raw[name], expected[name]) for name in peer)


@averages
def test_the_run_itself_goes_on_with_its_own_weights(runs: Runs, kind: str) -> None:
    """After the last validation and after the peers' files were written."""
    raw = runs[kind] and runs.weights[kind].seen[-1]
    assert_same({name: p.detach() for name, p in runs[kind].model.named_parameters()}, raw)


# metrics


@torch.no_grad()
def shown(made: Run, network: Any) -> tuple[Tensor, Tensor]:
    """Logits of the validation images and their labels."""
    rows, labels = [], []
    for batch in made.runner.val_dataloader:
        data = network.data_preprocessor(batch, False)
        rows.append(network(data['inputs'], mode='tensor'))
        labels += [int(sample.gt_label) for sample in data['data_samples']]
    return torch.cat(rows), torch.tensor(labels)


def metrics(rows: Tensor, labels: Tensor) -> dict[str, float]:
    right = (rows.argmax(1) == labels).float().mean()
    return {'accuracy/top1': 100 * float(right), 'first': float(rows.softmax(1)[:, 0].mean())}


@kinds
def test_metrics_are_those_of_the_files(runs: Runs, kind: str) -> None:
    """As plain classifiers; the ensemble's are those of the mean of their logits."""
    made = runs[kind]
    files = {'': 'epoch_2.pth', **{f'{name}/': f'{name}.pth' for name in peers_of(made)}}
    found = {key: made.runner.message_hub.get_scalar(f'val/{key}').data[0] for key in names(made)}
    assert all(len(values) == 2 for values in found.values())
    every = []
    for prefix, file in files.items():
        rows, labels = shown(made, made.plain(file))
        every.append(rows)
        for key, value in metrics(rows, labels).items():
            assert found.pop(f'{prefix}{key}')[-1] == pytest.approx(value, abs=1e-5)
    for key, value in metrics(torch.stack(every).mean(0), labels).items():
        assert found.pop(f'ensemble/{key}')[-1] == pytest.approx(value, abs=1e-5)
    for prefix, network in plain_parts(made).items() if kind in STAGED else ():
        parts = stage_rows(made, prefix, network)
        if kind == 'layers':
            parts['aggregated'] = mixed(made, list(plain_parts(made)).index(prefix), parts)
        for stage in parts.keys() - {'embeddings', 'own'}:
            for key, value in metrics(parts[stage], labels).items():
                logged = found.pop('/'.join(filter(None, (prefix, stage, key))))
                assert logged[-1] == pytest.approx(value, abs=1e-5)
    assert not found


def plain_parts(made: Run) -> dict[str, Any]:
    return {'': made.model, **peers_of(made)}


@torch.no_grad()
def stage_rows(made: Run, prefix: str, network: Any) -> dict[str, Any]:
    """Logits of each branch and of the network for all validation images, and embeddings."""
    branches = objective_of(made.model).branches[prefix or 'student'].eval().branches
    found: dict[str, list[Tensor]] = {name: [] for name in ('stage1', 'stage2', 'own', 'e')}
    network.eval()
    for batch in made.runner.val_dataloader:
        images = network.data_preprocessor(batch, False)['inputs']
        x, embeddings = network.backbone.stem(images), []
        for index, stage in enumerate(network.backbone.stages):
            x = rest = stage(x)
            if index < 2:
                branch = branches[f'stage{index + 1}']
                for part in branch.stages:
                    rest = part(rest)
            embeddings.append(rest.mean((2, 3)))
            linear = branches[f'stage{index + 1}'].fc if index < 2 else network.head.fc
            found[f'stage{index + 1}' if index < 2 else 'own'].append(linear(embeddings[-1]))
        found['e'].append(torch.cat(embeddings, 1))
    rows: dict[str, Any] = {name: torch.cat(parts) for name, parts in found.items()}
    return dict(rows, embeddings=rows.pop('e'))


@torch.no_grad()
def mixed(made: Run, place: int, every: dict[str, Any]) -> Tensor:
    """Shares of the stages, by hand, times their logits."""
    aggregator = objective_of(made.model).terms['mix'].loss.aggregators[place]
    shares = aggregator(every['embeddings']).softmax(1)
    logits = torch.stack([every[name] for name in ('stage1', 'stage2', 'own')], 1)  # (B, 3, C)
    return (shares[:, :, None] * logits).sum(1)


def names(made: Run) -> list[str]:
    logged = made.runner.message_hub.log_scalars
    found = [key.removeprefix('val/') for key in logged if key.startswith('val/')]
    return [key for key in found if key not in ('time', 'data_time')]


def test_evaluation_leaves_the_training_alone(runs: Runs, root: Path, tmp_path: Path) -> None:
    """Without a validation before the last one the run is the same."""
    other = run(root, tmp_path, 'both', train_cfg__val_interval=2)
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(runs['both'].file('epoch_2.pth')[entry], other.file('epoch_2.pth')[entry])


def test_without_an_ensemble(root: Path, tmp_path: Path) -> None:
    made = run(root, tmp_path, kd=dict(ensemble=False), train_cfg__max_epochs=1)
    assert {key.split('/')[0] for key in names(made)} == {'accuracy', 'first', 'peer1'}


# the student alone


def test_without_losses_the_student_is_the_plain_run(root: Path, tmp_path: Path) -> None:
    """To the bit, with the data and the seed of a plain run."""
    together = run(root, tmp_path / 'together', kd=dict(peers=2))
    cfg = config(root / 'data', tmp_path / 'alone', reproducible=True)
    cfg.train_dataloader.sampler = together.cfg.train_dataloader.sampler
    alone = train(cfg)
    for epoch in (1, 2):
        one, other = (x.file(f'epoch_{epoch}.pth')['state_dict'] for x in (together, alone))
        assert_same(dict(one), dict(other))


def test_mixed_precision(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``--amp`` with bfloat16, which MMEngine would not let a CPU do; with a shared trunk."""
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(build_errors, '_accelerated', lambda: True)
    kd = dict(type='Cohort', peers=3, trunk=SHARED, taps=TAPS, losses=dict(mcl=MCL, dml=DML))
    cfg = config(root / 'data', tmp_path, kd)
    use_amp(cfg, 'bfloat16')
    seen = Weights()
    kept = Dtypes()
    made = train(cfg, seen, kept)
    assert kept.seen == {torch.bfloat16}
    assert all(value.isfinite().all() for value in seen.seen[-1].values())
    loss = made.runner.message_hub.get_scalar('train/loss').data[0]
    assert len(loss) == 6 and all(map(torch.isfinite, torch.tensor(loss)))


# what is refused


@pytest.mark.parametrize(
    'best', ['peer1/first', 'ensemble/accuracy/top1', ['first', 'peer2/first']]
)
def test_another_networks_metric_chooses_no_checkpoint(
    root: Path, tmp_path: Path, best: Any
) -> None:
    chosen: Any = dict(default_hooks__checkpoint__save_best=best,
                       default_hooks__checkpoint__rule='greater')  # fmt: skip
    with pytest.raises(ConfigError, match='save_best: checkpoints hold the first network'):
        run(root, tmp_path, 'both', **chosen)


def test_weights_for_one_network_are_refused(runs: Runs, root: Path, tmp_path: Path) -> None:
    file = str(runs['both'].folder / 'epoch_1.pth')
    with pytest.raises(ConfigError, match='load_from: its weights would reach the first'):
        run(root, tmp_path, 'both', load_from=file)


def test_files_without_an_optimizer_are_not_resumed(runs: Runs, root: Path, tmp_path: Path) -> None:
    (best,) = runs['both'].folder.glob('best_*.pth')
    with pytest.raises(ConfigError, match='written for deployment'):
        run(root, tmp_path, 'both', resume=True, load_from=str(best))


def test_another_cohorts_file_is_not_resumed(runs: Runs, root: Path, tmp_path: Path) -> None:
    file = str(runs['both'].folder / 'epoch_1.pth')
    with pytest.raises(ConfigError, match='the distillation state: does not fit'):
        run(root, tmp_path, resume=True, load_from=file, kd=dict(peers=2))
