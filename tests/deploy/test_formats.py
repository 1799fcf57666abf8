"""The files: what they compute, elsewhere too, and networks that cannot be exported."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import Tensor

from kdmm.config import load_config
from kdmm.deploy import Network, default_opset, network_of, to_onnx, to_torch_export
from kdmm.deploy.formats import BY_PROGRAM, METADATA, PROGRAMS, TORCH, recorded_program
from kdmm.downloads import sha256
from kdmm.taps import leaves
from tests.deploy.nets import (
    CLASSIFIER,
    DETECTOR,
    POSE,
    SEGMENTOR,
    BatchSecond,
    Deciding,
    FixedBatch,
    tiny,
    write,
)
from tests.distillers.tiny_models import TinyNet
from tests.errors import refused

onnx = pytest.importorskip('onnx', reason='onnx (the extra export) is not installed')
runtime = pytest.importorskip('onnxruntime', reason='onnxruntime (the extra) is not installed')
if TORCH >= BY_PROGRAM:
    pytest.importorskip('onnxscript', reason='onnxscript (the extra export) is not installed')
programs = pytest.mark.skipif(TORCH < PROGRAMS, reason='torch.export is used from torch 2.5 on')

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'export.py'
#: Runs both files where neither kdmm nor a base library can be imported.
ELSEWHERE = """
import importlib.abc, os, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('kdmm', 'mmengine', 'mmcv', 'mmseg'):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import onnxruntime, torch

folder, here = sys.argv[1:]
before = {name for name in sys.modules if name.startswith(('kdmm', 'mmengine', 'mmcv', 'mmseg'))}
images = torch.load(f'{here}/images.pt')
session = onnxruntime.InferenceSession(f'{folder}/a.onnx', providers=['CPUExecutionProvider'])
found = [torch.from_numpy(session.run(['logits'], {'input': images.numpy()})[0])]
if os.path.exists(f'{folder}/a.pt2'):
    found += torch.export.load(f'{folder}/a.pt2').module()(images)
