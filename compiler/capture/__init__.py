"""Capture: one ir.Graph from each kind of input, through one table of layers.

modules (through torch.fx, else torch.export), exported programs (.pt2) and ONNX files each record
calls; `binding` gives every call its arguments and its node. `frontend` is the way in.
"""
