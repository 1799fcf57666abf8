"""Command line of ``tools/prune.py``: a config and a checkpoint of a network that is smaller."""

import argparse
import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from kdmm.checkpoints import load_strictly, read_checkpoint, state_dict_of
from kdmm.config import image_size, load_config
from kdmm.downloads import local_file
from kdmm.engine.cli import Overrides, run_command
from kdmm.engine.plain_model import built_model
from kdmm.errors import ConfigError, ProofError, about
from kdmm.pretrained.libraries import KNOWN
from kdmm.pruning.counting import Count, count
from kdmm.pruning.equality import TOLERANCE, Difference, compare, second_size
from kdmm.pruning.extraction import EXACT, MODES, Extraction, Mode, extract
from kdmm.pruning.report import dense_again, latencies, paper_macs
from kdmm.transfer.writing import Draft, check_out, tidy
from kdmm.utils.models import without_pretrained
from kdmm.utils.tables import plain

#: Type of the hook whose work is done.
HOOK = 'SoftFilterPruningHook'
#: Names of the files in ``--out``.
CONFIG, CHECKPOINT, REPORT = 'pruned.py', 'pruned.pth', 'pruned.json'


@dataclass(frozen=True)
class Request:
    """A call of the command; the fields are the command's arguments."""

    config: str
    checkpoint: str
    out: str
    mode: Mode = 'exact'
    size: tuple[int, int] | None = None
    device: str = 'cpu'
    batch: int = 1
    repeats: int = 20
    threads: int | None = None
    force: bool = False
    unsafe: bool = False
    cfg_options: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            ConfigError: Names the flag.
        """
        if self.mode not in MODES:
            raise ConfigError(key='--mode', got=self.mode, expected=f'one of {", ".join(MODES)}')
        if self.size and min(self.size) < 1:
            raise ConfigError(key='--size', got=self.size, expected='two positive numbers')
        for key, value, least in (
            ('--batch', self.batch, 1),
            ('--repeats', self.repeats, 0),
            ('--threads', 1 if self.threads is None else self.threads, 1),
        ):
            if value < least:
                raise ConfigError(key=key, got=value, expected=f'at least {least}')
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f'torch cannot use it ({str(error).splitlines()[0]})',
                key='--device',
                got=self.device,
            ) from error


def prune_command(argv: list[str] | None = None) -> None:
    """Extract, prove, measure, print the report."""
    parser = argparse.ArgumentParser(
        description='Write config and checkpoint of the network without the filters that are zero'
    )
    add = parser.add_argument
    add('config', help='config file, or package::path')
    add('checkpoint', help='path or URL: of a network in which some filters are zero')
    add('--out', required=True, help=f'folder for {CONFIG}, {CHECKPOINT} and {REPORT}')
    add('--mode', choices=MODES, default='exact', help='what becomes of the constants they emitted')
    add('--size', nargs=2, type=int, metavar=('H', 'W'), help="default the training pipeline's")
    add('--device', default='cpu', help='where latency is measured, such as cuda')
    add('--batch', type=int, default=1, help='images of a measured pass')
    add('--repeats', type=int, default=20, help='measured passes of each network; 0: no latency')
    add('--threads', type=int, help="of torch; default torch's own choice")
    add('--force', action='store_true', help='overwrite files in OUT')
    add('--unsafe', action='store_true', help='read files that can run code; for files you trust')
    add('--cfg-options', nargs='+', action=Overrides, default={}, help='overrides, key=value')
    values = vars(parser.parse_args(argv))
    values['size'] = values['size'] and tuple(values['size'])
    run_command(lambda: print(as_text(prune(Request(**values)))))


def prune(request: Request) -> dict[str, Any]:
    """Extract the smaller network of a checkpoint, verify the files that are written, and report.

    Returns:
        The content of the report's file.

    Raises:
        ConfigError: For whatever the request or the files have wrong; nothing is written.
        ProofError: If ``exact`` or ``interior`` does not compute what the checkpoint does; nothing
            is written.
    """
    request.check()
    folder = _folder(request)
    cfg = load_config(request.config, request.cfg_options)
    size = request.size or image_size(cfg) or (224, 224)
    content = read_checkpoint(request.checkpoint, unsafe=request.unsafe, allow='--unsafe')
    masked = built_model(cfg)
    with about('checkpoint', request.checkpoint):
        load_strictly(masked, state_dict_of(content, ''), '')
        masked.eval()
        found = extract(masked, request.mode)
    text = smaller_config(cfg, found, masked, str(folder / CHECKPOINT)).pretty_text
    meta = _meta(content, text, request.mode, found)
    folder.mkdir(exist_ok=True)
    with (
        Draft(str(folder / CONFIG)) as config,
        Draft(str(folder / CHECKPOINT)) as weights,
        Draft(str(folder / REPORT)) as report,
    ):
        config.write(text.encode())
        weights.save(dict(meta=meta, state_dict=tidy(found.model.state_dict())))
        small = built_model(Config.fromstring(text, '.py'))
        load_strictly(small, weights.read()['state_dict'], CHECKPOINT)
        small.eval()
        difference = compare(masked, small, (size, second_size(masked, size)))
        if request.mode in EXACT and difference.largest > TOLERANCE:
            raise ProofError(
                f'mode {request.mode}: the smaller network differs by {difference.largest:.1e} of '
                f'the largest value, {TOLERANCE:.0e} is allowed'
            )
        figures = _figures(request, cfg, found, masked, small, difference, size)
        report.write(json.dumps(figures, indent=2).encode())
        for draft in (weights, config, report):
            draft.commit()
    return figures


def smaller_config(cfg: Config, found: Extraction, masked: Any, checkpoint: str) -> Config:
    """The config of the smaller network: complete, without the pruning and pretrained weights.

    Args:
        cfg: Of the network with zeros.
        found: What was extracted.
        masked: The built network.
        checkpoint: What a run with the config is to begin from.
    """
    new = copy.deepcopy(cfg)
    new.model = without_pretrained(new.model)
    inner = new.model.backbone
    library = type(masked.backbone).__module__.partition('.')[0]
    if not isinstance(inner.type, str) or ('.' not in inner.type and library in KNOWN):
        inner.type = f'{library}.{type(masked.backbone).__name__}'
    new.model.backbone = dict(
        type='kdmm.PrunedResNet',
        backbone=inner,
        widths=dict(found.widths),
        constant_inputs=list(found.constant_inputs),
    )
    imports = new.get('custom_imports') or dict(imports=[], allow_failed_imports=False)
    names = imports['imports']
    names = [names] if isinstance(names, str) else list(names)
    new.custom_imports = dict(imports, imports=[*names, *({'kdmm'} - {*names})])
    new.custom_hooks = [hook for hook in new.get('custom_hooks') or [] if not _prunes(hook)]
    new.load_from, new.resume = checkpoint, False
    new.pop('work_dir', None)  # of the other network
    return new


def as_text(figures: Mapping[str, Any]) -> str:
    """The report as it is printed."""
    layers = [
        (name, str(len(layer['kept'])), str(layer['filters']), 'yes' if layer['narrowed'] else 'no')
        for name, layer in figures['layers'].items()
    ]
    lines = [plain(('convolution', 'kept', 'filters', 'narrowed'), layers, numbers=True), '']
    if figures['elsewhere']:
        named = ', '.join(f'{name} {number}' for name, number in figures['elsewhere'].items())
        lines.append(f'zero filters that stay: {named}')
    rate, rate_of = figures['rate'], figures['rate_of']
    dense, small, paper = figures['dense'], figures['extracted'], figures['paper_formula']
    lines += [
        f'mode {figures["mode"]}; {figures["zero_filters"]} of {figures["filters"]} filters are '
        f'zero ({figures["zero_filters"] / figures["filters"]:.1%})',
        f"paper's formula at rate {rate:.3g} ({rate_of}), backbone alone: "
        f'{_change(paper["macs"], paper["dense_macs"])}',
        f'real multiply-adds of the {figures["counted"]}: {_change(small["macs"], dense["macs"])}',
        f'parameters: {_change(small["parameters"], dense["parameters"])}',
        _difference_line(figures),
    ]
    if figures['latency_ms']:
        rows = figures['latency_ms']
        named = ', '.join(f'{name} {value:.2f} ms' for name, value in rows.items())
        lines.append(
            f'latency of the {figures["counted"]}, median of {figures["repeats"]} interleaved '
            f'passes of {figures["batch"]} x {_times(figures["size"])} on {figures["device"]}, '
            f'{figures["threads"]} threads: {named}; dense / extracted '
            f'{rows["dense"] / rows["extracted"]:.2f}'
        )
    lines.append(f'written: {", ".join(figures["written"])}')
    return '\n'.join(lines)


def _folder(request: Request) -> Path:
    folder = Path(request.out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(key='--out', got=request.out, expected='a folder')
    if not folder.resolve().parent.is_dir():
        raise ConfigError('there is no such folder', key='--out', got=str(folder.resolve().parent))
    source = local_file(request.checkpoint)
    if folder.is_dir():
        for name in (CONFIG, CHECKPOINT, REPORT):
            check_out(str(folder / name), request.force, [source, Path(request.config)])
    return folder


def _prunes(hook: Any) -> bool:
    kind = hook.get('type') if isinstance(hook, Mapping) else None
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2] == HOOK


def _rate(cfg: Config, found: Extraction) -> tuple[float, str]:
    """The rate that the config's hook prunes at, else the share that is zero where any are."""
    for hook in filter(_prunes, cfg.get('custom_hooks') or []):
        if isinstance(hook.get('prune_rate'), int | float):
            return float(hook['prune_rate']), "the hook's"
    pruned = [name for name, kept in found.kept.items() if len(kept) < found.filters[name]]
    total = sum(found.filters[name] for name in pruned)
    return 1 - sum(len(found.kept[name]) for name in pruned) / total, 'measured'


