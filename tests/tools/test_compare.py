"""`tools/compare.py`, with a script in place of training."""

import json
import sys
from pathlib import Path

import compare
import pytest

FAKE_TRAIN = """
import json, pathlib, sys
config, folder = sys.argv[1], pathlib.Path(sys.argv[3])
seed = next(int(word.split('=')[1]) for word in sys.argv if word.startswith('randomness.seed='))
with open(folder / 'calls.txt', 'a') as calls:
    calls.write(' '.join(sys.argv[1:]) + chr(10))
if 'broken' in config:
    print('some log'); sys.exit('ValueError: no such thing')
score = {'plain': 30, 'good': 32, 'noisy': 32 - 4 * (seed == 1)}[pathlib.Path(config).stem]
score += seed * (seed + 1) / 2
(folder / 'run_summary.json').write_text(json.dumps(dict(
    metrics=dict(mIoU=score), seconds_per_iteration=0.5 + seed, peak_memory_mib=100.0 + seed)))
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    script = tmp_path / 'train.py'
    script.write_text(FAKE_TRAIN)
    monkeypatch.setattr(compare, 'TRAIN', script)
    for name in ('plain', 'good', 'noisy', 'broken'):
        (tmp_path / f'{name}.py').touch()

    def main(*words: str) -> tuple[int, str, str]:
        arguments = [
            str(tmp_path / f'{w}.py') if w in ('plain', 'good', 'noisy', 'broken') else w
            for w in words
        ]
        monkeypatch.setattr(
            sys, 'argv', ['compare.py', *arguments, '--work-dir', str(tmp_path / 'work')]
        )
        code = compare.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return main


def cells(line: str) -> list[str]:
    """Of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip('|').split('|')]


def calls(tmp_path: Path, run: str) -> list[str]:
    return (tmp_path / 'work' / run / 'calls.txt').read_text().splitlines()


@pytest.mark.parametrize('jobs', ['1', '2'])
def test_table_has_mean_deviation_paired_gain_time_and_memory(run, tmp_path, jobs):
    code, out, _ = run('plain', 'good', '--seeds', '0', '1', '2', '--jobs', jobs)
    assert code == 0
    lines = out.splitlines()
    seeds = ['seed 0', 'seed 1', 'seed 2']
    gain = ['gain', '95% interval', 'n']
    assert cells(lines[0]) == ['arm', *seeds, 'mean', 'std', *gain, 's/it', 'MiB']
    plain = ['plain', '30.00', '31.00', '33.00', '31.33', '1.53', '', '', '', '1.500', '102']
    assert cells(lines[2]) == plain
    gain = ['+2.00', '+2.00 to +2.00', '3']
    assert cells(lines[3]) == [
        'good',
        '32.00',
        '33.00',
        '35.00',
        '33.33',
        '1.53',
        *gain,
        *plain[-2:],
    ]
    work = tmp_path / 'work'
    assert (work / 'table.md').read_text() == out
    assert json.loads((work / 'results.json').read_text())['good'][2]['metrics'] == dict(mIoU=35.0)
    assert (work / 'plot.png').read_bytes().startswith(b'\x89PNG')


def test_a_gain_of_either_sign_is_undecided(run, tmp_path, monkeypatch):
    """Differences 2, -2, 2: mean 0.67, deviation 2.31, and 4.3027 x 2.31 / sqrt(3) = 5.74."""
    from matplotlib.axes import Axes

    drawn, errorbar = [], Axes.errorbar

    def note(self, x, y, **given):
        drawn.append((x, y, given['xerr'], given['color']))
        return errorbar(self, x, y, **given)

    monkeypatch.setattr(Axes, 'errorbar', note)
    _, out, _ = run('plain', 'good', 'noisy')
    assert cells(out.splitlines()[4])[6:9] == ['+0.67', '-5.07 to +6.40, undecided', '3']
    good, noisy = drawn
    assert good == (2, 1, 0, 'C0') and noisy[3] == '0.6', 'a decided gain is not grey'
    assert noisy[:3] == pytest.approx((2 / 3, 2, 5.7371), rel=1e-4)


