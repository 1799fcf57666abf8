"""What a file says of its weights, so that a run can be refused that would use them wrongly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdmm.errors import ConfigError
from kdmm.transfer.families import family_of
from kdmm.transfer.in_config import from_text
from kdmm.transfer.inputs import Normalisation

#: The entry of ``meta`` in a file of ours; plain values only.
ENTRY = 'transfer'


def said(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `origin_of` put into a file's ``meta``; nothing of another file."""
    entry = meta.get(ENTRY)
    return entry if isinstance(entry, Mapping) else {}


@dataclass(frozen=True)
class Declared:
    """What a file says of its weights; what it does not say is empty.

    Attributes:
        traits: Name to value, of `Family.traits`.
        inputs: Normalisation of the images that they were trained on.
    """

    traits: Mapping[str, Any]
    inputs: Normalisation | None


def declared(meta: Mapping[str, Any], prefix: str, library: str) -> Declared:
    """Read it off a file of ours, or off the config in a checkpoint of MMEngine.

    Args:
        meta: The file's.
        prefix: What stands before its keys.
        library: Stands in for one that is not installed.
    """
    entry = said(meta)
    if entry:
        accepted = entry.get('accepted') or ()
        traits = {key: value for key, value in entry['traits'].items() if key not in accepted}
        return Declared(traits, Normalisation.of(entry.get('inputs')))
    text = meta.get('cfg') or meta.get('config')
    try:
        source = from_text(text, prefix, library) if text else None
        net = source.build() if source else None
    except ConfigError:  # a config that cannot be read without running it says nothing
        return Declared({}, None)
    if source is None or net is None:
        return Declared({}, None)
    return Declared(family_of(net).traits(net), Normalisation.of(source.inputs))
