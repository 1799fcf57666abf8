import copy

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from kdmm.checkpoints import fingerprint
from kdmm.distillers import Teacher, distill
from tests.distillers.tiny_models import (
    KD,
    TEACHER,
    build,
    images,
    samples,
    seg_samples,
    segmentor,
    tiny,
)
from tests.errors import refused
from tests.versions import cpu_autocast


class Anything:
    """Not a weight."""


def connected(student=None, paths=None, **options) -> Teacher:
    teacher = Teacher(**{**TEACHER, **options})
    teacher.connect(student or build(tiny()), paths or dict(logits='head.out'))
    return teacher


@pytest.fixture
def checkpoint(tmp_path):
    """A file with the weights of a network of width 6."""
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=build(tiny(6), seed=5).state_dict(), meta=dict(epoch=1)), path)
    return str(path)


@pytest.mark.parametrize(
    'options, key, fields',
    [
        (dict(), '', dict(problem='neither', fix='Give either config or model')),
        (dict(model=tiny(), config='x.py', random=True), '',
         dict(problem='both', fix='Give either config or model')),
        (dict(model=tiny()), '.checkpoint', dict(problem='missing', fix='random=True')),
        (dict(model=tiny(), checkpoint='a.pth', random=True), '.checkpoint',
         dict(got='a.pth', problem='contradicts random=True')),
        (dict(model=tiny(), checkpoint='zoo'), '.checkpoint',
         dict(got='zoo', problem='no config', fix='Give the config')),
        (dict(model=tiny(), checkpoint='/no/such.pth'), '.checkpoint',
         dict(got='/no/such.pth', problem='no such file')),
        (dict(model=tiny(), random=True, dtype='float17'), '.dtype',
         dict(got='float17', expected='a torch dtype')),
        (dict(model=tiny(), random=True, dtype='nn'), '.dtype', dict(got='nn')),
        (dict(model=tiny(), random=True, container='ema'), '.container',
         dict(got='ema', problem='random=True', fix='Drop it')),
        (dict(model=tiny(), random=True, prefix='student'), '.prefix',
         dict(got='student', problem='random=True', fix='Drop it')),
        (dict(model=tiny(), checkpoint='a.pth', container=3), '.container',
         dict(got=3, expected='a name in a checkpoint')),
        (dict(config='no/such.py', random=True), '.config',
         dict(got='no/such.py', problem='cannot be read')),
        (dict(config='mmseg::no/such.py', random=True), '.config',
         dict(got='mmseg::no/such.py', problem='cannot be read')),
        (dict(model='x.py', random=True), '.model',
         dict(got='x.py', expected='the dict', fix='named by config')),
        (dict(config=3, random=True), '.config', dict(got=3, expected='a file or package::path')),
    ],
)  # fmt: skip
def test_contradictory_arguments(options, key, fields):
    with refused(key=f'kd.teacher{key}', **fields):
        Teacher(**options)


def test_a_config_without_model(tmp_path):
    (tmp_path / 'c.py').write_text('a = 1\n')
    path = str(tmp_path / 'c.py')
    with refused(key='kd.teacher.config', got=path, problem='has no model'):
        Teacher(config=path, random=True)


def test_a_config_file_gives_scope_and_preprocessor(tmp_path):
    model = segmentor(8)
    preprocessor = model.pop('data_preprocessor')
    del model['_scope_']
    preprocessor.update(mean=[1.0, 2.0, 3.0], std=[1.0] * 3)
    (tmp_path / 'c.py').write_text(
        f"default_scope = 'mmseg'\ndata_preprocessor = {preprocessor}\nmodel = {model}\n"
    )
    teacher = Teacher(config=str(tmp_path / 'c.py'), random=True)
    assert type(teacher.module).__module__.startswith('mmseg')
    assert teacher.module.data_preprocessor.mean.flatten().tolist() == [1, 2, 3]


def test_zoo_is_what_the_metafile_names(monkeypatch, tmp_path, checkpoint):
    (tmp_path / 'c.py').write_text(f'model = {tiny(6)}\n')
    asked = []
    monkeypatch.setattr('kdmm.teachers.teacher.zoo_config', lambda c: str(tmp_path / 'c.py'))
    monkeypatch.setattr(
        'kdmm.teachers.teacher.zoo_checkpoint', lambda c: asked.append(c) or checkpoint
    )
    teacher = Teacher(config='mmseg::x.py', checkpoint='zoo')
    assert asked == ['mmseg::x.py'] and teacher.source == checkpoint


def test_a_config_without_zoo_weights_is_a_config_error():
    with refused(key='kd.teacher.checkpoint', got='zoo', problem='no weights are published'):
        Teacher(config='kdmm::quickstart/teacher.py', checkpoint='zoo')


def test_the_checkpoint_is_loaded(checkpoint):
    teacher = Teacher(model=tiny(6), checkpoint=checkpoint)
    assert teacher.source == checkpoint
    assert teacher.fingerprint() == fingerprint(build(tiny(6), seed=5).state_dict().values())


