"""Detection as a user runs it: two processes on the CPU, small networks, real and drawn cells."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

for _library in ('mmdet', 'mmpretrain'):
    pytest.importorskip(_library)

from kdmm.transfer import Request, convert  # noqa: E402
from tests.transfer.nets import source  # noqa: E402

from .job import ROOT, Job  # noqa: E402
from .tiny_boxes import BCCD, BCCD_CLASSES, SIZE, write_coco  # noqa: E402

CONFIG = ROOT / 'configs/small/bccd/faster-rcnn_r18_fpn.py'
BESIDE = ROOT.parent / 'shared/data/bccd'
SHORT = ('train_dataloader.batch_size=2', 'default_hooks.checkpoint.save_last=False')


def iterations(number: int) -> list[str]:
    return [f'train_cfg.max_iters={number}', f'train_cfg.val_interval={number}', *SHORT]


@pytest.fixture
def real() -> Path:
    """BCCD where BCCD_ROOT says, or beside the checkout."""
    root = Path(os.environ.get('BCCD_ROOT', BESIDE)).resolve()
    if not root.is_dir():
        pytest.skip(f'no BCCD_ROOT, and nothing at {BESIDE}')
    return root


def test_twenty_iterations_on_real_cells(real: Path, tmp_path: Path) -> None:
    """Without compiled operators of mmcv, where it has none."""
    options = ['--cfg-options', *iterations(20)]
    Job(tmp_path).train(str(CONFIG), 'run', *options, processes=2, BCCD_ROOT=str(real))
    summary = json.loads((tmp_path / 'run/run_summary.json').read_text())
    assert (summary['iterations'], summary['world_size']) == (20, 2)
    assert 0 <= summary['metrics']['coco/bbox_mAP_50'] <= 1


START = """
_base_ = '{config}'
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
custom_hooks = [dict(type='kdmm.PretrainedBackboneHook')]
scale = {size}
model = dict(backbone=dict(
    init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='r18.pth')))
train_dataloader = dict(dataset=dict(pipeline=[*_base_.train_pipeline[:2],
    dict(type='Resize', scale=scale), *_base_.train_pipeline[3:]]))
val_dataloader = dict(dataset=dict(pipeline=[_base_.test_pipeline[0],
    dict(type='Resize', scale=scale), *_base_.test_pipeline[2:]]))
"""


@pytest.fixture
def cells(tmp_path: Path) -> Callable[..., str]:
    """Two processes that start from a file on drawn cells; what they say."""
    write_coco(tmp_path / 'bccd', BCCD, BCCD_CLASSES)
    source('mmpretrain', dict(type='ResNet', depth=18), tmp_path / 'run.pth')
    convert(Request(str(tmp_path / 'run.pth'), 'mmdet', str(tmp_path / 'r18.pth')))
    (tmp_path / 'start.py').write_text(START.format(config=CONFIG, size=SIZE))

    def run(code: int, *flags: str) -> str:
        done = Job(tmp_path).train(
            'start.py', 'run', *flags, '--cfg-options', *iterations(2),
            processes=2, check=False, BCCD_ROOT=str(tmp_path / 'bccd'),
        )  # fmt: skip
        assert bool(done.returncode) == bool(code), done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout + done.stderr

    return run


def test_two_processes_start_from_a_whole_file_or_not_at_all(
    cells: Callable[..., str], tmp_path: Path
) -> None:
    assert "'r18.pth': all 120 weights; RGB" in cells(0)
    assert json.loads((tmp_path / 'run/run_summary.json').read_text())['world_size'] == 2
    content = torch.load(tmp_path / 'r18.pth', weights_only=True)
    del content['state_dict']['layer2.0.conv1.weight']
    torch.save(content, tmp_path / 'r18.pth')
    said = cells(2)
    told = re.findall(r'kdmm: error \(rank [01]\): (.{23})', said)  # by one of them, for all
    assert told == ['model.backbone.init_cfg']
    assert '1 missing: layer2.0.conv1.weight' in said and 'train_step' not in said


def test_a_wrong_place_is_one_message(tmp_path: Path) -> None:
    done = Job(tmp_path).train(str(CONFIG), 'run', check=False, BCCD_ROOT='/no/where')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith('kdmm: error (rank 0): train_dataloader.dataset.data_root: there is no')
    assert "'/no/where'" in line and 'the environment variable BCCD_ROOT' in line
