"""Several processes at one piece of work: which one this is, its share, and what they tell each other.

Without ``torch.distributed`` there is one rank and nothing is sent. What travels is tensors and JSON, never a
pickle. Every rank must ask for the same things in the same order. Ranks that work in `company` wait for each other
before they do: so one that is missing, has failed or has ended is named, where torch would wait for half an hour.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from safetensors.torch import load as load_bytes  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as save_bytes  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from memory_defense.contracts import Rows

FIRST_WORD, EVERY_WORD = 5.0, 10.0
"""Seconds until a rank says that others have not come to the work yet, and between two such lines."""

SHARE_WORD = 60.0
"""Seconds between two lines of a rank that has done its share and waits for others."""

PULSE, LOST = 5.0, 120.0
"""Seconds between two signs of life of a rank, and without one after which it has ended."""

ANEW = "start all ranks again; an evaluation that writes a record goes on from where it was"
_POLL = (0.002, 0.2)
"""Shortest and longest time between two looks, in seconds."""

_working: ContextVar[Ranks | None] = ContextVar("ranks", default=None)
_log = logging.getLogger("memory_defense")


class RankError(ValueError):
    """Another rank is missing, has failed or has ended, or was given something else."""


class Meeting(Protocol):
    """What ranks meet at: the store of ``torch.distributed``, values by key that every rank sees."""

    @property
    def timeout(self) -> timedelta:
        """How long the group waits for anything."""
        ...

    def set(self, key: str, value: str, /) -> object:
        """Write a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Return a value that is there."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Return whether all of these are there, at once."""
        ...

    def delete_key(self, key: str, /) -> bool:
        """Remove a value."""
        ...


class _Calls:
    """Number of works that this process came to; ranks that come to the same ones count alike."""

    made = 0