def test_another_architecture_is_refused(checkpoint):
    told = ('does not fit TinyNet', 'wrong shape: stem.0.weight')
    with refused(key='kd.teacher.checkpoint', got=checkpoint, problem=told):
        Teacher(model=tiny(4), checkpoint=checkpoint)


@pytest.mark.parametrize('change', ['missing', 'unexpected'])
def test_one_key_off_is_refused(tmp_path, checkpoint, change):
    content = torch.load(checkpoint)
    if change == 'missing':
        del content['state_dict']['aux.bias']
    else:
        content['state_dict']['aux.scale'] = torch.ones(1)
    torch.save(content, tmp_path / 'b.pth')
    with refused(key='kd.teacher.checkpoint', problem=f'{change}: aux'):
        Teacher(model=tiny(6), checkpoint=str(tmp_path / 'b.pth'))


def test_pickles_need_unsafe(tmp_path, checkpoint):
    content = dict(torch.load(checkpoint), extra=Anything())
    torch.save(content, tmp_path / 'b.pth')
    with refused(key='kd.teacher.checkpoint', got=str(tmp_path / 'b.pth'), fix='unsafe=True'):
        Teacher(model=tiny(6), checkpoint=str(tmp_path / 'b.pth'))
    Teacher(model=tiny(6), checkpoint=str(tmp_path / 'b.pth'), unsafe=True)


def test_it_stays_in_eval_whatever_is_called_above():
    student = distill(tiny(), **KD)
    teacher = student.kd.teachers[0]
    for call in (student.train, student.kd.train, lambda: student.train(True), student.eval):
        call()
        assert not any(module.training for module in teacher.module.modules())
    student.train()
    x, s = images(), samples()
    with torch.no_grad():
        first = student.kd.teachers[0](x, s)['logits']
        student(x, s, mode='loss')
        again = student.kd.teachers[0](x, s)['logits']
        reference = teacher.module(x)
    assert torch.equal(first, again) and torch.equal(first, reference)


def test_it_is_in_nothing_of_the_student():
    student = distill(tiny(), **KD)
    teacher = student.kd.teachers[0].module
    theirs = {id(value) for value in teacher.state_dict(keep_vars=True).values()}
    assert not theirs & {id(v) for v in student.state_dict(keep_vars=True).values()}
    assert not theirs & {id(p) for p in student.parameters()}
    assert not theirs & {id(b) for b in student.buffers()}
    modules = {id(module) for module in student.modules()}
    assert not modules & {id(module) for module in teacher.modules()}


def test_a_deep_copy_of_the_student_has_none():
    student = distill(tiny(), **KD)
    duplicate = copy.deepcopy(student)
    plain = build(tiny())
    assert type(duplicate) is type(plain) and not hasattr(duplicate, 'kd')
    assert list(duplicate.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in duplicate.named_modules()] == [n for n, _ in plain.named_modules()]


def test_no_gradient_reaches_it_and_training_leaves_it_alone():
    student = distill(tiny(), **KD).train()
    teacher = student.kd.teachers[0]
    before = teacher.fingerprint()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for step in range(3):
        losses = student(images(seed=step), samples(seed=step), mode='loss')
        sum(losses.values()).backward()
        optimizer.step()
    assert teacher.fingerprint() == before
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())
    assert not teacher(images().requires_grad_())['logits'].requires_grad


def test_it_follows_the_student():
    student = distill(tiny(), **KD)
    teacher = student.kd.teachers[0]
    student.double()
    assert {p.dtype for p in teacher.module.parameters()} == {torch.float64}
    assert teacher(images().double())['logits'].dtype == torch.float64
    student.to('meta')
    assert teacher.module.head.weight.is_meta


def test_a_dtype_of_its_own():
    student = distill(tiny(), **{**KD, 'teacher': dict(TEACHER, dtype='bfloat16')}).train()
    teacher = student.kd.teachers[0]
    student.double().float()
    assert teacher.module.head.weight.dtype == torch.bfloat16
    with cpu_autocast(torch.float16):
        assert teacher(images())['logits'].dtype == torch.bfloat16
    losses = student(images(), samples(), mode='loss')
    assert losses['kd.loss_kd'].dtype == torch.float32 and losses['kd.loss_kd'].isfinite()


def test_without_a_dtype_it_runs_in_the_students_precision():
    teacher = connected()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert teacher(images())['logits'].dtype == torch.bfloat16


def test_channels_last():
    teacher = connected(channels_last=True, paths=dict(body='body.out'))
    same = connected(paths=dict(body='body.out'))
    same.module.load_state_dict(teacher.module.state_dict())
    found = teacher(images())['body']
    assert teacher.module.body.weight.is_contiguous(memory_format=torch.channels_last)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, same(images())['body'])


