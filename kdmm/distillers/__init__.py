"""Networks in company: the teacher, its taps, and the student that learns from it."""

from kdmm.distillers.class_map import ClassMap
from kdmm.distillers.connectors import Projection, Resize
from kdmm.distillers.distiller import CHILD, distill
from kdmm.distillers.objective import Distillation
from kdmm.distillers.schedules import Progress, Schedule, build_schedule
from kdmm.distillers.taps import TapPath, Taps
from kdmm.distillers.teacher import Teacher
from kdmm.errors import ConfigError

__all__ = [
    'CHILD',
    'ClassMap',
    'ConfigError',
    'Distillation',
    'Progress',
    'Projection',
    'Resize',
    'Schedule',
    'TapPath',
    'Taps',
    'Teacher',
    'build_schedule',
    'distill',
]
