"""The report of the quick start; no test here trains."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
ARMS = ('teacher', 'student', 'student_cirkd')


def summary(miou):
    return dict(
        seconds=30.0, iterations=4, peak_memory_mib=900.4, world_size=2, seed=0,
        metrics=dict(mIoU=miou), metrics_at=4,
    )  # fmt: skip


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Work dirs as three trainings leave them: random networks of the real configs."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from scenes import write_scenes

    import kdmm  # noqa: F401
    from kdmm.registry import MODELS

    root = tmp_path_factory.mktemp('quickstart')
    write_scenes(root / 'data', 1, 3, (32, 64))
    init_default_scope('mmseg')
    for number, arm in enumerate(ARMS):
        cfg = Config.fromfile(ROOT / 'configs/quickstart' / f'{arm}.py')
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.data_root = str(root / 'data')
        if 'kd' in cfg:
            cfg.kd.teacher.checkpoint = str(root / 'work/teacher/iter_4.pth')
        folder = root / 'work' / arm
        (folder / 'stamp/vis_data').mkdir(parents=True)
        cfg.dump(folder / f'{arm}.py')
        state = MODELS.build(cfg.model).state_dict()
        torch.save(dict(state_dict=state, meta={}), folder / 'iter_4.pth')
        (folder / 'last_checkpoint').write_text(str(folder / 'iter_4.pth'))
        (folder / 'run_summary.json').write_text(json.dumps(summary(40.0 + number)))
        lines = [
            dict(step=s, loss=3.0 - s, **{'decode.loss_ce': 2.0, 'kd.loss_kd': 0.5}) for s in (1, 2)
        ]
        lines.append(dict(step=2, mIoU=41.0))
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        (folder / 'stamp/vis_data/scalars.json').write_text(text)
    return root / 'work'


def test_the_report_is_whole(finished):
    import cv2
    from quickstart_report import report

    text = report(finished)
    rows = [line for line in text.splitlines() if line.startswith('|')]
    assert len(rows) == 5
    assert all(title in text for title in ('| teacher', '| student alone', '| student with CIRKD'))
    assert '40.00 %' in rows[2] and '30 s' in rows[2] and '900 MiB' in rows[2]
    assert 'CIRKD minus alone: +1.00' in text and 'ONE seed (0)' in text
    assert re.search(r'all \d+ keys load with strict=True into plain MMSegmentation', text)
    assert (finished / 'report.md').read_text() in text + '\n'
    for name in ('pictures.png', 'curves.png'):
        drawn = cv2.imread(str(finished / name))
        assert drawn.shape[1] > 800 and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 50


def test_only_values_of_terms_are_drawn_as_such():
    from quickstart_figures import distillation_terms

    first = {'kd.loss_p2p': 2.0, 'kd.share_p2p': 9.0, 'kd.weight_p2p': 1.0, 'loss': 3.0}
    assert distillation_terms([first, {'kd.loss_kd': 1.0, 'mIoU': 40.0}]) == ['kd', 'p2p']


@pytest.mark.parametrize('arm', ARMS)
def test_the_losses_take_ignored_pixels(arm):
    """The mean over all pixels, of which those labelled 255 count as 0."""
    from mmengine.config import Config
    from mmengine.model import BaseModel
    from mmseg.registry import MODELS

    import kdmm  # noqa: F401

    model = Config.fromfile(ROOT / 'configs/quickstart' / f'{arm}.py').model
    logits, labels = torch.randn(2, 9, 4, 6), torch.arange(48).view(2, 4, 6) % 10
    labels[labels == 9] = 255
    for head in (model.decode_head, model.auxiliary_head):
        loss = MODELS.build(head.loss_decode)(logits, labels, ignore_index=255)
        weights = torch.tensor([*head.loss_decode.class_weight, 0.0])
        picked = logits.log_softmax(1).gather(1, labels.clamp_max(8)[:, None])[:, 0]
        mean = -(picked * weights[labels.clamp_max(9)]).sum() / 48
        total = BaseModel.parse_losses(None, dict(loss_ce=loss))[0]
        torch.testing.assert_close(total, mean * head.loss_decode.loss_weight)


def test_a_checkpoint_with_a_key_of_kdmm_is_no_proof(finished, tmp_path):
    from verify_plain import verify

    checkpoint = torch.load(finished / 'student_cirkd/iter_4.pth', weights_only=True)
    checkpoint['state_dict']['kd.projector.weight'] = torch.zeros(1)
    torch.save(checkpoint, tmp_path / 'spoilt.pth')
    with pytest.raises(
        RuntimeError, match=r'does not load without kdmm[\s\S]*kd\.projector\.weight'
    ):
        verify(str(finished / 'student_cirkd/student_cirkd.py'), str(tmp_path / 'spoilt.pth'))


def test_other_logits_are_no_proof(finished, monkeypatch):
    import verify_plain

    def doctored(*_args):
        return dict(logits=[torch.zeros(1)])

    def plain(command, **_options):
        torch.save(dict(logits=[torch.ones(1)], keys=1), command[-1])
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(verify_plain, 'kdmm_logits', doctored)
    monkeypatch.setattr(verify_plain.subprocess, 'run', plain)
    with pytest.raises(RuntimeError, match='logits of picture 0 differ by 1'):
        verify_plain.verify('config.py', 'some.pth')


def test_an_unfinished_arm_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/quickstart_report.py'), str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'teacher holds no finished training' in done.stderr and 'run_summary.json' in done.stderr


def test_a_summary_of_another_iteration_is_refused(finished, tmp_path):
    from quickstart_report import read_arm

    folder = tmp_path / 'teacher'
    folder.mkdir()
    (folder / 'last_checkpoint').write_text('elsewhere/iter_5.pth')
    (folder / 'run_summary.json').write_text(json.dumps(summary(1.0)))
    with pytest.raises(ValueError, match='validation is at 4, not at iter_5.pth'):
        read_arm(tmp_path, 'teacher')


def test_time_of_a_resumed_arm_is_marked(tmp_path):
    from quickstart_report import Arm, table

    later = Arm('teacher', 'teacher', tmp_path, {**summary(9.0), 'iterations': 3}, tmp_path)
    assert '30 s (resumed)' in table([later], [1.0])


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    from quickstart_figures import read_scalars, series

    for stamp, values in (('1', (1.0, 2.0)), ('2', (7.0, 8.0))):
        folder = tmp_path / stamp / 'vis_data'
        folder.mkdir(parents=True)
        steps = (1, 2) if stamp == '1' else (2, 3)
        lines = [json.dumps(dict(step=s, loss=v)) for s, v in zip(steps, values, strict=True)]
        (folder / 'scalars.json').write_text('\n'.join(lines))
    steps, values = series(read_scalars(tmp_path), 'loss')
    assert steps.tolist() == [1, 2, 3] and values.tolist() == [1, 7, 8]  # type: ignore[attr-defined]


LINE = 'Iter(train) [ {:3d}/200]  lr: 4e-02  eta: 0:03:54  loss: {:.2f}  decode.loss_ce: 1.0\n'
VAL = 'INFO - Iter(val) [20/20]    aAcc: 70.06  mIoU: 31.57  mAcc: 45.10\n'


@pytest.mark.parametrize('terminal', [False, True])
def test_progress(terminal):
    from progress import Progress

    out = io.StringIO()
    out.isatty = lambda: terminal
    shown = Progress('student', out)
    for done in range(10, 201, 10):
        shown.feed(LINE.format(done, 3 - done / 100))
        shown.feed('a warning\n')
    shown.feed(VAL)
    shown.finish()
    text = out.getvalue()
    assert text.count('\n') == (1 if terminal else 10)
    last = re.split(r'[\r\n]', text.rstrip('\n'))[-1]
    assert last.startswith('student') and '200/200' in last
    assert 'loss 1.00' in last and 'mIoU 31.57' in last


def test_progress_keeps_the_whole_log(tmp_path):
    text = 'first\n' + LINE.format(10, 1.0) + 'Traceback\n'
    command = [
        sys.executable,
        str(ROOT / 'tools/progress.py'),
        'arm',
        '--log',
        str(tmp_path / 'log'),
    ]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)
    assert (tmp_path / 'log').read_text() == text


def test_arms_differ_in_size_and_distillation_alone():
    from mmengine.config import Config

    import kdmm  # noqa: F401

    cfgs = {
        arm: Config.fromfile(ROOT / 'configs/quickstart' / f'{arm}.py').to_dict() for arm in ARMS
    }
    assert cfgs['student_cirkd'].pop('kd')['teacher']['config'] == 'kdmm::quickstart/teacher.py'
    for cfg in cfgs.values():
        cfg.pop('filename', None)
    assert cfgs['student_cirkd'] == cfgs['student']
    cfgs['teacher'].pop('model'), cfgs['student'].pop('model')
    assert cfgs['teacher'] == cfgs['student']


@pytest.mark.parametrize(
    'arguments, status, said', [(['-h'], 0, 'usage: quickstart.sh'), (['-x'], 2, "'-x'")]
)
def test_quickstart_explains_itself(arguments, status, said):
    command = ['bash', str(ROOT / 'tools/quickstart.sh'), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout + done.stderr