def test_compiled_it_reads_every_batch(monkeypatch):
    """Hooks come and go around each call; the compiled network must not keep the first ones."""
    real = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda m, **kw: real(m, backend='eager', **kw))
    teacher = connected(compile=True)
    for seed in range(3):
        found = teacher(images(seed=seed))['logits']
        torch.testing.assert_close(found, teacher.module(images(seed=seed)))


def test_compiling_renames_no_weight(monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda m, **kw: real(m, backend='eager', **kw))
    assert list(Teacher(**TEACHER, compile=True).module.state_dict()) == list(
        build(tiny(6)).state_dict()
    )


def spy(module: nn.Module, calls: list, name: str) -> None:
    module.register_forward_pre_hook(lambda *_: calls.append(name))


def test_only_what_the_taps_need_is_run():
    teacher = connected(paths=dict(body='body.out'))
    calls: list[str] = []
    for name, module in teacher.module.named_children():
        spy(module, calls, name)
    teacher(images())
    assert calls == ['stem', 'body'] or set(calls) == {'stem', 'body', 'head'}  # first: learns
    calls.clear()
    teacher(images())
    assert calls == ['stem', 'body']


def test_a_segmentor_runs_neither_auxiliary_head_nor_loss(monkeypatch):
    student = ROOT_MODELS.build(segmentor(4))
    teacher = Teacher(model=segmentor(8), random=True)
    teacher.connect(student, dict(pixels='decode_head.conv_seg.in'))
    calls: list[str] = []
    spy(teacher.module.auxiliary_head, calls, 'aux')
    for head in (teacher.module.decode_head, teacher.module.auxiliary_head):
        monkeypatch.setattr(head, 'loss', lambda *_: calls.append('loss'))
        monkeypatch.setattr(head, 'loss_by_feat', lambda *_: calls.append('loss'))
    teacher(torch.randn(2, 3, 32, 32))
    spy(teacher.module.decode_head.conv_seg, calls, 'conv_seg')
    found = teacher(torch.randn(2, 3, 32, 32), seg_samples())
    assert found['pixels'].shape == (2, 8, 4, 4)
    assert calls in ([], ['conv_seg'])  # its input is read when it is called


def test_the_students_preprocessing_is_converted():
    own = dict(type='ImgDataPreprocessor', mean=[10.0] * 3, std=[2.0] * 3)
    raw = 50 * images().abs()
    teacher = connected(model=tiny(6, data_preprocessor=own))
    expected = teacher.module((raw - 10) / 2)
    torch.testing.assert_close(teacher(raw)['logits'], expected, rtol=1e-4, atol=1e-4)


def test_several_teachers():
    losses = dict(
        a=dict(type='Distance', on='logits', teacher=0),
        b=dict(type='Distance', on='body', teacher=1),
    )
    kd = dict(KD, taps=dict(logits='head.out', body='body.out'), losses=losses)
    kd['teacher'] = [TEACHER, dict(model=tiny(4), random=True)]
    student = distill(tiny(), **kd).train()
    first, second = student.kd.teachers
    x = images()
    assert set(first(x)) == {'logits'} and set(second(x)) == {'body'}
    with student.kd.student_taps.record() as mine:
        losses = student(x, samples(), mode='loss')
    assert set(losses) == {'loss_ce', 'loss_aux', 'kd.loss_a', 'kd.loss_b'}
    with torch.no_grad():
        expected = (mine['body'] - second(x)['body']).square().mean()
    torch.testing.assert_close(losses['kd.loss_b'], expected)


def test_two_configs_of_teachers_are_numbered_in_errors():
    losses = dict(a=dict(type='Distance', on='logits', teacher=2))
    with refused(key='kd.losses.a.teacher', got=2, expected='one of 1 teacher'):
        distill(tiny(), **{**KD, 'losses': losses})


def test_its_weights_may_lie_in_another_entry_and_below_a_prefix(tmp_path):
    state = build(tiny(6), seed=5).state_dict()
    inner = {f'module.student.{key}': value for key, value in state.items()}
    other = {f'module.teacher.{key}': value * 0 for key, value in state.items()}
    torch.save(dict(model={**other, **inner}, best_acc=torch.tensor(7.0)), tmp_path / 'a.pth')
    options = dict(model=tiny(6), checkpoint=str(tmp_path / 'a.pth'))
    teacher = Teacher(**options, container='model', prefix='student')
    loaded = teacher.module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    told = 'it has no state_dict; its weights are in model: name one with kd.teacher.container'
    with refused(key=f'kd.teacher.checkpoint: {str(tmp_path / "a.pth")!r}', problem=told):
        Teacher(**options)
    with refused(key='kd.teacher.checkpoint', problem='unexpected: teacher'):
        Teacher(**options, container='model')


def test_random_weights_do_not_depend_on_the_seed_and_leave_the_generators_alone():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(Teacher(model=tiny(6), random=True).fingerprint())
        assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    student = build(tiny(6))
    assert states[0] == states[1] != fingerprint(student.state_dict().values())
