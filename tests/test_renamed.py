"""Old names of arguments: the same numbers, one warning that names the new one."""

import copy
import inspect
import warnings
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch
from mmengine.config import Config
from torch import nn

from kdmm import functional, losses, renamed
from kdmm.distillers import Progress, distill
from kdmm.distillers.builder import build_loss
from kdmm.losses import KDLoss
from kdmm.registry import MODELS
from kdmm.renamed import RenamedWarning, current_names
from tests.distillers.tiny_models import KD, images, samples, tiny
from tests.errors import refused
from tests.functional.test_mutual import fix

MEMORY = dict(student_channels=4, teacher_channels=6, num_classes=3, pixel_size=4, region_size=4)
#: Losses that had another name for it, with what they need besides.
SOFTENED = {
    'KDLoss': {},
    'BinaryKDLoss': {},
    'CWDLoss': {},
    'CSDLoss': {},
    'EnsembleKDLoss': {},
    'CIRKDMemoryLoss': MEMORY,
}
FUNCTIONS = {
    'kl_divergence': 'tau',
    'binary_kl_divergence': 'tau',
    'channel_kl': 'tau',
    'class_correlation_mse': 'tau',
    'memory_kl': 't_mem',
}


def old_name(name: str) -> str:
    return 't_mem' if name == 'CIRKDMemoryLoss' else 'tau'


def test_all_that_was_renamed_is_listed_here():
    classes = {name for name in losses.__all__ if hasattr(getattr(losses, name), 'renamed')}
    assert classes == set(SOFTENED)
    found = {name for name in functional.__all__ if hasattr(getattr(functional, name), 'renamed')}
    assert found == set(FUNCTIONS)


def test_temperature_and_tau_mean_the_same_in_all_losses():
    """No loss divides predictions by a tau or calls a temperature otherwise."""
    arguments = {
        name: set(inspect.signature(getattr(losses, name)).parameters) for name in losses.__all__
    }
    having = {key: {n for n, a in arguments.items() if key in a} for key in ('tau', 'temperature')}
    assert having['temperature'] == {
        *SOFTENED,
        'DISTLoss',
        'DKDLoss',
        'LMCLBankLoss',
        'LMCLLoss',
        'MCLLoss',
        'MCLBankLoss',
        'OKDDipLoss',
        'ONELoss',
        'StageEnsembleLoss',
    }
    assert having['tau'] == {
        'BankNCELoss',
        'CIRKDMiniBatchLoss',
        'CIRKDMemoryLoss',
        'CIRKDChannelLoss',
        'CRDLoss',
        'LMCLBankLoss',
        'LMCLLoss',
        'MCLLoss',
        'MCLBankLoss',
        'MCLOKDLoss',
    }
    assert not any('t_mem' in names for names in arguments.values())


@pytest.mark.parametrize('name', SOFTENED)
def test_a_class(name):
    cls, more, old = getattr(losses, name), SOFTENED[name], old_name(name)
    with pytest.warns(RenamedWarning) as caught:
        made = cls(**more, **{old: 2.5})
    (warning,) = caught
    text = f'{name}.{old} is called {name}.temperature now; the old name goes with version 0.3'
    assert str(warning.message) == text and warning.filename == __file__
    assert made.temperature == 2.5
    with refused(key=name, got={old: 2.5, 'temperature': 1.5}, fix='Give temperature alone'):
        cls(**more, **{old: 2.5}, temperature=1.5)
    with pytest.raises(TypeError, match='multiple values'), pytest.warns(RenamedWarning):
        KDLoss(1.0, tau=2.0)  # type: ignore[call-arg]


def test_an_attribute():
    """Set in vain, it would leave the temperature as it was."""
    made = KDLoss(temperature=2.0)
    with pytest.warns(RenamedWarning, match=r'KDLoss\.temperature now') as caught:
        made.tau = 4.0
        assert made.tau == made.temperature == 4.0
    assert [warning.filename for warning in caught] == [__file__] * 2
    assert 'tau' not in vars(made)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function(name):
    function, old = getattr(functional, name), FUNCTIONS[name]
    rows = [nn.functional.normalize(fix((6, 4), i), dim=1) for i in range(3)]
    inputs = rows if name == 'memory_kl' else [fix((2, 3, 4, 4), i) for i in range(2)]
    with pytest.warns(RenamedWarning, match=rf'{name}\.{old} is called {name}\.temperature'):
        found = function(*inputs, **{old: 2.0})
    assert torch.equal(found, function(*inputs, temperature=2.0))
    assert not torch.equal(found, function(*inputs, temperature=3.0))
    assert old not in inspect.signature(function).parameters


