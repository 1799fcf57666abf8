"""MoCo models that learn from each other (MCL, arXiv 2104.12565, on MoCo, arXiv 1911.05722)."""

from kdmm.distillers.mcl_moco.objective import MoCoCohort

__all__ = ['MoCoCohort']
