"""Modules that ``import kdmm`` imports, and those imported on request."""

import subprocess
import sys

import pytest

import kdmm


def run(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_room_is_imported_before_it_is_asked_for():
    found = run(
        'import sys, kdmm\n'
        "print(*sorted(n for n in sys.modules if n.startswith('kdmm.') and n.count('.') == 1))"
    ).split()
    assert found == [
        f'kdmm.{name}' for name in ('compat', 'config', 'engine', 'errors', 'registry')
    ]


@pytest.mark.parametrize(
    'registry, name',
    [
        ('MODELS', 'KDLoss'),
        ('MODELS', 'Projection'),
        ('MODELS', 'Distiller'),
        ('MODELS', 'CIFARResNet'),
        ('HOOKS', 'DistillHook'),
        ('LOOPS', 'ProfileLoop'),
        ('RUNNERS', 'Runner'),
        ('METRICS', 'JigsawMetric'),
        ('DATA_SAMPLERS', 'PKSampler'),
        ('DATASETS', 'StratifiedSubset'),
        ('TRANSFORMS', 'ShufflePatches'),
    ],
)
def test_registries_find_what_nobody_has_imported(registry, name):
    code = f'import kdmm\nfrom mmengine.registry import {registry} as registry\n'
    assert run(f"{code}print(registry.get('kdmm.{name}') is not None)").endswith('True')


def test_rooms_are_attributes():
    assert all(getattr(kdmm, name) for name in kdmm.__all__)
    with pytest.raises(AttributeError, match='nothing'):
        _ = kdmm.nothing


def test_a_runner_obeys_a_section_before_any_room_was_imported(tmp_path):
    assert 'ConfigError' in run(
        'import kdmm\n'
        'from mmengine.runner import Runner\n'
        "model, kd = dict(type='nothing'), dict(type='No')\n"
        'try:\n'
        f'    Runner(model=model, work_dir={str(tmp_path)!r}, cfg=dict(kd=kd))\n'
        'except ValueError as error:\n'
        '    print(type(error).__name__, error)\n'
    )