@pytest.mark.parametrize('name', SOFTENED)
def test_a_config(name):
    old = old_name(name)
    config = dict(type=name, **SOFTENED[name])
    with pytest.warns(RenamedWarning) as caught:
        made, schedules = build_loss('kd.losses.x', {**config, old: 2.5}, {})
    (warning,) = caught
    assert f'kd.losses.x.{old} is called kd.losses.x.temperature now' in str(warning.message)
    assert made.temperature == 2.5 and not schedules
    ramp = dict(type='Linear', start=1.0, stop=3.0, end=2)
    with pytest.warns(RenamedWarning):
        made, schedules = build_loss('kd.losses.x', {**config, old: ramp}, {})
    assert list(schedules) == ['temperature'] and made.temperature == 1.0
    assert schedules['temperature'](Progress(iteration=1)) == 2.0
    for both in (2.5, ramp):
        with refused(key='kd.losses.x', got={old: both, 'temperature': 1.0}):
            build_loss('kd.losses.x', {**config, old: both, 'temperature': 1.0}, {})


@pytest.mark.parametrize('name', ['MCLLoss', 'CIRKDMiniBatchLoss'])
def test_a_tau_that_divides_similarities_is_no_old_name(name):
    given = dict(peer_channels=[4, 4]) if name == 'MCLLoss' else {}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        made, _ = build_loss('kd.losses.x', dict(type=name, tau=0.3, **given), {})
    assert made.tau == 0.3


def test_a_subclass_that_has_an_argument_of_the_old_name():
    class Own(KDLoss):
        def __init__(self, tau: float = 2.0, **options: float) -> None:
            super().__init__(3 * tau, **options)

    assert current_names('kd', Own, dict(tau=1.0)) == dict(tau=1.0)
    assert Own(tau=1.0).temperature == 3.0
    assert KDLoss(1.0).temperature == 1.0


@pytest.mark.parametrize(
    'base, name, old, default',
    [
        ('_base_/kd/kd.py', 'kd', 'tau', 1.0),
        ('_base_/kd/cwd.py', 'cwd', 'tau', 4.0),
        ('_base_/kd/cwd.py', 'cwd_logits', 'tau', 4.0),
        ('_base_/kd/dsd.py', 'csd', 'tau', 4.0),
        ('_base_/kd/cirkd.py', 'kd', 'tau', 1.0),
        ('_base_/kd/cirkd.py', 'memory', 't_mem', 1.0),
        ('_base_/kd/dml.py', 'dml', 'tau', 1.0),
        ('_base_/kd/mcl_x4_logit.py', 'logit', 'tau', 3.0),
        ('_base_/kd/mcl_bank_x4_logit.py', 'logit', 'tau', 3.0),
    ],
)
def test_configs_that_inherit_ours_can_still_use_the_old_name(base, name, old, default):
    """So a base leaves out what is the default."""
    config = Config.fromfile(f'configs/{base}').kd.losses[name].to_dict()
    kind = MODELS.get(config['type'])
    assert inspect.signature(kind).parameters['temperature'].default == default
    assert 'temperature' not in config
    with pytest.warns(RenamedWarning):
        assert current_names('kd', kind, {**config, old: 7.0})['temperature'] == 7.0


def test_nobody_has_to_ask_for_the_warning():
    """Python shows deprecations in the main script only."""
    spec = spec_from_file_location('renamed_again', renamed.__file__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter('ignore', DeprecationWarning)
        again = module_from_spec(spec)
        spec.loader.exec_module(again)
        for _ in range(3):
            again.current_names('kd', again.renamed(tau='temperature')(lambda: 0), dict(tau=1))
    assert issubclass(again.RenamedWarning, DeprecationWarning)
    assert len(caught) == 1, 'once from one place'


def test_a_model_that_is_distilled_with_old_names_has_the_same_loss():
    found = []
    for key in ('temperature', 'tau'):
        section = copy.deepcopy(KD)
        section['losses'] = dict(kd=dict(type='KDLoss', on='logits', **{key: 3.0}))
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RenamedWarning)
            model = distill(tiny(), **section).eval()
        found.append(model(images(), samples(), mode='loss')['kd.loss_kd'])
    assert torch.equal(*found) and found[0] > 0
