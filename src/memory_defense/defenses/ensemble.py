"""Several classifiers as one: the mean of their probabilities, the mean of their logits, or their vote.

    probabilities   log of the mean softmax
    logits          mean of the logits
    vote            one vote each, for the member's own answer; a tie goes to the larger mean probability

He et al. 2017 (arXiv:1706.04701): weak defenses together are not a strong one once somebody attacks them together.
So the combination is differentiated as a whole (``end-to-end``), each member is attacked alone and its images are
transferred (``member-0``, ...), and two adaptations fight the combination:

    members     its own answers, with the gradient of the mean of the members' log-probabilities: pulls every member
    weakest     its own answers, with the gradient of the member that comes nearest to leaving the common answer, of
                those that still give it: breaks one member after the other

``silent`` errs besides without the members disagreeing more than the flag's threshold allows.

What members prove is combined in `CertifiedEnsemble`, where something follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.contracts import (
    Adaptation,
    Binding,
    Certificates,
    Certifying,
    Classifier,
    Defense,
    Images,
    Labels,
    Logits,
    PerImage,
)
from memory_defense.defenses.flagging import FlaggingModule
from memory_defense.names import check_name
from memory_defense.wrappers import replace_value

How = Literal["probabilities", "logits", "vote"]
"""How the members' answers become one."""

_WHITE_BOX = "end-to-end"
_TIE_BREAK = 0.5
"""Weight of the mean probability beside the votes: below 1, so that it never outweighs a vote."""


def white_box(member: nn.Module) -> Classifier:
    """Return what gives a member's own logits with a gradient: the ``end-to-end`` it publishes, else itself."""
    if isinstance(member, Defense):
        published = member.surrogates().get(_WHITE_BOX)
        if published is not None and not isinstance(published, Binding):
            return published
    return cast("Classifier", member)


def disagreement(log_probabilities: Tensor) -> PerImage:
    """Return (B,) the Jensen-Shannon divergence of members (N, B, K), in nats: 0 where all say the same.

    Parameters
    ----------
    log_probabilities
        (N, B, K) logarithms of each member's probabilities.
    """
    mean = log_probabilities.logsumexp(0) - math.log(len(log_probabilities))
    return (log_probabilities.exp() * (log_probabilities - mean)).sum(2).mean(0)


def combined(answers: Tensor, how: How) -> Logits:
    """Return one answer (B, K) for the members' logits (N, B, K).

    ``vote`` gives the logarithm of ``(votes + p / 2) / (N + 1/2)``, p the mean probability: its softmax is the
    share of votes, with p to break ties. Its value is that, bit for bit; its gradient is that of ``log p``, since
    votes have none (BPDA, Athalye et al. 2018).
    """
    if how == "logits":
        return answers.mean(0)
    members, _, classes = answers.shape
    mean = answers.log_softmax(2).logsumexp(0) - math.log(members)
    if how == "probabilities":
        return mean
    with torch.no_grad():
        votes = F.one_hot(answers.argmax(2), classes).sum(0).to(mean.dtype)  # (B, K)
        # Where nobody votes for a class, the logarithm of its probability is exact, however small it is.
        log_weight = torch.where(votes > 0, (votes + _TIE_BREAK * mean.exp()).log(), mean + math.log(_TIE_BREAK))
        value = log_weight - math.log(members + _TIE_BREAK)
    return replace_value(value, mean) if mean.requires_grad else value


