"""Messages of training."""

from remedies.cases import Case

ROOMS = ("training",)

DATA = """
from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet
from memory_defense.training.adversarial import Benign, WarmStart
from memory_defense.training.fit import FitConfig, fit
data = ImageSet(images, labels, torch.arange(8))
state = Path("state.safetensors")
"""
TWO_RANKS = """
from memory_defense.ranks import Ranks

class Momentum(nn.Module):
    def __call__(self, model, batch):
        return None

    def state(self):
        return {}

    def restore(self, state):
        pass

class OwnNorm(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input) * 2

class Norm(nn.BatchNorm2d):
    pass
"""

CASES = (
    Case(
        "training/adversarial.py",
        "but a share of training must be in [0, 1]",
        "SingleStep(warm_up=25)",
        "SingleStep(warm_up=0.25)",
    ),
    Case(
        "training/adversarial.py",
        "but perturbations are remembered pixel by pixel: use 'linf'",
        "WarmStart(norm='l2')",
        r"WarmStart(norm=«use ('\w+')»)",
    ),
    Case(
        "training/checkpoint.py",
        "give the file that was saved of this very model, or build the model that the file was saved of",
        "load_weights(Path('three.safetensors'), nn.Linear(16, 4))",
        """
        load_weights(Path("four.safetensors"), nn.Linear(16, 4))
        load_weights(Path("three.safetensors"), nn.Linear(16, 3))
        """,
        given="""
        save_weights(Path("three.safetensors"), nn.Linear(16, 3))
        save_weights(Path("four.safetensors"), nn.Linear(16, 4))
        """,
    ),
    Case(
        "training/checkpoint.py",
        "delete it to start this stage again",
        "fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=0, state=state)",
        """
        Path("«(.*) is damaged»").unlink()
        fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=0, state=state)
        """,
        given=f"""{DATA}
fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=0, state=state)
tensors, header = read_tensors(state)
write_tensors(state, {{name: one for name, one in tensors.items() if name != "best/1.bias"}}, header)
""",
    ),
    Case(
        "training/fit.py",
        "set them to 0 (crops and flips move both alike), or leave the counterparts out",
        "fit(net, Benign(), pairs, FitConfig(epochs=1, batch_size=4, augmentation=rough), seed=0)",
        r"""
        from dataclasses import replace
        for name in "«augmentation's (.*) would»".split(" and "):
            rough = replace(rough, **{name: «to (0) \(»})
        fit(net, Benign(), pairs, FitConfig(epochs=1, batch_size=4, augmentation=rough), seed=0)
        noisy = Augmentation(noise_std=0.1, erase_probability=0.2)
        fit(net, Benign(), data, FitConfig(epochs=1, batch_size=4, augmentation=noisy), seed=0)
        """,
        given=f"""{DATA}
pairs = ImageSet(images, labels, torch.arange(8), clean=images)
rough = Augmentation(noise_std=0.1, erase_probability=0.2)
""",
    ),
    Case(
        "training/config.py",
        "images; give at most that",
        "FitConfig(epochs=1, batch_size=4, accumulate=5)",
        r"FitConfig(epochs=1, batch_size=4, accumulate=«a batch has (\d)»)",
    ),
    Case(
        "training/fit.py",
        "processes share each batch already; leave it out",
        "fit(net, Benign(), data, FitConfig(epochs=1, batch_size=4, accumulate=2), seed=0)",
        """
        patch.setattr("memory_defense.training.fit.current", lambda: Ranks(0, 1))
        fit(net, Benign(), data, FitConfig(epochs=1, batch_size=4), seed=0)
        """,
        given=f"""{DATA}
from memory_defense.ranks import Ranks
patch.setattr("memory_defense.training.fit.current", lambda: Ranks(0, 2))
""",
    ),
    Case(
        "training/partial.py",
        "but there are …; ask for fewer",
        "chosen(net, last=2)",
        r"chosen(net, last=«there are (\d)»)",
    ),
    Case(
        "training/partial.py",
        "the last of them is …, so write '…*', say",
        "chosen(net, only=['head.*'])",
        r"chosen(net, only=[«write ('.*?')»])",
    ),
    Case(
        "training/partial.py",
        "and those of the names have none in common; leave one of both out",
        "train_only(two, chosen(two, last=1, only=['0.*']))",
        """
        for asked in ({"last": 1}, {"only": ["0.*"]}):
            two.requires_grad_()
            train_only(two, chosen(two, **asked))
        """,
        given="two = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))",
    ),
    Case(
        "training/config.py",
        "expected True, False or 'auto'",
        "FitConfig(epochs=1, compile='on')",
        r"FitConfig(epochs=1, compile=«or ('\w+')»)",
    ),
    Case(
        "training/config.py",
        "but the decay must be in [0, 1)",
        "FitConfig(epochs=1, averaging=1)",
        "FitConfig(epochs=1, averaging=0.99)",
    ),
    Case(
        "training/fit.py",
        "train on at least … (--train-images …, into a new directory), or lower batch_size to …",
        "memdef('memdef train fashion-mnist/tiny --out small --train-images 5')",
        r"""
        memdef("memdef train fashion-mnist/tiny --out new «\((--train-images \d+)»")
        few = data.first(5)
        fit(net, Benign(), few, FitConfig(epochs=1, «lower (batch_size)»=«batch_size to (\d)»), seed=0)
        """,
        given=DATA,
    ),
    Case(
        "training/fit.py",
        "resume with those, or delete it to start again",
        "fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=1, state=state)",
        """
        fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=0, state=state)
        state.unlink()
        fit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=1, state=state)
        """,
        given=f"{DATA}\nfit(net, Benign(), data, FitConfig(epochs=2, batch_size=4), seed=0, state=state)",
    ),
    Case(
        "training/optimizer.py",
        "but it must be positive",
        "OptimizerConfig(learning_rate=0)",
        "OptimizerConfig(learning_rate=1e-3)",
    ),
    Case(
        "training/synchronised.py",
        "build it on the forward of nn.BatchNorm2d, or train in one process",
        """
        with synchronised(OwnNorm(3), Ranks(0, 2)):
            pass
        """,
        """
        with synchronised(Norm(3), Ranks(0, 2)):
            pass
        with synchronised(OwnNorm(3), Ranks()):
            pass
        """,
        given=TWO_RANKS,
    ),
    Case(
        "training/team.py",
        "has no recall(ids) and remember(ids, rows) by which processes could tell each other; "
        "train it in one process",
        "Team(Ranks(0, 2), 8, Momentum())",
        """
        Team(Ranks(), 8, Momentum())
        Momentum.recall = lambda self, ids: {}
        Momentum.remember = lambda self, ids, rows: None
        Team(Ranks(0, 2), 8, Momentum())
        """,
        given=TWO_RANKS,
    ),
    Case(
        "training/team.py",
        "use at most … processes, or a larger batch_size",
        "Team(Ranks(0, 8), 4, objective)",
        r"""
        Team(Ranks(0, «at most (\d) processes»), 4, objective)
        Team(Ranks(0, 8), 8, objective)
        """,
        given="from memory_defense.ranks import Ranks\nobjective = None",
    ),
    Case(
        "training/trades.py",
        "but the divergence's weight must be at least 0",
        "Trades(beta=-1)",
        r"Trades(beta=«at least (\d)»)",
    ),
    Case(
        "training/trades.py",
        "but the inner maximisation needs at least 1",
        "Trades(steps=0)",
        r"Trades(steps=«at least (\d)»)",
    ),
    Case(
        "training/trades.py",
        "but a step's length in radii must be above 0",
        "Trades(step=0)",
        "Trades(step=0.25)",
    ),
    Case(
        "training/weight_perturbation.py",
        "but the perturbation's relative size must be at least 0",
        "WeightPerturbation(objective=Benign(), gamma=-0.01)",
        "WeightPerturbation(objective=Benign(), gamma=0.01)",
        given="from memory_defense.training.adversarial import Benign",
    ),
    Case(
        "training/weight_perturbation.py",
        "but a share of training must be in [0, 1]",
        "WeightPerturbation(objective=Benign(), warm_up=10)",
        "WeightPerturbation(objective=Benign(), warm_up=0.1)",
        given="from memory_defense.training.adversarial import Benign",
    ),
)
