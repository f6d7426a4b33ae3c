"""Instance masks as polygons: a tv_tensor of vertices that torchvision's transforms move with the image.

Transforming a full-size bitmap per instance is slow; transforming a hundred vertices is not. Coordinates are
continuous, as in boxes: pixel (0, 0) covers the square from 0 to 1, and a flip maps `x` to `W - x`. (v2's
KeyPoints refer to pixel centers: a flip maps `x` to `W - 1 - x`; so they cannot represent polygons.)

A point belongs to an instance if the winding number of the instance's polygons is not zero. So polygons of the
same winding order (clockwise or not) form a union, and a polygon inside one of the opposite winding order is a hole.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import TVTensor

from chordate.data.coco_geometry import MIN_MASK_AREA

Ring = NDArray[np.float32]  # [vertices, 2], x, y; an edge joins the last vertex to the first


class Polygons(TVTensor):
    """The polygons of all instances of an image, concatenated.

    Attributes:
        data (the tensor itself): `[V, 2]` float32, the vertices of all polygons, x and y in pixels.
        ring_sizes: `[R]` int64, number of vertices of each polygon.
        ring_owner: `[R]` int64, index of the instance that each polygon belongs to, ascending.
        count: number of instances, with or without polygons.
        canvas_size: height and width of the image.
    """

    ring_sizes: Tensor
    ring_owner: Tensor
    count: int
    canvas_size: tuple[int, int]

    def __new__(
        cls, data: Any, *, ring_sizes: Tensor, ring_owner: Tensor, count: int, canvas_size: tuple[int, int]
    ) -> Self:
        self = torch.as_tensor(data, dtype=torch.float32).reshape(-1, 2).as_subclass(cls)
        self.ring_sizes, self.ring_owner = ring_sizes, ring_owner
        self.count, self.canvas_size = count, canvas_size
        return self

    @classmethod
    def from_rings(cls, instances: Sequence[Iterable[Ring]], canvas_size: tuple[int, int]) -> Self:
        """Make Polygons from a list of polygons per instance; a hole has the opposite winding order of its outline."""
        rings = [(owner, ring) for owner, rings in enumerate(instances) for ring in rings]
        vertices = [ring for _, ring in rings] or [np.zeros((0, 2), np.float32)]
        return cls(
            torch.from_numpy(np.concatenate(vertices)),
            ring_sizes=torch.tensor([len(ring) for _, ring in rings], dtype=torch.int64),
            ring_owner=torch.tensor([owner for owner, _ in rings], dtype=torch.int64),
            count=len(instances),
            canvas_size=canvas_size,
        )

    @classmethod
    def cat(cls, parts: "Sequence[Polygons]") -> Self:
        """Concatenate the instances of several Polygons on one canvas."""
        counts = [part.count for part in parts]
        before = [sum(counts[:number]) for number in range(len(parts))]
        return cls(
            torch.cat([part.as_subclass(Tensor) for part in parts]),
            ring_sizes=torch.cat([part.ring_sizes for part in parts]),
            ring_owner=torch.cat([part.ring_owner + first for part, first in zip(parts, before)]),
            count=sum(counts),
            canvas_size=parts[0].canvas_size,
        )

    @classmethod
    def wrap(cls, tensor: Tensor, like: "Polygons", **kwargs: Any) -> Self:  # type: ignore[override]
        """Wrap vertices as Polygons with the attributes of `like`, unless `kwargs` override them."""
        return cls(
            tensor,
            ring_sizes=kwargs.get("ring_sizes", like.ring_sizes),
            ring_owner=kwargs.get("ring_owner", like.ring_owner),
            count=kwargs.get("count", like.count),
            canvas_size=kwargs.get("canvas_size", like.canvas_size),
        )

    @classmethod
    def _wrap_output(cls, output: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        # TVTensor calls this for the few operations that keep the class, such as clone, to and detach.
        like = next(arg for arg in args if isinstance(arg, Polygons))
        return cls.wrap(output, like) if isinstance(output, Tensor) else output

    def __reduce_ex__(self, protocol: Any) -> Any:
        fields = (self.ring_sizes, self.ring_owner, self.count, self.canvas_size)
        return _rebuild, (self.as_subclass(Tensor), *fields)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.wrap(self.as_subclass(Tensor).clone(), self)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Polygons({self.count} instances, {len(self.ring_sizes)} rings, canvas_size={self.canvas_size})"

    def select(self, keep: Tensor) -> Self:
        """Select the instances where `keep` `[count]` is true, and renumber them."""
        kept = keep[self.ring_owner]
        return self.wrap(
            self.as_subclass(Tensor)[kept.repeat_interleave(self.ring_sizes)],
            self,
            ring_sizes=self.ring_sizes[kept],
            ring_owner=(keep.cumsum(0) - 1)[self.ring_owner[kept]],
            count=int(keep.sum()),
        )

    def rings(self) -> list[list[Ring]]:
        """The polygons of each instance, in the format of `from_rings`."""
        instances: list[list[Ring]] = [[] for _ in range(self.count)]
        vertices, ends = self.as_subclass(Tensor).numpy(), self.ring_sizes.cumsum(0).tolist()
        for owner, first, end in zip(self.ring_owner.tolist(), [0, *ends], ends):
            instances[owner].append(vertices[first:end])
        return instances

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """All edges: start points `[V, 2]`, end points `[V, 2]`, and the index of each edge's polygon `[V]`."""
        start = self.as_subclass(Tensor)
        following = torch.arange(1, len(start) + 1)
        last = self.ring_sizes.cumsum(0) - 1
        following[last] = last - self.ring_sizes + 1
        return start, start[following], torch.arange(len(self.ring_sizes)).repeat_interleave(self.ring_sizes)

    def areas(self) -> Tensor:
        """`[count]`, area of each instance in square pixels; where its polygons overlap, the area counts twice."""
        start, end, ring = self.edges()
        cross = (start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0]) / 2
        return torch.zeros(self.count).index_add_(0, self.ring_owner[ring], cross).abs()

    def bounds(self) -> Tensor:
        """`[count, 4]`, bounding box of each instance, x1, y1, x2, y2; (inf, inf, -inf, -inf) if it has no polygons."""
        vertices = self.as_subclass(Tensor)
        owner = self.ring_owner.repeat_interleave(self.ring_sizes)[:, None].expand(-1, 2)
        low = torch.full((self.count, 2), torch.inf).scatter_reduce_(0, owner, vertices, "amin")
        high = torch.full((self.count, 2), -torch.inf).scatter_reduce_(0, owner, vertices, "amax")
        return torch.cat([low, high], 1)

    def overlap(self, boxes: Tensor) -> Tensor:
        """`[count]` bool, whether the polygons of each instance have an area, and their bounds overlap its box.

        Args:
            boxes: `[count, 4]`, x1, y1, x2, y2 in pixels.
        """
        bounds = self.bounds()
        apart = (bounds[:, 2:] <= boxes[:, :2]) | (bounds[:, :2] >= boxes[:, 2:])
        return (self.areas() >= MIN_MASK_AREA) & ~apart.any(1)


def _rebuild(
    data: Tensor, ring_sizes: Tensor, ring_owner: Tensor, count: int, canvas_size: tuple[int, int]
) -> Polygons:
    return Polygons(data, ring_sizes=ring_sizes, ring_owner=ring_owner, count=count, canvas_size=canvas_size)


def orient_clockwise(ring: Ring) -> Ring:
    """The polygon in clockwise order (y down), so that the polygons of an instance form a union; not for holes."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return ring if np.dot(x, np.roll(y, -1)) >= np.dot(y, np.roll(x, -1)) else ring[::-1]
