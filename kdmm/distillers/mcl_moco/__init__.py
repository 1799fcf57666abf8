"""MoCo models that learn from each other (MCL, arXiv 2104.12565, on MoCo, arXiv 1911.05722)."""

from kdmm.distillers.mcl_moco.objective import MoCoCohort
from kdmm.distillers.mcl_moco.section import mcl_moco

__all__ = ['MoCoCohort', 'mcl_moco']
