from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdmm.engine import Runner
from kdmm.hooks.nonfinite import NonFiniteError, NonFiniteLossHook, image_names
from kdmm.registry import MODELS
from tests.engine.tiny_run import config, files

NAN, INF = float('nan'), float('inf')


def sample(**facts: object) -> SimpleNamespace:
    return SimpleNamespace(**facts)


def look(outputs: dict, batch: object = None) -> None:
    NonFiniteLossHook().after_train_iter(SimpleNamespace(iter=6), 0, batch, outputs)


@pytest.mark.parametrize('value', [NAN, INF, -INF, torch.tensor(NAN), torch.tensor([INF])])
def test_iteration_terms_and_images_are_named(value):
    batch = dict(data_samples=[sample(img_path='a/b.png'), sample(img_id=12), sample()])
    outputs = {'loss': value, 'decode.loss_ce': 1.0, 'kd.loss_kd': value}
    with pytest.raises(NonFiniteError) as info:
        look(outputs, batch)
    message = str(info.value)
    assert 'iteration 7: not finite: loss, kd.loss_kd.' in message
    assert 'a/b.png, 12, ?' in message and 'last checkpoint stands' in message


def test_a_batch_that_names_nothing():
    with pytest.raises(NonFiniteError, match='Images of this batch: unknown'):
        look(dict(loss=NAN))


@pytest.mark.parametrize('outputs', [dict(loss=1.0), dict(loss=1.0, acc=NAN), {}, None])
def test_a_finite_loss_passes(outputs):
    look(outputs)


@pytest.mark.parametrize('batch', [None, [], {}, dict(data_samples=None)])
def test_no_names(batch):
    assert list(image_names(batch)) == []


@MODELS.register_module(force=True)
class NanAfter(nn.Module):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, **_: object) -> torch.Tensor:
        self.left -= 1
        return student.mean() * (1.0 if self.left >= 0 else NAN)


def test_a_run_stops_and_its_last_checkpoint_stands(tmp_path):
    cfg = config(tmp_path, iters=8)
    cfg.kd.losses = dict(bad=dict(type='NanAfter', on='logits', calls=3))
    cfg.default_hooks.checkpoint.interval = 1
    with pytest.raises(NonFiniteError, match=r'iteration 4: not finite: .*kd\.loss_bad.*\.png'):
        Runner.from_cfg(cfg).train()
    assert files(tmp_path) == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']
