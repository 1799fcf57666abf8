import pickle

import pytest

from kdmm.errors import ConfigError, about, listed, nearest, refuse_unknown
from kdmm.taps import DidNotRunError
from tests.errors import refused


def test_the_nearest_come_first_and_duplicates_once():
    known = ['decode_head', 'decode_head.conv_seg', 'backbone', 'backbone']
    assert nearest('decode_heda', known).startswith('nearest: decode_head,')
    assert nearest('bakbone', known) == 'nearest: backbone'


def test_with_nothing_near_the_known_are_listed():
    assert nearest('zzzzzz', ['b', 'a', 'a']) == 'known: a, b'
    assert nearest('zzzzzz', map(str, range(99))).count(',') == 19


def test_the_first_unknown_key_is_named():
    refuse_unknown('kd', ['a'], ['a', 'b'])
    with refused(key='kd', problem=("unknown key 'losess'", 'nearest: losses')):
        refuse_unknown('kd', ['taps', 'losess', 'x'], iter(['taps', 'losses']))


def test_the_message_is_put_together_from_the_fields_that_are_given():
    whole = ConfigError('cannot be', key='a.b', got='x', expected='a number', fix='Give 1.')
    assert str(whole) == "a.b: cannot be, expected a number, got 'x'. Give 1."
    assert str(ConfigError(key='a', got=None, expected='a dict')) == 'a: expected a dict, got None'
    assert str(ConfigError('text alone')) == 'text alone'
    assert str(ConfigError('wrong.', fix='Do it.')) == 'wrong. Do it.'
    assert str(ConfigError(key='a', got=0)) == 'a: got 0'


def test_fields_that_are_left_out_are_empty():
    error = ConfigError('text', key='a')
    assert (error.key, error.expected, error.fix, error.got, error.has_got) == (
        'a',
        '',
        '',
        None,
        False,
    )
    assert ConfigError(got=None).has_got


def test_an_error_is_the_same_in_another_process():
    error = ConfigError('no', key='a', got=[1], expected='two', fix='Give two.')
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (ConfigError, str(error), vars(error))
    missing = pickle.loads(pickle.dumps(DidNotRunError('head did not run', 'head')))
    assert (type(missing), missing.module, str(missing)) == (
        DidNotRunError,
        'head',
        'head did not run',
    )


def test_an_error_of_a_part_becomes_one_of_the_whole():
    error = ConfigError('no', key='end', got=1, expected='more', fix='Give more.')
    above = error.under('kd.losses.kd.weight')
    assert vars(above) == {**vars(error), 'key': 'kd.losses.kd.weight.end'}
    assert str(ConfigError('text').under('kd')) == 'kd: text'
    assert error.under('--config').key == '--config: end'
    assert ConfigError(key='--flag').under('checkpoint').key == '--flag'
    assert vars(ConfigError('no').under('kd', 3)) == vars(ConfigError('no', key='kd', got=3))
    assert error.under('kd', 3).got == 1
    with refused(key='kd', got='x', problem='no') as caught, about('kd', 'x'):
        raise ConfigError('no') from OSError('disk')
    assert type(caught.value.__cause__) is OSError
    assert type(DidNotRunError('x', 'head').under('kd.taps')) is DidNotRunError


def test_a_long_value_is_shown_in_one_short_line():
    text = str(ConfigError(key='a', got=[{'x' * 50: '\n'}] * 99))
    assert len(text) < 250 and text.startswith("a: got [{'xx") and text.endswith("'\\n'}]")

    class Lines:
        def __repr__(self) -> str:
            return 'first\n  second'

    assert str(ConfigError(key='a', got=Lines())) == 'a: got first second'


def test_a_list_says_how_many_it_leaves_out():
    assert listed(range(3), 3) == '0, 1, 2'
    assert listed(iter('abcd'), 2) == 'a, b and 2 more'


@pytest.mark.parametrize(
    ('error', 'fields'),
    [
        (ValueError('no'), {}),
        (ConfigError('no', key='a'), dict(key='b')),
        (ConfigError('no', key='a', got=1), dict(got=2)),
        (ConfigError('no', key='a'), dict(got=None)),
        (ConfigError('no', key='a', fix='Do.'), dict(fix='Give')),
        (ConfigError('no', key='a', expected='one of b'), dict(expected=('one of', 'c'))),
        (ConfigError('two\nlines', key='a'), {}),
        (ConfigError('x' * 2000, key='a'), {}),
    ],
)
def test_the_helper_of_the_tests_sees_what_an_error_lacks(error, fields):
    kind = ValueError if type(error) is ValueError else AssertionError
    with pytest.raises(kind) as failed, refused(**fields):
        raise error
    assert type(failed.value) is kind


def test_the_helper_looks_into_what_mmengine_wraps():
    with refused(key='a', got=1):
        try:
            raise ConfigError(key='a', got=1)
        except ConfigError as error:
            raise type(error)(f'class `A` in a/b.py: {error}')  # noqa: B904
    with pytest.raises(AssertionError), refused(key='a'):
        try:
            raise ConfigError(key='a', got=1)
        except ConfigError:
            raise ConfigError('another')  # noqa: B904
