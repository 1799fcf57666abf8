"""The two formats: ONNX, and the archive of `torch.export`.

ONNX is made from the program of `torch.export` where that is torch's own default, from 2.9 on.
Before, torch's TorchScript exporter makes it, which records what one batch ran.
"""

import io
import json
import linecache
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from kdmm.compat.packages import require
from kdmm.deploy.export import BATCH, INPUT, Network
from kdmm.errors import ConfigError, listed

TORCH: Any = TorchVersion(torch.__version__)
#: The first torch whose ONNX exporter is by default the one of `torch.export`.
BY_PROGRAM = (2, 9)
#: The first torch whose `torch.export` takes modules without compiling them.
PROGRAMS = (2, 5)
#: The entry of a `torch.export` archive with the metadata, as JSON.
METADATA = 'metadata.json'
#: Loggers that say what happens inside of an exporter.
_LOGGERS = ('torch.onnx', 'torch.export', 'torch.fx', 'onnxscript', 'onnx_ir', 'root')
#: How torch's exporters name the operator that stopped them, the most exact first.
_OPERATOR = (
    re.compile(r"op='([\w.:]+)'"),
    re.compile(r"operator '([\w.:]+)'"),
    re.compile(r'namespace (\w+::\w+)'),
    re.compile(r'export of operator ([\w.:]+)'),
    re.compile(r'^(\w+::\w+): attempted'),
    re.compile(r'^([a-z_]\w*\.\w+)\.\w+\b'),  # aten.nms.default
)


def default_opset() -> int:
    """The ONNX opset that is written unless another is asked for: what the exporter makes."""
    return 18 if TORCH >= BY_PROGRAM else 17


def recorded_program(network: Network, key: str) -> Any:
    """Record the network as a program of `torch.export`, without names of files.

    Args:
        network: To be recorded.
        key: The flag that errors name.

    Raises:
        ConfigError: If it cannot be recorded, for any number of images unless its batch is fixed;
            names the operator, or the module and the line.
    """
    if TORCH < PROGRAMS:
        raise ConfigError(
            f'torch.export is used from torch {_version(PROGRAMS)} on, this is {torch.__version__}',
            key=key,
        )
    sizes = None if network.batch else ({0: torch.export.Dim(BATCH)},)
    images = network.images(network.recorded)
    with _explained(network, key), torch.no_grad():
        program = torch.export.export(network.module, (images,), dynamic_shapes=sizes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # with paths of this machine
    return program


def to_torch_export(network: Network, program: Any = None) -> bytes:
    """Write the network as an archive that `torch.export.load` reads, with its metadata.

    Args:
        network: To be exported.
        program: What `recorded_program` gave for it; by default it is called.

    Raises:
        ConfigError: As `recorded_program`.
    """
    program = program or recorded_program(network, '--torch-export')
    buffer = io.BytesIO()
    described = json.dumps(network.metadata(), indent=2)
    with _explained(network, '--torch-export'):
        torch.export.save(program, buffer, extra_files={METADATA: described})
    return buffer.getvalue()


def to_onnx(network: Network, opset: int | None = None, program: Any = None) -> bytes:
    """Write the network as one ONNX file, weights and metadata included.

    Args:
        network: To be exported.
        opset: Version of the default operator set; default `default_opset`.
        program: What `recorded_program` gave for it; by default it is called.

    Raises:
        ConfigError: If a package is missing, the operator set is not available, the file would be
            above 2 GiB, or the network cannot be exported; names the operator.
    """
    onnx = require('onnx', '--onnx')
    opset = default_opset() if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if not 7 <= opset <= newest:
        raise ConfigError(key='--opset', got=opset, expected=f'a number from 7 to {newest}')
    if TORCH >= BY_PROGRAM:
        require('onnxscript', '--onnx')
        program = program or recorded_program(network, '--onnx')
        with _explained(network, '--onnx'):
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[*network.outputs],
                verbose=False,
            )
            model = made.model_proto
    else:
        model = onnx.load_model_from_string(_scripted(network, opset))
    versions = [one.version for one in model.opset_import if one.domain in ('', 'ai.onnx')]
    if versions != [opset]:
        raise ConfigError(
            f'torch {torch.__version__} exports this network with opset {listed(versions)}, and '
            'does not convert it',
            key='--opset',
            got=opset,
        )
    _state_shapes(model.graph, network)
    onnx.helper.set_model_props(model, network.metadata(opset=str(opset)))
    try:
        return model.SerializeToString()
    except Exception as error:  # of the protocol buffers, above 2 GiB
        raise ConfigError(f'it cannot be one ONNX file ({error})', key='--onnx') from error


