"""A run that starts from a file that ``init_cfg`` or ``pretrained`` names."""

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from mmengine.runner import Runner as BaseRunner
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from kdmm.checkpoints import weights_only
from kdmm.engine import Runner
from tests.distillers.tiny_models import TinyNet
from tests.engine.tiny_run import KD, config
from tests.errors import refused


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@MODELS.register_module()
class Started(TinyNet):
    """Starts from files: of ``init_cfg``, of its head's, and while it is built, as with timm."""

    def __init__(
        self, init_cfg: Any = None, head_init: Any = None, pretrained: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.init_cfg = init_cfg
        self.below = BaseModule(head_init)
        if pretrained:
            torch.load(pretrained, map_location='cpu', weights_only=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An attack, beside a file of weights."""
    torch.manual_seed(7)
    state = TinyNet().state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'good.pth')
    torch.save(dict(state_dict={f'net.{key}': value for key, value in state.items()},
                    more=Attack(tmp_path / 'made')), tmp_path / 'bad.pth')  # fmt: skip
    return tmp_path / 'bad.pth'


READERS: dict[str, Callable[[Path], Any]] = {
    'torch.load': lambda path: torch.load(path, weights_only=False),
    'an open file': lambda path: torch.load(open(path, 'rb'), None, pickle, weights_only=False),  # noqa: SIM115
    'MMEngine': lambda path: CheckpointLoader.load_checkpoint(str(path)),
    'its loader of models': lambda path: load_checkpoint(torch.nn.Linear(1, 1), str(path)),
    'an init': lambda path: PretrainedInit(str(path))(torch.nn.Linear(1, 1)),
    'an init with a prefix': lambda path: PretrainedInit(str(path), 'x')(torch.nn.Linear(1, 1)),
    'torch.hub': lambda path: torch.hub.load_state_dict_from_url(
        path.as_uri(), str(path.parent / 'hub'), weights_only=False
    ),
    'an address': lambda path: CheckpointLoader.load_checkpoint('https://example.org/bad.pth'),
    'a zoo': lambda path: CheckpointLoader.load_checkpoint('torchvision://resnet18'),
    'another zoo': lambda path: CheckpointLoader.load_checkpoint('mmcls://resnet18'),
    'a third': lambda path: CheckpointLoader.load_checkpoint('open-mmlab://vgg16_caffe'),
}


@pytest.mark.parametrize('reader', READERS)
def test_every_reader_is_served_weights_only(reader, file, tmp_path, monkeypatch):
    def fetch(url: str, target: str, *args: Any, **kwargs: Any) -> None:
        Path(target).write_bytes(file.read_bytes())

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    kept, other = torch.load, contextlib.suppress(AssertionError, RuntimeError)
    with other:  # no such prefix; the hash of another file
        READERS[reader](file)
    assert (tmp_path / 'made').is_dir(), 'no attack'
    (tmp_path / 'made').rmdir()
    told = dict(problem='more than weights', fix='unsafe_checkpoint=True')
    with weights_only(), refused(key='pretrained weights', **told):
        READERS[reader](file)
    assert not (tmp_path / 'made').exists() and torch.load is kept
    with other, weights_only(), weights_only(unsafe=True):
        READERS[reader](file)
    assert (tmp_path / 'made').is_dir() and torch.load is kept


def loads(path: Path, **more: Any) -> dict[str, Any]:
    return dict(type='Pretrained', checkpoint=str(path), **more)


FORMS: dict[str, Callable[[Path], dict[str, Any]]] = {
    'a dict': lambda path: dict(init_cfg=loads(path)),
    'a list': lambda path: dict(init_cfg=[dict(type='Kaiming', layer='Conv2d'), loads(path)]),
    'a class': lambda path: dict(init_cfg=dict(loads(path), type=PretrainedInit)),
    'a prefix': lambda path: dict(init_cfg=loads(path, prefix='net')),
    'a part': lambda path: dict(head_init=loads(path)),
    'its constructor': lambda path: dict(pretrained=str(path)),
}


@pytest.mark.parametrize('kd', [None, KD], ids=['plain', 'kd'])
@pytest.mark.parametrize('form', FORMS)
def test_a_student_that_would_run_code(form, kd, file, tmp_path):
    def run(**more: Any) -> None:
        cfg = config(tmp_path / 'work', kd=kd, iters=1, **more)
        cfg.model = dict(cfg.model, type='Started', **FORMS[form](file))
        cfg.custom_hooks = [dict(type='EMAHook')]
        try:
            cfg.pretty_text  # noqa: B018
        except Exception as error:
            pytest.skip(f'this MMEngine cannot write such a config ({type(error).__name__})')
        Runner.from_cfg(cfg).train()

    kept = torch.load
    told = dict(problem=('holds more', 'mkdir'), fix='unsafe_checkpoint=True')
    with refused(key='pretrained weights', got=str(file), **told):
        run()
    assert not (tmp_path / 'made').exists() and torch.load is kept
    run(unsafe_checkpoint=True)
    assert (tmp_path / 'made').is_dir() and torch.load is kept


def test_a_teacher_reads_nothing_but_its_checkpoint(file, tmp_path):
    cfg = config(tmp_path / 'work', iters=1)
    cfg.kd.teacher.model.update(type='Started', pretrained=str(file), init_cfg=loads(file))
    Runner.from_cfg(cfg).train()
    assert not (tmp_path / 'made').exists()


def test_good_weights_arrive_as_the_base_library_loads_them(file, tmp_path):
    found = []
    for kind in (BaseRunner, Runner):
        cfg = config(tmp_path / kind.__module__, kd=None, iters=2)
        cfg.model = dict(cfg.model, type='Started', init_cfg=loads(tmp_path / 'good.pth'))
        runner = kind.from_cfg(cfg)
        runner.train()
        found.append(runner.model.state_dict())
    assert all(torch.equal(value, found[0][key]) for key, value in found[1].items())
    start = torch.load(tmp_path / 'good.pth', weights_only=True)['state_dict']
    assert (found[1]['body.weight'] - start['body.weight']).abs().max() < 0.1
    assert found[1]['stem.1.num_batches_tracked'] == 2
