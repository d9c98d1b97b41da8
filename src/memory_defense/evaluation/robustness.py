"""Robust accuracy: every attack with every knowledge, judged by the true defense, worst case image by image.

Table and curve cases attack every image that is classified correctly; then, ball by ball, a cascade attacks what
they left standing. The same command gives the same numbers, however often it was stopped and continued. Where the
record's batch invariance holds (`invariance`), they are also the same whatever the order of the images, the chunks,
the micro-batches and the number of processes; only there may a clock choose the micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from memory_defense.answers import in_short, made_on
from memory_defense.checks import check_labels, nearest
from memory_defense.contracts import (
    Adaptive,
    Binding,
    Classifier,
    Defense,
    Flagging,
    Labels,
    Rows,
    transfers_of,
)
from memory_defense.evaluation.attempt import CaseRunner
from memory_defense.evaluation.cascade import Cascade
from memory_defense.evaluation.cases import Case, Later, cross
from memory_defense.evaluation.fitting import changes, classes_of, fitted
from memory_defense.evaluation.invariance import chosen_micro_batch, largest_pass, measured, weakest
from memory_defense.evaluation.log import Log
from memory_defense.evaluation.metrics import NO_ANSWER, asked, judged, predicted
from memory_defense.evaluation.odd import refuse_without_answers, refuse_without_gradients, sentence
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pictures, Pixels, check_pictures
from memory_defense.evaluation.record import BatchInvariance
from memory_defense.evaluation.replay import EARLIER
from memory_defense.evaluation.results import Evaluation, Outcome, Reserve, cascade_record, outcome
from memory_defense.evaluation.sizes import located
from memory_defense.evaluation.state import Broken, State
from memory_defense.evaluation.store import (
    Store,
    fingerprint,
    of_other_company,
    of_rank,
    only_writer,
    take_over,
    to_tensors,
)
from memory_defense.evaluation.watch import Chunks, Watch, described
from memory_defense.foreign import MemoryShortError, out_of_memory, undisturbed
from memory_defense.noticed import Noticed, noticing
from memory_defense.passes import (
    GRANULE,
    bfloat16_gradients,
    fixed_pass,
    granules_of,
    micro_batches_of,
    pass_limit,
)
from memory_defense.progress import between, stage
from memory_defense.randomness import DRAWS, seeded
from memory_defense.ranks import Ranks, in_company
from memory_defense.wrappers import apart, exact_float32, frozen

_FEWER = 8
"""Where a chunk does not fit into memory whatever the passes, it is cut into so many."""

_BEGUN = "added before the evaluation was stopped"
"""Why cases in reserve follow that were wanted when the evaluation was stopped, and would not be now."""

__all__ = ["Broken", "Case", "Evaluation", "Outcome", "Reserve", "cross", "evaluate"]


def evaluate(
    defense: Defense,
    images: Pictures,
    labels: Labels,
    cases: Sequence[Case],
    options: Options | None = None,
    *,
    reserve: Reserve | None = None,
    state_file: Path | None = None,
    keep_state: bool = False,
) -> Evaluation:
    """Attack the correctly classified images with every case and let the true defense judge what comes back.

    Under ``torchrun`` every rank attacks its share, and every rank returns the whole; `Options.alone` evaluates on
    this rank without the others.

    Parameters
    ----------
    defense
        Judged in eval mode; its mode and gradients are as before afterwards.
    images, labels
        (N, C, H, W) in [0, 1] and (N,), the same on every rank. They are not copied; what lies there as grey levels
        (`pixels.Pixels`) becomes floats a batch at a time.
    cases
        An image broken inside a smaller ball of the same norm counts as broken in every larger one. The
        knowledge `replay.EARLIER` is for `replay.Replay`.
    options
        Seed, batch size and so on; device, names and `start_from` are for `memory_defense.evaluate` to read.
    reserve
        Cases of cascades that follow if what the others found asks for them; otherwise nobody hears of them.
    state_file
        File to save to and to go on from; it is removed once the evaluation is whole. None keeps nothing.
    keep_state
        Leave that file to whoever writes the record and removes it then (`store.discard`): nothing is lost between.

    Raises
    ------
    ValueError
        For bad images or labels, a knowledge the defense does not publish, a model with one class, an attack that
        does not fit the norm or the number of classes (`fitting.fitted`), returns NaN or leaves its ball, or a file
        to go on from that belongs to another evaluation.
    """
    chosen = options or Options()
    company = in_company("memory_defense.evaluate", alone=chosen.alone)
    with company as ranks, undisturbed(), apart(defense), exact_float32():
        plan, saved = (cases, reserve or Reserve()), (state_file, keep_state)
        return _evaluate(defense, images, labels, plan, chosen, ranks, saved)


def _evaluate(
    defense: Defense,
    images: Pictures,
    labels: Labels,
    plan: tuple[Sequence[Case], Reserve],
    chosen: Options,
    ranks: Ranks,
    saved: tuple[Path | None, bool],
) -> Evaluation:
    (cases, reserve), (state_file, keep_state) = plan, saved
    check_pictures(images)
    images = Pixels.of(images)
    check_labels(labels, len(images))
    surrogates = published(defense)
    for case in (*cases, *reserve.cases):
        if case.knowledge not in surrogates:
            raise nearest(case.knowledge, surrogates, "knowledge")
    numbers = chosen.numbers(len(images))
    if ranks.world > 1:
        from memory_defense.evaluation.agreement import terms_of  # only several processes need it

        ranks.agree_on(terms_of(defense, images, labels, numbers, cases, chosen))
    mine, most = ranks.rows(len(images)), largest_pass(len(images), images.device, chosen.batch_size, cases)
    with frozen(defense), only_writer(state_file, ranks), bfloat16_gradients(chosen.bfloat16):
        classes = classes_of(defense, images, seed=chosen.seed)
        cases, spare = fitted(cases, classes), fitted(reserve.cases, classes)
        if chosen.progress:
            for line in changes(cases):
                chosen.progress.note(line)
        with stage(chosen.progress, "measuring whether an answer depends on its batch"):
            mine_agrees = measured(defense, surrogates, cases, images, numbers, largest=most, seed=chosen.seed)
            found = weakest(mine_agrees, ranks)
        run = _Run(defense, surrogates, (*cases, *spare), chosen, ranks, found, state_file, keep_state)
        with granules_of(found.granule):
            passes = len(mine) * (1 + chosen.repetitions.count)
            asking = stage(chosen.progress, "asking the model about the clean images", passes)
            own, ids = images.take(mine), numbers[mine]
            with asking, located(defense, own, ids, "judging clean images"):
                state = run.begin(own, labels[mine], ids)
            with stage(chosen.progress, "timing passes of several sizes"):
                size = chosen.batch_size or min(chosen_micro_batch(defense, state.images, found), most)
                size = min(size, most, pass_limit() or size)
            if chosen.batch_size is None and fixed_pass() is None:
                run.say(f"images in one pass: at most {size}, {_why(found)}")
            with micro_batches_of(size):
                return run.through(
                    state, lambda: State.blank(images, labels, numbers, run.cases), len(cases), reserve.wanted
                )


def _why(found: BatchInvariance) -> str:
    """Return where the size of a pass comes from, if nobody gave it."""
    if found.granule is not None:
        return "the fastest number in a short timing; it changes no answer of this model"
    drawn = "the model draws at random" if found.randomised else "an answer of this model may depend on its batch"
    return f"a fixed number: {drawn}, so another number, order or number of processes may change last digits"


def published(defense: Defense) -> dict[str, Classifier | Binding]:
    """Return everything that a case's knowledge may name: surrogates, adaptations, and `replay.EARLIER`."""
    found: dict[str, Classifier | Binding] = {**defense.surrogates(), EARLIER: defense}
    if isinstance(defense, Adaptive):
        found |= {name: one.surrogate for name, one in defense.adaptive().items()}
    return found


