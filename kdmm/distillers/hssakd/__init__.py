"""HSSAKD: joint class and rotation branches behind every stage (arXiv 2107.13715, 2109.03075)."""

from kdmm.distillers.hssakd.branched_teacher import BranchedTeacher
from kdmm.distillers.hssakd.frame import SelfSupervised
from kdmm.distillers.hssakd.online import Peer, PeerTraining
from kdmm.distillers.hssakd.section import hssakd, hssakd_online, hssakd_teacher
from kdmm.distillers.hssakd.student import StudentTraining
from kdmm.distillers.hssakd.teaching import FrozenTeacherTraining, TeacherTraining

__all__ = [
    'BranchedTeacher',
    'FrozenTeacherTraining',
    'Peer',
    'PeerTraining',
    'SelfSupervised',
    'StudentTraining',
    'TeacherTraining',
    'hssakd',
    'hssakd_online',
    'hssakd_teacher',
]
