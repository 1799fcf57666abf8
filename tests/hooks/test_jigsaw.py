"""The levels beside the loss, the warning of a plateau, the checks at the start, the sheets."""

import copy
import itertools
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODEL_WRAPPERS

pytest.importorskip('mmpose')

from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.hooks.jigsaw_sheet import solve  # noqa: E402
from tests.e2e.tiny_pose import shrink_pose, write_people  # noqa: E402
from tests.errors import refused  # noqa: E402


@MODEL_WRAPPERS.register_module()
class Wrapper(torch.nn.Module):
    """A wrapper like MMDistributedDataParallel, in one process."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


PRETRAIN = str(Path(__file__).parents[2] / 'configs' / 'small' / 'pose' / 'pretrain.py')


@pytest.fixture(scope='module')
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('people')
    write_people(root)
    return root


_NUMBER = itertools.count()


@pytest.fixture
def make(people: Path, tmp_path: Path) -> Any:
    def runner(**changes: Any) -> Any:
        cfg = load_config(PRETRAIN)
        shrink_pose(cfg, people, tmp_path)
        cfg.experiment_name = f'jigsaw_{next(_NUMBER)}'  # two of a second would share their log
        cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
        return build_runner(cfg)

    return runner


def test_levels_are_beside_the_loss(make: Any) -> None:
    runner = make(model__head__loss__loss_weight=10.0)
    runner.train()
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    assert logged['train/loss_zero'].current() == pytest.approx(0.04091, abs=1e-5)
    assert logged['train/loss_blind'].current() == pytest.approx(0.03750, abs=2e-5)
    # they are in the log only: the loss that is minimised does not contain them
    assert logged['train/loss'].current() == logged['train/loss_kpt'].current()
    text = next(Path(runner.work_dir).rglob('vis_data/scalars.json')).read_text()
    assert '"loss_blind"' in text and '"loss_zero"' in text


@pytest.mark.parametrize(('margin', 'warned'), [(0.0, True), (10.0, False)])
def test_warns_of_a_network_that_sees_nothing(make: Any, margin: float, warned: bool) -> None:
    hook = dict(type='kdmm.JigsawHook', patience=1.0, margin=margin)
    runner = make(custom_hooks=[hook])
    runner.train()
    found = [line for line in log_of(runner).splitlines() if 'little or nothing was learnt' in line]
    assert len(found) == int(warned)
    assert not found or 'WARNING - Jigsaw: after 2 iterations' in found[0]


@pytest.mark.parametrize(
    ('changes', 'key', 'told'),
    [
        (
            dict(model__head__out_channels=17),
            'model.head.out_channels',
            dict(got=17, expected='12, the patches'),
        ),
        (dict(model__test_cfg__flip_test=True), 'model.test_cfg.flip_test', dict(got=True)),
        (
            dict(
                reproducible=False,
                train_dataloader__num_workers=1,
                train_dataloader__persistent_workers=False,
            ),
            'train_dataloader.persistent_workers',
            dict(got=False, fix='reproducible=True'),
        ),
        (
            dict(model__test_cfg__output_heatmaps=False),
            'model.test_cfg.output_heatmaps',
            dict(fix='Set it to True'),
        ),
        (
            dict(val_dataloader__dataset__pipeline__3__mode='home'),
            'val_dataloader.dataset',
            dict(problem=("mode='home'", "'identity'")),
        ),
        (
            dict(
                train_dataloader__dataset__pipeline__5__grid=(3, 4),
                train_dataloader__dataset__pipeline__5__input_size=(96, 96),
            ),
            'val_dataloader.dataset',
            dict(problem='grid=(4, 3), in training it is (3, 4)'),
        ),
        (
            dict(val_dataloader__dataset__pipeline__3__seed=None),
            'val_dataloader.dataset',
            dict(problem='no seed', fix='seed=0'),
        ),
        (
            dict(val_dataloader__dataset__pipeline__4__meta_keys=['id']),
            'val_dataloader.dataset.pipeline',
            dict(expected='meta_keys'),
        ),
        (
            dict(train_dataloader__dataset__pipeline__7__meta_keys=['id']),
            'train_dataloader.dataset.pipeline',
            dict(expected='meta_keys'),
        ),
        (
            dict(
                train_dataloader__dataset__pipeline__6__encoder=dict(
                    _delete_=True, type='SimCCLabel', input_size=(96, 128), sigma=6.0
                )
            ),
            'GenerateTarget.encoder',
            dict(got='SimCCLabel', problem='one heatmap a patch'),
        ),
        (
            dict(train_dataloader__dataset__pipeline__6__encoder__type='CombinedUDP'),
            'GenerateTarget.encoder',
            dict(got='UDPHeatmap', problem='one heatmap a patch'),
        ),
    ],
)
def test_refuses(make: Any, changes: dict[str, Any], key: str, told: dict[str, Any]) -> None:
    """Before the first step, whatever it is."""
    encoder = 'train_dataloader__dataset__pipeline__6__encoder__'
    if changes.get(f'{encoder}type') == 'CombinedUDP':
        changes = {f'{encoder}type': 'UDPHeatmap', f'{encoder}heatmap_type': 'combined'}
    runner = make(**changes)
    with refused(key=key, **told):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('order', 'words'),
    [
        ((0, 1, 3, 4, 5, 2, 6, 7), 'not before RandomFlip or TopdownAffine'),
        ((0, 1, 2, 3, 5, 4, 6, 7), 'not before RandomFlip or TopdownAffine'),
        ((0, 1, 2, 3, 4, 6, 5, 7), 'behind it GenerateTarget'),
        ((0, 1, 2, 3, 4, 5, 5, 6, 7), 'ShufflePatches once'),
    ],
)
def test_refuses_another_order(make: Any, order: tuple[int, ...], words: str) -> None:
    steps = make().cfg.train_dataloader.dataset.pipeline
    changed = [steps[place] for place in order]
    with refused(key='train_dataloader.dataset.pipeline', expected=words):
        make(train_dataloader__dataset__pipeline=changed).train()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({}, None),
        (dict(seed=4), None),
        (dict(mode='home'), "mode='home'"),
        (dict(grid=(3, 4), input_size=(96, 96)), 'grid=(3, 4)'),
        (dict(p_identity=0.5), 'p_identity or permutations'),
    ],
)
def test_parts_of_the_data_agree(make: Any, changes: dict[str, Any], words: str | None) -> None:
    data = make().cfg.train_dataloader.dataset
    other = copy.deepcopy(data)
    other.pipeline[5].update(changes)
    joined = dict(type='ConcatDataset', datasets=[data, other])
    runner = make(
        train_dataloader__dataset=dict(_delete_=True, type='RepeatDataset', times=1, dataset=joined)
    )
    if words is None:
        runner.train()
    else:
        with refused(problem=words) as caught:
            runner.train()
        assert caught.value.key.startswith('train_dataloader.dataset')


def test_levels_belong_to_one_loss(make: Any) -> None:
    runner = make(model__head__loss=dict(_delete_=True, type='KeypointOHKMMSELoss', topk=4))
    runner.train()
    assert 'train/loss_blind' not in runner.message_hub.log_scalars
    assert 'no levels, they are of KeypointMSELoss' in log_of(runner)


def log_of(runner: Any) -> str:
    return next(Path(runner.work_dir).rglob('*.log')).read_text()


def test_no_warning_where_seeing_nothing_is_enough(make: Any) -> None:
    """Patches that stay where they are, or always lie alike, are found by a blind network."""
    for number, options in enumerate((dict(p_identity=1.0), dict(permutations=1))):
        changes = {f'train_dataloader__dataset__pipeline__5__{k}': v for k, v in options.items()}  # type: ignore[attr-defined]
        hook = dict(type='kdmm.JigsawHook', patience=1.0)
        runner = make(custom_hooks=[hook], experiment_name=f'blind{number}', **changes)
        runner.train()
        assert 'little or nothing was learnt' not in log_of(runner)
        assert 'loss_blind 0.000000, chance 1.0000' in log_of(runner)


def test_refuses_a_pipeline_without_puzzles(make: Any) -> None:
    steps = load_config(PRETRAIN.replace('pretrain', 'finetune')).train_dataloader.dataset.pipeline
    told = 'kdmm.ShufflePatches', 'TopdownAffine'
    with refused(key='train_dataloader.dataset.pipeline', expected=told):
        make(train_dataloader__dataset__pipeline=steps).train()


def test_seeded_workers_are_welcome(make: Any) -> None:
    make(train_dataloader__num_workers=1, train_dataloader__persistent_workers=False).train()


def test_sheets_reach_every_backend(make: Any) -> None:
    """Every iteration here; the run with them is the run without them."""
    pytest.importorskip('tensorboard')
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    states = []
    for name, hooks in (
        ('without', []),
        ('with', [dict(type='kdmm.JigsawSheetHook', interval=1, samples=2)]),
    ):
        visualizer = dict(type='PoseLocalVisualizer', vis_backends=backends, name=name)
        runner = make(custom_hooks=hooks, visualizer=visualizer)
        runner.train()
        states.append(runner.model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    pictures = sorted(Path(runner.work_dir).rglob('vis_image/jigsaw_*.png'))
    assert [path.stem for path in pictures] == ['jigsaw_1', 'jigsaw_2']
    sheet = cv2.imread(str(pictures[0]))
    assert sheet.shape[0] > 2 * 128 and sheet.shape[1] > 4 * 96
    events = next(Path(runner.work_dir).rglob('events.out.tfevents*'))
    assert b'jigsaw' in events.read_bytes()


def test_solving_leaves_every_mode_as_it_was(make: Any) -> None:
    """Also of a part in eval mode inside a model in training mode, and of a wrapped model."""
    runner = make()
    model = runner.model.train()
    model.backbone.bn1.eval()
    before = {name: part.training for name, part in model.named_modules()}
    batch = next(iter(runner.build_dataloader(runner._train_dataloader)))
    wrapped = MODEL_WRAPPERS.build(dict(type='Wrapper', module=model))
    solved = solve(wrapped, list(batch['inputs']), list(batch['data_samples']))
    assert solved[0].pred_fields.heatmaps.shape == (12, 32, 24)
    assert {name: part.training for name, part in model.named_modules()} == before
    assert model.test_cfg == runner.cfg.model.test_cfg