@dataclass
class _Run:
    """One evaluation by one process."""

    defense: Defense
    surrogates: dict[str, Classifier | Binding]
    cases: tuple[Case, ...]
    options: Options
    ranks: Ranks
    batch_invariance: BatchInvariance
    state_file: Path | None
    keep_state: bool
    store: Store | None = None
    logs: list[Log] = field(default_factory=list[Log])
    """Of all ranks, where there are several."""
    said: set[str] = field(default_factory=set[str])
    short: bool = False
    """Whether the clean images were judged in such passes."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.options.progress, self.cases)
        self.chunks = Chunks(self.options.chunk, self.batch_invariance.granule)

    def begin(self, images: Pixels, labels: Labels, ids: Rows) -> State:
        """Judge the clean images, and take over the state of a stopped evaluation if there is one."""
        state = State.blank(images, labels, ids, self.cases)
        noticed, began = Noticed(), time.perf_counter()
        if len(images):
            with seeded(self.options.seed, "clean judge"), noticing() as noticed:
                logits = asked(self.defense, images)
                state.predictions, state.answers = predicted(logits), in_short(logits)
                wrong, lead = judged(self.defense, images, labels, self.options.repetitions)
            state.predictions[sorted(noticed.no_answer)] = NO_ANSWER
            state.start(~wrong, lead)
            passes = len(images) * (1 + self.options.repetitions.count)
            self.chunks.took(passes, 0, time.perf_counter() - began)
            if noticed.smallest is not None:
                self._say(f"judging: out of memory, going on with {noticed.smallest} images in a pass")
            silent = cast("list[int]", state.ids[state.predictions == NO_ANSWER].tolist())
            self._say(sentence("clean", silent) if silent else "")
        counts = (
            int((state.predictions == NO_ANSWER).sum()),
            len(images),
            int(self._below_granule(noticed.smallest)),
        )
        missing, everyone, short = self.ranks.total(*counts)
        refuse_without_answers(missing, everyone)
        self.short = short > 0
        path = None if self.state_file is None else of_rank(self.state_file, self.ranks)
        found = self.batch_invariance
        self.store = Store(
            path,
            "" if path is None else self._fingerprint(state),
            made_on(images.device),
            agreeing=found.granule is not None,
            randomised=found.randomised,
        )
        said = fault = ""
        try:
            if kept := of_other_company(self.state_file, self.ranks):
                raise ValueError(
                    f"{kept[0]} was left by an evaluation in another number of processes; go on in as many, or "
                    "remove it to start over"
                )
            said = self.store.resume(state, lambda: self._asked_again(images))
        except ValueError as error:
            fault = str(error)
        self.ranks.agree(fault)
        if self.ranks.world > 1:
            self._open_logs(state)
        if said:
            self.say(said)
        return state

    def _open_logs(self, state: State) -> None:
        """Have every rank's broken images where all of them can read them, and know so before the work begins."""
        from memory_defense.evaluation.shared_logs import beside, nameless  # only several processes need it

        assert self.store is not None
        if self.state_file is None:
            self.store.log, self.logs = nameless(self.ranks)
            state.logs[:] = [self.store.log]
        else:
            self.store.keep(state)
            assert self.store.log is not None
            self.logs = beside(self.state_file, self.store.log, self.ranks)

    def say(self, text: str) -> None:
        """Say one line."""
        if self.options.progress:
            self.options.progress.note(text)

    def _asked_again(self, images: Pixels) -> Tensor:
        with seeded(self.options.seed, "clean judge"):
            return in_short(asked(self.defense, images))

    def merge(self, mine: State, whole: State) -> State:
        """Return `whole` with what every rank found; broken images stay where each rank wrote them."""
        assert self.store is not None
        if self.state_file is not None:
            from memory_defense.evaluation.shared_logs import beside  # only several processes need it

            assert self.store.log is not None
            self.store.force(at_once=True)
            self.logs = beside(self.state_file, self.store.log, self.ranks)  # anew, to see all that was written
        whole.logs[:] = self.logs
        for rank, tensors in enumerate(self.ranks.gather(to_tensors(mine))):
            take_over(whole, tensors, Ranks(rank, self.ranks.world).rows(len(whole.labels)))
        return whole

    def _fingerprint(self, state: State) -> str:
        chosen, defense = self.options, self.defense
        flag = (defense.flag_score, defense.flag_threshold) if isinstance(defense, Flagging) else ("", None)
        terms = f"{chosen.seed} {chosen.repetitions!r} {chosen.bfloat16} {self.ranks.world} {flag} {DRAWS}"
        if self.batch_invariance.granule != GRANULE:  # otherwise as before other granules were known
            terms += f" {self.batch_invariance!r}"
        return fingerprint(self.defense, state.images, state.labels, state.ids, self.cases, terms)

    def through(
        self, state: State, blank: Callable[[], State], count: int, wanted: Callable[[Evaluation], str]
    ) -> Evaluation:
        """Run the first `count` cases, and the others if they are wanted; return what was found.

        Parameters
        ----------
        state
            Of the images of this process.
        blank
            Gives the state of all images, with nothing in it.
        count
            Cases that are not in reserve.
        wanted
            See `Reserve`; the first process is asked.
        """
        orders, why = self.attack(state, range(count)), ""
        whole = self._whole(state, blank)
        found, begun = self.finish(whole, orders, count), any(bool(one.done.any()) for one in whole.cases[count:])
        if begun or (count < len(self.cases) and any(bool(one.robust.any()) for one in found.broken)):
            with self._kept(state):
                _, why = self.ranks.lead(lambda: ({}, wanted(found)))
            why = why or _BEGUN * begun
        if why:
            made = ((case, case.attack) for case in self.cases[count:])
            added = (
                replace(case, attack=one.make() if isinstance(one, Later) else one, note=why) for case, one in made
            )
            self.watch.cases = self.cases = (*self.cases[:count], *added)
            for line in changes(self.cases[count:]):
                self.say(line)
            for ball, order in self.attack(state, range(count, len(self.cases))).items():
                orders[ball] = (*orders.get(ball, ()), *order)
            found = self.finish(self._whole(state, blank), orders, len(self.cases))
        if self.store is not None and not self.keep_state:
            self.store.clear()
        return found

    def _whole(self, state: State, blank: Callable[[], State]) -> State:
        return state if self.ranks.world == 1 else self.merge(state, blank())

    def attack(self, state: State, positions: Sequence[int]) -> dict[tuple[str, float], tuple[int, ...]]:
        """Run the cases at these positions; return the order that each cascade took, by its ball."""
        if self.options.progress:
            self.options.progress.begin("attacking", len(positions))
        self.watch.only(positions)
        cascades: dict[tuple[str, float], list[int]] = {}  # by ball, in the order given
        for position in positions:
            case = self.cases[position]
            if case.purpose == "cascade":
                cascades.setdefault((case.ball.norm, case.ball.epsilon), []).append(position)
                continue
            one = state.cases[position]
            self._attack(state, position, (state.correct & ~one.done).nonzero().squeeze(1))
            robust = 100 * float((state.correct & ~one.fooled).float().mean())
            self.watch.end(position)
            if one.note:
                self.say(f"{described(case)}: {one.note}")
            self._advance(state, 1, f"{case.name}, {case.knowledge}: {robust:.1f} %")
        orders: dict[tuple[str, float], tuple[int, ...]] = {}
        for ball, members in sorted(cascades.items()):
            cascade = Cascade(
                state,
                self.cases,
                members,
                lambda position, rows: self._attack(state, position, rows),
                self.ranks,
                self.options.seed,
                lambda position: self._ended(state, position),
            )
            orders[ball] = cascade.run()
        between(self.options.progress)
        if self.store is not None and self.keep_state:
            self.store.keep(state)
        return orders

    def _attack(self, state: State, position: int, rows: Rows) -> None:
        """Try a case on these rows, chunk by chunk."""
        runner, done = CaseRunner(defense=self.defense, options=self.options), 0
        while done < len(rows):
            part = rows[done : done + self.chunks.size(self.cases[position], state.images)]
            with self._kept(state), self.watch.part(state, position, rows, done, len(part)):
                self._attempt(state, position, part, runner)
            done += len(part)
            self._advance(state, 0)
        if self.ranks.world == 1:
            refuse_without_gradients(state, self.cases, whole=False)

    def _attempt(self, state: State, position: int, rows: Rows, runner: CaseRunner) -> None:
        """Try a case on these rows, in fewer at a time where even small passes do not fit beside all of them."""
        case, images = self.cases[position], state.images[rows]
        try:
            with located(self.defense, images, state.ids[rows], f"under {case.name}"):
                attempt = runner.run(
                    case, self.surrogates[case.knowledge], images, state.labels[rows], state.ids[rows]
                )
        except Exception as error:
            if not (out_of_memory(error) or isinstance(error, MemoryShortError)) or len(rows) == 1:
                raise
        else:
            assert self.store is not None
            self.chunks.took(attempt.passes.forward, attempt.passes.backward, attempt.seconds)
            self.store.add(state, position, rows, attempt)
            self._say(sentence("attacked", attempt.no_answer) if attempt.no_answer else "")
            self._say(sentence("gradient", attempt.no_gradient) if attempt.no_gradient else "")
            return
        for part in torch.split(rows, max(1, len(rows) // _FEWER)):
            self._attempt(state, position, part, runner)

    def _below_granule(self, smallest: int | None) -> bool:
        """Return whether memory led to smaller passes than the ones that were compared."""
        return smallest is not None and smallest < (self.batch_invariance.granule or 1)

    def _say(self, text: str) -> None:
        """Show a line, once."""
        if text and text not in self.said and self.options.progress:
            self.said.add(text)
            self.options.progress.note(text)

    def _ended(self, state: State, position: int) -> None:
        """Count a case of a cascade that will not be tried on any image any more."""
        case = self.cases[position]
        self.watch.end(position)
        robust = 100 * float(state.inside(case.ball).robust.float().mean())
        if state.cases[position].note:
            self.say(f"{described(case)}: {state.cases[position].note}")
        self._advance(state, 1, f"{case.name}, {case.knowledge}: cascade, {robust:.1f} %")

    @contextmanager
    def _kept(self, state: State) -> Generator[None]:
        """Have the log on the disk where the block is interrupted or fails, and say where it is."""
        try:
            yield
        except (Exception, KeyboardInterrupt):
            if self.store is not None and self.store.path is not None:
                self.store.keep(state)
                self.say(f"stopped; what is known of every image is in {self.store.path}")
            raise

    def _advance(self, state: State, steps: int, text: str = "") -> None:
        """Count steps; where that stops the evaluation, save it first."""
        if self.options.progress is not None:
            with self._kept(state):
                self.options.progress.advance(steps, text)

    def finish(self, state: State, orders: Mapping[tuple[str, float], tuple[int, ...]], count: int) -> Evaluation:
        """Return what the first `count` cases found."""
        cases = self.cases[:count]
        state = replace(state, cases=state.cases[:count], balls=state.balls[:count])
        refuse_without_gradients(state, cases, whole=True)
        transfers = transfers_of(self.defense)
        outcomes = [
            outcome(state, case, one, case.attack.for_transfer() if case.knowledge in transfers else case.attack)
            for case, one in zip(cases, state.cases, strict=True)
            if case.purpose != "cascade"
        ]
        cascades = tuple(cascade_record(state, cases, order) for order in orders.values())
        promised = self.batch_invariance
        if self.short or any(self._below_granule(one.smallest) for one in state.cases):
            promised = promised.model_copy(update={"granule": None})
        flags = isinstance(self.defense, Flagging) and self.defense.flag_threshold is not None
        return Evaluation(
            state,
            cases,
            tuple(outcomes),
            cascades,
            self.options.repetitions,
            flags,
            promised,
            self.options.bfloat16,
        )
