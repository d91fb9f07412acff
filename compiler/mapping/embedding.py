"""A first layout from the shape of the traffic itself: parts, eigenvectors, halving.

METIS (Karypis and Kumar 1998, through pymetis) cuts the cores into parts of equal size with few
packets between them; two eigenvectors of the graph of the parts (Hall 1970, "An r-dimensional
quadratic placement algorithm") lay the parts in the plane; the cores move between their partners
by diffusion; and halving the slots and the cores together, along the longer side, again and again,
gives every core a slot of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.mapping.anneal import HalfEdges
from lapilli.compiler.mapping.mesh import Floats, Ints

_ROUNDS = (20, 200)  # of diffusion, at least and at most; large parts take more
_CORES_PER_ROUND = 700
_LARGEST_WEIGHT, _LARGEST_SUM = 1 << 16, 1 << 30  # of edges in METIS, which counts in 32 bits


def plane(edges: HalfEdges, cores: int, parts: int, seed: int) -> Floats:
    """Positions in the plane, shape (cores, 2), without scale, of cores 0 .. cores - 1.

    parts: at most some hundreds, their matrix is dense; cores: 3 or more. Cores that send nothing
    to one another, directly or through others, are tied by next to nothing to the core before
    them, so that they stay in layer order.
    """
    links = _links(edges, cores)
    part = np.arange(cores) if parts >= cores else _parts(links, parts, seed)
    met, part = np.unique(part, return_inverse=True)
    if len(met) < 3:  # a tiny graph of which METIS leaves parts empty
        part = np.arange(cores)
    members = sp.csr_matrix((np.ones(cores), (np.arange(cores), part)))
    position = _eigenvectors((members.T @ links @ members).toarray())[part]
    total = np.asarray(links.sum(axis=1)).reshape(-1, 1)
    for _ in range(min(max(cores // _CORES_PER_ROUND, _ROUNDS[0]), _ROUNDS[1])):
        position = (position + links @ position / total) / 2
        position -= (total * position).sum(axis=0) / total.sum()
    return np.asarray(position, np.float64)


def _links(edges: HalfEdges, cores: int) -> sp.csr_matrix:
    inner = slice(0, edges.first[cores])  # the nodes behind the cores are empty places
    weight = edges.weight[inner]
    links = sp.csr_matrix(
        (weight, edges.partner[inner].astype(np.int64), edges.first[: cores + 1]), (cores, cores)
    )
    tie = 1e-3 * float(weight.mean()) if len(weight) else 1.0
    chain = sp.diags([np.full(cores - 1, tie)] * 2, [-1, 1], format="csr")
    return sp.csr_matrix(links + chain)


def _parts(links: sp.csr_matrix, parts: int, seed: int) -> Ints:
    """Part of every core, by METIS."""
    from pymetis import CSRAdjacency, Options, part_graph

    mean = min(100.0, _LARGEST_SUM / len(links.data))
    scaled = links.data * (mean / float(links.data.mean()))
    weights = np.clip(scaled, 1, _LARGEST_WEIGHT).astype(np.int32)
    _, part = part_graph(
        parts,
        CSRAdjacency(links.indptr.astype(np.int32), links.indices.astype(np.int32)),
        eweights=weights,
        recursive=False,
        options=Options(seed=seed),
    )
    return np.asarray(part, np.int64)


def _eigenvectors(links: Floats) -> Floats:
    """The two slowest modes of the random walk on the links, shape (nodes, 2)."""
    scale = 1 / np.sqrt(links.sum(axis=1))
    _, vectors = np.linalg.eigh(links * np.outer(scale, scale))
    # The last vector is the same for all nodes. A sign is free: the largest entry is positive.
    chosen = vectors[:, [-2, -3]] * scale[:, None]
    largest = chosen[np.abs(chosen).argmax(axis=0), [0, 1]]
    return np.asarray(chosen * np.where(largest < 0, -1.0, 1.0), np.float64)


def halve(position: Floats, x: npt.NDArray[np.int32], y: npt.NDArray[np.int32]) -> Ints:
    """Place of every core: places and cores are halved together until one place is left.

    position: of the cores, shape (cores, 2), only its order counts; x, y: of the places, shape
    (places,), at least as many as cores. A block of places is cut across its longer side between
    two columns (rows) near the middle; the cores are cut along the same axis in proportion.
    """
    places, cores = len(x), len(position)
    where = (np.argsort(np.lexsort((y, x))), np.argsort(np.lexsort((x, y))))
    line = (x.astype(np.int64), y.astype(np.int64))
    want = tuple(np.argsort(np.argsort(position[:, axis], kind="stable")) for axis in (0, 1))
    place_block, core_block = np.zeros(places, np.int64), np.zeros(cores, np.int64)
    blocks = 1
    while blocks < places:
        size = np.bincount(place_block, minlength=blocks)
        tall = _extent(line[1], place_block, blocks) > _extent(line[0], place_block, blocks)
        across = tall[place_block]
        order = np.argsort(place_block * places + np.where(across, where[1], where[0]))
        rank = np.arange(places) - (np.cumsum(size) - size)[place_block[order]]
        cut = _cuts(place_block[order], rank, np.where(across, line[1], line[0])[order], size)
        half = np.empty(places, np.int64)
        half[order] = rank >= cut[place_block[order]]
        number = np.bincount(core_block, minlength=blocks)
        left = number * cut // size
        left = np.clip(left, number - (size - cut), cut)
        along = np.where(tall[core_block], want[1], want[0])
        order = np.argsort(core_block * cores + along)
        rank = np.arange(cores) - (np.cumsum(number) - number)[core_block[order]]
        core_half = np.empty(cores, np.int64)
        core_half[order] = rank >= left[core_block[order]]
        place_block, core_block = 2 * place_block + half, 2 * core_block + core_half
        exists = np.bincount(place_block, minlength=2 * blocks) > 0
        renumber = np.cumsum(exists) - 1
        place_block, core_block = renumber[place_block], renumber[core_block]
        blocks = int(exists.sum())
    place_of = np.empty(places, np.int64)
    place_of[place_block] = np.arange(places)
    of_core: Ints = place_of[core_block]
    return of_core


def _extent(line: Ints, block: Ints, blocks: int) -> Ints:
    low, high = np.full(blocks, np.iinfo(np.int64).max), np.full(blocks, -1)
    np.minimum.at(low, block, line)
    np.maximum.at(high, block, line)
    extent: Ints = high - low
    return extent


def _cuts(block: Ints, rank: Ints, line: Ints, size: Ints) -> Ints:
    """Places left of the cut of each block: whole lines of places where it has more than one."""
    middle = size // 2
    border = np.flatnonzero((rank > 0) & np.concatenate(([False], line[1:] != line[:-1])))
    of = block[border]
    off = np.abs(rank[border] - middle[of])
    order = np.lexsort((off, of))
    first = np.concatenate(([True], of[order][1:] != of[order][:-1]))[: len(of)]
    best = border[order][first]
    cut = middle.copy()
    cut[block[best]] = rank[best]
    return cut
