"""`tools/prune.py`: the files that it writes, its report, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

import kdmm.transfer.prune as command
from kdmm.checkpoints import read_checkpoint
from kdmm.transfer import ProofError
from kdmm.transfer.prune import Request, as_text, prune
from tests.errors import refused
from tests.pruning import nets

ROOT = Path(__file__).resolve().parents[2]
#: Evaluates two checkpoints with their configs' metric; loads the second strictly, and trains it.
USE = """
import json, sys
import torch
from mmengine.config import Config
from mmengine.runner import Runner
found = []
for config, checkpoint in zip(sys.argv[1::2], sys.argv[2::2]):
    assert found or 'kdmm' not in sys.modules
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.load_from, cfg.experiment_name = config + '.run', checkpoint, config
    runner = Runner.from_cfg(cfg)
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    runner.model.load_state_dict(state, strict=True)
    found.append(runner.test())
before = {key: value.clone() for key, value in runner.model.named_parameters()}
runner.train()
moved = all(not torch.equal(before[k], v) for k, v in runner.model.named_parameters())
print('FOUND ' + json.dumps([*found, moved, runner.iter]))
"""


def write(folder: Path, model: dict[str, Any], zeros: bool = True, **more: Any) -> Request:
    """A config of a classifier on noise, and a checkpoint with zero filters."""
    scope = model['type'].split('.')[0]
    data = dict(type='kdmm.BlankImages', size=(32, 32), num_classes=5, task='classification')
    loader: dict[str, Any] = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(data, length=40),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    cfg = Config(
        dict(
            default_scope=scope,
            custom_imports=dict(imports=['kdmm'], allow_failed_imports=False),
            model=model,
            train_dataloader=dict(loader, drop_last=True),
            test_dataloader=loader,
            test_evaluator=dict(type='Accuracy', topk=(1, 2)),
            test_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=2),
            log_level='ERROR',
            work_dir=str(folder / 'dense'),
            **more,
        )
    )
    cfg.dump(folder / 'config.py')
    net: Any = nets.build(model)
    if zeros:
        nets.prune(net.backbone)
    state = dict(state_dict=net.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b'))))
    torch.save(state, folder / 'masked.pth')
    return Request(
        str(folder / 'config.py'),
        str(folder / 'masked.pth'),
        str(folder / 'small'),
        size=(32, 32),
        repeats=0,
    )


def test_another_process_evaluates_and_trains_the_smaller_network(tmp_path):
    request = write(tmp_path, nets.CLASSIFIER)
    prune(request)
    files = ('config.py', 'masked.pth', 'small/pruned.py', 'small/pruned.pth')
    words = [sys.executable, '-c', USE, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    masked, small, moved, iterations = json.loads(done.stdout.split('FOUND ')[1])
    assert moved and iterations == 2
    assert masked.keys() == {'accuracy/top1', 'accuracy/top2'} and small == masked
    assert all(0 < value < 100 for value in small.values())


@pytest.mark.parametrize(
    'model', [nets.SEGMENTOR, nets.DETECTOR, nets.ESTIMATOR], ids=lambda model: model['type']
)
def test_the_files_of_other_tasks(tmp_path, model):
    """Their network is built from the written files, and compared with the one with zeros."""
    figures = prune(write(tmp_path, model))
    assert figures['difference']['outputs'] < figures['tolerance']
    assert figures['counted'] == 'whole model'
    assert figures['extracted']['macs'] < figures['dense']['macs']


def test_the_written_config(tmp_path):
    model = dict(nets.CLASSIFIER)
    model['backbone'] = dict(
        nets.BACKBONES['cls_basic'],
        type='ResNet',
        init_cfg=dict(type='Pretrained', checkpoint='none.pth'),
    )
    model['head'] = dict(model['head'], in_channels=64)
    pruning = dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.4)
    hooks = [pruning, dict(type='SetAdaptiveMarginsHook')]
    request = write(tmp_path, model, custom_hooks=hooks)
    figures = prune(request)
    assert (figures['rate'], figures['rate_of']) == (0.4, "the hook's")
    cfg = Config.fromfile(tmp_path / 'small/pruned.py')
    backbone = cfg.model.backbone
    assert backbone.type == 'kdmm.PrunedResNet' and backbone.backbone.type == 'mmpretrain.ResNet'
    assert 'Pretrained' not in cfg.pretty_text and cfg.custom_imports.imports == ['kdmm']
    assert [hook.type for hook in cfg.custom_hooks] == ['SetAdaptiveMarginsHook']
    assert cfg.load_from == str(tmp_path / 'small/pruned.pth') and 'work_dir' not in cfg
    # every layer of 8, 16, 32, 64 filters has lost 40 %, rounded down
    kept = {8: 5, 16: 10, 32: 20, 64: 39}
    assert sorted(set(backbone.widths.values())) == sorted(kept.values())
    layers = figures['layers']
    assert all(len(layers[name]['kept']) == width for name, width in backbone.widths.items())
    assert all(kept[layer['filters']] == len(layer['kept']) for layer in layers.values())


def test_the_checkpoint_holds_tensors_and_plain_values(tmp_path):
    request = write(tmp_path, nets.CLASSIFIER)
    figures = prune(request)
    content = read_checkpoint(tmp_path / 'small/pruned.pth')
    assert content.keys() == {'meta', 'state_dict'}
    meta = content['meta']
    assert meta['dataset_meta'] == dict(classes=('a', 'b'))
    assert meta['cfg'] == (tmp_path / 'small/pruned.py').read_text()
    assert meta['pruning']['mode'] == 'exact'
    for name, places in meta['pruning']['kept'].items():
        assert places == figures['layers'][name]['kept']
    for key, value in content['state_dict'].items():
        if key.endswith('.kept'):
            name = key.removeprefix('backbone.').replace('kept', 'branch.3')
            assert value.tolist() == meta['pruning']['kept'][name]


def test_the_report(tmp_path):
    request = write(tmp_path, nets.CLASSIFIER)
    figures = prune(Request(**{**vars(request), 'repeats': 1}))
    written = json.loads((tmp_path / 'small/pruned.json').read_text())
    assert written == json.loads(json.dumps(figures))
    assert figures['latency_ms'].keys() == {'dense', 'masked', 'extracted'}
    # six blocks in three stages of 8, 16 and 24 filters; the stem stays
    assert (figures['filters'], figures['zero_filters']) == (4 * 48, 4 * (3 + 6 + 9))
    assert figures['rate'] == pytest.approx(18 / 48) and figures['rate_of'] == 'measured'
    assert figures['elsewhere'] == {'backbone.stem.0': 3}
    assert figures['difference']['sizes'] == ((32, 32), (33, 41))
    text = as_text(figures)
    for words in (
        'stages.2.1.branch.3    15       24       yes',
        'zero filters that stay: backbone.stem.0 3',
        '72 of 192 filters are zero (37.5%)',
        "paper's formula at rate 0.375 (measured)",
        'equal up to rounding',
        'on cpu, 1 threads: dense',
    ):
        assert words in text, text


def test_a_wrong_exact_network_is_not_written(tmp_path, monkeypatch):
    request = write(tmp_path, nets.CLASSIFIER)
    extract = command.extract
    monkeypatch.setattr(command, 'extract', lambda model, mode: extract(model, 'drop'))
    with pytest.raises(ProofError, match='mode exact: the smaller network differs by'):
        prune(request)
    assert list((tmp_path / 'small').iterdir()) == []


@pytest.mark.parametrize('mode', ['fold', 'drop'])
def test_inexact_modes_print_their_error(tmp_path, mode):
    request = write(tmp_path, nets.CLASSIFIER)
    figures = prune(Request(**{**vars(request), 'mode': mode}))
    found = figures['difference']['features']
    assert found > 1e-3
    assert f'NOT equal, largest relative difference backbone {found:.1e}' in as_text(figures)


def test_an_unpruned_checkpoint_is_one_message(tmp_path, capsys):
    request = write(tmp_path, nets.CLASSIFIER, zeros=False)
    with pytest.raises(SystemExit) as stop:
        command.prune_command([request.config, request.checkpoint, '--out', request.out])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and printed.out == ''
    assert len(printed.err.splitlines()) == 1 and 'it has no zero filter in the 12' in printed.err
    assert not (tmp_path / 'small').exists()


@pytest.mark.parametrize(
    'change, key',
    [
        (dict(mode='precise'), '--mode'),
        (dict(size=(0, 32)), '--size'),
        (dict(batch=0), '--batch'),
        (dict(repeats=-1), '--repeats'),
        (dict(threads=0), '--threads'),
        (dict(device='abacus'), '--device'),
        (dict(out='{}/config.py'), '--out'),
        (dict(out='{}/no/folder'), '--out'),
        (dict(out='{}/full'), '--out'),
        (dict(checkpoint='{}/none.pth'), 'checkpoint'),
        (dict(config='{}/none.py'), 'config'),
    ],
)
def test_bad_input(tmp_path, change, key):
    request = write(tmp_path, nets.CLASSIFIER)
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/pruned.pth').touch()
    change = {k: v.format(tmp_path) if isinstance(v, str) else v for k, v in change.items()}
    with refused(key=key):
        prune(Request(**{**vars(request), **change}))
    assert not (tmp_path / 'small').exists()


def test_a_checkpoint_of_another_network(tmp_path):
    request = write(tmp_path, nets.CLASSIFIER)
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), request.checkpoint)
    with refused(key='checkpoint', got=request.checkpoint, problem='does not fit'):
        prune(request)
