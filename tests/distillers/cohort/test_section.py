"""Errors of a ``kd.type='Cohort'`` section."""

import copy

import pytest

pytest.importorskip('mmpretrain')

from kdmm.distillers import cohort as build_cohort  # noqa: E402
from tests.distillers.hssakd.classifiers import build  # noqa: E402
from tests.errors import refused  # noqa: E402

from .networks import DML, MCL, TAPS, classifier_config, cohort  # noqa: E402

WIDER = classifier_config(widths=(4, 4, 8, 12))
OTHER_IMAGES = dict(classifier_config(), data_preprocessor=dict(mean=[9.0] * 3, std=[2.0] * 3))


def only(**loss) -> dict:
    """A section with this term."""
    return dict(losses=dict(it=loss))


PLACES = 'a path or a list of 2'
POOLED = 'pooled features (B, channels)'
KD_LOSS = dict(type='KDLoss', on='map')
WRONG: list[tuple[dict, str, dict]] = [
    (dict(peers=1), 'kd.peers', dict(got=1, expected='the number of networks')),
    (dict(peers='x'), 'kd.peers', dict(got='x', expected='the number of networks')),
    (dict(peers=[OTHER_IMAGES]), 'kd.peers', dict(problem='the data_preprocessor of peer1')),
    (dict(keep=5), 'kd.keep', dict(got=5, expected='a place from 0 to 1')),
    (dict(trunk=['backbone.stem1']), 'kd.trunk',
     dict(got='backbone.stem1', problem='nearest: backbone.stem')),
    (dict(teacher=dict(config='x')), 'kd', dict(problem=("unknown key 'teacher'", 'peers'))),
    (dict(loses=DML), 'kd', dict(problem="unknown key 'loses'; nearest: losses")),
    (dict(taps=dict(z=['head.fc.out'])), 'kd.taps.z', dict(got=['head.fc.out'], expected=PLACES)),
    (dict(taps=dict(z=[3, 'head.fc.out'])), 'kd.taps.z', dict(expected=PLACES)),
    (dict(taps=dict(z=dict(student='head.fc.out', teacher='head.fc.out'))), 'kd.taps.z',
     dict(expected=PLACES)),
    (dict(taps=dict(z='head.fx.out')), 'kd.taps.z',
     dict(problem=('the student (ImageClassifier)', "'head.fx'; nearest: head.fc"))),
    (dict(taps=dict(z=['head.fc.out', 'head.fx.out'])), 'kd.taps.z',
     dict(problem='the peer1 (ImageClassifier)')),
    (dict(taps=dict(z='head.fc')), 'kd.taps.z', dict(got='head.fc', expected='a module')),
    (dict(taps=dict(z='backbone.stem.out'), trunk=['backbone.stem']), 'kd.taps.z',
     dict(got='backbone.stem', problem='part of kd.trunk', fix='its input')),
    (dict(taps=['head.fc.out']), 'kd.taps', dict(got=['head.fc.out'], expected='a dict')),
    (dict(taps=dict(logits='head.fc.out'), losses=DML['dml']), 'kd.losses.type', {}),
    (dict(losses=['dml']), 'kd.losses', dict(got=['dml'], expected='a dict')),
    (dict(losses=dict(it='KDLoss')), 'kd.losses.it', dict(got='KDLoss', expected='dict(type=')),
    (only(**{**DML['dml'], 'on': 'logit'}), 'kd.losses.it.on', dict(got='logit')),
    (only(**DML['dml'], teacher=0), 'kd.losses.it.teacher', dict(got=0, problem='a cohort')),
    (only(**DML['dml'], weight='auto:0.1'), 'kd.losses.it.weight', dict(got='auto:0.1')),
    (dict(taps=dict(embedding='backbone.out[0]'), losses=MCL), 'kd.losses.mcl',
     dict(problem=("on tap 'embedding', ", POOLED))),
    (dict(taps=dict(embedding='neck.out'), losses=MCL), 'kd.losses.mcl',
     dict(problem=("on tap 'embedding', ", POOLED, 'peers [['))),
    (dict(peers=[WIDER], losses=dict(it=KD_LOSS), taps=dict(map='backbone.out[0]')), 'kd.losses.it',
     dict(problem="on tap 'map', KDLoss")),
]  # fmt: skip


@pytest.mark.parametrize(('section', 'key', 'fields'), WRONG)
def test_one_message_names_the_key(section, key, fields):
    section = copy.deepcopy(section)
    if isinstance(section.get('taps'), dict) and 'z' in section['taps']:
        section['losses'] = dict(it=dict(type='KDLoss', on='z'))
    elif section.get('losses'):
        section.setdefault('taps', TAPS)
    with refused(key=key, **fields):
        build('Cohort', **section)


def test_a_built_model_is_refused():
    """The others are built from its config."""
    with refused(key='student', expected='the config of a model, not a built one'):
        build_cohort(student=build())


def test_a_tap_that_nothing_reads_is_checked_too():
    with refused(key='kd.taps.z', problem=('the student ', "no module 'head.fx'")):
        cohort(2, taps=dict(z='head.fx.out'))
    with refused(key='kd.taps.z', expected='a path or a list of 2'):
        cohort(2, taps=dict(z=['head.fc.out']))


def test_a_loss_of_weight_0_is_not_built():
    model = cohort(2, losses=dict(DML, off=dict(type='NoSuchLoss', on='logits', weight=0)))
    assert list(model.kd.terms) == ['dml']
