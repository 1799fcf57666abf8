"""Transfer: what its configs inherit, load and train, and the small detectors that start alike."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
import yaml
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import nn

for _library in ('mmdet', 'mmpretrain', 'mmseg', 'mmpose'):
    pytest.importorskip(_library)

from kdmm.engine import build_runner  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from kdmm.hooks import PretrainedBackboneHook  # noqa: E402
from kdmm.transfer import Request, convert  # noqa: E402
from tests.transfer.nets import shake, source  # noqa: E402

from .config_table import CONFIGS, FAMILIES, boxes  # noqa: E402
from .config_table import read as read_config  # noqa: E402
from .tiny_boxes import shrink_detection  # noqa: E402
from .tiny_data import dataset_nodes, walk  # noqa: E402

ARMS = ('random', 'supervised', 'mcl', 'hssakd')
DEPTHS = (18, 50)
STOCK = {
    'faster-rcnn_r{}_fpn_1x_coco': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask-rcnn_r{}_fpn_1x_coco': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'retinanet_r{}_fpn_1x_coco': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'faster-rcnn_r{}_fpn_1x_voc0712': 'pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py',
    'retinanet_r{}_fpn_1x_voc0712': 'pascal_voc/retinanet_r50_fpn_1x_voc0712.py',
}
RUNS = [(stem, depth) for stem in STOCK for depth in DEPTHS]
OTHERS = {
    'deeplabv3_r18-d8_80k_cityscapes': (
        18, 'mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024.py'),
    'simplebaseline_r50_210e_coco': (
        50, 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'),
}  # fmt: skip
DETECTORS = [f'{stem.format(depth)}_{arm}' for stem, depth in RUNS for arm in ARMS]
ALL = [*DETECTORS, *(f'{stem}_{arm}' for stem in OTHERS for arm in ARMS[2:])]
TENSORS = {18: 120, 34: 216, 50: 318}


def read(name: str) -> Config:
    """A config of the folder, by its stem."""
    return read_config(f'transfer/{name}.py')


def depth_of(name: str) -> int:
    return 18 if '_r18' in name else 50


@pytest.fixture(scope='module')
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for the files of the arms: converted ones, and torchvision's."""
    folder = tmp_path_factory.mktemp('files')
    for depth in TENSORS:
        source('mmpretrain', dict(type='ResNet', depth=depth), folder / f'run{depth}.pth')
        convert(Request(str(folder / f'run{depth}.pth'), 'mmdet', str(folder / f'{depth}.pth')))
    for depth in DEPTHS:
        net = shake(torchvision.models.get_model(f'resnet{depth}'))
        torch.save(net.state_dict(), folder / f'supervised{depth}.pth')
    return folder


def place(cfg: Config, name: str, shelf: Path) -> str:
    """Put a file of the test where the config says that its weights are."""
    init = cfg.model.backbone.init_cfg
    if init is None:
        return ''
    kind = 'supervised' if name.endswith('supervised') else ''
    init.checkpoint = str(shelf / f'{kind}{depth_of(name)}.pth')
    return init.checkpoint


def test_all_are_there() -> None:
    assert sorted(Path(name).stem for name in FAMILIES['transfer'].names) == sorted(ALL)


# what they inherit


@pytest.mark.parametrize('name', DETECTORS)
def test_is_the_base_librarys_config_with_another_start(name: str) -> None:
    stem, arm = name.rsplit('_', 1)
    depth = depth_of(name)
    theirs = Config.fromstring(
        f"_base_ = 'mmdet::{STOCK[stem.replace(f'_r{depth}_', '_r{}_')]}'", '.py'
    ).to_dict()
    backbone = theirs['model']['backbone']
    assert backbone['init_cfg'] == dict(type='Pretrained', checkpoint='torchvision://resnet50')
    if depth == 18:
        backbone.update(depth=18)
        backbone['init_cfg']['checkpoint'] = 'torchvision://resnet18'
        theirs['model']['neck']['in_channels'] = [64, 128, 256, 512]
    ours = read(name).to_dict()
    scratch = ours.pop('from_scratch', None)
    if arm == 'random':
        norm = dict(type='SyncBN', requires_grad=True)
        backbone.update(init_cfg=None, frozen_stages=-1, norm_cfg=norm, norm_eval=False)
        assert scratch and 'custom_hooks' not in ours
    else:
        assert ours.pop('custom_hooks') == [dict(type='kdmm.PretrainedBackboneHook')]
        assert ours.pop('custom_imports')['imports'] == ['kdmm']
    if arm in ('mcl', 'hssakd'):
        backbone['init_cfg']['checkpoint'] = f'work_dirs/transfer/{arm}_r{depth}.pth'
    ours.pop('work_dir')
    for key in ('tta_model', 'tta_pipeline', 'img_scales'):  # of the RetinaNets' own
        theirs.pop(key, None), ours.pop(key, None)
    assert ours == theirs