def _scripted(network: Network, opset: int) -> bytes:
    """Record one batch by TorchScript; sizes that follow from the batch stay free."""
    axes = {
        name: {axis: f'{name}_{axis}' for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in network.outputs.items()
    }
    if not network.batch:
        axes[INPUT] = {0: BATCH}
    buffer = io.BytesIO()
    with _explained(network, '--onnx'), torch.no_grad():
        torch.onnx.export(
            network.module,
            (network.images(network.recorded),),
            buffer,  # type: ignore[arg-type]
            opset_version=opset,
            input_names=[INPUT],
            output_names=[*network.outputs],
            dynamic_axes=axes,
        )
    return buffer.getvalue()


def _state_shapes(graph: Any, network: Network) -> None:
    """Give inputs and outputs of an ONNX graph the shapes that are printed."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in graph.value_info:
        for place in value.type.tensor_type.shape.dim:
            if symbol and place.dim_param:
                place.dim_param = re.sub(rf'\b{symbol}\b', BATCH, place.dim_param)
    shapes = {INPUT: network.input_shape, **network.outputs}
    for value in (*graph.input, *graph.output):
        del value.type.tensor_type.shape.dim[:]
        for size in shapes[value.name]:
            value.type.tensor_type.shape.dim.add(
                **(dict(dim_param=size) if isinstance(size, str) else dict(dim_value=size))
            )


@contextmanager
def _explained(network: Network, key: str) -> Iterator[None]:
    """Silence the exporters, and turn what they raise into one message.

    Raises:
        ConfigError: Names the operator, or the module and the line that stopped them.
    """
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    except Exception as error:  # an exporter runs the whole model, and raises whatever comes
        causes = list(_causes(error))
        place = _place(causes, network.module)
        where = f' at {place}' if place else ''
        if any('Constraints violated' in str(one) for one in causes):
            raise ConfigError(
                f'the code of the network fixes the number of images{where}',
                key=key,
                fix='Export it for one size of the batch: --batch N',
            ) from error
        named = _operator(causes)
        problem = f'the operator {named} cannot be exported' if named else 'it cannot be exported'
        raise ConfigError(f'{problem}{where} ({_reason(causes)})', key=key) from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it, the first one first."""
    if error is not None:
        yield from _causes(error.__cause__ or error.__context__)
        yield error


def _operator(causes: list[BaseException]) -> str | None:
    """The operator that an exporter names, or None."""
    for pattern in _OPERATOR:
        for error in causes:
            found = pattern.search(str(error).strip())
            if found:
                return found[1]
    return None


def _place(causes: list[BaseException], module: nn.Module) -> str:
    """The module of the network in which the first error was raised, and the line of its code."""
    paths = {id(part): path for path, part in module.named_modules()}
    for error in causes:
        place, trace = '', error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get('self')
            code = trace.tb_frame.f_code
            if id(owner) in paths and isinstance(owner, nn.Module):
                path = paths[id(owner)].removeprefix('model') or 'model'
                line = linecache.getline(code.co_filename, trace.tb_lineno).strip()
                place = f'{path.lstrip(".")} ({type(owner).__name__}): {line}'
            trace = trace.tb_next
        if place:
            return place
    return ''


def _reason(causes: list[BaseException], most: int = 200) -> str:
    """The first error in one line."""
    error = causes[0]
    text = f'{type(error).__name__}: {(str(error).strip() or "no message").splitlines()[0]}'
    return text if len(text) <= most else f'{text[:most]} ...'


def _version(pair: tuple[int, int]) -> str:
    return '.'.join(map(str, pair))
