import copy

import pytest
from mmengine.config import Config

from kdmm.config import image_size
from kdmm.engine import load_config, model_config, use_amp
from tests.distillers.tiny_models import KD, tiny
from tests.errors import refused


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'my_config.py'
    path.write_text("model = dict(type='A', head=dict(k=1))\nkd = dict(taps=dict(a='b.out'))\n")
    return str(path)


def test_the_section_is_read_and_the_model_untouched(file):
    cfg = load_config(file)
    assert cfg.kd.taps.a == 'b.out' and cfg.model.to_dict() == dict(type='A', head=dict(k=1))


def test_overrides_are_dotted(file):
    cfg = load_config(file, {'model.head.k': 2, 'kd.teacher.random': True})
    assert cfg.model.head.k == 2 and cfg.kd.teacher.random is True


def test_the_work_dir(file):
    assert load_config(file).work_dir == 'work_dirs/my_config'
    assert load_config(file, dict(work_dir='x')).work_dir == 'x'
    assert load_config(file, dict(work_dir='x'), 'y').work_dir == 'y'


def test_a_config_of_the_installed_package():
    cfg = load_config('kdmm::cirkd/deeplab_r101_r18_cityscapes.py')
    assert cfg.model.decode_head.num_classes == 19 and cfg.kd.losses
    assert cfg.work_dir == 'work_dirs/deeplab_r101_r18_cityscapes'


def test_the_wrapper_written_by_hand_is_the_section(tmp_path):
    text = f"model = dict(type='kdmm.Distiller', student={tiny()}, **{KD})\n"
    (tmp_path / 'c.py').write_text(text)
    cfg = load_config(str(tmp_path / 'c.py'))
    assert cfg.model.to_dict() == tiny() and cfg.kd.losses.to_dict() == KD['losses']
    assert set(cfg.kd) == set(KD)


@pytest.mark.parametrize(
    'path, told',
    [
        ('no/such.py', ()),
        ('kdmm::cirkd/deeplab_r101_r18_citiscapes.py', ('nearest: ', 'r18_cityscapes')),
        ('nopackage::a.py', ("'nopackage', which is not installed",)),
        ('setup.cfg.unknown', ()),
    ],
)
def test_a_config_that_is_not_there(path, told):
    with refused(key='config', got=path, problem=('cannot be read', *told)):
        load_config(path)


@pytest.mark.parametrize('text', ['model = dict(\n', "_base_ = 'gone.py'\n"])
def test_a_config_that_cannot_be_parsed_is_one_message(tmp_path, text):
    (tmp_path / 'c.py').write_text(text)
    with refused(key='config', got=str(tmp_path / 'c.py')):
        load_config(str(tmp_path / 'c.py'))


def amp(dtype=None, **wrapper) -> dict:
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'), **wrapper)))
    use_amp(cfg, dtype)
    return cfg.optim_wrapper.to_dict()


def test_amp_as_the_base_library_does_it():
    expected = dict(optimizer=dict(type='SGD'), type='AmpOptimWrapper', loss_scale='dynamic')
    assert amp() == amp('') == amp(type='OptimWrapper') == expected
    assert amp('bfloat16') == dict(expected, dtype='bfloat16')


def test_amp_keeps_what_the_config_says():
    found = amp(type='AmpOptimWrapper', loss_scale=512.0, dtype='float16', accumulative_counts=2)
    assert found['loss_scale'] == 512.0 and found['accumulative_counts'] == 2
    assert found['dtype'] == 'float16'


def test_amp_refuses_other_wrappers():
    with refused(key='optim_wrapper.type', got='ApexOptimWrapper', problem='--amp'):
        amp(type='ApexOptimWrapper')


def test_amp_without_an_optimizer_is_a_config_error():
    with refused(key='--amp', problem='optim_wrapper'):
        use_amp(Config(dict(model=dict())), '')


def test_the_model_of_a_config_with_and_without_the_section():
    assert model_config(tiny(), None) == model_config(tiny(), {}) == tiny()
    made = model_config(tiny(), copy.deepcopy(KD))
    assert made['type'] == 'kdmm.Distiller' and made['student'] == tiny()
    assert made['losses'] == KD['losses']


@pytest.mark.parametrize(
    'pipeline, expected',
    [
        (
            [
                dict(type='RandomResize', scale=(2048, 1024)),
                dict(type='RandomCrop', crop_size=(512, 1024)),
            ],
            (512, 1024),
        ),
        ([dict(type='Resize', scale=(1333, 800), keep_ratio=True)], (800, 1333)),
        ([dict(type='RandomResizedCrop', scale=224), dict(type='PackInputs')], (224, 224)),
        ([dict(type='mmpose.TopdownAffine', input_size=(192, 256))], (256, 192)),
        ([dict(type='RandomCrop', crop_size=(0.5, 0.5))], None),
        ([dict(type='LoadImageFromFile')], None),
    ],
)
def test_the_pipeline_says_the_size_of_its_images(pipeline, expected):
    dataset = dict(type='RepeatDataset', dataset=dict(type='X', pipeline=pipeline))
    assert image_size(Config(dict(train_dataloader=dict(dataset=dataset)))) == expected
    assert image_size(Config({})) is None


def test_objectives_that_look_at_shapes_are_told_the_size():
    made = model_config(dict(type='N'), dict(teacher={}), (8, 9))
    assert made['crop_size'] == (8, 9)
    assert model_config(dict(type='N'), dict(teacher={}, crop_size=(1, 2)), (8, 9))[
        'crop_size'
    ] == (1, 2)
    assert 'crop_size' not in model_config(dict(type='N'), dict(type='HSSAKD'), (8, 9))


@pytest.mark.parametrize(
    ('key', 'value', 'expected'),
    [
        ('model', None, 'a dict'), ('model', [1], 'a dict'), ('kd', True, 'a section'),
        ('load_from', dict(x=1), 'text'), ('resume', 'maybe', 'True or False'),
        ('work_dir', 5, 'text'), ('env_cfg', dict(dist_cfg=5), 'a dict'),
        ('randomness', dict(seed='one'), 'a whole number'), ('reproducible', {}, 'True or False'),
    ],
)  # fmt: skip
def test_types_that_the_library_looks_at_late(tmp_path, key, value, expected):
    file = tmp_path / 'c.py'
    file.write_text(f'model = dict(type="N")\n{key} = {value!r}\n')
    with refused(expected=expected) as caught:
        load_config(str(file))
    error = caught.value
    assert error.key.startswith(key) and error.has_got


@pytest.mark.parametrize('value', ['None', 'False', '{}'])
def test_no_section_is_plain_training(tmp_path, value):
    (tmp_path / 'c.py').write_text(f'model = dict(type="N")\nkd = {value}\n')
    assert not load_config(str(tmp_path / 'c.py')).kd


def test_a_config_that_exits(tmp_path):
    (tmp_path / 'c.py').write_text('raise SystemExit(0)\n')
    with refused(key='config', got=str(tmp_path / 'c.py'), problem='cannot be read'):
        load_config(str(tmp_path / 'c.py'))


def test_modules_named_on_the_command_line_are_imported(tmp_path):
    (tmp_path / 'c.py').write_text('model = dict(type="N")\n')
    with refused(key='--cfg-options', problem='no_such_module'):
        load_config(str(tmp_path / 'c.py'), {'custom_imports.imports': ['no_such_module']})
