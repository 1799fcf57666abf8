"""`tools/convert.py` and `tools/init_checkpoint.py`, as a user calls them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import kdmm  # noqa: F401  (before the libraries)
from kdmm.transfer import cli, plan
from tests.errors import refused
from tests.transfer.nets import config_of, estimator, source

ROOT = Path(__file__).resolve().parents[2]
R18 = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)


def tool(name: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / 'tools' / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fails(capsys, code: int, *words: object) -> str:
    with pytest.raises(SystemExit) as info:
        cli.convert_command([str(word) for word in words])
    printed = capsys.readouterr()
    assert info.value.code == code and printed.out == ''
    assert len(printed.err.splitlines()) == 1
    return printed.err


def test_the_first_file_of_an_experiment(tmp_path):
    estimator(R18).dump(tmp_path / 'c.py')
    done = tool('init_checkpoint.py', tmp_path / 'c.py', '--seed', 3, '--out', tmp_path / 'a.pth',
                '--cfg-options', 'model.head.out_channels=7')  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'{tmp_path}/a.pth: 128 entries, seed 3, nothing pretrained\n'
    state = torch.load(tmp_path / 'a.pth', weights_only=True)['state_dict']
    assert state['head.final_layer.weight'].shape[0] == 7


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path):
    done = tool('convert.py', tmp_path / 'a.pth', '--to', 'mmdet', '--out', tmp_path / 'b.pth')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr == (
        f"kdmm: error: checkpoint: there is no such file, got '{tmp_path}/a.pth'\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source('mmpose', R18, tmp_path / 'a.pth')
    config_of('mmdet', R18, bgr_to_rgb=False).dump(tmp_path / 'c.py')
    cli.convert_command(['a.pth', '--to', 'mmdet', '--out', 'b.pth', '--config', 'c.py'])
    printed = capsys.readouterr()
    normal = 'mean (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375)'
    size = (tmp_path / 'b.pth').stat().st_size / 2**20
    assert printed.err == '' and printed.out.splitlines() == [
        'source: mmpose ResNet-18 and width 8 (the config in the checkpoint), under backbone.',
        'target: mmdet ResNet-18 and width 8 (--config c.py)',
        'keys: 120 of 120 keys of mmdet ResNet-18 and width 8',
        'dropped: head. (1)',
        'proof: 120 tensors loaded from the file, 4 feature maps bit-equal',
        f'warning: trained on RGB, {normal}, but the target config prepares BGR, {normal}; '
        'set its data_preprocessor, or the features are not those that were learned',
        f'written: b.pth ({size:.1f} MiB)',
        '',
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='b.pth')))",
    ]
    (tmp_path / 'd.py').write_text(f"_base_ = './c.py'\n{printed.out.splitlines()[-1]}\n")
    assert Config.fromfile(tmp_path / 'd.py').model.backbone.init_cfg.checkpoint == 'b.pth'


def test_a_failed_proof_is_exit_code_1_and_leaves_no_file(tmp_path, capsys, monkeypatch):
    source('mmpose', R18, tmp_path / 'a.pth')
    right = plan.map_keys

    def wrong(*args, **more):
        found = right(*args, **more)
        names = 'layer2.1.conv1.weight', 'layer2.1.conv2.weight'
        if args[-1].startswith('it does not fill'):
            found.pairs.update({names[0]: names[1], names[1]: names[0]})
        return found

    monkeypatch.setattr(plan, 'map_keys', wrong)
    error = fails(capsys, 1, tmp_path / 'a.pth', '--to', 'mmdet', '--out', tmp_path / 'b.pth')
    assert 'the features differ by' in error and error.endswith('; nothing was written\n')
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


def test_all_flags_arrive(tmp_path, capsys):
    a, b = tmp_path / 'a.pth', tmp_path / 'b.pth'
    source('mmpose', R18, a)
    b.touch()
    assert '--force' in fails(capsys, 2, a, '--to', 'mmdet', '--out', b)
    to = ('--to', 'mmdet', '--out', b, '--force')
    assert '--prefix: ' in fails(capsys, 2, a, *to, '--prefix', 'x')
    assert '--container: ' in fails(capsys, 2, a, *to, '--container', 'x')
    assert '--arch: ' in fails(capsys, 2, a, *to, '--arch', 'resnet18')
    assert '--source-config: ' in fails(capsys, 2, a, *to, '--source-config', 'x.py')
    assert '--config: ' in fails(capsys, 2, a, *to, '--config', 'x.py')
    assert '--into: there is no such file' in fails(capsys, 2, a, *to, '--into', 'x.pth')
    assert '--also: ' in fails(capsys, 2, a, *to, '--also', 'x', 'y')
    assert '--size: ' in fails(capsys, 2, a, *to, '--size', 8, 8)
    eps = R18 | dict(norm_cfg=dict(type='BN', eps=1e-3))
    config_of('mmdet', eps).dump(tmp_path / 'c.py')
    other = (*to, '--config', tmp_path / 'c.py')
    assert '--accept norm' in fails(capsys, 2, a, *other)
    cli.convert_command([str(word) for word in (a, *other, '--accept', 'norm')])
    assert 'NOT equal, as accepted' in capsys.readouterr().out
    torch.save(dict(torch.load(a, weights_only=True), more=Path('x')), a)
    assert '--unsafe' in fails(capsys, 2, a, *to)
    cli.convert_command([str(word) for word in (a, *to, '--unsafe')])


def test_a_traceback_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv('KDMM_TRACEBACK', '1')
    with refused(key='checkpoint', got=str(tmp_path / 'a')):
        cli.convert_command([str(tmp_path / 'a'), '--to', 'mmdet', '--out', str(tmp_path / 'b')])
