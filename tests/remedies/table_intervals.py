"""Messages of certificates by intervals, and of training for them."""

from remedies.cases import Case

ROOMS = tuple(
    f"certificates/{name}.py" for name in ("activations", "affine", "boxes", "intervals", "reading", "steps")
)

_NET = "layers = [nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)]"


def _refused(says: str, wrong: str, right: str, place: int = 0) -> Case:
    """Return the case of a layer that is refused, and of the one that is advised in its place."""
    asked = "logit_bounds(nn.Sequential(*layers).eval(), images, 0.01)"
    return Case(
        "certificates/reading.py",
        says,
        f"layers[{place}] = {wrong}\n{asked}",
        f"layers[{place}] = {right}\n{asked}",
        given=f"from memory_defense.certificates.intervals import logit_bounds\n{_NET}",
        within="…, for which there are no interval bounds; …",
    )


CASES = (
    Case(
        "certificates/intervals.py",
        "but bisection ends at a distance above 0; give one such as 0.001",
        "certified_radii(net, images, labels, largest=0.1, tolerance=0)",
        r"certified_radii(net, images, labels, largest=0.1, tolerance=«such as ([\d.]+)»)",
    ),
    Case(
        "certificates/intervals.py",
        "leave it out or raise largest",
        "certified_radii(net, images, labels, largest=0.1, at=(0.05, 0.2))",
        r"""
        certified_radii(net, images, labels, largest=0.1, at=(0.05,))
        certified_radii(net, images, labels, «raise (largest)»=0.2, at=(0.05, 0.2))
        """,
    ),
    Case(
        "certificates/intervals.py",
        "end it with nn.Flatten() and nn.Linear",
        "logit_bounds(nn.Conv2d(1, 2, 3), images, 0.1)",
        """
        ended = nn.Sequential(nn.Conv2d(1, 2, 3), «with (nn.Flatten..)», «and (nn.Linear)»(8, 4))
        margin_bounds(ended, images, labels, 0.1)
        """,
    ),
    Case(
        "certificates/intervals.py",
        "let layers(), branches() and affine() say what its forward computes",
        "logit_bounds(Doubled(), images, 0.1)",
        """
        Doubled.forward = lambda self, images: self.inner(images)
        logit_bounds(Doubled(), images, 0.1)
        """,
        given="""
        class Doubled(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = net

            def forward(self, images):
                return self.inner(images) * 2

            def layers(self):
                return (self.inner,)
        """,
    ),
    Case(
        "certificates/reading.py",
        "remove them before it is certified",
        "steps_of(net)",
        "hook.remove()\nsteps_of(net)",
        given="hook = net[1].register_forward_hook(lambda module, given, made: made)",
    ),
    Case(
        "certificates/reading.py",
        "let its class publish what it computes as layers(), branches() or affine()",
        "steps_of(nn.Sequential(Twice(), nn.Flatten(), nn.SiLU()))",
        """
        import memory_defense.contracts
        from memory_defense.certificates.published import Branching, ChannelAffine, Layered
        Twice.affine = lambda self: (torch.tensor([2.0]), torch.tensor([0.0]))
        steps_of(nn.Sequential(Twice(), nn.Flatten(), nn.LeakyReLU()))
        """,
        given="""
        class Twice(nn.Module):
            def forward(self, images):
                return images * 2
        """,
    ),
    Case(
        "certificates/reading.py",
        "convert it with model.float()",
        "check_precision(model)",
        "check_precision(«with (model.float..)»)",
        given="model = net.double()",
    ),
    _refused(
        "use padding_mode='zeros'",
        "nn.Conv2d(1, 2, 3, padding=1, padding_mode='reflect')",
        "nn.Conv2d(1, 2, 3, padding=1, «use (padding_mode='zeros')»)",
    ),
    _refused("use a negative_slope in [0, 1]", "nn.LeakyReLU(-1)", r"nn.LeakyReLU(«in \[\d, (\d)\]»)", place=1),
    _refused(
        "use a positive divisor_override",
        "nn.AvgPool2d(1, divisor_override=-2)",
        "nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(1, «positive (divisor_override)»=2))",
    ),
    _refused(
        "use return_indices=False",
        "nn.MaxPool2d(1, return_indices=True)",
        "nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(1, «use (return_indices=False)»))",
    ),
    _refused(
        "use track_running_stats=True, and model.eval()",
        "nn.BatchNorm2d(1, track_running_stats=False)",
        "nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, «use (track_running_stats=True)»))",
    ),
    _refused("use start_dim=1, behind the batch", "nn.Flatten(0)", "nn.Flatten(«use (start_dim=1)»)", place=2),
    Case(
        "certificates/reading.py",
        "use p=0, or model.eval()",
        "IntervalTraining()(model.train(), batch)",
        r"""
        IntervalTraining()(«or (model.eval..)», batch)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(«use (p=0)»), nn.Linear(16, 4))
        IntervalTraining()(model.train(), batch)
        """,
        given="""
        from memory_defense.contracts import Batch
        from memory_defense.randomness import ImageDraws
        from memory_defense.training.intervals import IntervalTraining
        model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 4))
        batch = Batch(images, labels, torch.arange(8), ImageDraws.of(0, "epoch 0", 8), 1.0)
        """,
        within="…, for which there are no interval bounds; …",
    ),
    Case(
        "training/intervals.py",
        "give numbers with 0 <= start <= warm_up <= 1",
        "IntervalTraining(start=0.5, warm_up=0.4)",
        """
        start, warm_up = 0.1, 0.4
        assert «numbers with (.*)$»
        IntervalTraining(start=start, warm_up=warm_up)
        """,
    ),
    Case(
        "training/intervals.py",
        "but the clean loss's share of both must be in [0, 1]",
        "IntervalTraining(clean_weight=25)",
        r"IntervalTraining(clean_weight=«in \[\d, (\d)\]»)",
    ),
    Case(
        "training/intervals.py",
        "but its weight must be at least 0",
        "IntervalTraining(regularisation=-0.5)",
        r"IntervalTraining(regularisation=«at least (\d)»)",
    ),
    Case(
        "training/optimizer.py",
        "leave it out to clip nothing",
        "OptimizerConfig(clip=0)",
        "OptimizerConfig()\nOptimizerConfig(clip=10.0)",
    ),
    Case(
        "training/optimizer.py",
        "1 changes nothing",
        "OptimizerConfig(vector_rate=0)",
        "OptimizerConfig(vector_rate=1)",
    ),
    Case(
        "training/validate.py",
        "give Linf(epsilon)",
        "certified_accuracy(data, threat.L2(0.5))",
        "epsilon = 0.1\ncertified_accuracy(data, threat.«give (.*)$»)(net)",
        given="from memory_defense.data.images import ImageSet\ndata = ImageSet(images, labels, torch.arange(8))",
    ),
)