class Ensemble(FlaggingModule):
    """Several classifiers that answer as one.

    Parameters
    ----------
    members
        At least 2, each images (B, C, H, W) in [0, 1] to logits (B, K) with the same K. They are trained already:
        their parameters are frozen here, and they stay in eval mode when the ensemble is put in train mode. One
        that is a defense is differentiated by its own ``end-to-end``.
    how
        ``probabilities``, ``logits`` or ``vote``; see `combined`.

    Raises
    ------
    ValueError
        For fewer than 2 members or an unknown `how`; when called, for members with different numbers of classes.
    """

    flag_score = "disagreement"

    def __init__(self, members: Sequence[nn.Module], how: How = "probabilities") -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"there are {len(members)} members, but an ensemble has at least 2; give another one")
        check_name(how, get_args(How), "combination")
        self.members = nn.ModuleList(member.eval().requires_grad_(False) for member in members)
        self.how: How = how
        self.transfer_knowledge = frozenset(self._names())

    def _names(self) -> list[str]:
        return [f"member-{number}" for number in range(len(self.members))]

    def answers(self, images: Images) -> Tensor:
        """Return the members' logits (N, B, K), with a gradient where `images` wants one."""
        wanted = torch.is_grad_enabled() and images.requires_grad
        found = [(white_box(member) if wanted else member)(images) for member in self.members]
        classes = {answer.shape[1] for answer in found}
        if len(classes) > 1:
            known = ", ".join(map(str, sorted(classes)))
            raise ValueError(
                f"the members know {known} classes, but their answers are combined class by class; give members "
                "that were trained on the same classes"
            )
        return torch.stack(found)

    def forward(self, images: Images) -> Logits:
        """Return the combined logits (B, K); a gradient to the images is that of ``end-to-end``."""
        return combined(self.answers(images), self.how)

    def surrogates(self) -> Mapping[str, Classifier | Binding]:
        """Return ``end-to-end``, the ensemble itself, and each member alone: ``member-0``, ``member-1``, ..."""
        alone = {name: white_box(member) for name, member in zip(self._names(), self.members, strict=True)}
        return {_WHITE_BOX: self, **alone}

    def adaptive(self) -> Mapping[str, Adaptation]:
        """Return ``members`` and ``weakest``, see above, and ``silent`` once there is a threshold."""
        return {
            "members": Adaptation(_Led(self, _every_member)),
            "weakest": Adaptation(_Led(self, _weakest_member)),
            **super().adaptive(),
        }

    def scores(self, images: Images) -> Mapping[str, PerImage]:
        """Return ``disagreement`` (B,): the Jensen-Shannon divergence of the members' probabilities, in nats."""
        return {"disagreement": disagreement(self.answers(images).log_softmax(2))}

    def train(self, mode: bool = True) -> Self:
        """Switch the ensemble's mode, except that the members stay in eval mode."""
        super().train(mode)
        self.members.eval()
        return self


_Lead = Callable[[Tensor, Labels], Logits]
"""From the members' log-probabilities (N, B, K) and the common answers (B,) to what carries the gradient (B, K)."""


