import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner as BaseRunner

import kdmm.hooks as hooks
from kdmm.datasets import SeededDataset, SeededSampler
from kdmm.distillers import Objective
from kdmm.engine import Runner, build_runner
from tests.distillers.tiny_models import TinyNet, build, tiny
from tests.engine.tiny_run import KD, by_epoch, config, files, runner
from tests.errors import refused

ALWAYS = {'NonFiniteLossHook', 'LabelRangeHook', 'RunSummaryHook', 'InterruptHook',
          'CheckpointHook'}  # fmt: skip


def own_hooks(made: Runner) -> set[str]:
    return {type(h).__name__ for h in made.hooks if type(h).__module__.startswith('kdmm')}


def load(path) -> dict:
    return torch.load(path, weights_only=False)


def same(first: dict, second: dict) -> bool:
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def test_without_the_section_it_is_the_base_librarys_run(tmp_path):
    for kind, name in ((Runner, 'ours'), (BaseRunner, 'base')):
        kind.from_cfg(config(tmp_path / name, kd=None)).train()
    ours, base = (load(tmp_path / name / 'iter_4.pth') for name in ('ours', 'base'))
    assert set(ours) == set(base)
    assert same(ours['state_dict'], base['state_dict'])
    first, second = (c['optimizer']['state'] for c in (ours, base))
    assert all(torch.equal(first[k]['momentum_buffer'], second[k]['momentum_buffer'])
               for k in second)  # fmt: skip


def test_without_the_section_nothing_is_wrapped(tmp_path):
    made = runner(tmp_path, kd=None)
    made.train()
    assert type(made.model) is TinyNet
    assert type(made.train_dataloader.dataset).__name__ == 'TinyData'
    assert own_hooks(made) == ALWAYS


def test_with_it_the_student_is_distilled_and_the_stream_seeded(tmp_path):
    made = runner(tmp_path)
    made.train()
    assert isinstance(made.model, TinyNet) and made.model.kd is not None
    assert isinstance(made.train_dataloader.dataset, SeededDataset)
    assert isinstance(made.train_dataloader.sampler, SeededSampler)
    own = {'StepSeedHook', 'StreamSeedHook', 'DistillHook', 'OwnershipHook', 'RunningLineHook',
           'BuffersHook'}  # fmt: skip
    assert own_hooks(made) == ALWAYS | own


@pytest.mark.parametrize('kd', [None, KD])
@pytest.mark.parametrize('reproducible', [True, False])
def test_seeding_can_be_asked_for_or_left_out(tmp_path, kd, reproducible):
    made = runner(tmp_path, kd=kd, iters=1, reproducible=reproducible)
    made.train()
    assert isinstance(made.train_dataloader.sampler, SeededSampler) == reproducible
    assert ('StepSeedHook' in own_hooks(made)) == reproducible


def test_the_config_in_the_work_dir_is_the_one_given(tmp_path):
    cfg = config(tmp_path)
    given = copy.deepcopy(cfg.to_dict())
    Runner.from_cfg(cfg).train()
    assert cfg.to_dict() == given
    (dumped,) = tmp_path.glob('*.py')
    read = Config.fromfile(dumped)
    assert read.model.type == 'kdmm.TinyNet'  # the student; its own type in this test
    assert read.train_dataloader.dataset.type == 'kdmm.TinyData'
    assert read.default_hooks.checkpoint.type == 'CheckpointHook'
    text = dumped.read_text()
    kinds = ('Distiller', 'Seeded', 'DistillHook', 'kdmm.CheckpointHook')
    assert not any(kind in text for kind in kinds)
    assert read.kd.to_dict() == given['kd']


