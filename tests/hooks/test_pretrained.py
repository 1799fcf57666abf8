"""A run that starts from a file is refused where it would not start from all of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader

pytest.importorskip('mmdet')

from kdmm.engine import Runner  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from kdmm.hooks.pretrained import declared  # noqa: E402
from kdmm.transfer import Request, convert  # noqa: E402
from kdmm.utils.normalization import Normalization  # noqa: E402
from tests.engine.tiny_run import config  # noqa: E402
from tests.errors import refused  # noqa: E402
from tests.transfer.nets import RGB, build, config_of, shake, source, write_config  # noqa: E402

SMALL = dict(type='mmdet.ResNet', depth=18, base_channels=8, stem_channels=8)
R50 = SMALL | dict(depth=50)
BGR = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)


@MODELS.register_module()
class HasBackbone(BaseModel):
    def __init__(self, backbone: Any, data_preprocessor: Any) -> None:
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'loss') -> Any:
        return dict(loss=self.backbone(inputs)[-1].square().mean())


KEY = 'model.backbone.init_cfg.checkpoint'


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., Runner]:
    """Of a model whose backbone starts from ``init_cfg``, with the hook."""

    def make(backbone: Any, inputs: Any = RGB, **changes: Any) -> Runner:
        cfg = config(tmp_path / 'work', kd=None, iters=2, **changes)
        images = dict(type='ImgDataPreprocessor', **inputs)
        cfg.model = dict(type='HasBackbone', backbone=backbone, data_preprocessor=images)
        cfg.custom_hooks = [dict(type='kdmm.PretrainedBackboneHook')]
        return Runner.from_cfg(cfg)

    return make


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Path]:
    """A file of tools/convert.py."""

    def make(backbone: Any = SMALL, accept: tuple[str, ...] = (), **inputs: Any) -> Path:
        plain = backbone | dict(type='ResNet')
        source('mmpretrain', plain, tmp_path / 'run.pth', **inputs)
        target = None
        if accept:
            norm = dict(norm_cfg=dict(type='BN', eps=1e-3))
            target = write_config(tmp_path / 'target.py', 'mmdet', plain | norm)
        out = tmp_path / 'out.pth'
        run = str(tmp_path / 'run.pth')
        convert(Request(run, 'mmdet', str(out), target, accept=accept, force=True))
        return out

    return make


def starting(file: Any, backbone: Any = SMALL, **more: Any) -> dict[str, Any]:
    return dict(backbone, init_cfg=dict(type='Pretrained', checkpoint=str(file), **more))


def change(file: Path, action: Callable[[dict[str, Any]], Any]) -> Path:
    """The same file with other weights."""
    content = torch.load(file, weights_only=True)
    action(content['state_dict'])
    torch.save(content, file)
    return file


def test_the_whole_file_passes_and_is_named(runner, converted, caplog):
    run = runner(starting(converted()), log_level='INFO')
    run.train()
    assert run.iter == 2
    said = Path(run.log_dir, f'{run.timestamp}.log').read_text()
    assert "out.pth': all 120 weights; RGB, mean (123.675, 116.28, 103.53)" in said


@pytest.mark.parametrize(
    'action, told',
    [
        (lambda state: state.pop('layer2.0.conv1.weight'), '1 missing: layer2.0.conv1.weight'),
        (lambda state: state.update(more=torch.ones(1)), '1 unexpected: more'),
        (lambda state: state.update({'conv1.weight': torch.ones(8, 3, 3, 3)}),
         '1 wrong shape: conv1.weight (8, 3, 3, 3) for (8, 3, 7, 7)'),
        (lambda state: [state.update({f'x.{key}': state.pop(key)}) for key in list(state)],
         ('none of the 120 weights', 'prefix=None; the keys of the file start with x. (120)')),
        (lambda state: state.update({'bn1.bias': torch.ones(8).long()}),
         '1 wrong dtype: bn1.bias torch.int64 for torch.float32'),
        (lambda state: state.update({'bn1.bias': torch.ones(8) * torch.nan}),
         '1 not finite: bn1.bias (8 of 8 values)'),
        (lambda state: state.update({'bn1.bias': torch.ones(8).to_sparse()}),
         'others are bn1.bias'),
    ],
)  # fmt: skip
def test_a_file_that_mmengine_would_load_in_part(runner, converted, action, told):
    file = change(converted(), action)
    with refused(key=KEY, got=str(file), problem=told):
        runner(starting(file)).train()


def test_weights_that_did_not_arrive(runner, converted, monkeypatch):
    """The file is whole; something else in the program kept or changed the weights."""
    run = runner(starting(converted()))
    init = type(run.model.backbone).init_weights

    def meddle(self):
        init(self)
        self.bn1.running_var.add_(1)
        self.layer4[1].conv2.weight.data[0, 0, 0, 0] += 1

    monkeypatch.setattr(type(run.model.backbone), 'init_weights', meddle)
    told = 'was not loaded: 2 of 120 weights differ: bn1.running_var, layer4.1.conv2.weight'
    with refused(key=KEY, problem=told):
        run.train()
    assert run.iter == 0


def test_a_checkpoint_of_mmengine_with_a_prefix(runner, tmp_path):
    source('mmpretrain', SMALL | dict(type='ResNet'), tmp_path / 'run.pth')
    runner(starting(tmp_path / 'run.pth', prefix='backbone')).train()
    told = "under prefix='trunk.'; ", 'backbone. (120), head'
    with refused(key=KEY, got=str(tmp_path / 'run.pth'), problem=told, fix='Set prefix'):
        runner(starting(tmp_path / 'run.pth', prefix='trunk')).train()
    with refused(key=KEY, problem='prefix=None'):
        runner(starting(tmp_path / 'run.pth')).train()


@pytest.mark.parametrize('file, more', [('out.pth', {}), ('run.pth', dict(prefix='backbone.'))])
def test_what_the_file_says_of_itself_is_held_against_the_model(
    runner, converted, tmp_path, file, more
):
    converted(R50)
    with refused(key=KEY, problem="trained with style='pytorch', the network has 'caffe'"):
        runner(starting(tmp_path / file, R50 | dict(style='caffe'), **more)).train()
    for change in (dict(mean=[1, 2, 3]), dict(std=[1, 1, 1]), dict(bgr_to_rgb=False), BGR):
        with refused(key='model.data_preprocessor', problem='was trained on RGB, mean '):
            runner(starting(tmp_path / file, R50, **more), RGB | change).train()
    runner(starting(tmp_path / file, R50, **more)).train()


def test_what_was_accepted_in_converting_is_not_refused(runner, converted):
    other = SMALL | dict(norm_cfg=dict(type='BN', eps=1e-3))
    told = "norm='BatchNorm eps 1e-05', the network has 'BatchNorm eps 0.001'"
    with refused(key=KEY, problem=told):
        runner(starting(converted(), other)).train()
    runner(starting(converted(accept=('norm',)), other)).train()


def test_a_file_that_says_nothing(runner, tmp_path):
    state = shake(build('mmdet', SMALL)).state_dict()
    torch.save(state, tmp_path / 'plain.pth')
    runner(starting(tmp_path / 'plain.pth'), BGR).train()


def test_weights_of_a_zoo_have_a_classifier(runner, monkeypatch):
    """As ``torchvision://resnet18``, without batch counters."""
    state = shake(torchvision.models.resnet18()).state_dict()
    state = {key: value for key, value in state.items() if 'tracked' not in key}
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', lambda *args, **kwargs: dict(state))
    runner(starting('torchvision://resnet18', dict(type='mmdet.ResNet', depth=18))).train()
    del state['layer1.0.bn1.bias']
    with refused(key=KEY, got='torchvision://resnet18', problem='1 missing: layer1.0.bn1.bias'):
        runner(starting('torchvision://resnet18', dict(type='mmdet.ResNet', depth=18))).train()


