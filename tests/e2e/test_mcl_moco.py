"""MCL on MoCo through the Runner: what is written, resumed and refused, and its recipes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS  # noqa: E402

from kdmm.engine import build_runner  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402
from tests.distillers.mocos import moco_config  # noqa: E402

from .config_table import TABLE, read  # noqa: E402
from .job import assert_same  # noqa: E402
from .tiny_hssakd import SIZE, Run, config, snapshot, train, write_images  # noqa: E402

PRETRAINING, SMALL = 'mcl/mcl_moco_resnet18_imagenet.py', 'mcl/cifar10_small_moco.py'
LINEAR = 'mcl/linear_moco_resnet18_imagenet.py'
LOSSES = {f'kd.loss_{part}' for part in ('vcl', 'soft_vcl', 'icl', 'soft_icl')}
VIEW = [
    dict(type='RandomResizedCrop', scale=SIZE, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5),
]
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiView', num_views=2, transforms=[VIEW]),
    dict(type='PackInputs'),
]


def job(data: Path, work_dir: Path, **changes: Any) -> Config:
    """Two epochs of three iterations, without validation."""
    cfg = config(data, work_dir, dict(type='MCLMoCo', peers=2))
    cfg.model = dict(
        moco_config(), data_preprocessor=dict(type='SelfSupDataPreprocessor', mean=[120.0] * 3,
                                              std=[60.0] * 3, to_rgb=True),
    )  # fmt: skip
    for loop in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{loop}_{part}'] = None
    cfg.train_dataloader.collate_fn = dict(type='default_collate')
    cfg.train_dataloader.drop_last = True
    cfg.train_dataloader.dataset.pipeline = PIPELINE
    cfg.default_hooks.checkpoint.pop('save_best')
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('moco') / 'data')


@pytest.fixture(scope='module')
def run(data: Path) -> Run:
    return train(job(data, data.parent / 'run'))


def plain() -> nn.Module:
    return MODELS.build(moco_config())


def test_files_are_plain_mocos(run: Run) -> None:
    networks = [run.model, objective_of(run.model).peers.peer1]
    for name, network in zip(('epoch_2.pth', 'peer1.pth'), networks, strict=True):
        state = run.file(name)['state_dict']
        made = plain()
        made.load_state_dict(state, strict=True)
        own = {key: value for key, value in snapshot(network).items() if not key.startswith('kd.')}
        assert_same(snapshot(made), own)
        # six batches of four rows, in a queue of 12
        assert made.queue_ptr.tolist() == [0] and made.encoder_k.steps == 6
        torch.testing.assert_close(made.queue.norm(dim=0), torch.ones(12))
    assert sorted(file.name for file in run.files()) == ['epoch_1.pth', 'epoch_2.pth', 'peer1.pth']
    entry = run.file('epoch_2.pth')['kdmm']
    assert {key.removeprefix('peers.peer1.') for key in entry} == set(snapshot(plain()))


def test_both_networks_learn_and_differ(run: Run) -> None:
    """Weights, those of the key encoders, and queues."""
    one, two = (run.file(f'epoch_{n}.pth') for n in (1, 2))
    for key in (key for key, value in two['state_dict'].items() if value.ndim > 1):
        peers = f'peers.peer1.{key}'
        assert not torch.equal(one['state_dict'][key], two['state_dict'][key]), key
        assert not torch.equal(one['kdmm'][peers], two['kdmm'][peers]), key
        assert not torch.equal(two['state_dict'][key], two['kdmm'][peers]), key


def test_log_has_the_terms_and_their_sum(run: Run) -> None:
    scalars = run.runner.message_hub.log_scalars
    logged = {key.removeprefix('train/') for key in scalars if 'loss' in key}
    assert logged == LOSSES | {'loss'}
    parts = [scalars[f'train/{name}'].data[0] for name in sorted(LOSSES)]
    assert scalars['train/loss'].data[0] == pytest.approx(sum(parts), rel=1e-5)


def test_resumed_is_the_uninterrupted_run(run: Run, data: Path, tmp_path: Path) -> None:
    """Weights, key encoders, queues, and the order in which the key encoders see the images."""
    middle = dict(resume=True, load_from=str(run.folder / 'epoch_1.pth'))
    again = train(job(data, tmp_path, **middle))
    assert again.runner.iter == 6
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(run.file('epoch_2.pth')[entry], again.file('epoch_2.pth')[entry], entry)
    assert_same(run.file('peer1.pth')['state_dict'], again.file('peer1.pth')['state_dict'])


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(model__queue_len=10), 'model.queue_len: .* a multiple .* ranks, 4, got 10'),
        (dict(custom_hooks=[dict(type='EMAHook')]), 'EMAHook: the file would hold'),
        (dict(load_from='epoch_1.pth'), 'load_from: its weights would reach the first'),
        (
            dict(train_dataloader__dataset__pipeline__1__num_views=3),
            'it gives 3 views of each image',
        ),
    ],
)
def test_refused_at_the_start(
    run: Run, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if 'load_from' in changes:
        changes = dict(load_from=str(run.folder / changes['load_from']))
    with pytest.raises(ConfigError, match=message):
        train(job(data, tmp_path, **changes))
    assert not list(tmp_path.glob('*.pth'))


# configs


def test_linear_evaluation_of_a_pretrained_encoder(data: Path, tmp_path: Path) -> None:
    """The file of a run; its backbone is read, frozen, and stays."""
    pretraining, cfg = read(PRETRAINING), read(LINEAR)
    init = cfg.model.backbone.init_cfg.to_dict()
    assert init['checkpoint'] == f'{pretraining.work_dir}/epoch_200.pth'
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        state = registry.build(pretraining.model).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'epoch_200.pth')
    cfg.experiment_name = str(tmp_path)
    TABLE[LINEAR].shrink(cfg, data.parent, tmp_path)
    cfg.model.backbone.init_cfg = dict(init, checkpoint=str(tmp_path / 'epoch_200.pth'))
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    frozen = {f'backbone.{k}': v for k, v in snapshot(runner.model.backbone).items()}
    assert_same(frozen, {key: state[key] for key in frozen})
    trained = [name for name, p in runner.model.named_parameters() if p.requires_grad]
    assert trained == ['head.fc.weight', 'head.fc.bias']
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars


def test_recipe_of_the_paper() -> None:
    """Settings of the authors' code for MCL on MoCo (arXiv 2104.12565)."""
    cfg, linear = read(PRETRAINING), read(LINEAR)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
    assert linear.optim_wrapper.optimizer == dict(type='SGD', lr=30, momentum=0.9, weight_decay=0)
    for recipe, epochs, milestones in ((cfg, 200, [120, 160]), (linear, 100, [60, 80])):
        assert recipe.train_cfg.max_epochs == epochs
        (schedule,) = recipe.param_scheduler
        assert (schedule.type, schedule.milestones, schedule.gamma) == (
            'MultiStepLR',
            milestones,
            0.1,
        )
        assert recipe.train_dataloader.batch_size * 8 == 256
    model = cfg.model
    assert model.queue_len % 256 == read(SMALL).model.queue_len % 256 == 0
    assert (model.queue_len, model.momentum, model.head.temperature) == (65536, 0.001, 0.07)
    built = MODELS.build(dict(model, _scope_='mmpretrain'))
    assert sum(p.numel() for p in built.neck.parameters()) == 512 * 128 + 128
    ((view,),) = [step.transforms for step in cfg.train_dataloader.dataset.pipeline[1:2]]
    assert [step.type for step in view] == [
        'RandomResizedCrop', 'RandomGrayscale', 'ColorJitter', 'RandomFlip',
    ]  # fmt: skip
    assert dict(cfg.kd) == dict(type='MCLMoCo', peers=2, temperature=3.0, weight=1.0)
    assert read(SMALL).kd.type == 'MCLMoCo' and 'kd' not in linear
