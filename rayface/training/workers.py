"""Where a training process stands among the others: alone, under torchrun, or under Ray Train."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """Rank, world size and device of this process, and how a network is made data-parallel."""

    rank: int
    world_size: int
    device: torch.device
    backend: Literal["solo", "torchrun", "ray"]

    def parallel(self, network: nn.Module) -> nn.Module:
        """DistributedDataParallel around a network that is on the device; itself when alone."""
        if self.world_size == 1 or not any(p.requires_grad for p in network.parameters()):
            return network
        options = {"gradient_as_bucket_view": True}
        if self.device.type == "cpu":
            # DDP regroups its buckets after the first backward, and a resumed process would start with other groups:
            # over 3 ranks the ring would add in another order. Looking for unused parameters switches that off.
            options["find_unused_parameters"] = True
        if self.backend == "ray":
            from ray.train.torch import prepare_model

            return prepare_model(network, move_to_device=False, parallel_strategy_kwargs=options)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, **options)  # type: ignore[arg-type]

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor; the same on all of them."""
        if self.world_size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world_size

    def from_rank_zero(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank; any picklable object."""
        if self.world_size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0, device=self.device)
        return held[0]

    def node_leaves(self) -> bool:
        """Whether a node of the group is about to be taken away; all ranks must ask equally often."""
        if self.backend != "ray":
            return False
        import ray.train

        return ray.train.get_preemption_info() is not None


def solo(device: str | torch.device = "cpu") -> Workers:
    return Workers(0, 1, torch.device(device), "solo")


def from_torchrun() -> Workers:
    """Join the process group that torchrun describes in the environment."""
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    return Workers(dist.get_rank(), dist.get_world_size(), device, "torchrun")


def from_ray() -> Workers:
    """The place Ray Train gave this worker."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    return Workers(context.get_world_rank(), context.get_world_size(), get_device(), "ray")
