"""A network with QCFS layers from the file that its recipe wrote, to be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.substitution import substituted


def quantised_network(network: nn.Module, path: Path, images: Tensor) -> nn.Module:
    """The network with QCFS layers that a file has the weights and thresholds of.

    Raises InputError where file and network do not fit.
    """
    state = _state(path)

    def layer(place: str, channels: int, largest: Tensor) -> nn.Module:
        key = f"{place}.threshold"
        if key not in state:
            raise _unfit(path, f"no {key}")
        return QCFS(1, state[key])  # its levels are not what is taken from it

    made = substituted(network, layer, images.cpu().numpy())
    own = made.state_dict()
    faults = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    faults += [k for k in state if k not in own or own[k].shape != state[k].shape]
    if faults:
        raise _unfit(path, f"missing, not expected or of another shape: {', '.join(faults[:5])}")
    made.load_state_dict(state, strict=False)
    return made


def _state(path: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unfit(path, f"{type(error).__name__}: {error}") from error


def _unfit(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        "the quantised network's file fits the recipe's network",
        found=found,
        allowed="the .safetensors of a recipe with the same network and QCFS layers",
        remedy="Name that file, or start from a float network.",
    )