def test_the_file_among_other_inits(runner, converted):
    file, others = converted(), dict(type='Kaiming', layer='Conv2d')
    start = dict(SMALL, init_cfg=[others, starting(file)['init_cfg']])
    runner(start).train()
    change(file, lambda state: state.update(more=torch.ones(1)))
    with refused(key=KEY, got=str(file), problem='1 unexpected: more'):
        runner(start).train()


def test_other_weights_are_not_compared(runner, converted, tmp_path):
    """A resumed run has trained, and ``load_from`` is another start."""
    file = converted()
    first = runner(starting(file))
    first.train()
    change(file, lambda state: state['conv1.weight'].add_(1))
    for changes in (dict(resume=True), dict(load_from=first_checkpoint(tmp_path))):
        runner(starting(file), **changes).train()
    change(file, lambda state: state.update(more=torch.ones(1)))
    runner(starting(file), resume=True).train()


def first_checkpoint(tmp_path: Path) -> str:
    return str(tmp_path / 'work/iter_2.pth')


def test_nothing_to_resume_is_a_fresh_run(runner, converted):
    file = change(converted(), lambda state: state.update(more=torch.ones(1)))
    with refused(key=KEY, got=str(file), problem='1 unexpected: more'):
        runner(starting(file), resume=True).train()


@pytest.mark.parametrize('init', [None, dict(type='Kaiming', layer='Conv2d')])
def test_a_backbone_that_starts_from_no_file(runner, init):
    with refused(key='model.backbone.init_cfg', expected="dict(type='Pretrained'", fix='leave'):
        runner(SMALL | dict(init_cfg=init)).train()


def test_another_rank_that_fails_fails_all(runner, converted, monkeypatch):
    theirs = ConfigError('theirs')
    monkeypatch.setattr('kdmm.hooks.pretrained.all_gather_object', lambda mine: [mine, theirs])
    with refused(key='', problem='theirs'):
        runner(starting(converted())).train()


def test_what_a_checkpoint_of_mmengine_states(tmp_path):
    text = config_of('mmdet', R50 | dict(type='ResNet', style='caffe')).pretty_text
    found = declared(dict(cfg=text), 'backbone.', 'mmdet')
    assert found.traits['style'] == 'caffe' and found.inputs == Normalization.of_config(RGB)


@pytest.mark.parametrize(
    'meta', [{}, dict(epoch=3), dict(cfg='no python ('), dict(cfg='model = dict(x=1)')]
)
def test_what_says_nothing(meta):
    found = declared(meta, '', 'mmdet')
    assert found.traits == {} and found.inputs is None
