"""The way in: a network of any kind, which can be captured as an ir.Graph and run as it is.

A torch.nn.Module is traced by torch.fx; where its Python code cannot be, it is exported. Exported
programs and ONNX files are recorded as they are. Each call on a tensor that depends on the input
must have a row in `layers.TABLE`; anything else is refused by name. Nothing is skipped.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from lapilli.compiler.capture import program_trace
from lapilli.compiler.capture.binding import BATCH, few
from lapilli.compiler.capture.calls import graph_of
from lapilli.compiler.capture.program import Program, from_export
from lapilli.compiler.capture.tracing import failing_place, trace
from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.ir import Graph
from lapilli.compiler.numerics import FloatArray

FILES = (".pt2", ".onnx")
"""Endings of files that hold a network of floats."""


@final
@dataclass(frozen=True, eq=False)
class Network:
    """A trained network, ready to be captured.

    capture(samples): its graph for inputs like these (N, ...); run(images): what it returns for
    images (N, ...), computed by the library it comes from; most: images that this is fast enough
    for, None for any number; precise: run in float64, where the library can.
    """

    capture: Callable[[FloatArray], Graph]
    run: Callable[[Tensor], Any]
    most: int | None = None
    precise: Callable[[Tensor], Any] | None = None


def network_of(model: object) -> Network:
    """The network that `model` is: a torch.nn.Module, an ExportedProgram, or a Network already.

    Raises InputError for anything else, and for weights that are not finite.
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, torch.export.ExportedProgram):
        return of_program(from_export(model, "exported program"))
    module = evaluation_copy(model)
    return Network(
        lambda samples: capture(module, samples),
        module,
        precise=lambda images: copy.deepcopy(module).double()(images.double()),
    )


def of_program(program: Program) -> Network:
    """The network that an exported program is. Raises InputError for weights not finite."""
    for name, tensor in program.constants.items():
        if isinstance(tensor, Tensor):
            _check_finite(name, tensor)
    return Network(
        lambda samples: graph_of(program_trace.ProgramTrace(program, samples)),
        lambda images: program_trace.run(program, images),
    )


def network_file(path: Path) -> Network:
    """The network in a .pt2 or .onnx file; nothing in the file is executed but its operators.

    Raises InputError for files that are damaged, not plain data, or of another kind; BackendError
    where the package onnx is missing.
    """
    kind = path.suffix.lower()
    if kind == ".pt2":
        from lapilli.compiler.capture import pt2_file

        return of_program(pt2_file.read(path))
    if kind == ".onnx":
        from lapilli.compiler.capture import onnx_file

        model = onnx_file.read(path)
        from lapilli.compiler.capture import onnx_reference, onnx_trace

        return Network(
            lambda samples: graph_of(onnx_trace.OnnxTrace(model, samples)),
            lambda images: onnx_reference.run(model, images),
            onnx_reference.COMPARED,
        )
    raise InputError(
        str(path),
        "the name of a file says what it is",
        found=kind or "no ending",
        allowed=", ".join(FILES),
        remedy="Rename the file, or export the network.",
    )


def evaluation_copy(model: object) -> torch.nn.Module:
    """A copy on the CPU, float32, in evaluation mode, with finite weights.

    Raises InputError for anything but a network, and for weights that are not finite.
    """
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model",
            "a network is a torch.nn.Module of Python code",
            found=type(model).__name__,
            allowed="torch.nn.Module, not yet scripted",
            remedy="Pass the network itself, not its class, its state_dict or a script of it.",
        )
    try:
        clone = copy.deepcopy(model).cpu().float().eval()
    except Exception as error:
        raise InputError(
            type(model).__name__,
            "a network can be copied",
            found=f"{type(error).__name__}: {error}",
            allowed="what copy.deepcopy copies",
            remedy="Remove weight_norm and other hooks that keep tensors with gradients.",
        ) from error
    for name, tensor in [*clone.named_parameters(), *clone.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise _bad_weights(name, "a lazy layer that has not seen data", "Run the network once.")
        _check_finite(name, tensor)
    return clone.requires_grad_(False)


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        found = f"{bad} NaN or infinite values of {tensor.numel()}"
        raise _bad_weights(name, found, "The checkpoint is damaged or its training diverged.")


def _bad_weights(name: str, found: str, advice: str) -> InputError:
    return InputError(
        name,
        "weights and statistics are finite numbers",
        found=found,
        allowed="finite numbers only",
        remedy=advice,
    )


def capture(model: torch.nn.Module, samples: FloatArray) -> Graph:
    """The graph of `model` (from `evaluation_copy`) for inputs like `samples` (N, ...).

    Raises InputError where the model does not take the samples, CaptureError where its forward
    can be neither traced nor exported, UnsupportedOperatorError where an operator has no lowering.
    """
    batch = torch.tensor(few(samples, BATCH), dtype=torch.float32)
    try:
        with torch.no_grad():
            model(batch)
    except Exception as error:
        raise InputError(
            type(model).__name__,
            "the network accepts the calibration images",
            found=f"shape {tuple(batch.shape)}: {type(error).__name__}: {error} "
            f"at {failing_place(error)}",
            allowed="images as the model takes them",
            remedy="Check the shape (N, C, H, W) and the number of channels.",
        ) from error
    try:
        recorded = trace(model, batch)
    except CaptureError as refused:
        return graph_of(program_trace.ProgramTrace(_exported(model, batch, refused), samples))
    return graph_of(recorded)


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings, no log, nothing printed: torch.export shows the graphs that it gave up."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _exported(model: torch.nn.Module, batch: Tensor, refused: CaptureError) -> Program:
    """The program that torch.export makes of what torch.fx refused."""
    try:
        with torch.no_grad(), _silence():
            program = torch.export.export(model, (batch,))
    except Exception as error:
        said = next(filter(None, str(error).splitlines()), "")
        raise CaptureError(
            refused.where,
            "the forward can be traced by torch.fx, or exported by torch.export",
            found=f"{refused.found}; torch.export: {type(error).__name__}: {said}",
            allowed=refused.allowed,
            remedy=refused.remedy,
        ) from error
    return from_export(program, type(model).__name__)
