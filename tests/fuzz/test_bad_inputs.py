"""A sample of the bad inputs gives one message each; the table is sound, the judge can condemn."""

import pytest

from tests.fuzz.bad_inputs import (
    HANG,
    MESSAGE,
    NOTHING,
    OTHER,
    TRACE,
    WORDLESS,
    Case,
    run,
    verdict,
)
from tests.fuzz.cases import CASES

#: One of each kind; the whole table takes minutes: ``python -m tests.fuzz.bad_inputs``.
SAMPLE = (
    'line train plain.py --cfg-options model.test_cfg=[1,2',
    'line train --amp plain.py',
    'line train plain.py --resume data',
    'line train plain.py --work-dir plain.py/w',
    'line test plain.py student.pth --out plain.py/o',
    'line profile plain.py --synthetic --size 0 0',
    'line init_checkpoint plain.py --out o.pth --seed -1',
    'option plain.py optim_wrapper.optimizer.lr=fast',
    'option plain.py default_scope=5',
    'option kd.py kd=yes',
    'option kd.py kd.probe_size=64',
    'config that exits',
    'file an image in a worker',
    'file an empty label map',
    'file coco without width',
    'file folders with a last batch of one',
    'file resume of weights alone',
    'place no right to make the work dir',
    'env RANK that is text',
    'env PORT that is text',
)


def test_the_names_are_unique_and_many():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 200
    assert set(SAMPLE) <= set(names) and len(SAMPLE) == 20


@pytest.mark.parametrize(
    ('code', 'text', 'expected'),
    [
        (2, 'log\nkdmm: error (rank 0): x.y: wrong\n', MESSAGE),
        (1, 'kdmm: error: x.y: disk\n', MESSAGE),
        (2, 'usage: train.py x.y\ntrain.py: error: wrong\n', MESSAGE),
        (2, 'kdmm: error: wrong\n', WORDLESS),
        (1, 'Traceback (most recent call last):\nkdmm: error: x.y\n', TRACE),
        (0, 'x.y\n', NOTHING),
        (-14, '', HANG),
        (3, 'kdmm: error: x.y\n', OTHER),
        (2, 'kdmm: error: x.y\nmore lines\n', OTHER),
        (2, 'kdmm: error: x.y\nkdmm: error: x.y\n', OTHER),
        (-11, '', OTHER),
    ],
)
def test_the_judge(code, text, expected):
    assert verdict(Case('c', 'train', (), 'x.y'), code, text) == expected


def test_a_sample():
    outcomes = run([case for case in CASES if case.name in SAMPLE])
    wrong = [(o.case.name, o.verdict, o.said[-500:]) for o in outcomes if o.verdict != MESSAGE]
    assert not wrong