@pytest.mark.parametrize('epochs', [False, True])
def test_a_resumed_run_is_the_whole_run_to_the_bit(tmp_path, epochs):
    def cfg(folder: str, iters: int) -> Config:
        made = config(tmp_path / folder, iters=iters)
        return by_epoch(made, iters // 4) if epochs else made

    Runner.from_cfg(cfg('whole', 8)).train()
    Runner.from_cfg(cfg('parts', 4)).train()
    again = cfg('parts', 8)
    again.resume = True
    Runner.from_cfg(again).train()
    name = 'epoch_2.pth' if epochs else 'iter_8.pth'
    whole, parts = (load(tmp_path / folder / name) for folder in ('whole', 'parts'))
    assert same(whole['state_dict'], parts['state_dict']) and same(whole['kdmm'], parts['kdmm'])


def test_a_run_without_a_seed_resumes_to_the_bit(tmp_path):
    """Each start draws a seed; resuming takes that of the file, for the data too."""

    def unseeded(**changes: object) -> Config:
        cfg = config(tmp_path, kd=None, iters=8, reproducible=True, **changes)
        cfg.pop('randomness')
        return cfg

    Runner.from_cfg(unseeded(default_hooks__checkpoint__interval=4)).train()
    whole = load(tmp_path / 'iter_8.pth')['state_dict']
    Runner.from_cfg(unseeded(load_from=str(tmp_path / 'iter_4.pth'), resume=True)).train()
    assert same(load(tmp_path / 'iter_8.pth')['state_dict'], whole)


def test_an_iteration_based_run_over_a_finite_sampler_resumes_to_the_bit(tmp_path, monkeypatch):
    """Resumed in its second pass over the data, it goes on into a third."""

    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda _: None)  # 2 s a pass

    def finite(**changes: object) -> Config:
        cfg = config(tmp_path, kd=None, iters=10, reproducible=True, **changes)
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
        return cfg

    Runner.from_cfg(finite()).train()
    whole = load(tmp_path / 'iter_10.pth')['state_dict']
    Runner.from_cfg(finite(load_from=str(tmp_path / 'iter_6.pth'), resume=True)).train()
    assert same(load(tmp_path / 'iter_10.pth')['state_dict'], whole)


def test_an_empty_section_is_no_section(tmp_path):
    made = runner(tmp_path, kd={}, iters=1)
    made.train()
    assert type(made.model) is TinyNet and own_hooks(made) == ALWAYS


# what is loaded


@pytest.fixture
def trained(tmp_path):
    runner(tmp_path).train()
    return tmp_path


def loaded(work_dir, path, resume: bool = False, **changes) -> Runner:
    cfg = config(work_dir, **changes)
    cfg.load_from, cfg.resume = str(path), resume
    made = Runner.from_cfg(cfg)
    made.load_or_resume()
    return made


def test_a_student_starts_from_a_checkpoint(trained):
    made = loaded(trained, trained / 'iter_4.pth')
    content = load(trained / 'iter_4.pth')
    assert same({k: made.model.state_dict()[k] for k in content['state_dict']},
                content['state_dict'])  # fmt: skip
    assert made.model.kd.terms['parts'].loss.queue.tolist() == [0, 0]
    plain = loaded(trained, trained / 'iter_4.pth', kd=None)
    assert same(plain.model.state_dict(), content['state_dict'])


@pytest.mark.parametrize(
    'options', [dict(resume=True), dict(), dict(strict_load=False), dict(kd=None)]
)
def test_modules_are_loaded_once_and_told_who_wrote_their_entries(trained, monkeypatch, options):
    """A torch before 2.2 zeroes the counter of a BatchNorm that a state has nothing of."""
    seen = []

    def watched(kind):
        load = kind._load_from_state_dict

        def loading(self, state, prefix, metadata, *rest):
            seen.append((kind, prefix, metadata.get('version')))
            load(self, state, prefix, metadata, *rest)

        return loading

    for kind in (torch.nn.BatchNorm2d, Objective):
        monkeypatch.setattr(kind, '_load_from_state_dict', watched(kind), raising=False)
    loaded(trained, trained / 'iter_4.pth', **options)
    own = (
        [(Objective, '', 1)] if 'resume' in options else []
    )  # from its own entry, and from no other
    assert seen == [*own, (torch.nn.BatchNorm2d, 'stem.1.', 2)]


def test_another_architecture_is_refused(trained):
    told = ('does not fit TinyNet', 'wrong shape')
    with refused(key='checkpoint', got=str(trained / 'iter_4.pth'), problem=told):
        loaded(trained, trained / 'iter_4.pth', kd=None, strict_load=True, model__width=7)


def test_plain_fine_tuning_is_as_lenient_as_the_base_library(trained):
    made = loaded(trained, trained / 'iter_4.pth', kd=None, model__width=7)
    assert made._has_loaded


def test_lenient_loading_with_a_section_takes_no_weights_that_are_none(trained):
    content = load(trained / 'iter_4.pth')
    key = next(key for key, value in content['state_dict'].items() if value.is_floating_point())
    value = content['state_dict'].pop(key)
    torch.save(content, trained / 'part.pth')
    loaded(trained, trained / 'part.pth', strict_load=False, model__width=7)
    for broken in (value.long(), value * torch.nan):
        content['state_dict'][key] = broken
        torch.save(content, trained / 'part.pth')
        told = ('cannot be loaded into', key)
        with refused(key='checkpoint', got=str(trained / 'part.pth'), problem=told):
            loaded(trained, trained / 'part.pth', strict_load=False)


@pytest.mark.parametrize('resume', [True, False])
def test_a_truncated_checkpoint_is_refused_and_the_previous_named(trained, resume):
    path = trained / 'iter_4.pth'
    path.write_bytes(path.read_bytes()[:3000])
    stands = f'The previous checkpoint stands: {trained / "iter_2.pth"}'
    with refused(key='checkpoint', got=str(path), problem='damaged', fix=stands):
        loaded(trained, path, resume)