assert not before
torch.save(found, f'{here}/found.pt')
"""


def network(folder, cfg: Config, size=(32, 48), **more) -> Network:
    files = write(folder, cfg)
    return network_of(load_config(files.config), files.checkpoint, size=size, **more)


def run(content: bytes, images: Tensor) -> dict[str, Tensor]:
    session = runtime.InferenceSession(content, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {'input': images.numpy()})
    return dict(zip(names, map(torch.from_numpy, found), strict=True))


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> SimpleNamespace:
    """Both files of a segmentor, written by the tool as a user calls it, and what it said."""
    folder = tmp_path_factory.mktemp('written')
    torch.manual_seed(0)
    files = write(folder, SEGMENTOR)
    both = ['--torch-export', 'a.pt2'] if TORCH >= PROGRAMS else []
    command = [sys.executable, str(TOOL), 'config.py', 'net.pth', '--onnx', 'a.onnx', *both,
               '--size', '32', '48']  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, files=files, told=done.stdout, archive=bool(both))


def test_the_tool_says_what_it_wrote(written):
    told = written.told.splitlines()
    assert told[:3] == [
        'network: EncoderDecoder of mmseg, network: logits (batch, classes, h, w) at the output of '
        'the decode head: before they are resized to the image, and before the softmax',
        'input: input, float32 (batch, 3, 32, 48), RGB, mean (123.675, 116.28, 103.53), std '
        '(58.395, 57.12, 57.375)',
        'output: logits, float32 (batch, 3, 4, 6)',
    ]
    assert told[3].startswith('proof: onnxruntime ') and 'at batch sizes 1 and 3: max' in told[3]
    size = (written.folder / 'a.onnx').stat().st_size / 2**20
    assert told[4] == f'written: a.onnx ({size:.1f} MiB, ONNX opset {default_opset()})'
    if written.archive:
        assert told[5].startswith('proof: torch.export ')
        assert told[6].startswith('written: a.pt2 (') and len(told) == 7
    names = {'a.onnx', 'config.py', 'net.pth', *(['a.pt2'] if written.archive else [])}
    assert {file.name for file in written.folder.iterdir()} == names


def test_the_files_need_no_kdmm_and_no_base_library(written, tmp_path):
    images = torch.randn(4, 3, 32, 48)
    torch.save(images, tmp_path / 'images.pt')
    command = [sys.executable, '-I', '-c', ELSEWHERE, str(written.folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = written.files.outputs(images)
    found = torch.load(tmp_path / 'found.pt')
    assert len(found) == 1 + written.archive
    for logits in found:
        assert (logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_metadata_state_inputs_outputs_and_their_meaning(written):
    model = onnx.load(written.folder / 'a.onnx')
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said['inputs']) == [
        dict(name='input', dtype='float32', shape=['batch', 3, 32, 48])
    ]
    assert json.loads(said['outputs']) == [
        dict(name='logits', dtype='float32', shape=['batch', 3, 4, 6])
    ]
    assert 'output of the decode head' in said['meaning'] and said['part'] == 'network'
    assert said['network'] == 'EncoderDecoder of mmseg' and said['normalization'][:3] == 'RGB'
    assert (said['config'], said['checkpoint']) == ('config.py', 'net.pth')
    assert said['checkpoint_sha256'] == sha256(written.files.checkpoint)
    assert said['opset'] == str(model.opset_import[0].version)
    dims = [
        [place.dim_param or place.dim_value for place in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert dims == [['batch', 3, 32, 48], ['batch', 3, 4, 6]]
    if written.archive:
        archive = {METADATA: ''}
        torch.export.load(written.folder / 'a.pt2', extra_files=archive)
        del said['opset']
        assert json.loads(archive[METADATA]) == said


def test_the_files_name_no_path_of_this_machine(written):
    for path in written.folder.glob('a.*'):
        content = path.read_bytes()
        assert b'site-packages' not in content and str(TOOL.parent).encode() not in content


@pytest.mark.parametrize(
    'cfg, names, opset',
    [
        (CLASSIFIER, ['logits'], 20 if TORCH >= BY_PROGRAM else 13),
        (POSE, ['heatmaps'], None),
        (DETECTOR, ['features_0', 'features_1'], None),
    ],
    ids=['classifier', 'pose', 'detector'],
)
def test_onnx_gives_what_the_base_library_does(cfg, names, opset, tmp_path):
    files = write(tmp_path, cfg)
    one = network_of(load_config(files.config), files.checkpoint, size=(32, 48))
    content = to_onnx(one, opset)
    made = onnx.load_model_from_string(content).opset_import[0].version
    assert made == (opset or default_opset())
    for number in (1, 4):
        images = torch.randn(number, 3, 32, 48)
        with torch.no_grad():
            part = files.model.extract_feat if 'features_0' in names else files.outputs
            wanted = list(leaves(part(images)))
        found = run(content, images)
        assert list(found) == names
        for ours, theirs in zip(wanted, found.values(), strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max()


def test_a_batch_anywhere_in_the_outputs(tmp_path):
    one = network(tmp_path, tiny(BatchSecond), (8, 8))
    images = torch.randn(5, 3, 8, 8)
    found = run(to_onnx(one), images)
    for ours, theirs in zip(one.module(images), found.values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_opset_that_is_not_made_is_refused(tmp_path):
    one = network(tmp_path, tiny(TinyNet), (8, 8))
    with refused(key='--opset', got=6, expected='a number from 7 to'):
        to_onnx(one, 6)
    if TORCH >= BY_PROGRAM:
        with refused(key='--opset', got=8, problem='exports this network with opset'):
            to_onnx(one, 8)


@programs
def test_a_decision_by_values_is_named_with_its_line(tmp_path, capsys):
    one = network(tmp_path, tiny(Deciding), (8, 8))
    line = 'model (Deciding): sign = -1 if inputs.sum().item() < 0 else 1'
    with refused(key='--torch-export', problem=line):
        to_torch_export(one)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ''


@programs
def test_code_that_fixes_the_batch(tmp_path):
    one = network(tmp_path, tiny(FixedBatch), (8, 8))
    with refused(key='--onnx', problem='fixes the number of images', fix='--batch N'):
        recorded_program(one, '--onnx')
    fixed = network(tmp_path, tiny(FixedBatch), (8, 8), batch=3)
    images = torch.randn(3, 3, 8, 8)
    (logits,) = run(to_onnx(fixed), images).values()
    assert torch.allclose(logits, fixed.module(images)[0], atol=1e-5)