@pytest.mark.parametrize('name', [name for name in DETECTORS if name.endswith('supervised')])
def test_settings_of_the_recipe(name: str) -> None:
    """Settings of the stock configs; the other arms were compared with them above."""
    cfg = read(name)
    backbone, images = cfg.model.backbone, cfg.model.data_preprocessor
    assert backbone.style == 'pytorch' and tuple(backbone.out_indices) == (0, 1, 2, 3)
    assert backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert images.mean == [123.675, 116.28, 103.53] and images.std == [58.395, 57.12, 57.375]
    assert images.bgr_to_rgb and images.pad_size_divisor == 32
    voc, retina = 'voc' in name, 'retinanet' in name
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr == (0.01 if voc or retina else 0.02)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert cfg.train_cfg.max_epochs == (4 if voc else 12)
    assert cfg.param_scheduler[-1].milestones == ([3] if voc else [8, 11])
    warm = [(one.start_factor, one.end) for one in cfg.param_scheduler if one.type == 'LinearLR']
    assert warm == ([] if voc else [(0.001, 500)])
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.dataset.get('times', 1) == (3 if voc else 1)
    steps = next(dataset_nodes(cfg.train_dataloader.dataset)).pipeline
    scale = next(step.scale for step in steps if step.type == 'Resize')
    assert tuple(scale) == ((1000, 600) if voc else (1333, 800))
    assert cfg.val_evaluator.get('eval_mode') == ('11points' if voc else None)


@pytest.mark.parametrize('stem', OTHERS)
@pytest.mark.parametrize('arm', ARMS[2:])
def test_other_libraries_configs(stem: str, arm: str) -> None:
    depth, stock = OTHERS[stem]
    ours = read(f'{stem}_{arm}').to_dict()
    theirs = Config.fromstring(f"_base_ = '{stock}'", '.py').to_dict()
    file = dict(type='Pretrained', checkpoint=f'work_dirs/transfer/{arm}_r{depth}.pth')
    assert ours['model']['backbone'].pop('init_cfg') == file
    theirs['model']['backbone'].pop('init_cfg', None)
    assert ours['model'].get('pretrained') is None
    theirs['model'].pop('pretrained', None), ours['model'].pop('pretrained', None)
    assert ours.pop('custom_hooks')[-1] == dict(type='kdmm.PretrainedBackboneHook')
    theirs.pop('custom_hooks', None)
    for key in ('custom_imports', 'work_dir'):
        ours.pop(key)
    assert ours == theirs


# what they load


def model_of(cfg: Config) -> nn.Module:
    model = MODELS.build(dict(cfg.model, _scope_=cfg.default_scope))
    model.init_weights()
    return model


def compare(cfg: Config, model: nn.Module) -> None:
    """As the hook of a run does."""
    run = SimpleNamespace(cfg=cfg, model=model, logger=logging.getLogger('transfer'))
    hook = PretrainedBackboneHook()
    hook.before_run(run)
    hook.before_train(run)


@pytest.mark.parametrize('name', ALL)
def test_every_model_starts_from_all_of_its_file(name: str, shelf: Path, loaded: set[str]) -> None:
    """Once for each network and kind of file; arms of one kind differ in its name."""
    cfg = read(name)
    file = place(cfg, name, shelf)
    walk(cfg.model, lambda node: node.update(num_classes=20) if 'num_classes' in node else None)
    key = str((cfg.default_scope, cfg.model.to_dict(), cfg.get('custom_hooks')))
    if key in loaded:
        return
    loaded.add(key)
    model = model_of(cfg)
    frozen = [key for key, value in model.backbone.named_parameters() if not value.requires_grad]
    model.train()
    norms = [part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d)]
    if not file:
        assert frozen == [] and all(norm.training for norm in norms)
        return
    compare(cfg, model)
    held = model.backbone.state_dict()
    state = torch.load(file, weights_only=True)
    state = state.get('state_dict', state)
    assert len(held) == TENSORS[depth_of(name)]
    assert all(torch.equal(value, state[key]) for key, value in held.items())
    if name in DETECTORS:
        trained = sum(x.numel() for x in model.backbone.parameters() if x.requires_grad)
        assert trained == {18: 11_019_008, 50: 23_282_688}[depth_of(name)]
        assert all(key.startswith(('conv1', 'bn1', 'layer1')) for key in frozen)
        assert not any(norm.training for norm in norms)
    model.backbone.layer3[0].conv1.weight.data[0, 0, 0, 0] += 1
    with pytest.raises(ConfigError, match='1 of .* weights differ: layer3.0.conv1.weight'):
        compare(cfg, model)


