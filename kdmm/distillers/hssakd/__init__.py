"""HSSAKD: joint class and rotation branches behind every stage (arXiv 2107.13715, 2109.03075)."""

from kdmm.distillers.hssakd.branched_teacher import BranchedTeacher
from kdmm.distillers.hssakd.objective import SelfSupervised
from kdmm.distillers.hssakd.online import PeerTraining
from kdmm.distillers.hssakd.student import StudentTraining
from kdmm.distillers.hssakd.teacher_training import TeacherTraining

__all__ = [
    'BranchedTeacher',
    'PeerTraining',
    'SelfSupervised',
    'StudentTraining',
    'TeacherTraining',
]
