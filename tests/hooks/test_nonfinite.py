from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

from kdmm.engine import Runner
from kdmm.hooks.nonfinite import NonFiniteError, NonFiniteLossHook, image_names, non_finite
from kdmm.losses import DistillLoss
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
class NanAfter(DistillLoss):
    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return student.mean() * (1.0 if self.left >= 0 else NAN)


def test_a_run_stops_and_its_last_checkpoint_stands(tmp_path):
    cfg = config(tmp_path, iters=8)
    cfg.kd.losses = dict(bad=dict(type='NanAfter', on='logits', calls=3))
    cfg.default_hooks.checkpoint.interval = 1
    with pytest.raises(NonFiniteError, match=r'iteration 4: not finite: .*kd\.loss_bad.*\.png'):
        Runner.from_cfg(cfg).train()
    assert files(tmp_path) == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']


# what is written


class Spoil(Hook):
    """Writes a value somewhere after one iteration."""

    priority = 'VERY_HIGH'

    def __init__(self, where, value: float, at: int = 4) -> None:
        self.where, self.value, self.at = where, value, at

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.at:
            with torch.no_grad():
                self.where(runner).view(-1)[0] = self.value


def of_ema(runner):
    (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    return ema.ema_model.module.body.weight


@pytest.mark.parametrize('value', [NAN, INF])
@pytest.mark.parametrize(
    'where, name',
    [
        (lambda runner: runner.model.stem[1].running_var, r'stem\.1\.running_var'),
        (lambda runner: runner.model.kd.terms.parts.loss.projector.bias, r'kd\..*projector\.bias'),
        (lambda runner: runner.model.kd.extra, r'kd\.extra'),
        (of_ema, r'body\.weight'),
    ],
)
def test_no_file_is_written_of_a_state_that_is_not_finite(tmp_path, where, name, value):
    made = Runner.from_cfg(config(tmp_path, custom_hooks=[dict(type='EMAHook', momentum=0.1)]))
    made.model.kd.register_buffer('extra', torch.zeros(2))
    made.register_hook(Spoil(where, value))
    with pytest.raises(NonFiniteError, match=rf'{name} is not finite: iter_4\.pth.*iter_2\.pth'):
        made.train()
    assert files(tmp_path) == ['iter_2.pth']


@pytest.mark.parametrize('value, written', [(INF, True), (NAN, False)])
def test_a_buffer_that_began_with_an_infinity_may_hold_one(tmp_path, value, written):
    made = Runner.from_cfg(config(tmp_path, kd=None))
    made.model.register_buffer('highest', torch.tensor([-INF, 0.0]))
    made.register_hook(Spoil(lambda runner: runner.model.highest, value))
    if written:
        made.train()
    else:
        with pytest.raises(NonFiniteError, match='highest'):
            made.train()
    assert ('iter_4.pth' in files(tmp_path)) == written


def test_whole_numbers_and_nested_states_are_looked_at():
    state = dict(
        count=torch.tensor(2**40), flag=torch.tensor(True), none=torch.empty(0), text='x',
        extra=dict(a=[torch.ones(1), (torch.tensor([1.0, NAN]),)]), half=torch.ones(2).bfloat16(),
        wave=torch.tensor([complex(1, INF)]),
    )  # fmt: skip
    assert non_finite(state) == ['extra', 'wave']
    assert non_finite(state, allow=('wave',)) == ['extra']


def test_what_one_rank_refuses_all_refuse(tmp_path, monkeypatch):
    """Buffers may differ from rank to rank; none may wait for another that has left."""
    made = Runner.from_cfg(config(tmp_path))
    other = NonFiniteError('stem.1.running_var is not finite')
    monkeypatch.setattr('kdmm.hooks.checkpoint.all_gather_object', lambda mine: [mine, other])
    with pytest.raises(NonFiniteError, match='running_var'):
        made.train()
    assert files(tmp_path) == [] and made.iter == 1
