"""Messages about attacks and datasets that a caller brings along."""

from remedies.cases import Case

ROOMS = ("attacks/own.py", "workflows/loaders.py")

GIVEN = """
from torch.utils.data import DataLoader, Dataset, TensorDataset
from memory_defense.attacks import Ddn, Pgd

def mine(model, images, labels, ball, draws):
    return images

def judged(attacks, norm="linf"):
    return evaluate(net, images, labels, epsilon=0.1, norm=norm, attacks=attacks)
"""

CASES = (
    Case(
        "attacks/own.py",
        "attacks holds the class …, expected an attack; make one: …()",
        "judged([Pgd])",
        r"judged([«make one: (.*)»])",
        given=GIVEN,
    ),
    Case(
        "attacks/own.py",
        "attacks holds …, expected a name such as 'fast', an attack such as Pgd(steps=100), or a function of …",
        "judged(['fgsm', 3])",
        r"""
        judged(«a name such as (.*), an attack»)
        judged([«an attack such as (.*), or»])
        exec('def own(«a function of (.*)»): return images')
        judged([own])
        """,
        given=GIVEN,
    ),
    Case(
        "attacks/own.py",
        "an attack is named …, expected a text, such as {'mine': mine}",
        "judged({3: mine})",
        r"judged(«such as (.*)»)",
        given=GIVEN,
    ),
    Case(
        "attacks/own.py",
        "… is not an attack (…): it is called with …, in this order, and returns the images that it made; see "
        "contracts.Attack",
        "judged([lambda model, images, labels: images])",
        r"judged([lambda «called with (.*), in this»: images])",
        given=GIVEN,
    ),
    Case(
        "attacks/own.py",
        "… returned …, expected a tensor of floats …: the images that it made",
        "judged([lambda model, images, labels, ball, draws: images.numpy()])",
        r"assert '«expected (a tensor)»'; judged([lambda model, images, labels, ball, draws: images])",
        given=GIVEN,
    ),
    Case(
        "attacks/own.py",
        "… does not work in … balls, and no other is evaluated here; leave it out",
        "judged(['fgsm', Ddn()])",
        r"assert '«(leave it out)»'; judged(['fgsm']); judged(['fgsm', Ddn()], norm='l2')",
        given=GIVEN,
    ),
    Case(
        "workflows/loaders.py",
        "labels are missing, expected one for each image, (N,): images are …, and only a DataLoader or a Dataset "
        "has its own labels; give them beside the images",
        "memory_defense.evaluate(net, images, epsilon=0.1)",
        r"""
        assert '«(give them beside the images)»'; evaluate(net, images, labels, epsilon=0.1)
        memory_defense.evaluate(net, «only a (DataLoader)»(TensorDataset(images, labels), 3), epsilon=0.1)
        """,
        given=GIVEN,
    ),
    Case(
        "workflows/loaders.py",
        "a … of the … is …, expected a pair (images, labels); give images and labels themselves, or a collate_fn "
        "(a __getitem__) that returns pairs",
        "memory_defense.evaluate(net, TensorDataset(images, labels, labels), epsilon=0.1)",
        r"""
        class Pairs(Dataset):
            def __len__(self):
                return len(images)

            def «collate_fn \(a (\w+)\)»(self, place):
                return images[place], labels[place]

        memory_defense.evaluate(net, Pairs(), epsilon=0.1)
        evaluate(net, «give (images) and», «and (labels) themselves», epsilon=0.1)
        """,
        given=GIVEN,
    ),
    Case(
        "workflows/loaders.py",
        "the … has no images; give one with at least 1",
        "memory_defense.evaluate(net, TensorDataset(images[:0], labels[:0]), epsilon=0.1)",
        r"memory_defense.evaluate(net, TensorDataset(images[:«least (\d)»], labels[:1]), epsilon=0.1)",
        given=GIVEN,
    ),
)