@pytest.fixture(scope='module')
def loaded() -> set[str]:
    """The models that were compared."""
    return set()


WHOLE = {
    'mmdet': 'faster-rcnn_r18_fpn_1x_coco_mcl',
    'mmseg': 'deeplabv3_r18-d8_80k_cityscapes_mcl',
    'mmpose': 'simplebaseline_r50_210e_coco_mcl',
}
#: MMSegmentation's own is in no weight, and MMPretrain lacks half of it
GEOMETRY = dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), contract_dilation=False)


@pytest.mark.parametrize('depth', TENSORS)
@pytest.mark.parametrize('library', WHOLE)
def test_features_are_the_pretrained_ones(library: str, depth: int, shelf: Path) -> None:
    """Of the config's whole model, beside a backbone of MMPretrain with the run's weights."""
    cfg = read(WHOLE[library])
    given = {key: GEOMETRY[key] for key in GEOMETRY if key in cfg.model.backbone}
    cfg.model.backbone.update(depth=depth, out_indices=(0, 1, 2, 3), **given)
    cfg.model.backbone.init_cfg.checkpoint = str(shelf / f'{depth}.pth')
    target = model_of(cfg).backbone
    kind = dict(type='ResNet', depth=depth, out_indices=(0, 1, 2, 3))
    origin = MODELS.build(dict(kind, _scope_='mmpretrain'))
    state = torch.load(shelf / f'run{depth}.pth', weights_only=True)['state_dict']
    state = {key.removeprefix('backbone.'): state[key] for key in state if 'backbone' in key}
    origin.load_state_dict(state)
    assert len(state) == TENSORS[depth]
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    origin.eval(), target.eval()  # which return nothing
    with torch.no_grad():
        ours, theirs = origin(images), target(images)
    assert len(ours) == len(theirs) == 4 and all(map(torch.equal, ours, theirs))
    assert ours[-1].std() > 0


# what they train


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes(tmp_path_factory.mktemp('data'))


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Callable[[Config, str], Any]:
    def train(cfg: Config, kind: str) -> Any:
        shrink_detection(cfg, data / kind, tmp_path)
        runner = build_runner(cfg)
        runner.train()
        assert runner.iter == 2
        logged = MessageHub.get_instance(runner.experiment_name).log_scalars
        assert math.isfinite(logged['train/loss'].current())
        wanted = {'voc0712': {'val/pascal_voc/mAP'}}.get(kind, {'val/coco/bbox_mAP'})
        masks = {'val/coco/segm_mAP'} if cfg.model.type == 'MaskRCNN' else set()
        assert wanted | masks <= set(logged)
        return runner

    return train


@pytest.mark.parametrize(
    'name',
    [
        *(f'{stem.format(18)}_{ARMS[i % 4]}' for i, stem in enumerate(STOCK)),
        'retinanet_r50_fpn_1x_coco_hssakd',
    ],
)
def test_trains_two_iterations(
    name: str, trained: Callable[[Config, str], Any], shelf: Path
) -> None:
    """One arm of each detector, and one of the deeper backbone.

    Arms differ in what they load, and the rest is the base library's, as is compared above.
    """
    cfg = read(name)
    file = place(cfg, name, shelf)
    runner = trained(cfg, name.rsplit('_', 2)[1])
    if file:
        check_frozen(runner.model.backbone, torch.load(file, weights_only=True))


def check_frozen(backbone: nn.Module, content: dict[str, Any]) -> None:
    """Stem, first stage and all statistics are the file's after training, the rest has moved."""
    state = content.get('state_dict', content)
    for key, value in backbone.state_dict().items():
        if key.startswith(('conv1', 'bn1', 'layer1')) or 'running' in key or 'tracked' in key:
            assert torch.equal(value, state[key]), key
        elif 'conv' in key:  # some norms move by less than their precision
            assert not torch.equal(value, state[key]), key


def test_bccd_is_normalised_as_its_backbone_is() -> None:
    """Complete checkpoints bring no statement that could be held against the config."""
    images = read_config('mcl/cifar10_small_resnet18_mcl.py').data_preprocessor
    for network in ('faster-rcnn', 'retinanet'):
        ours = read_config(f'small/bccd/{network}_r18_fpn.py').model.data_preprocessor
        assert (ours.mean, ours.std, ours.bgr_to_rgb) == (images.mean, images.std, images.to_rgb)


# what is written about them


def test_metafile_names_the_backbones() -> None:
    content = yaml.safe_load((CONFIGS / 'transfer/metafile.yml').read_text())
    for model in content['Models']:
        depth = depth_of(Path(model['Config']).stem)
        assert model['Metadata']['Architecture'][1] == f'ResNet-{depth}'