def _meta(content: Mapping[str, Any], text: str, mode: Mode, found: Extraction) -> dict[str, Any]:
    """The names of classes, which base libraries read, the config, and the kept filters."""
    before = content.get('meta')
    names = before.get('dataset_meta') if isinstance(before, Mapping) else None
    kept = {name: places.tolist() for name, places in found.kept.items()}
    meta: dict[str, Any] = dict(cfg=text, pruning=dict(mode=mode, kept=kept))
    return meta if names is None else dict(meta, dataset_meta=names)


def _figures(
    request: Request,
    cfg: Config,
    found: Extraction,
    masked: nn.Module,
    small: nn.Module,
    difference: Difference,
    size: tuple[int, int],
) -> dict[str, Any]:
    if request.threads:
        torch.set_num_threads(request.threads)
    rate, rate_of = _rate(cfg, found)
    dense = dense_again(masked)
    formula, formula_dense = paper_macs(dense, size, rate)
    times: dict[str, float] = {}
    sizes: dict[str, Count] = dict(dense=count(dense, size), extracted=count(small, size))
    if request.repeats:
        models = dict(dense=dense, masked=masked, extracted=small)
        times = latencies(models, size, request.batch, request.repeats, request.device)
    layers = {
        name: dict(filters=found.filters[name], kept=kept.tolist(), narrowed=name in found.widths)
        for name, kept in found.kept.items()
    }
    folder = Path(request.out)
    return dict(
        mode=request.mode,
        config=request.config,
        checkpoint=request.checkpoint,
        layers=layers,
        elsewhere=found.elsewhere,
        filters=sum(found.filters.values()),
        zero_filters=sum(found.filters[name] - len(kept) for name, kept in found.kept.items()),
        rate=rate,
        rate_of=rate_of,
        paper_formula=dict(macs=formula, dense_macs=formula_dense),
        **{name: value._asdict() for name, value in sizes.items()},
        counted='backbone' if difference.outputs is None else 'whole model',
        difference=difference._asdict(),
        tolerance=TOLERANCE,
        latency_ms=times,
        size=size,
        batch=request.batch,
        repeats=request.repeats,
        threads=torch.get_num_threads(),
        device=request.device,
        torch=torch.__version__,
        written=[str(folder / name) for name in (CONFIG, CHECKPOINT, REPORT)],
    )


def _difference_line(figures: Mapping[str, Any]) -> str:
    found = figures['difference']
    sizes = ' and '.join(_times(size) for size in found['sizes'])
    outputs = found['outputs']
    parts = [f'backbone {found["features"]:.1e}']
    parts.append('model not compared: it needs annotations' if outputs is None else
                 f'model {outputs:.1e}')  # fmt: skip
    largest = max(found['features'], outputs or 0.0)
    state = 'equal up to rounding' if largest <= figures['tolerance'] else 'NOT equal'
    return (
        f'outputs in eval mode at {sizes}: {state}, largest relative difference {", ".join(parts)}'
    )


def _change(after: float, before: float) -> str:
    return f'{before / 1e6:.2f} M -> {after / 1e6:.2f} M (-{1 - after / before:.1%})'


def _times(size: Any) -> str:
    return ' x '.join(map(str, size))
