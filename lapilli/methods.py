"""Conversion methods as options objects: pass one to `lapilli.compile(..., method=...)`."""

from __future__ import annotations

from lapilli.compiler.da_qcfs_options import DAQCFS as DAQCFS
from lapilli.compiler.passes import METHODS as _METHODS
from lapilli.compiler.passes.convert_fast_snn import FastSNN as FastSNN
from lapilli.compiler.passes.convert_lm_ht import LMHT as LMHT
from lapilli.compiler.passes.convert_parallel import Parallel as Parallel
from lapilli.compiler.passes.convert_rate import Rate as Rate
from lapilli.compiler.passes.convert_sigma_delta import SigmaDelta as SigmaDelta
from lapilli.compiler.reconstruction.options import Reconstruct as Reconstruct

METHODS = {name: method.options for name, method in _METHODS.items()}
"""Name on the command line -> options dataclass; its fields are the command's options."""