def test_a_missing_checkpoint(trained):
    with refused(key='checkpoint', got=str(trained / 'gone.pth'), problem='no such file'):
        loaded(trained, trained / 'gone.pth')


def test_a_plain_run_is_not_resumed_as_a_distillation(tmp_path):
    runner(tmp_path, kd=None).train()
    with refused(key='resume', problem='no distillation state'):
        loaded(tmp_path, tmp_path / 'iter_4.pth', resume=True)


def test_a_distillation_can_be_resumed_as_a_plain_student(trained):
    """The student's file is the base library's; only its optimizer knows more parameters."""
    content = load(trained / 'iter_4.pth')
    build(tiny(data_preprocessor=dict(type='ImgDataPreprocessor'))).load_state_dict(
        content['state_dict'], strict=True
    )


def test_the_first_save_that_fails_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match=r'could not write .*iter_2\.pth: .*no earlier checkpoint'):
        runner(tmp_path).train()
    assert files(tmp_path) == []


# which runner


def test_the_default_runner(tmp_path):
    assert type(build_runner(config(tmp_path))) is Runner


def test_another_runner_type_with_the_section_is_refused(tmp_path):
    cfg = config(tmp_path, runner_type='FlexibleRunner')
    with refused(key='runner_type', got='FlexibleRunner', problem='with a kd section'):
        build_runner(cfg)


def test_mmengines_own_runner_by_name(tmp_path):
    assert type(build_runner(config(tmp_path, kd=None, runner_type='Runner'))) is BaseRunner


@pytest.mark.parametrize('given', ['mmengine.CheckpointHook', None])
def test_a_checkpoint_hook_of_ones_own_is_kept(tmp_path, given):
    hook = given and dict(type=given, by_epoch=False, interval=4)
    made = runner(tmp_path, default_hooks__checkpoint=hook)
    assert 'CheckpointHook' not in own_hooks(made)
    assert hooks.CheckpointHook.__module__.startswith('kdmm')


def test_wrong_labels_losses_and_taps_are_config_errors_of_the_runner(tmp_path):
    kd = copy.deepcopy(KD)
    kd['losses']['kd']['on'] = 'logit'
    with refused(key='kd.losses.kd.on', got='logit', problem='no such tap'):
        runner(tmp_path, kd=kd)


def resumed(work_dir, path, **changes) -> Runner:
    made = runner(work_dir, iters=6, **{'load_from': str(path), 'resume': True, **changes})
    made.train()
    return made


def test_a_distilled_run_is_not_resumed_as_a_plain_one(tmp_path):
    """A connector's weights are in the optimizer; the student alone can be taken from the file."""
    kd = copy.deepcopy(KD)
    kd['losses']['parts']['connector'] = dict(type='Projection')
    runner(tmp_path / 'kd', kd=kd).train()
    path = tmp_path / 'kd/iter_4.pth'
    with refused(
        key='--resume', got=str(path), problem='a kd section', fix=f'load_from={path}, without'
    ):
        resumed(tmp_path / 'plain', path, kd=None)
    runner(tmp_path / 'new', kd=None, load_from=str(path)).train()


@pytest.mark.parametrize('entry', ['meta', 'message_hub'])
def test_files_that_do_not_say_where_their_run_was(tmp_path, entry):
    runner(tmp_path, kd=None).train()
    state = load(tmp_path / 'iter_4.pth')
    del state[entry]
    torch.save(state, tmp_path / 'cut.pth')
    path = str(tmp_path / 'cut.pth')
    with refused(key='--resume', got=path, problem=f'no {entry}', fix=f'load_from={path}'):
        resumed(tmp_path / 'w', tmp_path / 'cut.pth', kd=None)


def test_a_file_without_the_optimizers_state_is_resumed_with_a_warning(tmp_path):
    runner(tmp_path, kd=None).train()
    state = load(tmp_path / 'iter_4.pth')
    del state['optimizer']
    torch.save(state, tmp_path / 'cut.pth')
    made = runner(
        tmp_path / 'w', kd=None, iters=6, load_from=str(tmp_path / 'cut.pth'), resume=True
    )
    said: list[str] = []
    made.logger.warning = said.append
    made.train()
    assert made.iter == 6 and any('no state of the optimizer' in text for text in said)


def test_a_data_set_that_is_none(tmp_path):
    with refused(key='train_dataloader', problem='DataLoader: ') as caught:
        build_runner(config(tmp_path, kd=None, train_dataloader__dataset='x')).train()
    assert caught.value.got['dataset'] == 'x'
