"""MMEngine's own Runners, and a user's, meet a section ``kd``."""

import copy
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner
from mmengine.runner import Runner as BaseRunner

from kdmm.config import nearly_section, section_of, split_model
from kdmm.distillers import distill
from kdmm.engine import Runner, build_runner
from kdmm.engine.dispatch import describe_run, install, runner_class_for
from tests.distillers.tiny_models import KD as SHORT
from tests.distillers.tiny_models import TinyNet, tiny
from tests.engine.tiny_run import KD, PREPROCESSOR, config
from tests.errors import refused


@RUNNERS.register_module(force=True)
class Users(BaseRunner):
    """With a constructor, a training loop and a way to build models of its own."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.built = 'by the user'

    def build_model(self, model):
        self.seen = model
        return super().build_model(model)

    def build_log_processor(self, log_processor):
        return super().build_log_processor(dict(log_processor, window_size=3))


def wrapped(tmp_path, **changes) -> Config:
    """The section written around the student."""
    cfg = config(tmp_path, kd=None, **changes)
    cfg.model = dict(type='kdmm.Distiller', student=tiny(), **copy.deepcopy(KD))
    cfg.data_preprocessor = PREPROCESSOR
    return cfg


def written(tmp_path) -> dict:
    return torch.load(tmp_path / 'iter_4.pth', weights_only=False)


@pytest.mark.parametrize('kind', [BaseRunner, Users])
@pytest.mark.parametrize('form', [config, wrapped])
def test_a_section_is_obeyed_by_whoever_reads_it(tmp_path, kind, form):
    """The file is the plain student's and the weights are those of kdmm's own Runner."""
    made = kind.from_cfg(form(tmp_path / 'theirs'))
    assert isinstance(made, Runner) and isinstance(made, kind)
    made.train()
    Runner.from_cfg(form(tmp_path / 'ours')).train()
    theirs, ours = written(tmp_path / 'theirs'), written(tmp_path / 'ours')
    plain = ROOT_MODELS.build(tiny(data_preprocessor=PREPROCESSOR)).state_dict()
    assert (
        list(theirs['state_dict']) == list(plain) and theirs['kdmm'].keys() == ours['kdmm'].keys()
    )
    for key, value in ours['state_dict'].items():
        assert torch.equal(theirs['state_dict'][key], value), key
    assert getattr(made, 'built', 'by the user') == 'by the user'


@pytest.mark.parametrize('runner_type', ['Runner', 'Users', 'kdmm.Runner'])
def test_by_name(tmp_path, runner_type):
    """As the base libraries' scripts do, and kdmm's."""
    cfg = config(tmp_path, runner_type=runner_type)
    for made in (RUNNERS.build(cfg), build_runner(cfg)):
        assert isinstance(made, Runner) and made.model.kd is not None


def test_the_name_is_there_after_the_import():
    code = 'import kdmm; from mmengine.registry import RUNNERS; print(RUNNERS.get("kdmm.Runner"))'
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'kdmm.engine.runner.Runner' in said.stdout


def test_a_constructor_of_its_own_arguments(tmp_path):
    cfg = config(tmp_path)
    made = BaseRunner(cfg.model, str(tmp_path), cfg=cfg, default_scope='mmengine')
    assert type(made) is Runner and made.model.kd is not None
    alone = BaseRunner(model=wrapped(tmp_path).model, work_dir=str(tmp_path))
    assert type(alone) is Runner and alone.cfg.kd.losses.keys() == KD['losses'].keys()


def test_a_built_student_and_a_built_pair(tmp_path):
    cfg = config(tmp_path)
    student = ROOT_MODELS.build(cfg.model)
    cfg.model = None
    made = BaseRunner(student, str(tmp_path), cfg=cfg)
    assert made.model is student and made.model.kd is not None
    pair = distill(tiny(), **copy.deepcopy(SHORT))
    kinds = {type(hook).__name__ for hook in BaseRunner(pair, str(tmp_path)).hooks}
    assert {'DistillHook', 'OwnershipHook', 'StepSeedHook'} <= kinds


@pytest.mark.parametrize('kd', [None, False, {}])
def test_no_section_is_no_section(tmp_path, kd):
    cfg = config(tmp_path, kd=None)
    cfg.kd = kd
    made = BaseRunner.from_cfg(cfg)
    assert type(made) is BaseRunner and type(made.model) is TinyNet
    assert describe_run(made) == 'no section kd: plain training'
    assert type(Users.from_cfg(cfg)) is Users


@pytest.mark.parametrize('kd', ['cirkd', True, [1]])
def test_a_section_that_is_none_is_refused(tmp_path, kd):
    cfg = config(tmp_path, kd=None)
    cfg.kd = kd
    with refused(key='kd', got=kd, expected='a section'):
        BaseRunner.from_cfg(cfg)


def test_two_objectives_are_refused(tmp_path):
    cfg = wrapped(tmp_path)
    cfg.kd = copy.deepcopy(KD)
    with refused(key='model.type', got='kdmm.Distiller', problem='a section kd'):
        BaseRunner.from_cfg(cfg)


@pytest.mark.parametrize('form', [config, wrapped])
def test_a_runner_of_another_kind_refuses(tmp_path, form):
    with refused(key='runner_type', got='FlexibleRunner', problem='with a kd section'):
        FlexibleRunner.from_cfg(form(tmp_path))


def test_an_objective_that_comes_unannounced_is_refused(tmp_path):
    """A class, not a name, in ``model.type``."""
    with refused(key='model', problem='would train it without its hooks'):
        BaseRunner(dict(type=distill, student=tiny(), **copy.deepcopy(SHORT)), str(tmp_path))


def test_installing_again_changes_nothing():
    before = BaseRunner.__init__, BaseRunner.train, FlexibleRunner.__init__
    install()
    assert before == (BaseRunner.__init__, BaseRunner.train, FlexibleRunner.__init__)
    assert runner_class_for(Users) is runner_class_for(Users) and runner_class_for(Runner) is Runner


def test_what_a_users_runner_overrides_is_called(tmp_path):
    """`kdmm.Runner` comes before it in the order of the classes, and passes everything on."""
    made = Users.from_cfg(config(tmp_path))
    assert made.seen['type'] == 'kdmm.Distiller' and made.log_processor.window_size == 3


# the usual form


def test_the_preprocessor_of_the_model_is_the_students():
    outer = dict(type='kdmm.Cohort', student=tiny(), peers=2, data_preprocessor=PREPROCESSOR)
    student, section = split_model(outer)
    assert student == tiny(data_preprocessor=PREPROCESSOR)
    assert section == dict(type='kdmm.Cohort', peers=2)
    own = dict(type='Other')
    student, _ = split_model(dict(outer, student=tiny(data_preprocessor=own)))
    assert student['data_preprocessor'] == own
    with refused(key='model.student', got=None):
        split_model(dict(type='kdmm.Distiller'))


def test_the_section_is_a_dict():
    assert section_of(None) is None and section_of(dict(kd=dict(a=1))) == dict(a=1)


# what a run is


def test_a_run_says_what_it_is(tmp_path):
    for name, kd, line in (
        ('a', KD, 'kd: Distiller, 2 terms, teacher random weights'),
        ('b', None, 'no section kd: plain training'),
    ):
        cfg = config(tmp_path / name, kd=kd, iters=1, log_level='INFO')
        BaseRunner.from_cfg(cfg).train()
        (log,) = (tmp_path / name).rglob('*.log')
        assert [said for said in log.read_text().splitlines() if said.endswith(line)] != []
        assert log.read_text().count(line) == 1


def test_a_key_that_is_nearly_the_section_is_named(tmp_path):
    cfg = config(tmp_path, kd=None)
    cfg.KD = copy.deepcopy(KD)
    said = describe_run(BaseRunner.from_cfg(cfg))
    assert said.startswith("no section kd: plain training. The config has 'KD'")


@pytest.mark.parametrize('key', ['KD', 'kd_', 'Kd', 'kdd', 'k_d', 'distill', 'distillation'])
def test_names_that_are_nearly_right(key):
    assert nearly_section({'model': dict(type='A'), key: dict(a=1)}) == key


@pytest.mark.parametrize(
    'value', [dict(teacher=1, taps=2), dict(taps=1, losses=2), dict(type='Cohort')]
)
def test_contents_that_are_a_sections(value):
    assert nearly_section(dict(extra=value)) == 'extra'


@pytest.mark.parametrize(
    'cfg',
    [
        dict(kd=dict(a=1)),
        dict(KD={}),
        dict(kd_weight=0.5, KD='off'),
        dict(k=dict(a=1), d=dict(a=1), key=dict(a=1), mode=dict(a=1), dist_params=dict(a=1)),
        dict(model=dict(type='kdmm.Distiller', teacher=1, losses=2), data=dict(teacher=1)),
    ],
)
def test_names_that_mean_something_else(cfg):
    assert nearly_section(cfg) is None
