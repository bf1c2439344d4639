"""Several workers that train one model: what they share, and the layers that must see the whole batch."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn import functional as collective
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class WorkerGroup:
    """Worker ``rank`` of ``size``. Alone, every method is the identity and needs no process group."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "WorkerGroup":
        """That of torch's process group, if there is one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE

    @property
    def first(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.rank == 0

    def gather(self, rows: Tensor) -> Tensor:
        """Every worker's rows, in the order of the batch; gradients flow back to all of them."""
        if self.size == 1:
            return rows
        if rows.requires_grad:
            return torch.cat(collective.all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]
        every = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(every, rows.contiguous())
        return torch.cat(every)

    def mean(self, total: Tensor, count: Tensor | int) -> Tensor:
        """A sum over this worker's rows as its part of the mean over all: averaged gradients are then exact."""
        if self.size == 1:
            return total / count
        every = torch.as_tensor(count, dtype=torch.float32, device=total.device).clone()
        dist.all_reduce(every)
        return total * self.size / every

    def average(self, value: Tensor) -> Tensor:
        """The mean of a figure over the workers, without gradient."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def agree(self, value: Tensor) -> Tensor:
        """The first worker's figure, so that no rounding makes workers go different ways."""
        if self.size > 1:
            dist.broadcast(value, 0)
        return value

    def most(self, count: int) -> int:
        """The largest count of all workers."""
        if self.size == 1:
            return count
        every = torch.tensor(count)
        if dist.get_backend() == "nccl":
            every = every.cuda()
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return int(every)

    def share(self, thing: Any) -> Any:
        """The first worker's object, on all."""
        if self.size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def wrap(self, learner: nn.Module) -> nn.Module:
        """The learner with gradients averaged over the workers; itself when alone."""
        if self.size == 1:
            return learner
        synchronise_batch_norms(learner)
        return DistributedDataParallel(learner, find_unused_parameters=True, broadcast_buffers=False)


ALONE = WorkerGroup()


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch statistics over all workers, on any device: torch's own SyncBatchNorm is for GPUs only."""

    def forward(self, given: Tensor) -> Tensor:
        if not self.training:
            return super().forward(given)
        size = dist.get_world_size()
        mean = collective.all_reduce(given.mean((0, 2, 3))) / size  # type: ignore[no-untyped-call]
        centred = given - mean[:, None, None]
        variance = collective.all_reduce(centred.square().mean((0, 2, 3))) / size  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            cells = given.numel() // given.shape[1] * size
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum or 0.1)
            self.running_var.lerp_(variance * cells / (cells - 1), self.momentum or 0.1)
        scale = self.weight * (variance + self.eps).rsqrt()
        normed: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normed


def synchronise_batch_norms(module: nn.Module) -> None:
    """Make every BatchNorm2d of a module see the whole batch; weights, buffers and names stay."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SynchronisedBatchNorm
