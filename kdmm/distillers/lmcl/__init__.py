"""L-MCL: a cohort whose matching of layers is learnt by meta-optimisation (arXiv 2207.11518)."""

from kdmm.distillers.lmcl.objective import LMCL

__all__ = ['LMCL']