def test_one_seed_has_no_interval(run):
    _, out, _ = run('plain', 'good', '--seeds', '0')
    assert cells(out.splitlines()[3])[4:7] == ['+2.00', 'undecided', '1']


def test_a_terminal_gets_a_table_of_its_own(run, tmp_path, monkeypatch):
    monkeypatch.setattr(type(sys.stdout), 'isatty', lambda _: True)
    monkeypatch.setenv('COLUMNS', '200')
    _, out, _ = run('plain', 'broken', '--seeds', '0')
    assert '\x1b[' in out and '|' not in out and 'broken, seed 0: failed' in out
    assert (tmp_path / 'work' / 'table.md').read_text().startswith('| arm')


def test_finished_runs_are_kept_and_interrupted_ones_resumed(run, tmp_path):
    half = tmp_path / 'work' / 'good_seed0'
    half.mkdir(parents=True)
    (half / 'last_checkpoint').write_text('iter_2.pth')
    run('plain', 'good', '--seeds', '0', '--cfg-options', 'a=1')
    run('plain', 'good', '--seeds', '0', '1', '--cfg-options', 'a=1')
    assert len(calls(tmp_path, 'plain_seed0')) == len(calls(tmp_path, 'good_seed0')) == 1
    assert '--resume' in calls(tmp_path, 'good_seed0')[0]
    assert '--resume' not in calls(tmp_path, 'plain_seed0')[0]
    assert calls(tmp_path, 'plain_seed0')[0].endswith('randomness.seed=0 a=1')


def test_an_option_may_name_the_seed(run, tmp_path):
    """A split of the data, for instance; such runs are those of the same options later."""
    for seeds in (('3',), ('3', '4')):
        run('plain', '--seeds', *seeds, '--cfg-options', 'a.split={seed}', 'b=[{seed},1]')
    assert calls(tmp_path, 'plain_seed3')[0].endswith('randomness.seed=3 a.split=3 b=[3,1]')
    assert calls(tmp_path, 'plain_seed4')[0].endswith('randomness.seed=4 a.split=4 b=[4,1]')
    assert len(calls(tmp_path, 'plain_seed3')) == 1


@pytest.mark.parametrize('change', ['options', 'config'])
def test_results_of_another_budget_are_not_mixed_in(run, tmp_path, capsys, change):
    run('plain', 'good', '--seeds', '0')
    more = []
    if change == 'config':
        (tmp_path / 'good.py').write_text('budget = 3')
    else:
        more = ['--cfg-options', 'train_cfg.max_iters=3']
    with pytest.raises(SystemExit):
        run('plain', 'good', '--seeds', '0', '1', *more)
    message = capsys.readouterr().err
    assert 'good_seed0' in message and ('plain_seed0' in message) == (change == 'options')
    assert not (tmp_path / 'work' / 'good_seed1' / 'run_summary.json').exists()


def test_failures_are_in_the_table_with_their_reason(run):
    code, out, err = run('plain', 'broken', '--seeds', '0', '1')
    assert code == 2
    (broken,) = (line for line in out.splitlines() if line.startswith('| broken'))
    assert cells(broken) == ['broken', 'failed', 'failed', '-', '-', '-', '-', '0', '-', '-']
    assert 'broken, seed 1: failed' in out
    assert 'ValueError: no such thing' in err and 'broken_seed0' in err


@pytest.mark.parametrize(
    'words, message',
    [
        (('plain', 'nowhere.py'), 'no such config: nowhere.py'),
        (('plain', 'plain'), 'configs are repeated'),
        (('plain', 'other/plain.py'), 'configs are repeated'),
        (('plain', '--seeds', '1', '1'), 'seeds are repeated'),
        (('plain', '--jobs', '0'), 'at least 1'),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(run, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as error:
        run(*words)
    assert error.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / 'work').exists()
