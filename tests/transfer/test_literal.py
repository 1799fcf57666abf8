import pytest
from mmengine.config import Config

from kdmm.errors import ConfigError
from kdmm.transfer.literal import Unread, read_literals


def test_reads_what_mmengine_writes():
    model = dict(
        type='A',
        backbone=dict(depth=18, ratio=-0.5, stages=(1, 2), names=['a', None, True], none=()),
        paramwise={'a.b': dict(lr=1e-3), '0': 2},
        nested=[dict(x=1), (dict(y=2),)],
    )
    text = Config(dict(model=model, default_scope='mmdet', other=3)).pretty_text
    found = read_literals(text, ('model', 'default_scope'))
    assert found == dict(model=model, default_scope='mmdet')


@pytest.mark.parametrize(
    'text',
    [
        "__import__('os').system('x')",
        '[x for x in range(3)]',
        'lambda: 1',
        'dict(**other)',
        "dict(['ab'])",
        'open',
        '1 if True else 2',
    ],
)
def test_runs_nothing(text):
    found = read_literals(f'a = dict(b={text})\nimport nowhere_at_all\nraise SystemExit', 'a')['a']
    assert isinstance(found['b'], Unread)


def test_a_class_is_its_name():
    assert read_literals('a = dict(type=mmdet.models.ResNet)', 'a') == dict(
        a=dict(type='mmdet.models.ResNet')
    )


@pytest.mark.parametrize('text', ['a = = 1', 'a = ' + '(' * 5000, 'a\0'])
def test_refuses_what_is_no_python(text):
    with pytest.raises(ConfigError, match='no Python text .*--source-config'):
        read_literals(text, 'a')
