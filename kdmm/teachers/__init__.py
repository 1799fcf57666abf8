"""Teachers: config and weights, inputs, and the part that runs."""

from kdmm.teachers.teacher import Teacher

__all__ = ['Teacher']