class Company:
    """The ranks of one work, who say through the group's store that they are there, or that they failed.

    Parameters
    ----------
    store
        That of ``torch.distributed``.
    rank, world
        This process, and their number.
    what
        The call that all of them must make.
    clock
        Current time in seconds.
    """

    def __init__(
        self,
        store: Meeting,
        rank: int,
        world: int,
        what: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.rank, self.world, self.what, self.clock = store, rank, world, what, clock
        self.place = f"memory_defense/{_Calls.made}"
        _Calls.made += 1
        self.meetings = 0
        self._over = threading.Event()

    def meet(self) -> None:
        """Wait until every rank is here.

        Raises
        ------
        RankError
            If another one has failed, has ended, or did not come within the group's timeout.
        """
        key = f"{self.place}/{self.meetings}"
        first = self.meetings == 0
        came = False
        try:
            self.store.set(f"{key}/{self.rank}", "here")
            self._wait(key, first)
            came = True
        finally:
            if first and not came:  # whoever comes later must not take this rank for one that is there
                self._leave(f"{key}/{self.rank}")
        self.meetings += 1
        if first:
            threading.Thread(target=self._beat, daemon=True, name="memory-defense-pulse").start()

    def _leave(self, key: str) -> None:
        with suppress(Exception):  # a store that is gone tells nobody
            self.store.delete_key(key)
            _Calls.made -= not self._failed()  # a call that failed is one for all ranks

    def fail(self, error: Exception) -> None:
        """Tell the others, who hear of it when they wait for this rank next."""
        with suppress(Exception):  # a store that is gone tells nobody
            self.store.set(f"{self.place}/failed/{self.rank}", f"{type(error).__name__}: {error}")
            self.store.set(f"{self.place}/failed", str(self.rank))

    def end(self) -> None:
        """Give no more signs of life."""
        self._over.set()

    def _wait(self, key: str, first: bool) -> None:
        started, pause = self.clock(), _POLL[0]
        word = started + (FIRST_WORD if first else SHARE_WORD)
        seen: dict[int, tuple[str, float]] = dict.fromkeys(range(self.world), ("", started))
        while missing := [one for one in range(self.world) if not self._there(f"{key}/{one}")]:
            self._raise_if_failed()
            now = self.clock()
            if first and now - started > self._limit():
                waited = f"rank {self.rank} waited {now - started:.0f} s for {_names(missing)}"
                raise RankError(f"{waited}: {self._advice()}")
            if not first:
                self._raise_if_lost(missing, seen, now)
            if now >= word:
                word = now + (EVERY_WORD if first else SHARE_WORD)
                done = f": {self._advice()}" if first else ", having done its own share"
                _log.warning("rank %d waits for %s%s", self.rank, _names(missing), done)
            time.sleep(pause)
            pause = min(pause * 1.5, _POLL[1])

    def _advice(self) -> str:
        return (
            f"all {self.world} ranks must call {self.what}; to evaluate on one alone, give it Options(alone=True)"
        )

    def _limit(self) -> float:
        return self.store.timeout.total_seconds()

    def _there(self, key: str) -> bool:
        try:
            return self.store.check([key])
        except Exception as error:
            raise RankError(
                f"rank {self.rank} has lost the process that the ranks meet at ({_first_line(error)}); {ANEW}"
            ) from error

    def _failed(self) -> bool:
        return self._there(f"{self.place}/failed")

    def _raise_if_failed(self) -> None:
        if self._failed():
            rank = int(self.store.get(f"{self.place}/failed"))
            said = self.store.get(f"{self.place}/failed/{rank}").decode()
            raise RankError(f"rank {rank} failed, so rank {self.rank} stops: {said}")

    def _raise_if_lost(self, missing: Sequence[int], seen: dict[int, tuple[str, float]], now: float) -> None:
        for rank in missing:
            key = f"{self.place}/pulse/{rank}"
            pulse = self.store.get(key).decode() if self._there(key) else ""
            last, since = seen[rank]
            if pulse != last:
                seen[rank] = (pulse, now)
            elif now - since > LOST:
                raise RankError(f"rank {rank} has given no sign of life for {now - since:.0f} s; {ANEW}")

    def _beat(self) -> None:
        number = 0
        with suppress(Exception):  # the store is gone, and so is everybody's work
            while not self._over.is_set():
                number += 1
                self.store.set(f"{self.place}/pulse/{self.rank}", str(number))
                self._over.wait(PULSE)


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, and the number of processes."""

    rank: int = 0
    world: int = 1
    company: Company | None = field(default=None, compare=False, repr=False)
    """What they wait for each other with; None waits inside torch."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def rows(self, images: int) -> Rows:
        """Return the positions of this rank's images: every `world`-th one, beginning at `rank`."""
        return torch.arange(self.rank, images, self.world)

    def add_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks; on the GPU where the backend is nccl."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def total(self, *counts: int) -> list[int]:
        """Return the sums of these counts over all ranks."""
        if self.world == 1:
            return list(counts)
        with self._together():
            values = torch.tensor(counts, dtype=torch.int64, device=_device())
            dist.all_reduce(values)
            return cast("list[int]", values.tolist())

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what every rank handed in, in the order of ranks, on every rank."""
        if self.world == 1:
            return [dict(tensors)]
        payload = _bytes(tensors).to(_device())
        with self._together():
            sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(payload)], dtype=torch.int64, device=_device()))
            received = self.stack(payload, [int(size) for size in sizes])
        return [load_bytes(bytes(one.cpu().numpy())) for one in received]

    def agree(self, fault: str) -> None:
        """Raise ValueError, on every rank, with the first fault that any rank has; "" is none.

        So no rank goes on to wait for one that has refused.
        """
        said = torch.frombuffer(bytearray(json.dumps(fault).encode()), dtype=torch.uint8)
        for one in self.gather({"said": said}):
            first = json.loads(bytes(one["said"].cpu().numpy()))
            if first:
                raise ValueError(first)

    def agree_on(self, terms: Mapping[str, str]) -> None:
        """Raise RankError, the same on every rank, unless all of them were given the same.

        Parameters
        ----------
        terms
            What must be the same by name, in words.
        """
        said = torch.frombuffer(bytearray(json.dumps(dict(terms)).encode()), dtype=torch.uint8)
        everyone = [json.loads(bytes(one["said"].cpu().numpy())) for one in self.gather({"said": said})]
        for name in everyone[0]:
            found = [one.get(name) for one in everyone]
            if other := [rank for rank, one in enumerate(found) if one != found[0]]:
                raise RankError(
                    f"all {self.world} ranks must be given the same, but {name} is {found[0]} on rank 0 and "
                    f"{found[other[0]]} on rank {other[0]}; give every rank the same, or evaluate on each "
                    "alone with Options(alone=True)"
                )

    @contextmanager
    def telling(self) -> Generator[None]:
        """Run a block, and tell the ranks that will wait for this one if it fails."""
        try:
            yield
        except Exception as error:
            if self.company is not None and not isinstance(error, RankError):
                self.company.fail(error)
            raise
        finally:
            if self.company is not None:
                self.company.end()

    @contextmanager
    def _together(self) -> Generator[None]:
        """Run a collective once every rank is there."""
        if self.company is None:
            yield
            return
        self.company.meet()
        try:
            yield
        except RuntimeError as error:
            raise RankError(
                f"rank {self.rank} has lost another rank ({_first_line(error)}), which has ended; {ANEW}"
            ) from error

    def stack(self, tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return every rank's tensor (n, ...) on every rank, where `sizes` holds each rank's n."""
        if self.world == 1:
            return [tensor]
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        received = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(received, padded)
        return [one[:size] for one, size in zip(received, sizes, strict=True)]

    def copy_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite these tensors by the first rank's."""
        if self.world > 1:
            for tensor in tensors:
                sent = tensor.detach().to(_device(), copy=True).contiguous()
                dist.broadcast(sent, 0)
                with torch.no_grad():
                    tensor.copy_(sent)

    def lead(self, make: Callable[[], tuple[dict[str, Tensor], Any]]) -> tuple[dict[str, Tensor], Any]:
        """Run `make` on the first rank alone; return its tensors and its JSON value on every rank.

        Raises ValueError on every rank where `make` did on the first.
        """
        if self.world == 1:
            return make()
        tensors: dict[str, Tensor] = {}
        said: dict[str, Any] = {}
        if self.leads:
            try:
                tensors, value = make()
                said = {"value": value}
            except ValueError as error:
                said = {"error": str(error)}
        text = self._send(torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8))
        said = json.loads(bytes(text.numpy()))
        if "error" in said:
            raise ValueError(said["error"])
        return load_bytes(bytes(self._send(_bytes(tensors)).numpy())), said["value"]

    def _send(self, payload: Tensor) -> Tensor:
        """Return the first rank's bytes (N,) uint8 on every rank."""
        size = torch.tensor([len(payload)], dtype=torch.int64, device=_device())
        dist.broadcast(size, 0)
        sent = payload.to(_device()) if self.leads else torch.empty(int(size), dtype=torch.uint8, device=_device())
        dist.broadcast(sent, 0)
        return sent.cpu()


