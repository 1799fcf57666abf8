import pickle

import pytest

from kdmm.errors import ConfigError, nearest, refuse_unknown
from kdmm.taps import DidNotRunError


def test_the_nearest_come_first_and_duplicates_once():
    known = ['decode_head', 'decode_head.conv_seg', 'backbone', 'backbone']
    assert nearest('decode_heda', known).startswith('nearest: decode_head,')
    assert nearest('bakbone', known) == 'nearest: backbone'


def test_with_nothing_near_the_known_are_listed():
    assert nearest('zzzzzz', ['b', 'a', 'a']) == 'known: a, b'
    assert nearest('zzzzzz', map(str, range(99))).count(',') == 19


def test_the_first_unknown_key_is_named():
    refuse_unknown('kd', ['a'], ['a', 'b'])
    with pytest.raises(ConfigError, match=r"^kd: unknown key 'losess'; nearest: losses$"):
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
