"""Cohorts: mutual learning of several networks (arXiv 1706.00384, 2104.12565)."""

from kdmm.distillers.cohort.cohort import Cohort
from kdmm.distillers.cohort.terms import MutualTerm, PairTerm
from kdmm.distillers.cohort.trunk import Trunk

__all__ = ['Cohort', 'MutualTerm', 'PairTerm', 'Trunk']
