"""The teacher: its config and weights, its inputs, and the part of it that runs."""

from kdmm.teachers.teacher import Teacher

__all__ = ['Teacher']
