"""``python -m benchmarks`` as a user runs it, with shapes of a few pixels."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures as made
from benchmarks import losses, run, steps
from benchmarks.cases import CASES
from benchmarks.run import ROOT


def benchmark(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'benchmarks', *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_losses_end_to_end(tmp_path):
    file = tmp_path / 'out.json'
    done = benchmark('p2p', 'enqueue', '--quick', '--threads', '1', '--json', str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(file.read_text())
    assert written['settings']['threads'] == 1 and written['settings']['device'] == 'cpu'
    pair, enqueue = written['results']
    assert set(pair['forms']) == {'naive', 'ours', 'products'}
    assert set(enqueue['forms']) == {'naive', 'ours'}
    assert pair['shape'] == CASES['p2p'].quick and pair['flop'] > 0
    for figures in pair['forms'].values():
        assert figures['min_s'] <= figures['median_s'] and figures['added_mib'] >= 0
        # the process is torch and little else, not the stack of base libraries
        assert figures['peak_mib'] > figures['added_mib']
    assert pair['compared']['ours']['agrees'] and enqueue['compared']['ours']['agrees']
    assert pair['compared']['ours']['over_products'] > 0
    loss = [pair['forms'][form]['values']['loss'][0] for form in ('naive', 'ours')]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)
    header = next(line for line in done.stdout.splitlines() if line.startswith('form'))
    assert [cell.strip() for cell in header.split('  ') if cell.strip()] == losses.HEAD


def test_the_child_imports_no_base_library():
    code = (
        'import sys; from benchmarks.child import bare_packages;'
        'bare_packages("kdmm", "kdmm.engine");'
        'import kdmm.functional, kdmm.memory, kdmm.engine.resources;'
        'print([m for m in sys.modules if m.startswith(("mm", "cv2"))])'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    found = set(eval(done.stdout)) - {'mmap'}
    assert not found, done.stderr


@pytest.mark.parametrize(
    'arguments, words',
    [
        (('p3p',), ("no 'p3p'", 'nearest: p2p')),
        (('kd', '--dtype', 'float23'), ("'float23'", 'float32')),
        (('--threads', '0'), ('--threads', 'at least 1')),
        (('--device', 'tpu'), ("'tpu'", 'cpu or cuda')),
        (('kd', '--steps', 'x.py'), ('--steps', 'leave out kd')),
        (('--json', '/no/where/x.json'), ('--json', '/no/where')),
        (('kd', '--apart'), ('--apart', '--steps')),
        (('--steps', 'x.py', '--dtype', 'bfloat16'), ('--dtype bfloat16', '--device cuda')),
        (('--steps', 'gone.py'), ('config', "'gone.py'")),
    ],
)
def test_refuses(refused_by, arguments, words):
    last = refused_by('benchmarks', *arguments).splitlines()[-1]
    assert last.startswith('kdmm: error: ') and all(word in last for word in words), last


def test_list():
    done = benchmark('--list')
    assert done.returncode == 0 and [x.split()[0] for x in done.stdout.splitlines()] == list(CASES)


def figures(times, peak=10.0, added=4.0, loss=1.0):
    return dict(times=times, peak_mib=peak, added_mib=added, values=dict(loss=[loss, loss]))


def test_figures_of_several_processes():
    found = made.combine([figures([3.0, 1.0], peak=7), figures([2.0, 9.0, 4.0], added=5)])
    assert found['median_s'] == 3.0 and found['min_s'] == 1.0
    assert found['quartiles_s'] == (2.0, 4.0), 'of 1, 2, 3, 4, 9'
    assert found['peak_mib'] == 10 and found['added_mib'] == 5
    assert made.combine([figures([1.0]), dict(failed='why')]) == dict(failed='why')


def test_ratios_are_naive_over_ours_and_ours_over_products():
    forms = dict(naive=figures([8.0], peak=100, added=60), ours=figures([2.0], peak=20, added=3))
    forms['products'] = figures([1.0])
    found = {name: made.combine([value]) for name, value in forms.items()}
    result = losses.compare(found, 'ours', 'float32')
    assert (result['time'], result['peak'], result['added']) == (4, 5, 20)
    assert result['over_products'] == 2 and result['agrees']


def test_a_failure_is_shown_and_counts():
    found = dict(naive=dict(failed='killed by signal 9 (out of memory?)'))
    found['ours'] = made.combine([figures([1.0])])
    entry = dict(case='kd', shape=dict(batch=1), forms=found)
    entry['compared'] = dict(ours=losses.compare(found, 'ours', 'float32'))
    assert 'naive failed: killed by signal 9' in losses.render(entry)
    assert losses.sound(entry), 'the textbook form may run out of memory'
    entry['forms'] = dict(naive=found['ours'], ours=found['naive'])
    assert not losses.sound(entry)
    other = dict(naive=found['ours'], ours=made.combine([figures([1.0], loss=1.1)]))
    entry = dict(case='kd', shape={}, forms=other)
    entry['compared'] = dict(ours=losses.compare(other, 'ours', 'float32'))
    assert 'DIFFERS' in losses.render(entry) and not losses.sound(entry)


def test_a_child_that_dies_says_why():
    common = dict(case='kd', shape={}, warm=CASES['kd'].quick, device='cpu', dtype='float32')
    result = run.start(dict(common, form='nonsense', threads=1, tf32=False))
    assert result == dict(failed="KeyError: 'nonsense'")


def test_a_disturbed_row_is_marked():
    """Its quartiles lie further apart than a factor of 1.2; one slow step among many is none."""
    steady = made.combine([figures([1.0, 1.1, 1.19, 1.0, 9.0])])
    busy = made.combine([figures([1.0, 1.0, 1.1, 1.3, 1.3])])
    once = made.combine([figures([1.0])])
    assert [x['disturbed'] for x in (steady, busy, once)] == [False, True, False]
    assert once['quartiles_s'] is None
    entry = dict(case='kd', shape={}, forms=dict(naive=steady, ours=busy))
    entry['compared'] = dict(ours=losses.compare(entry['forms'], 'ours', 'float32'))
    shown = losses.render(entry)
    labels = [line.split('  ')[0] for line in shown.splitlines()]
    assert labels[3:5] == ['naive', 'ours *'] and made.NOTE in shown
    entry['forms'] = dict(naive=steady, ours=once)
    shown = losses.render(entry)
    assert '*' not in shown and '1000.00 to 1190.00' in shown


def test_ratios_are_those_of_steps_that_were_taken_in_turn():
    """A moment that slows all rows alike leaves them; the medians' ratio would be 10 / 4."""
    base, row = [1.0, 4.0, 4.0, 40.0], [2.0, 10.0, 10.0, 80.0]
    found = made.ratios_in_turn(figures(row), figures(base))
    assert found == dict(median=2.25, quartiles=(2.0, 2.5))
    assert made.ratios_in_turn(figures(row), dict(failed='why')) is None
    with pytest.raises(ValueError):
        made.ratios_in_turn(figures(row[:2]), figures(base))


