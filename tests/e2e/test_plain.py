"""Without the section nothing changes, and what kdmm writes is the base library's."""

import sys
from pathlib import Path

import mmseg
import pytest
import torch

from tests.e2e.job import Job, assert_same
from tests.versions import needs_mmseg_alone

MMSEG_TRAIN = str(Path(mmseg.__file__).parent / '.mim/tools/train.py')

LOAD_IN_PLAIN_MMSEG = """
import sys
sys.modules['kdmm'] = None  # importing it is an error
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
config, checkpoint, out = sys.argv[1:]
cfg = Config.fromfile(config)
model = MODELS.build(dict(cfg.model, _scope_='mmseg'))
state = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
model.load_state_dict(state, strict=True)
model.eval()
with torch.no_grad():
    logits = model(torch.linspace(-2, 2, 3 * 56 * 70).view(1, 3, 56, 70), mode='tensor')
torch.save(logits, out)
"""


def mmseg_train(job: Job, config: str, name: str) -> None:
    command = [sys.executable, MMSEG_TRAIN, config, '--work-dir', str(job.root / name)]
    job.run(command, E2E_BRIEF='')


@pytest.fixture(scope='module')
def runs(job: Job) -> Job:
    """The same config by mmseg's script and by ours, and the distilled one by ours."""
    needs_mmseg_alone()
    mmseg_train(job, 'plain.py', 'by_mmseg')
    job.train('plain.py', 'by_kdmm', E2E_BRIEF='')
    job.train('kd.py', 'distilled', E2E_BRIEF='')
    return job


def test_without_the_section_training_is_bit_identical(runs: Job) -> None:
    theirs, ours = runs.checkpoint('by_mmseg', 8), runs.checkpoint('by_kdmm', 8)
    for entry in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(theirs[entry], ours[entry], entry)
    assert 'kdmm' not in ours


def test_resolved_copy_trains_the_plain_student_in_mmseg(runs: Job) -> None:
    mmseg_train(runs, 'distilled/kd.py', 'copy_by_mmseg')
    copy, plain = runs.checkpoint('copy_by_mmseg', 8), runs.checkpoint('by_mmseg', 8)
    assert_same(copy['state_dict'].keys(), plain['state_dict'].keys())
    assert copy['meta']['iter'] == 8


@pytest.mark.parametrize('entry', ['state_dict', 'ema_state_dict'])
def test_checkpoint_is_a_plain_student(runs: Job, entry: str) -> None:
    keys = [key.removeprefix('module.') for key in runs.checkpoint('distilled', 8)[entry]]
    plain = runs.checkpoint('by_mmseg', 8)['state_dict']
    assert [key for key in keys if key != 'steps'] == list(plain)


def test_plain_mmseg_gives_the_logits_of_ours(runs: Job) -> None:
    from kdmm.engine import build_runner, load_config

    checkpoint = str(runs.root / 'distilled/iter_8.pth')
    out = str(runs.root / 'logits.pt')
    copy = str(runs.root / 'distilled/kd.py')
    runs.run([sys.executable, '-c', LOAD_IN_PLAIN_MMSEG, copy, checkpoint, out])

    cfg = load_config(copy, work_dir=str(runs.root / 'ours'))
    cfg.pop('kd')
    cfg.custom_hooks = []  # EMA plays no part in a plain student
    cfg.load_from = checkpoint
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(runs.root / 'data')
    runner = build_runner(cfg)
    runner.load_or_resume()
    runner.model.eval()
    images = torch.linspace(-2, 2, 3 * 56 * 70).view(1, 3, 56, 70)
    with torch.no_grad():
        assert torch.equal(runner.model(images, mode='tensor'), torch.load(out))


def test_test_script_repeats_the_last_validation(runs: Job) -> None:
    import json

    script = str(Path(__file__).parents[2] / 'tools/test.py')
    metrics = json.loads((runs.root / 'distilled/run_summary.json').read_text())['metrics']
    command = [sys.executable, script, 'kd.py', 'distilled/iter_8.pth', '--work-dir', 'tested']
    done = runs.run(command)
    assert f'mIoU: {metrics["mIoU"]:.4f}' in done.stdout + done.stderr
