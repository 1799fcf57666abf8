"""What a conversion is asked for."""

from dataclasses import dataclass
from pathlib import Path

from kdmm.errors import ConfigError
from kdmm.transfer.registered import MM, ZOO


@dataclass(frozen=True)
class Request:
    """One conversion.

    Attributes:
        checkpoint: Path or URL of the file to convert.
        to: Library of the target: mmpose, mmseg, mmdet, mmpretrain, torchvision or timm.
        out: File to write.
        config: Config of the target; default the same network in ``to``.
        source_config: Config of the source; default what the checkpoint says of itself.
        arch: Model name of torchvision or timm.
        prefix: What stands before the backbone's keys; default ``backbone.`` if there are such.
        container: Entry of the file that holds the weights; default ``state_dict``.
        branch: Which network of several that share a trunk: ``layer3_<branch>.`` is ``layer3.``.
        drop: Keys of the source, or their first parts, that are left out: heads beside the trunk.
        into: Complete checkpoint whose backbone is replaced; the result is complete, too.
        also: Further prefixes that are carried over, with ``into``.
        accept: Traits that may differ between source and target, although features change.
        force: Overwrite ``out``.
        unsafe: Allow files that are more than weights, which can run code.
        size: Height and width of the input of the proof.
    """

    checkpoint: str
    to: str
    out: str
    config: str | None = None
    source_config: str | None = None
    arch: str | None = None
    prefix: str | None = None
    container: str | None = None
    branch: int | None = None
    drop: tuple[str, ...] = ()
    into: str | None = None
    also: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    force: bool = False
    unsafe: bool = False
    size: tuple[int, int] = (64, 64)

    def check(self) -> None:
        """Refuse what cannot be right, before anything is read.

        Raises:
            ConfigError: Names the flag.
        """
        if self.to not in MM + ZOO:
            raise ConfigError(f'--to: expected one of {", ".join(MM + ZOO)}, got {self.to!r}')
        if self.into and self.to in ZOO:
            raise ConfigError(f'--into: of the OpenMMLab libraries only, not of {self.to}')
        if self.also and not self.into:
            raise ConfigError('--also: further parts go into a complete checkpoint: give --into')
        if min(self.size) < 32:
            raise ConfigError(f'--size: expected two numbers of at least 32, got {self.size}')
        inputs = [Path(path).expanduser() for path in (self.checkpoint, self.into) if path]
        check_out(self.out, self.force, inputs)


def check_out(out: str, force: bool, inputs: list[Path]) -> None:
    """Refuse a file that cannot or must not be written.

    Raises:
        ConfigError: If its folder is missing, it exists without ``force``, or it is an input.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise ConfigError(f'--out: no folder {str(path.parent)!r}')
    if path.is_dir():
        raise ConfigError(f'--out: {out!r} is a folder, expected a file')
    if any(path.resolve() == other.resolve() for other in inputs):
        raise ConfigError(f'--out: {out!r} is the file to be read')
    if path.exists() and not force:
        raise ConfigError(f'--out: {out!r} exists; overwrite it with --force')
