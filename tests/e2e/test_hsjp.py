"""Jigsaw pretraining as a user runs it, on a few tiny pictures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmpose')

from mmpose.registry import MODELS  # noqa: E402

from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.engine.cli import train  # noqa: E402

from .config_table import CONFIGS  # noqa: E402
from .tiny_pose import shrink_pose, write_people  # noqa: E402

PRETRAIN, FINETUNE = (str(CONFIGS / 'small' / 'pose' / f'{k}.py') for k in ('pretrain', 'finetune'))

PLAIN_MMPOSE = """
import sys
import kdmm.compat  # serves the operators that mmcv is installed without; the rest is MMPose's
import torch
from mmengine.config import Config
from mmengine.runner import Runner
config, checkpoint, out = sys.argv[1:]
cfg = Config.fromfile(config)
cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
runner = Runner.from_cfg(cfg)
runner.model.init_weights()
torch.save(runner.model.backbone.state_dict(), out)
runner.train()
"""


@pytest.fixture(scope='module')
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('people')
    write_people(root)
    return root


def config(base: str, people: Path, work_dir: Path, epochs: int = 1, **changes: Any) -> Config:
    cfg = load_config(base)
    shrink_pose(cfg, people, work_dir)
    cfg.train_cfg.max_epochs = epochs
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    return cfg


def test_plain_mmpose_finetunes_from_a_pretext_checkpoint(people: Path, tmp_path: Path) -> None:
    build_runner(config(PRETRAIN, people, tmp_path / 'pretext')).train()
    checkpoint = tmp_path / 'pretext' / 'epoch_1.pth'
    config(FINETUNE, people, tmp_path / 'pose').dump(str(tmp_path / 'pose.py'))
    out = tmp_path / 'backbone.pt'
    command = [sys.executable, '-c', PLAIN_MMPOSE, str(tmp_path / 'pose.py'), str(checkpoint)]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'missing keys' not in done.stdout and 'unexpected key' not in done.stdout
    own, state = torch.load(out), torch.load(checkpoint, weights_only=False)['state_dict']
    pretext = {key.removeprefix('backbone.'): v for key, v in state.items() if 'backbone.' in key}
    assert own.keys() == pretext.keys() and len(own) == 120
    for key, value in own.items():
        assert torch.equal(value, pretext[key]), key


def test_resumed_pretext_is_the_uninterrupted_one(people: Path, tmp_path: Path) -> None:
    build_runner(config(PRETRAIN, people, tmp_path / 'whole', 2)).train()
    middle = dict(resume=True, load_from=str(tmp_path / 'whole' / 'epoch_1.pth'))
    build_runner(config(PRETRAIN, people, tmp_path / 'rest', 2, **middle)).train()
    whole, rest = (
        torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)['state_dict']
        for name in ('whole', 'rest')
    )
    for key, value in whole.items():
        assert torch.equal(value, rest[key]), key


@pytest.mark.parametrize('workers', [0, 2])
def test_every_epoch_has_puzzles_of_its_own(people: Path, tmp_path: Path, workers: int) -> None:
    """Whatever the number of workers, and though they are started anew each epoch."""
    changes = dict(train_dataloader__num_workers=workers, randomness__seed=0)
    runner = build_runner(config(PRETRAIN, people, tmp_path, **changes))
    loader = runner.train_dataloader
    epochs = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        samples = [sample for batch in loader for sample in batch['data_samples']]
        epochs.append({s.metainfo['id']: tuple(s.metainfo['jigsaw_perm']) for s in samples})
    for number in epochs[0]:
        assert len({epoch[number] for epoch in epochs}) == 3
    assert len(set(epochs[0].values())) == len(epochs[0])
    expected = Path(tmp_path).parent / 'permutations.json'  # of the other number of workers
    text = json.dumps([sorted((k, list(map(int, v))) for k, v in e.items()) for e in epochs])
    if expected.is_file():
        assert expected.read_text() == text
    expected.write_text(text)


@pytest.mark.parametrize(
    'name', ['simplebaseline_r50_256x192', 'hrnet_w32_256x192', 'hrnet_w48_256x192']
)
def test_first_loss_of_the_papers_networks(name: str) -> None:
    """A fresh network on four crops of noise: near 0.0041, the loss of an all-zero output."""
    cfg = load_config(str(CONFIGS / 'hsjp' / f'pretrain_{name}.py'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    from mmpose.registry import TRANSFORMS

    steps = cfg.train_dataloader.dataset.pipeline[5:]
    batch: dict[str, list[Any]] = dict(inputs=[], data_samples=[])
    for number in range(4):
        np.random.seed(number)
        image = np.random.randint(0, 256, (256, 192, 3), dtype=np.uint8)
        results: Any = dict(img=image, id=number, input_size=(192, 256))
        for step in steps:
            results = TRANSFORMS.build(step)(results)
        for key, values in batch.items():
            values.append(results[key])
    model.train()
    data = model.data_preprocessor(batch, True)
    with torch.no_grad():
        loss = model(**data, mode='loss')['loss_kpt'].item()
    assert 0.0040 <= loss <= 0.0090


@pytest.mark.slow
def test_learns_eight_puzzles_by_heart(people: Path, tmp_path: Path) -> None:
    """Eight crops with eight fixed permutations, to the last patch."""
    cfg = load_config(PRETRAIN)
    shrink_pose(cfg, people, tmp_path)
    steps = [dict(step) for step in cfg.train_dataloader.dataset.pipeline]
    steps = [step for step in steps if not step['type'].startswith('Random')]
    datasets = []
    for seed, split in enumerate(('val2017', 'train2017')):
        own = [
            dict(step, seed=seed) if step['type'] == 'kdmm.ShufflePatches' else step
            for step in steps
        ]
        files = dict(
            ann_file=f'annotations/person_keypoints_{split}.json', data_prefix=dict(img=f'{split}/')
        )
        datasets.append(dict(type='CocoDataset', data_root=str(people), pipeline=own, **files))
    joined = dict(type='ConcatDataset', datasets=datasets)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=25, dataset=joined)
    cfg.train_dataloader.batch_size = 8
    cfg.train_cfg.update(max_epochs=12, val_interval=12)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, end=25, by_epoch=False),
        dict(type='CosineAnnealingLR', T_max=12, by_epoch=True, convert_to_iter_based=True),
    ]
    cfg.custom_hooks = [dict(type='kdmm.JigsawHook')]
    runner = build_runner(cfg)
    runner.train()
    assert runner.message_hub.get_scalar('train/loss').current() < 0.1 * 0.004091
    assert runner.message_hub.get_scalar('val/jigsaw/patch_acc').current() == 1.0


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (
            ['train_dataloader.dataset.pipeline.5.grid=[3,3]'],
            ('ShufflePatches.grid', '(3, 3)', 'height of 128'),
        ),
        (
            ['train_dataloader.dataset.pipeline.5.grid=[64,3]'],
            ('out_channels', 'got 12', '192, the patches'),
        ),
        (['val_dataloader.dataset.pipeline.3.gap=3'], ('ShufflePatches.gap', 'got 3', 'even')),
        (['train_dataloader.dataset.ann_file=gone.json'], ('ann_file', 'gone.json')),
        (['train_dataloader.dataset.data_prefix.img=train'], ('data_prefix.img', 'train')),
        (['train_dataloader.dataset.data_prefix.img=val2017/x'], ('data_prefix.img',)),
        (
            [
                'train_dataloader.dataset.type=kdmm.PersonCropDataset',
                'train_dataloader.dataset.category=cat',
            ],
            ("no category 'cat'", 'person'),
        ),
    ],
)
def test_wrong_input_is_one_message(
    options: list[str],
    words: tuple[str, ...],
    people: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config(PRETRAIN, people, tmp_path / 'run').dump(str(tmp_path / 'c.py'))
    with pytest.raises(SystemExit) as stop:
        train([str(tmp_path / 'c.py'), '--cfg-options', *options])
    said = capsys.readouterr().err
    assert stop.value.code == 2
    lines = [line for line in said.splitlines() if line.startswith('kdmm: error')]
    assert len(lines) == 1 and all(word in lines[0] for word in words), said


@pytest.mark.parametrize('workers', [0, 1])
def test_missing_picture_is_one_message(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_people(tmp_path / 'data')
    (tmp_path / 'data' / 'train2017' / '2.jpg').unlink()
    changes = dict(train_dataloader__num_workers=workers)
    config(PRETRAIN, tmp_path / 'data', tmp_path / 'run', **changes).dump(str(tmp_path / 'c.py'))
    with pytest.raises(SystemExit) as stop:
        train([str(tmp_path / 'c.py')])
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith('kdmm: error')]
    assert stop.value.code == 2 and len(lines) == 1
    assert '2.jpg' in lines[0] and 'Traceback' not in lines[0]
