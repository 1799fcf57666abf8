import pytest

from kdmm.errors import ConfigError, nearest, refuse_unknown


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
