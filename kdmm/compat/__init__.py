"""Adjustments that let the base libraries run on current PyTorch."""

from kdmm.compat.versions import check_versions


def setup() -> None:
    """Make ``mmseg::`` and ``kdmm::`` resolve and provide the mmcv operators that are not compiled.

    Called by ``import kdmm``. It imports no task library, installs nothing and may be called again.

    Raises:
        ImportError: torch or MMEngine is missing or too old.
    """
    check_versions()
    # after the check: they import torch and MMEngine
    from kdmm.compat.operators import install_operators
    from kdmm.compat.packages import register_packages

    register_packages()
    install_operators()


__all__ = ['check_versions', 'setup']
