"""Linear maps between populations: the compact forms a connection can take, in numpy.

One form per file. To add one, write it in a file here and name it in FORMS; the tests that are
total over FORMS say what is missing: `execute`, `soundness`, the Lava runtime, the oracles.
"""

from lapilli.compiler.linear.conv import Conv as Conv
from lapilli.compiler.linear.conv_transposed import ConvTransposed as ConvTransposed
from lapilli.compiler.linear.dense import Dense as Dense
from lapilli.compiler.linear.dense_part import DensePart as DensePart
from lapilli.compiler.linear.diagonal import Diagonal as Diagonal
from lapilli.compiler.linear.diagonal import identity as identity
from lapilli.compiler.linear.linear_map import Array as Array
from lapilli.compiler.linear.linear_map import LinearMap as LinearMap
from lapilli.compiler.linear.linear_map import Shape as Shape
from lapilli.compiler.linear.linear_map import along_channels as along_channels
from lapilli.compiler.linear.linear_map import frozen as frozen
from lapilli.compiler.linear.linear_map import per_channel as per_channel
from lapilli.compiler.linear.sparse import Sparse as Sparse

FORMS: tuple[type[LinearMap], ...] = (
    Diagonal,
    Dense,
    DensePart,
    Conv,
    ConvTransposed,
    Sparse,
)
"""Every form; files, engines and tests are total over it."""