@contextmanager
def in_company(what: str, *, alone: bool = False) -> Generator[Ranks]:
    """Run a block of work by all ranks, who wait for each other in it.

    A rank that waits for others says so on standard error after some seconds. Inside another block of the kind it
    is that block's work.

    Parameters
    ----------
    what
        The call that all of them must make.
    alone
        Work on this rank without any other.

    Raises
    ------
    RankError
        As `Company.meet` and `Ranks.agree_on` do.
    """
    within = _working.get()
    if within is not None:
        yield within
        return
    ranks = Ranks() if alone else current()
    store = _store() if ranks.world > 1 else None
    if store is not None:
        ranks = Ranks(ranks.rank, ranks.world, Company(store, ranks.rank, ranks.world, what))
    token = _working.set(ranks)
    try:
        with ranks.telling():
            if ranks.company is not None:
                ranks.company.meet()
            yield ranks
    finally:
        _working.reset(token)


def _store() -> Meeting | None:
    """Return the store of the default group; None where torch does not give it."""
    from torch.distributed import distributed_c10d

    find = getattr(distributed_c10d, "_get_default_store", None)
    return None if find is None else cast("Meeting | None", find())


def _names(ranks: Sequence[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def current() -> Ranks:
    """Return this process's place: in the work that it is at, else in ``torch.distributed``, else the only one."""
    if (within := _working.get()) is not None:
        return within
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return Ranks()


def _bytes(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return tensors as bytes (N,) uint8 on the CPU."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return torch.frombuffer(bytearray(save_bytes(plain)), dtype=torch.uint8)


def _device() -> torch.device:
    """Return where the backend wants its tensors."""
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    )
