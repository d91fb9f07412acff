"""Torch layers for networks that are to be converted: put them in place of a ReLU and train.

`substituted` puts them in; `SpikingNetwork` runs those that spike, and says how to compile them.
"""

from __future__ import annotations

from lapilli.compiler.training.qcfs import QCFS as QCFS
from lapilli.compiler.training.spiking_layers import IF as IF
from lapilli.compiler.training.spiking_layers import MultiThreshold as MultiThreshold
from lapilli.compiler.training.spiking_layers import SignedIF as SignedIF
from lapilli.compiler.training.spiking_layers import SpikingLayer as SpikingLayer
from lapilli.compiler.training.spiking_network import SpikingNetwork as SpikingNetwork
from lapilli.compiler.training.substitution import substituted as substituted
from lapilli.compiler.training.surrogates import SURROGATES as SURROGATES
