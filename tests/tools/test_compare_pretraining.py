"""`tools/compare_pretraining.py`, with scripts in place of training and converting."""

import json
import os
import sys
from pathlib import Path

import compare
import compare_pretraining
import pytest

#: writes its arguments to the file that --out names; fails if asked to
FAKE_TOOL = """
import pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])
if 'bad.pth' in sys.argv:
    sys.exit('convert: bad.pth is no checkpoint')
print('source: it\\nwarning: trained on BGR')
out.write_text(' '.join(pathlib.Path(word).name for word in [*sys.argv[:-2]]))
"""
FAKE_TRAIN = """
import json, pathlib, sys
config, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])
options = dict(word.split('=', 1) for word in sys.argv if '=' in word)
seed = int(options['randomness.seed'])
if config.stem == 'broken':
    sys.exit('no such thing')
start = options.get('load_from') or options['model.backbone.init_cfg.checkpoint']
(folder / 'start.txt').write_text(pathlib.Path(start).read_text())
(folder / 'options.json').write_text(json.dumps(options))
(folder / 'last_checkpoint').write_text(str(folder / 'last.pth'))
score = 0.3 + seed / 100 + 0.1 * ('puzzle' in start)
metrics = {'pck/PCK': score, 'jigsaw/patch_acc': 0.5}
(folder / 'run_summary.json').write_text(json.dumps(
    dict(metrics=metrics, seconds_per_iteration=0.5, peak_memory_mib=100.0)))
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    for name, text in (
        ('train.py', FAKE_TRAIN),
        ('convert.py', FAKE_TOOL),
        ('init_checkpoint.py', FAKE_TOOL),
    ):
        (tmp_path / name).write_text(text)
    for name in ('pose', 'puzzle', 'broken'):
        (tmp_path / f'{name}.py').touch()
    monkeypatch.setattr(compare, 'TRAIN', tmp_path / 'train.py')
    monkeypatch.setattr(compare_pretraining, 'TOOLS', tmp_path)
    monkeypatch.chdir(tmp_path)

    def main(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', ['compare_pretraining.py', 'pose.py', *words])
        code = compare_pretraining.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return main


WORK = ('--work-dir', 'work', '--seeds', '0', '1')


def start(name: str) -> str:
    return Path('work', name, 'start.txt').read_text()


def test_arms_differ_in_the_backbone_alone(run):
    code, out, _ = run('--pretrain', 'puzzle.py', *WORK, '--jobs', '2')
    assert code == 0
    rows = [line.split('|')[1].strip() for line in out.splitlines() if line.startswith('|')]
    assert rows[rows.index('scratch') :] == ['scratch', 'puzzle']
    puzzle = [cell.strip() for cell in out.splitlines()[-1].split('|')]
    gain = ['+0.1000', '+0.1000 to +0.1000', '2']
    assert puzzle[1:9] == ['puzzle', '0.4000', '0.4100', '0.4050', '0.0071', *gain]
    for seed in '01':
        initial = f'init_checkpoint.py pose.py --seed {seed}'
        assert start(f'finetune/scratch_seed{seed}') == initial
        assert start(f'pretrain/puzzle_seed{seed}') == (
            f'convert.py scratch_seed{seed}.pth --source-config pose.py --to mmpose'
        )
        assert start(f'finetune/puzzle_seed{seed}') == (
            'convert.py last.pth --source-config puzzle.py --to mmpose --config pose.py '
            f'--into scratch_seed{seed}.pth'
        )
    options = json.loads(Path('work/pretrain/puzzle_seed1/options.json').read_text())
    assert options['model.backbone.init_cfg.type'] == 'Pretrained'
    assert options['randomness.seed'] == '1'
    for name in ('table.md', 'results.json', 'plot.png', 'pretrain/table.md'):
        assert Path('work', name).is_file()


def test_classification_weights_are_an_arm(run):
    flags = ('--imagenet', 'r50.pth', '--imagenet-arch', 'resnet50')
    code, out, _ = run(*flags, '--pretrain', 'puzzle.py', *WORK)
    assert code == 0 and '| imagenet |' in out
    assert start('finetune/imagenet_seed1') == (
        'convert.py r50.pth --arch resnet50 --to mmpose --config pose.py --into scratch_seed1.pth'
    )


def test_files_are_arms(run):
    given = ('--start', 'mcl=mcl_puzzle.pth', 'peers=p{seed}.pth', '--library', 'mmdet')
    code, out, said = run(*given, *WORK)
    assert code == 0
    rows = [line.split('|')[1].strip() for line in out.splitlines() if line.startswith('|')]
    assert rows[rows.index('scratch') :] == ['scratch', 'mcl', 'peers']
    for seed in '01':
        into = f'--to mmdet --config pose.py --into scratch_seed{seed}.pth'
        assert start(f'finetune/mcl_seed{seed}') == f'convert.py mcl_puzzle.pth {into}'
        assert start(f'finetune/peers_seed{seed}') == f'convert.py p{seed}.pth {into}'
    assert 'warning: trained on BGR' in said and 'source:' not in said


def test_only_scratch_and_options(run):
    code, out, _ = run(*WORK, '--finetune-options', 'a.b=3', '--library', 'mmdet')
    assert code == 0 and '| scratch |' in out
    options = json.loads(Path('work/finetune/scratch_seed0/options.json').read_text())
    assert options['a.b'] == '3'


def test_nothing_is_done_twice(run):
    run('--pretrain', 'puzzle.py', *WORK)
    _, _, said = run('--pretrain', 'puzzle.py', *WORK)
    assert said == ''


def test_failed_pretraining_is_a_failed_arm(run):
    code, out, said = run('--pretrain', 'puzzle.py', 'broken.py', *WORK)
    assert code == 2
    assert '| broken | failed | failed |' in out and '| puzzle  | 0.4000 |' in out
    assert 'no such thing' in said


def test_a_tool_that_fails_ends_it_with_its_words(run):
    with pytest.raises(SystemExit, match='bad.pth is no checkpoint'):
        run('--imagenet', 'bad.pth', *WORK)


def test_other_options_are_not_mixed_in(run, capsys):
    run('--pretrain', 'puzzle.py', *WORK)
    with pytest.raises(SystemExit, match='2'):
        run('--pretrain', 'puzzle.py', *WORK, '--pretrain-options', 'x=1')
    assert 'made from another config or other options' in capsys.readouterr().err


def test_wrong_command_lines(run, capsys):
    for words, complaint in (
        (('--pretrain', 'gone.py'), 'gone.py'),
        (('--pretrain', 'puzzle.py', 'puzzle.py'), 'repeated'),
        (('--seeds', '1', '1'), 'repeated'),
        (('--jobs', '0'), '--jobs'),
        (('--start', 'x.pth'), 'expected NAME=FILE'),
        (('--start', 'a/b=x.pth'), 'expected NAME=FILE'),
        (('--start', 'puzzle=x.pth', '--pretrain', 'puzzle.py'), 'arms are repeated'),
    ):
        with pytest.raises(SystemExit) as stop:
            run(*words)
        assert stop.value.code == 2 and complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ('newer', 'older'),
    [
        ('work/pretrain/puzzle_seed0/last.pth', 'puzzle_seed0.pth'),
        ('work/weights/puzzle_seed0.pth', 'finetune/puzzle_seed0'),
        ('work/weights/scratch_seed1.pth', 'scratch_seed1'),
    ],
)
def test_stale_files_are_not_taken_for_new_ones(run, newer, older):
    run('--pretrain', 'puzzle.py', *WORK)
    Path(newer).touch()
    os.utime(newer, (2**32, 2**32))
    with pytest.raises(SystemExit, match=f'{older}.* is older than .*{Path(newer).name}'):
        run('--pretrain', 'puzzle.py', *WORK)
