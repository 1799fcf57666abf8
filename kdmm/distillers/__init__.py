"""Objectives of ``kd`` sections: distillation from teachers, cohorts, HSSAKD, MCL on MoCo."""

from kdmm.distillers.class_map import ClassMap
from kdmm.distillers.cohort import Cohort
from kdmm.distillers.connectors import Pool, Projection, Resize
from kdmm.distillers.distiller import Distillation
from kdmm.distillers.hssakd import PeerTraining, StudentTraining, TeacherTraining
from kdmm.distillers.lmcl import LMCL
from kdmm.distillers.mcl_moco import MoCoCohort
from kdmm.distillers.objective import CHILD, Objective, attach, register_objective
from kdmm.distillers.views import View
from kdmm.errors import ConfigError
from kdmm.schedules import Progress, Schedule, build_schedule
from kdmm.taps import Calls, TapPath, Taps
from kdmm.teachers.teacher import Teacher

#: Build a student with an objective, see `Objective.attach_to` and the class for the arguments.
distill = Distillation.attach_to
cohort = Cohort.attach_to
hssakd = StudentTraining.attach_to
hssakd_teacher = TeacherTraining.attach_to
hssakd_online = PeerTraining.attach_to
lmcl = LMCL.attach_to
mcl_moco = MoCoCohort.attach_to

__all__ = [
    'CHILD',
    'LMCL',
    'Calls',
    'ClassMap',
    'Cohort',
    'ConfigError',
    'Distillation',
    'MoCoCohort',
    'Objective',
    'PeerTraining',
    'Pool',
    'Progress',
    'Projection',
    'Resize',
    'Schedule',
    'StudentTraining',
    'TapPath',
    'Taps',
    'Teacher',
    'TeacherTraining',
    'View',
    'attach',
    'build_schedule',
    'cohort',
    'distill',
    'hssakd',
    'hssakd_online',
    'hssakd_teacher',
    'lmcl',
    'mcl_moco',
    'register_objective',
]
