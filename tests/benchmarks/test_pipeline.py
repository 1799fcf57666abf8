"""``--pipeline`` of the benchmarks: the clocks with a time that the test makes, and as a user."""

import json
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from benchmarks import pipeline
from benchmarks.run import ROOT

CONFIG = """
train_dataloader = dict(dataset=dict(
    type='BaseSegDataset', data_root={root!r}, img_suffix='.jpg', seg_map_suffix='.png',
    data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
              dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]))
default_scope = 'mmseg'
"""


class Clock:
    """Time that passes only where a transform says so."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pipeline, 'time', clock)
    return clock


def step(name, clock, seconds, gives=lambda data: data):
    """A transform of a class of its own that takes so long; a list: its calls in turn."""
    each = iter(seconds) if isinstance(seconds, list) else repeat(seconds)

    def call(self, data):
        clock.now += next(each)
        return gives(data)

    return type(name, (), dict(__call__=call, get_indices=lambda self, dataset: [0]))()


class Numbers(BaseDataset):
    """Samples that take half a second beside their transforms."""

    def __init__(self, clock, transforms, count=6):
        self.clock, self.count = clock, count
        super().__init__(pipeline=transforms, serialize_data=False)

    def load_data_list(self):
        return [dict(number=i) for i in range(self.count)]

    def get_data_info(self, idx):
        self.clock.now += 0.5
        return super().get_data_info(idx)


@pytest.fixture
def measured(clock, monkeypatch):
    def measure(dataset, samples=10):
        monkeypatch.setattr(pipeline, '_build', lambda job: dataset)
        found = pipeline.measure_pipeline(dict(samples=samples))
        return pipeline.entry(json.loads(json.dumps(found)))

    return measure


def rows(result):
    return {row['name']: row for row in result['rows']}


def test_every_transform_has_its_own_time(clock, measured):
    result = measured(Numbers(clock, [step('Load', clock, 2.0), step('Pack', clock, 1.0)]), 15)
    found = rows(result)
    assert list(found) == ['Load', 'Pack', pipeline.REST, pipeline.WHOLE]
    assert found['Load']['times'] == [2.0] * 15 and found['Pack']['times'] == [1.0] * 15
    assert found[pipeline.REST]['times'] == [0.5] * 15
    assert found[pipeline.WHOLE]['median_s'] == 3.5
    assert [row['share'] for row in result['rows']] == pytest.approx([4 / 7, 2 / 7, 1 / 7, 1])
    assert result['dataset'] == 'Numbers' and result['length'] == 6


def test_warm_up_is_left_out_and_means_are_no_medians(clock, measured):
    seconds = [900.0] * pipeline.WARM + [9.0, 1.0, 1.0, 1.0]
    found = rows(measured(Numbers(clock, [step('Load', clock, seconds)]), 4))['Load']
    assert found['median_s'] == 1.0 and found['mean_s'] == 3.0


def test_samples_are_shuffled_and_all_come_before_one_comes_again(clock, measured):
    seen = []
    look = step('Look', clock, 1.0, lambda data: seen.append(data['number']) or data)
    measured(Numbers(clock, [look], count=10), 10)
    assert len(seen) == pipeline.WARM + 10
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10)) != seen[:10]


def test_a_sample_that_is_drawn_again_costs_both(clock, measured):
    turns = iter([None, {}] * 200)
    dataset = Numbers(clock, [step('Load', clock, 1.0), step('Crop', clock, 2.0)])
    dataset.pipeline.transforms.append(step('Drop', clock, 0.0, lambda data: next(turns)))
    found = rows(measured(dataset))
    assert found['Load']['median_s'] == 2.0 and found['Crop']['median_s'] == 4.0
    assert found[pipeline.WHOLE]['median_s'] == 7.0


@pytest.mark.parametrize('kind', ['concatenated', 'repeated'])
def test_wrappers_are_looked_through(clock, measured, kind):
    def one():
        return Numbers(clock, [step('Load', clock, 1.0), step('Pack', clock, 1.0)])

    made = RepeatDataset(one(), 2) if kind == 'repeated' else ConcatDataset([one(), one()])
    result = measured(made, samples=28)
    assert [row['name'] for row in result['rows'][:-2]] == ['Load', 'Pack']
    assert rows(result)['Pack']['times'] == [1.0] * 28
    assert result['length'] == 12


def test_other_pipelines_stay_apart(clock, measured):
    data = [
        Numbers(clock, [step('Load', clock, 1.0)], 20),
        Numbers(clock, [step('Load', clock, 3.0), step('Pack', clock, 1.0)], 20),
    ]
    result = measured(ConcatDataset(data), samples=20)  # with the warm samples, each comes once
    names = [(row['name'], row['median_s']) for row in result['rows'][:-2]]
    assert names == [('Load', 1.0), ('Load', 3.0), ('Pack', 1.0)]
    first, second, pack = (len(row['times']) for row in result['rows'][:3])
    assert first + second == 20 and second == pack and 0 < first < 20
    assert sum(row['share'] for row in result['rows'][:-1]) == pytest.approx(1)


def test_a_wrapper_with_a_pipeline_comes_last(clock, measured):
    class Mixed(RepeatDataset):
        def __getitem__(self, index):
            data = super().__getitem__(index)
            for transform in self.pipeline:
                assert transform.get_indices(self) == [0]
                data = transform(data)
            return data

    mixed = Mixed(Numbers(clock, [step('Load', clock, 1.0)]), 1)
    mixed.pipeline = [step('Mosaic', clock, 5.0)]
    assert [(row['name'], row['median_s']) for row in measured(mixed)['rows']] == [
        *(('Load', 1.0), ('Mosaic', 5.0), (pipeline.REST, 0.5), (pipeline.WHOLE, 6.5))
    ]


def test_nothing_to_measure_is_said(clock, measured):
    with pytest.raises(ValueError, match='Numbers has no pipeline'):
        measured(Numbers(clock, []))


def test_a_transform_that_never_ran_is_a_dash():
    found = dict(dataset='X', length=1, transforms=['A', 'B'], samples=[[2.0, [1.0, None]]] * 3)
    lines = pipeline.render(dict(config='c.py', **pipeline.entry(found))).splitlines()
    assert lines[0] == 'c.py: X of 1'
    cells = [line.rsplit(maxsplit=4) for line in lines[3:]]
    assert cells[0] == ['A', '1000.00', '1000.00', '50.0', '3']
    assert cells[1] == ['B', '-', '-', '0.0', '0']
    assert cells[2][0] == pipeline.REST and cells[3][3] == '100.0'


def benchmark(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'benchmarks', *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    from scenes import write_scenes

    pytest.importorskip('mmseg')
    folder = tmp_path_factory.mktemp('pipeline')
    write_scenes(folder / 'scenes', 4, 1, (32, 64))
    (folder / 'job.py').write_text(CONFIG.format(root=str(folder / 'scenes')))
    return folder


def test_end_to_end(scenes):
    file = scenes / 'out.json'
    options = ['train_dataloader.dataset.pipeline.2.prob=1.0']
    options = ['--samples', '6', '--json', str(file), '--cfg-options', *options]
    done = benchmark('--pipeline', str(scenes / 'job.py'), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(file.read_text())
    assert written['settings']['threads'] == 1 and written['settings']['samples'] == 6
    (result,) = written['results']
    found = rows(result)
    names = ['LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'PackSegInputs']
    assert list(found) == [*names, pipeline.REST, pipeline.WHOLE]
    assert all(len(row['times']) == 6 and min(row['times']) > 0 for row in found.values())
    whole = np.array(found[pipeline.WHOLE]['times'])
    assert np.allclose(sum(np.array(found[name]['times']) for name in list(found)[:-1]), whole)
    assert result['dataset'] == 'BaseSegDataset' and result['length'] == 4
    header = next(line for line in done.stdout.splitlines() if line.startswith('transform'))
    assert [cell.strip() for cell in header.split('  ') if cell.strip()] == pipeline.HEAD


def test_a_pipeline_that_breaks_is_a_line(scenes):
    options = ['--quick', '--cfg-options', 'train_dataloader.dataset.pipeline.0.type=Nonsense']
    done = benchmark('--pipeline', str(scenes / 'job.py'), *options)
    assert done.returncode == 1 and 'Traceback' not in done.stdout + done.stderr
    assert "failed: KeyError: 'Nonsense is not in" in done.stdout


@pytest.mark.parametrize(
    'arguments, words',
    [
        (
            ('{job}', '--cfg-options', 'train_dataloader.dataset=None'),
            ('train_dataloader.dataset',),
        ),
        (('{none}',), ('train_dataloader.dataset', 'none.py', 'has none')),
        (
            ('{job}', '--cfg-options', 'train_dataloader.dataset.data_root=/no/where'),
            ('train_dataloader.dataset.data_root', "'/no/where'", '--cfg-options'),
        ),
        (('gone.py',), ('config', "'gone.py'")),
        (('x.py', '--steps', 'x.py'), ('--steps', '--pipeline')),
        (('x.py', '--samples', '0'), ('--samples', 'at least 1')),
        (('x.py', '--device', 'cuda'), ('--device cuda', 'CPU')),
    ],
)
def test_refuses(scenes, refused_by, arguments, words):
    (scenes / 'none.py').write_text("model = dict(type='X')\n")
    places = SimpleNamespace(job=scenes / 'job.py', none=scenes / 'none.py')
    given = (text.format(**vars(places)) for text in arguments)
    last = refused_by('benchmarks', '--pipeline', *given).splitlines()[-1]
    assert last.startswith('kdmm: error: ') and all(word in last for word in words), last


def test_losses_and_pipelines_are_not_mixed():
    done = benchmark('kd', '--pipeline', 'x.py')
    assert done.returncode == 2 and 'leave out kd' in done.stderr
