import sys
from types import SimpleNamespace

import pytest

from kdmm.compat import versions
from kdmm.compat.versions import check_versions, parse_version


def test_installed_versions_pass():
    check_versions()


@pytest.mark.parametrize('name, version', [('torch', '2.0.1+cpu'), ('mmengine', '0.9.1')])
def test_an_old_library_is_named_with_both_versions(monkeypatch, name, version):
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(__version__=version, __spec__=object()))
    with pytest.raises(ImportError, match=rf'{name} >= \d+\.\d+, found {version[:3]}.*pip install'):
        check_versions()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(versions, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='torch >= 2.1, which is not installed'):
        check_versions()


@pytest.mark.parametrize(
    'text, expected',
    [('2.14.1+cu130', (2, 14)), ('0.10.7', (0, 10)), ('2.10.0a0', (2, 10)), ('3', (3, 0))],
)
def test_parse_version(text, expected):
    assert parse_version(text) == expected
    assert parse_version('2.10') > parse_version('2.9')


def test_parse_version_refuses_other_text():
    with pytest.raises(ValueError, match='not a version'):
        parse_version('unknown')
