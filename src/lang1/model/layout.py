"""Where blocks lie in a flat stream, in the form that each attention backend wants.

Shapes: N tokens of a step in one flat stream, rounded up by a tail of unused rows; G blocks in a bucket, padded to T.

One rule serves packed documents and shared notes: token i sees token j when both are in the same block, j does not
come after i, and j's branch is 0 (the document or note itself) or i's own. Branches 1, 2, … are the questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lang1.model.layout_notes import NoteBucket, note_buckets

# A bucket takes further blocks while padding stays below this share of its true size.
PADDING = 1.2
# The CPU's matrix library compiles a kernel for each shape it meets, at several milliseconds a shape, and every step
# has another number of tokens, blocks and answers: with shapes as they come, compiling took 60 % of a step. So row
# counts are rounded up (`round_rows`), padded lengths to a multiple of LENGTHS, and a bucket holds a power of two of
# blocks, at most BLOCKS.
LENGTHS = 32
BLOCKS = 16
# Side of the tiles in which FlexAttention decides what it can leave out.
TILE = 128
# Ends of blocks for variable-length kernels are padded to a multiple of this, so that compiled code sees few shapes.
ENDS = 64


@dataclass(frozen=True)
class Bucket:
    """Blocks of like length, consecutive in the stream: tokens ``start`` to ``stop``."""

    start: int
    stop: int
    lengths: tuple[int, ...]
    longest: int  # T, the padded length
    pad_index: Tensor | None  # (G*T,) position in the bucket's tokens that fills each padded place; None: no padding
    flat_index: Tensor | None  # (stop-start,) padded place of each token
    causal: bool  # every branch is 0: the plain causal mask
    branch: Tensor | None  # (G, T) int32, -1 in padding; None where causal

    @property
    def blocks(self) -> int:
        return len(self.lengths)

    def visible(self, device: torch.device) -> Tensor:
        """Boolean mask (G or 1, T, T): True where the query (row) sees the key (column)."""
        size = self.longest
        causal = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        if self.branch is None:
            return causal[None]
        key, query = self.branch[:, None, :], self.branch[:, :, None]
        return causal & ((key == 0) | (key == query))

    def bias(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """:meth:`visible` as 0 and -inf to be added to scores."""
        hidden = ~self.visible(device)
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


@dataclass(frozen=True)
class Ends:
    """What variable-length kernels want: where blocks end, the tail's rows cut into blocks too."""

    ends: Tensor  # (S+1,) int32 from 0; the last value is repeated to a round number (blocks without tokens)
    longest: int  # an upper bound of the longest block, a power of two


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a flat stream lie and each token's position; see :func:`build_layout`."""

    positions: Tensor  # (N + tail,) int64, restarting in each block; every question's go on where its note ends
    lengths: tuple[int, ...]
    own: npt.NDArray[np.integer] | None  # (N,) the branches, or None where all are 0
    tail: int  # unused rows at the end that make the number of rows a round one

    @property
    def tokens(self) -> int:
        """Tokens of the blocks, N without the tail."""
        return int(self.positions.shape[0]) - self.tail

    @property
    def device(self) -> torch.device:
        return self.positions.device

    @cached_property
    def branch(self) -> Tensor | None:
        """The branches (N,) int32, or None where all are 0."""
        return None if self.own is None else torch.from_numpy(self.own.astype(np.int32)).to(self.device)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """Neighbouring blocks of like length, to be padded to one length."""
        sizes = np.asarray(self.lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        buckets, first = [], 0
        while first < len(sizes):
            last, longest, true = first + 1, int(sizes[first]), int(sizes[first])
            while last < min(len(sizes), first + BLOCKS):
                longer, more = max(longest, int(sizes[last])), true + int(sizes[last])
                if longer * (last + 1 - first) > PADDING * more:
                    break
                last, longest, true = last + 1, longer, more
            last = first + (1 << ((last - first).bit_length() - 1))
            buckets.append(_bucket(sizes[first:last], int(starts[first]), self.own, self.device))
            first = last
        return tuple(buckets)

    @cached_property
    def notes(self) -> tuple[NoteBucket, ...]:
        """Blocks with branches, notes and questions taken apart; only where there are branches."""
        assert self.own is not None
        return note_buckets(self.lengths, self.own, self.device)

    @cached_property
    def even(self) -> bool:
        """Whether all blocks are of one length and none has branches."""
        return self.own is None and len(set(self.lengths)) == 1

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest block, rounded up."""
        return -(-max(self.lengths) // LENGTHS) * LENGTHS

    @cached_property
    def ends(self) -> Ends:
        """For variable-length kernels. Branches are not in it: with those, another backend is needed."""
        longest = 1 << (max(TILE, self.longest) - 1).bit_length()
        rest = [longest] * (self.tail // longest) + ([self.tail % longest] if self.tail % longest else [])
        ends = np.concatenate([[0], np.cumsum([*self.lengths, *rest])])
        ends = np.pad(ends, (0, -len(ends) % ENDS), mode="edge").astype(np.int32)
        return Ends(torch.from_numpy(ends).to(self.device), longest)

    @cached_property
    def tiles(self) -> Any:
        """FlexAttention's ``BlockMask``: which tiles hold anything to see, and which need no mask."""
        from torch.nn.attention.flex_attention import BlockMask

        partly, wholly = visible_tiles(self.lengths, self.own, self.tail)
        block, own = self._numbered()
        block_N = torch.from_numpy(block).to(self.device)
        own_N = torch.from_numpy(own).to(self.device)

        def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = (block_N[query] == block_N[key]) & (query >= key)
            return same & ((own_N[key] == 0) | (own_N[key] == own_N[query]))

        rows = len(block)
        return BlockMask.from_kv_blocks(
            *_tile_lists(partly, self.device),
            *_tile_lists(wholly, self.device),
            BLOCK_SIZE=TILE,
            mask_mod=visible,
            seq_lengths=(rows, rows),
        )

    def _numbered(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The block of each row, and its branch; the tail is a block of its own."""
        return numbered(self.lengths, self.own, self.tail)


def numbered(
    lengths: Sequence[int], own: npt.NDArray[np.integer] | None, tail: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(N + tail,) the block of each row, the tail being the last one, and its branch."""
    block = np.repeat(np.arange(len(lengths) + 1, dtype=np.int32), [*lengths, tail])
    branch = np.zeros(len(block), dtype=np.int32) if own is None else np.pad(own, (0, tail)).astype(np.int32)
    return block, branch


def visible_tiles(
    lengths: Sequence[int], own: npt.NDArray[np.integer] | None, tail: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tiles (query, key) may hold visible pairs and need the mask, and which are visible wholly.

    Found from the ends of blocks, not from the N x N mask. A tile is wholly visible where it lies before the diagonal
    and all of its rows are of one block, the keys in branch 0.
    """
    block, branch = numbered(lengths, own, tail)
    count = -(-len(block) // TILE)
    short = count * TILE - len(block)
    blocks = np.pad(block, (0, short), mode="edge").reshape(count, TILE)
    branches = np.pad(branch, (0, short), mode="edge").reshape(count, TILE)
    first, last = blocks[:, 0], blocks[:, -1]  # blocks are consecutive
    below = np.tri(count, dtype=np.bool_)
    some = below & (last[None, :] >= first[:, None])
    one_block = (first == last)[:, None] & (first == last)[None, :] & (first[:, None] == first[None, :])
    whole = some & one_block & (branches == 0).all(axis=1)[None, :] & ~np.eye(count, dtype=np.bool_)
    if short:  # rows beyond the end are not keys
        whole[:, -1] = False
    return some & ~whole, whole


def _tile_lists(tiles: npt.NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many tiles each row of tiles takes, and which, those first: (1, 1, rows) and (1, 1, rows, rows) int32."""
    order = np.argsort(~tiles, axis=1, kind="stable").astype(np.int32)
    counts = tiles.sum(axis=1).astype(np.int32)
    return torch.from_numpy(counts)[None, None].to(device), torch.from_numpy(order)[None, None].to(device)


def round_rows(rows: int) -> int:
    """``rows`` rounded up to one of few values, at most an eighth more beyond 512."""
    step = 64 if rows <= 512 else 1 << max(6, rows.bit_length() - 4)
    return -(-rows // step) * step


def build_layout(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    positions: npt.NDArray[np.integer] | None = None,
    branch: npt.NDArray[np.integer] | None = None,
    device: torch.device | str = "cpu",
) -> Layout:
    """Plan attention for consecutive blocks. Give blocks in order of length: neighbours of like length pad less.

    Args:
        lengths: tokens of each block, all at least 1.
        positions: (N,) position of each token; None counts from 0 in each block.
        branch: (N,) 0 for the document or note, 1, 2, … for questions; None where there are none.
        device: where the index tensors go.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    assert len(sizes) and sizes.min() >= 1, "a layout needs blocks of at least one token"
    total = int(sizes.sum())
    if positions is None:
        positions = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    assert len(positions) == total and (branch is None or len(branch) == total)
    if branch is not None and not branch.any():
        branch = None
    tail = round_rows(total) - total
    return Layout(
        torch.from_numpy(np.pad(np.asarray(positions, dtype=np.int64), (0, tail))).to(device),
        tuple(int(x) for x in sizes),
        branch,
        tail,
    )


def _bucket(
    sizes: npt.NDArray[np.int64], start: int, branch: npt.NDArray[np.integer] | None, device: torch.device | str
) -> Bucket:
    count, total = len(sizes), int(sizes.sum())
    longest = -(-int(sizes.max()) // LENGTHS) * LENGTHS
    own = None if branch is None else branch[start : start + total]
    if own is not None and not own.any():
        own = None
    pad_index = flat_index = branch_GT = None
    padded = count * longest != total
    if padded or own is not None:
        offset = np.cumsum(sizes) - sizes
        row = np.repeat(np.arange(count), sizes)
        flat = row * longest + np.arange(total) - np.repeat(offset, sizes)
        if padded:
            pad = np.zeros(count * longest, dtype=np.int64)
            pad[flat] = np.arange(total)
            pad_index = torch.from_numpy(pad).to(device)
            flat_index = torch.from_numpy(flat.astype(np.int64)).to(device)
        if own is not None:
            table = np.full(count * longest, -1, dtype=np.int32)
            table[flat] = own
            branch_GT = torch.from_numpy(table.reshape(count, longest)).to(device)
    lengths = tuple(int(s) for s in sizes)
    return Bucket(start, start + total, lengths, longest, pad_index, flat_index, own is None, branch_GT)
