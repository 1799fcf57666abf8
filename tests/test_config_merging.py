"""A section over a base's: what of another kind takes its place, and the rest is merged."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from kdmm.config import SECTION
from kdmm.engine import load_config
from tests.errors import refused

BASE = """
model = dict(type='Net', head=dict(type='A', loss=None, channels=3))
kd = dict(
    teacher=dict(config='t.py', checkpoint='zoo'),
    taps=dict(logits='head.out', body=dict(student='a.out', teacher='b.out')),
    losses=dict(p2p=dict(type='P', on='logits', weight=0.1),
                parts=dict(type='Q', on='body', weight=dict(near=1.0, far=2.0)),
                ramp=dict(type='R', on='body', weight=dict(type='Linear', start=0, stop=1, end=9))))
"""


def read(folder: Path, text: str, **options: Any) -> Config:
    (folder / 'base.py').write_text(BASE)
    (folder / 'mine.py').write_text(f"_base_ = './base.py'\n{text}\n")
    return load_config(
        str(folder / 'mine.py'), {key.replace('__', '.'): v for key, v in options.items()}
    )


PAIR = dict(student='x.out', teacher='y.out')
RAMP = dict(type='Linear', start=0, stop=1, end=5)


@pytest.mark.parametrize(
    ('over', 'key', 'expected'),
    [
        (dict(taps=dict(logits=PAIR)), 'taps.logits', PAIR),
        (dict(taps=dict(body='c.out')), 'taps.body', 'c.out'),
        (dict(taps=dict(body=dict(student='c.out'))), 'taps.body',
         dict(student='c.out', teacher='b.out')),
        (dict(losses=dict(p2p=dict(weight=RAMP))), 'losses.p2p.weight', RAMP),
        (dict(losses=dict(p2p=dict(weight=dict(p2p=1)))), 'losses.p2p.weight', dict(p2p=1)),
        (dict(losses=dict(parts=dict(weight=RAMP))), 'losses.parts.weight', RAMP),
        (dict(losses=dict(parts=dict(weight=dict(far=3)))), 'losses.parts.weight',
         dict(near=1.0, far=3)),
        (dict(losses=dict(ramp=dict(weight=dict(end=5)))), 'losses.ramp.weight', RAMP),
        (dict(losses=dict(ramp=dict(weight=2))), 'losses.ramp.weight', 2),
        (dict(losses=dict(p2p=dict(on=['logits', 'body']))), 'losses.p2p.on', ['logits', 'body']),
        (dict(losses=dict(p2p=dict(on=dict(a=1)))), 'losses.p2p.on', dict(a=1)),
        (dict(teacher=[dict(config='u.py')]), 'teacher', [dict(config='u.py')]),
        (dict(taps=dict(new=dict(_delete_=True, **PAIR))), 'taps.new', PAIR),
        (dict(taps=dict(_delete_=True, new='n.out')), 'taps', dict(new='n.out')),
    ],
)  # fmt: skip
def test_what_takes_the_place_of_what(tmp_path, over, key, expected):
    kd = read(tmp_path, f'kd = {over!r}').kd
    found: Any = kd
    for name in key.split('.'):
        found = found[name]
    assert found == expected
    assert '_delete_' not in str(kd.to_dict())
    if key != 'losses.p2p.on':
        assert kd.losses.p2p.on == 'logits'  # what is not overridden stands


@pytest.mark.parametrize(
    ('options', 'weight'),
    [
        (dict(kd__losses__p2p__weight__type='Linear'), dict(type='Linear')),
        ({f'kd__losses__p2p__weight__{key}': value for key, value in RAMP.items()}, RAMP),
        (dict(kd__losses__p2p__weight=3), 3),
    ],
)
def test_options_of_the_command_line(tmp_path, options, weight):
    assert read(tmp_path, '', **options).kd.losses.p2p.weight == weight


def test_one_teacher_over_several_and_a_key_of_one_of_several(tmp_path):
    two = "kd = dict(teacher=[dict(config='a.py'), dict(config='b.py')])"
    cfg = read(tmp_path, two, kd__teacher__1__config='c.py')
    assert [t.config for t in cfg.kd.teacher] == ['a.py', 'c.py']
    cfg = read(tmp_path, two, kd__teacher=dict(config='c.py'))
    assert cfg.kd.teacher == dict(config='c.py')


def test_a_wrapper_written_by_hand_is_a_section_too(tmp_path):
    (tmp_path / 'wrapped.py').write_text(
        "model = dict(type='kdmm.Distiller', student=dict(type='Net', head=None),\n"
        "             teacher=dict(model=dict(type='Net')), taps=dict(a='b.out'), losses=dict())\n"
    )
    (tmp_path / 'mine.py').write_text(
        f"_base_ = './wrapped.py'\nmodel = dict(taps=dict(a={PAIR!r}))\n"
    )
    assert load_config(str(tmp_path / 'mine.py')).kd.taps.a == PAIR


def test_mmengine_merges_as_before_outside_and_afterwards(tmp_path):
    merge = Config._merge_a_into_b
    told = 'loss=dict(_delete_=True, ...)', 'None'
    with refused(key='config', got=str(tmp_path / 'mine.py'), problem=told):
        read(tmp_path, "model = dict(head=dict(loss=dict(type='L')))")
    assert Config._merge_a_into_b is merge
    assert read(tmp_path, 'model = dict(head=dict(channels=4))').model.head.type == 'A'


@pytest.mark.parametrize(
    ('text', 'options', 'key', 'told'),
    [
        ('kd = 3', {}, 'kd', dict(got=3, expected='a section')),
        ("model = 'ResNet'", {}, 'model', dict(got='ResNet', expected='a dict')),
        (
            'kd = dict(losses=dict(x=y))',
            {},
            'config',
            dict(problem=('cannot be read', 'line 2: NameError: ', "'y'")),
        ),
        ('x = {{_base_.modle}}', {}, 'config', dict(problem=('cannot be read', 'modle'))),
        (
            '',
            dict(model__head__loss__type='L'),
            '--cfg-options',
            dict(got='model.head.loss.type=L', problem='None'),
        ),
        (
            '',
            dict(model__head__channels__x=1),
            '--cfg-options',
            dict(problem='channels=dict(_delete_=True, ...)'),
        ),
        (
            'pipeline = [dict(a=1)]',
            dict(pipeline__3__a=1),
            '--cfg-options',
            dict(problem='exceeds the length'),
        ),
    ],
)
def test_what_cannot_be_merged_is_one_message(tmp_path, text, options, key, told):
    if key == 'config':
        told = dict(told, got=str(tmp_path / 'mine.py'))
    with refused(key=key, **told):
        read(tmp_path, text, **options)


def test_configs_in_pure_python(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    head = 'from mmengine.config import read_base\n\nwith read_base():\n    from .base import *\n\n'
    (tmp_path / 'mine.py').write_text(head + f'kd.merge(dict(taps=dict(logits={PAIR!r})))\n')
    cfg = load_config(str(tmp_path / 'mine.py'))
    assert cfg[SECTION].taps.logits == PAIR and cfg.kd.losses.p2p.weight == 0.1
    (tmp_path / 'mine.py').write_text(head.replace('.base', '.bas'))
    with refused(key='config', got=str(tmp_path / 'mine.py'), problem='cannot be read'):
        load_config(str(tmp_path / 'mine.py'))
