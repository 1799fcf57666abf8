"""The configs of soft filter pruning have the constants of the public recipes."""

from pathlib import Path

import pytest

pytest.importorskip('mmpretrain')

from kdmm.pruning import METHODS  # noqa: E402

from .config_table import FAMILIES  # noqa: E402
from .config_table import read as read_config  # noqa: E402

ALL = [Path(name).stem for name in FAMILIES['pruned'].names]
PUBLISHED = [name for name in ALL if 'small' not in name and 'cirkd' not in name]
CIFAR, IMAGENET = (20, 32, 56, 110), (18, 34, 50)


def test_all_networks_methods_and_starts_exist() -> None:
    cifar = {f'resnet{n}_{data}' for n in CIFAR for data in ('cifar10', 'cifar100')}
    imagenet = {f'resnet{n}_imagenet' for n in IMAGENET}
    expected = {f'{role}_{name}' for role in ('dense', *METHODS) for name in cifar | imagenet}
    expected |= {f'{role}_{name}_finetune' for role in METHODS for name in imagenet}
    assert set(PUBLISHED) == expected


@pytest.mark.parametrize('name', PUBLISHED)
def test_has_the_constants(name: str) -> None:
    cfg, imagenet, finetune = read_config(f'pruning/{name}.py'), 'imagenet' in name, 'fine' in name
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.nesterov and optimizer.momentum == 0.9
    assert optimizer.lr == (0.01 if finetune else 0.1)
    assert optimizer.weight_decay == (1e-4 if imagenet else 5e-4)
    assert cfg.train_cfg.max_epochs == (100 if imagenet else 200)
    assert cfg.train_dataloader.batch_size == (32 if imagenet else 128)
    if imagenet:
        assert cfg.param_scheduler.milestones == [30, 60, 90]
        depth = name.split('resnet')[1].split('_')[0]
        assert (f'resnet{depth}_8xb32_in1k' in str(cfg.get('load_from'))) == finetune
    else:
        first, then = cfg.param_scheduler
        assert (first.type, first.factor, first.end) == ('ConstantLR', 0.1, 1)
        assert (then.milestones, then.gamma) == ([60, 120, 160], 0.2)
        assert cfg.model.backbone.shortcut == 'pad' and cfg.model.backbone.block == 'basic'
        classes = 100 if 'cifar100' in name else 10
        assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == classes
        assert cfg.train_dataloader.dataset.type == f'CIFAR{classes}'
    method = name.split('_')[0]
    if method == 'dense':
        assert not cfg.get('custom_hooks')
        return
    (hook,) = cfg.custom_hooks
    assert (hook.method, hook.prune_rate) == (method, 0.4)
    ends = (hook.get('alpha_end', 0.9), hook.get('rate_end', 0.95))
    assert ends == ((0.8, 0.9) if imagenet else (0.9, 0.95))
    assert hook.get('alpha_zero_below', 0.0) == (1e-4 if imagenet else 0.0)
    fades = method in ('srfp', 'asrfp')
    sigma = 1e-3 if imagenet and not finetune and fades else 1e-5
    assert hook.get('sigma', 1e-5) == sigma