TURNS = """
import json, sys, time
sys.path.insert(0, {root!r})
job = json.loads(sys.argv[1])
for step in range(job['steps']):
    if job.get('turns'):
        print('ready', flush=True)
        sys.stdin.readline()
    with open(job['log'], 'a') as log:
        log.write(job['name'] + '>')
        log.flush()
        time.sleep(0.02)
        log.write('<')
    if step == job.get('breaks'):
        sys.exit('ValueError: broke')
print('x' * job.get('noise', 0), file=sys.stderr)
print(json.dumps(dict(times=[1.0] * job['steps'], peak_mib=1, added_mib=1)), flush=True)
"""


@pytest.fixture
def in_turn(tmp_path, monkeypatch):
    """Processes that note when they step, in place of those that measure."""
    package = tmp_path / 'stand_in' / 'benchmarks'
    package.mkdir(parents=True)
    (package / '__init__.py').touch()
    (package / 'child.py').write_text(TURNS.format(root=str(ROOT)))
    monkeypatch.setattr(run, 'ROOT', package.parent)
    monkeypatch.chdir(tmp_path)

    def start(once, rounds=1, **jobs):
        common = dict(log=str(tmp_path / 'log'), steps=3)
        given = {name: dict(common, name=name, **more) for name, more in jobs.items()}
        found = run.alternate(given, rounds, once)
        return found, (tmp_path / 'log').read_text()

    return start


def test_rows_take_a_step_in_turn_and_never_two_at_once(in_turn):
    found, log = in_turn(run.in_turn, a={}, b={}, c={})
    assert log == 'a><b><c><' * 3
    assert all(figures['times'] == [1.0] * 3 for figures in found.values())


def test_rows_run_one_by_one_where_memory_asks_for_it(in_turn):
    found, log = in_turn(run.one_by_one, rounds=2, a={}, b={})
    assert log == ('a><' * 3 + 'b><' * 3) * 2 and len(found['a']['times']) == 6


