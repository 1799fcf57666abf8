"""Networks in company: the teacher, its taps, and the student that learns from it."""

from kdmm.distillers.attach import CHILD, Objective, attach
from kdmm.distillers.class_map import ClassMap
from kdmm.distillers.cohort import Cohort, cohort
from kdmm.distillers.connectors import Projection, Resize
from kdmm.distillers.distiller import distill
from kdmm.distillers.hssakd import hssakd, hssakd_online, hssakd_teacher
from kdmm.distillers.mcl_moco import MoCoCohort, mcl_moco
from kdmm.distillers.objective import Distillation
from kdmm.errors import ConfigError
from kdmm.schedules import Progress, Schedule, build_schedule
from kdmm.taps import Calls, TapPath, Taps
from kdmm.teachers.teacher import Teacher

__all__ = [
    'CHILD',
    'Calls',
    'ClassMap',
    'Cohort',
    'ConfigError',
    'Distillation',
    'MoCoCohort',
    'Objective',
    'Progress',
    'Projection',
    'Resize',
    'Schedule',
    'TapPath',
    'Taps',
    'Teacher',
    'attach',
    'build_schedule',
    'cohort',
    'distill',
    'hssakd',
    'hssakd_online',
    'hssakd_teacher',
    'mcl_moco',
]
