"""`docs/api.md` lists what is promised."""

import list_public_names
import pytest

from kdmm.losses import DistillLoss, KDLoss
from kdmm.registry import MODELS


def test_the_page_lists_what_there_is() -> None:
    pytest.importorskip('xtcocotools')  # without it a data set is a function that says so
    page = list_public_names.PAGE.read_text()
    assert list_public_names.written() == page, 'run python tools/list_public_names.py'


def test_names_of_others_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list_public_names.registered_names()
    monkeypatch.setitem(MODELS.module_dict, 'Theirs', type('Theirs', (DistillLoss,), {}))
    assert list_public_names.registered_names() == before
    monkeypatch.setitem(MODELS.module_dict, 'Other', KDLoss)
    assert '    Other(temperature, ' in list_public_names.registered_names()


def test_arguments_are_listed_where_they_are_our_own() -> None:
    class Ours:
        def __init__(self, a: int, *rest: int, **more: int) -> None: ...

    Ours.__init__.__module__ = 'kdmm.somewhere'
    assert list_public_names._arguments(Ours) == '(a, *rest, **more)'
    assert list_public_names._arguments(dict) == ''
    Ours.__init__.__module__ = 'mmengine.hooks'
    assert list_public_names._arguments(Ours) == ''