@dataclass(frozen=True, eq=False)
class _Led:
    """The ensemble's own logits with the gradient of what `lead` makes of its members."""

    ensemble: Ensemble
    lead: _Lead

    def __call__(self, images: Images) -> Logits:
        """Return the ensemble's logits (B, K)."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.ensemble(images)
        answers = self.ensemble.answers(images)
        with torch.no_grad():
            value = combined(answers, self.ensemble.how)
        return replace_value(value, self.lead(answers.log_softmax(2), value.argmax(1)).to(value.dtype))


def _every_member(log_probabilities: Tensor, answer: Labels) -> Logits:
    del answer
    return log_probabilities.mean(0)


def _weakest_member(log_probabilities: Tensor, answer: Labels) -> Logits:
    """Return the log-probabilities (B, K) of the member that leads least, of those that still give the answer."""
    seen = log_probabilities.detach()
    own = answer.expand(len(seen), -1)[:, :, None]  # (N, B, 1)
    lead = seen.gather(2, own).squeeze(2) - seen.scatter(2, own, -torch.inf).amax(2)  # (N, B)
    standing = torch.where(lead >= 0, lead, torch.inf)
    nearest = torch.where(standing.isinf().all(0), lead.argmax(0), standing.argmin(0))  # (B,)
    return log_probabilities.gather(0, nearest[None, :, None].expand(1, *seen.shape[1:])).squeeze(0)


class CertifiedEnsemble(Ensemble):
    """An ensemble that proves its answers by what its members prove.

    ``vote``. Within a radius r count the members that prove an answer that far: c(j) for each answer j, and u for
    all other members, who may vote for anything. The common answer is y everywhere within r if

        c(y) > u + c(j)    for every other class j,

    as no class j can then reach y's votes. Members that prove less as r grows move from a c to u, which never
    helps, so the certified radius is the largest of the members' radii at which this holds. It holds wherever a
    strict majority proves y. Members without certificates count among u.

    ``probabilities`` and ``logits``. A member's certificate speaks of its answer, not of how far it leads, so one
    member that is not proven may outweigh all others. If every member is proven to answer y within r, then for each
    of them y has the largest logit and probability in all of that ball, and so it has in their mean: the certified
    radius is the smallest of the radii, where all give the same answer, else 0. (In exact arithmetic: rounding may
    make two equal numbers of two unequal ones. Votes are small whole numbers, which are never rounded.)

    Parameters
    ----------
    members, how
        See `Ensemble`. Of a vote more than half, else every one, are `contracts.Certifying` in one norm.

    Raises
    ------
    ValueError
        As `Ensemble`, and where nothing can be proven: too few members prove something, or in different norms.
    """

    def __init__(self, members: Sequence[nn.Module], how: How = "vote") -> None:
        super().__init__(members, how)
        if why := unproven(members, how):
            raise ValueError(f"{why}; use Ensemble, which claims no certificate, or give members that prove more")
        proving = [member for member in members if isinstance(member, Certifying)]
        self.certified_norm = proving[0].certified_norm
        methods = ", ".join(dict.fromkeys(member.certified_method for member in proving))
        self.certified_method = f"{'vote' if how == 'vote' else 'unanimity'} of {len(members)}: {methods}"

    @torch.no_grad()
    def certificates(self, images: Images) -> Certificates:
        """Return the common answers (B,) and the radii (B,), float64, within which they are proven to stay."""
        answer = self(images).argmax(1)
        labels, radii = zip(*(_certificates(member, images) for member in self.members), strict=True)
        proven = self._largest(torch.stack(radii), torch.stack(labels), answer)
        return Certificates(answer, proven.clamp(min=0))

    def slack(self, images: Images, radius: float) -> PerImage:
        """Return (B,) the slack of the member that the proof for this radius hangs on; below 0 where it fails."""
        with torch.no_grad():
            answer = self(images).argmax(1)
            labels = torch.stack([_labels(member, images) for member in self.members])
        slacks = torch.stack([_slack(member, images, radius) for member in self.members])
        found = self._largest(slacks, labels, answer)
        # Where not even all certificates together prove the answer, the nearest dissenter says how far off it is.
        dissent = torch.where((labels != answer) & (slacks > -torch.inf), slacks, torch.inf).amin(0)
        off = torch.where(dissent.isfinite(), dissent, 0)
        return torch.where(found > -torch.inf, found, off.detach().clamp(max=0) - off - 1)

    def _largest(self, values: Tensor, labels: Tensor, answer: Labels) -> Tensor:
        """Return (B,) the largest value such that the members at or above it prove the answer; -inf if none is.

        Parameters
        ----------
        values
            (N, B) each member's radius or slack; -inf for one that proves nothing.
        labels
            (N, B) each member's answer, negative for none.
        answer
            (B,) the common one.
        """
        votes = labels[:, :, None] == torch.arange(int(labels.max().clamp(min=0)) + 1).to(labels)  # (N, B, K)
        votes = votes & (values > -torch.inf)[:, :, None]
        reached = values.detach()[None] >= values.detach()[:, None]  # (N thresholds, N members, B)
        counts = (votes[None] & reached[..., None]).sum(1)  # (N, B, K)
        kept = answer.clamp(max=counts.shape[2] - 1)
        at = kept.expand(len(values), -1)[:, :, None]  # an answer that no member gives has no votes either way
        own = counts.gather(2, at).squeeze(2) * (kept == answer)
        others, unproven_votes = counts.scatter(2, at, 0).amax(2), len(values) - counts.sum(2)
        holds = own > unproven_votes + others if self.how == "vote" else own == len(values)
        return torch.where(holds, values, -torch.inf).amax(0)


def unproven(members: Sequence[nn.Module], how: How) -> str:
    """Return why certificates of these members prove nothing about their combination; empty if they do."""
    proving = [member for member in members if isinstance(member, Certifying)]
    norms = sorted({member.certified_norm for member in proving})
    least = len(members) // 2 + 1 if how == "vote" else len(members)
    if len(proving) < least:
        wanted = "a vote needs more than half of them" if how == "vote" else f"the mean of {how} needs every one"
        return f"{len(proving)} of {len(members)} members prove their answers, but {wanted}"
    if len(norms) > 1:
        return f"the members' certificates are in the norms {', '.join(norms)}, and have no radius in common"
    return ""


def ensemble_of(members: Sequence[nn.Module], how: How = "probabilities") -> Ensemble:
    """Return the ensemble, with certificates where those of its members prove some: see `CertifiedEnsemble`."""
    return Ensemble(members, how) if unproven(members, how) else CertifiedEnsemble(members, how)


def _labels(member: nn.Module, images: Images) -> Labels:
    return member(images).argmax(1)


def _certificates(member: nn.Module, images: Images) -> tuple[Labels, PerImage]:
    """Return what a member proves; of one that proves nothing, no answer and radii of -inf."""
    if isinstance(member, Certifying):
        found = member.certificates(images)
        return found.labels, found.radii.double()
    nothing = images.new_full((len(images),), -torch.inf, dtype=torch.float64)
    return nothing.new_full(nothing.shape, -1, dtype=torch.int64), nothing


def _slack(member: nn.Module, images: Images, radius: float) -> PerImage:
    if isinstance(member, Certifying):
        return member.slack(images, radius)
    return images.new_full((len(images),), -torch.inf)