def test_a_row_that_dies_leaves_the_others_and_is_not_started_again(in_turn):
    found, log = in_turn(run.in_turn, rounds=2, a={}, b=dict(breaks=1), c=dict(steps=4))
    assert found['b'] == dict(failed='ValueError: broke')
    assert len(found['a']['times']) == 6 and len(found['c']['times']) == 8
    assert log == 'a><b><c><' * 2 + 'a><c><c><' + 'a><c><' * 3 + 'c><'


def test_what_a_row_says_on_the_error_stream_does_not_block_it(in_turn):
    found, _ = in_turn(run.in_turn, a=dict(noise=1 << 20), b={})
    assert not any('failed' in figures for figures in found.values())


@pytest.mark.slow
def test_steps_end_to_end(job, tmp_path):
    file = tmp_path / 'steps.json'
    arguments = ['--quick', '--threads', '1', '--json', str(file)]
    arguments += ['--cfg-options', 'kd.losses.kd.weight=0']
    done = job.run([sys.executable, '-m', 'benchmarks', '--steps', 'kd.py', *arguments])
    (result,) = json.loads(file.read_text())['results']
    assert list(result['steps']) == ['student', '+ teacher forward', 'p2p', 'memory', '+ all']
    assert not any('failed' in x for x in result['steps'].values()), done.stdout
    alone = dict(median=1.0, quartiles=None)
    assert result['to_student_and_teacher']['+ teacher forward'] == alone
    assert result['steps']['+ all']['median_s'] > 0
    header = next(line for line in done.stdout.splitlines() if line.startswith('step'))
    assert [cell.strip() for cell in header.split('  ') if cell.strip()] == steps.HEAD


def test_steps_leave_terms_without_weight_out(job, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tests/e2e'))
    path = str(job.root / 'kd.py')
    known = ['student', '+ teacher forward']
    assert steps.rows_of(path, {}) == [*known, 'kd', 'p2p', 'memory', '+ all']
    options = steps.options_of(['kd.losses.p2p.weight=0'])
    assert steps.rows_of(path, options) == [*known, 'kd', 'memory', '+ all']
    options = steps.options_of([f'kd.losses.{name}.weight=0' for name in ('p2p', 'memory')])
    assert steps.rows_of(path, options) == [*known, 'kd']
    options = steps.options_of([f'kd.losses.{name}.weight=0' for name in ('kd', 'p2p', 'memory')])
    assert steps.rows_of(path, options) == ['student']
    assert steps.rows_of(str(job.root / 'plain.py'), {}) == ['student']


@pytest.mark.parametrize(
    'role, batch',
    [
        ('hssakd/cifar10_small_teacher', 2),
        ('hssakd/cifar10_small_hssakd', 2),
        ('hssakd/cifar10_small_online', 2),
        ('mcl/cifar10_small_mcl', 64),  # 8 classes x 8 images
        ('mcl/mcl_x2_resnet18_imagenet', 2),
    ],
)
def test_steps_of_an_objective_without_terms(role, batch, monkeypatch):
    """In this process; the figures are those of a child."""
    from benchmarks.steps import measure_steps

    config = str(ROOT / f'configs/{role}.py')
    assert steps.rows_of(config, {}) == ['student', '+ all']
    size = (32, 32) if 'imagenet' in role else (8, 8)
    job = dict(config=config, size=size, batch=batch, dtype='float32', iters=1)
    found = {}
    for row in ('student', '+ all'):
        # two runs of a second would share MMEngine's visualizer, and its folder
        options = dict(experiment_name=f'{role} {row}')
        said, given = io.StringIO(), io.StringIO('\n\nnot asked for')
        monkeypatch.setattr(sys, '__stdout__', said)
        monkeypatch.setattr(sys, 'stdin', given)
        found[row] = measure_steps(dict(job, terms=row, options=options, turns=True))
        assert said.getvalue() == f'{run.READY}\n' * 2, 'before the first step, and the one timed'
        assert given.read() == 'not asked for'
    assert found['+ all']['times'][0] > 0
    shown = steps.render(
        dict(
            config=config,
            steps={row: steps_figures(figures) for row, figures in found.items()},
            to_student_and_teacher={'student': dict(median=1.0, quartiles=None), '+ all': None},
        )
    )
    assert 'to student' in shown and 'to student + teacher' not in shown


def steps_figures(found):
    return made.combine([found])


def test_phases_end_to_end(tmp_path):
    done = benchmark('--phase', '--quick', '--threads', '1', '--json', str(tmp_path / 'phase.json'))
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / 'phase.json').read_text())['results']
    forms = result['forms']
    assert list(forms) == ['iteration', 'adjoint', 'unrolled']
    assert forms['iteration']['median_s'] < forms['adjoint']['median_s']
    assert 'iteration' in done.stdout and 'of unrolled' in done.stdout
