"""Torch layers for networks that are to be converted: put them in place of a ReLU and train."""

from __future__ import annotations

from lapilli.compiler.training.qcfs import QCFS as QCFS
