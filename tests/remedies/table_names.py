"""Messages about names, radii and shares that users write."""

from remedies.cases import Case

ROOMS = ("names.py", "plugins.py")

CASES = (
    Case(
        "plugins.py",
        "the plug-in … (…) cannot be imported: …: …; fix it, uninstall it, or leave it out",
        "Path('of_mine.py').write_text('1 / 0'); load_plugins(['of_mine'])",
        """
        assert '«(fix it)»'
        Path('of_mine.py').write_text('')
        load_plugins(['of_mine'])
        """,
        given="from memory_defense.plugins import load_plugins",
    ),
    Case(
        "names.py",
        "but it lies between 0 and 1, which is that of a wrong answer; give 0.1, say",
        "check_rejection_cost(10)",
        r"check_rejection_cost(«give (\S+), say»)",
    ),
    Case(
        "names.py",
        "; did you mean …?",
        "memdef('memdef train fashion-mnist/tinny --out run')",
        "memdef(\"memdef train «mean '(.*)'» --out run --train-images 50\")",
        within="unknown … ……",
    ),
    Case(
        "names.py",
        "unknown norm …; known: …",
        "check_norm('linfinity')",
        r"check_norm('«known: (\w+)»')",
    ),
    Case(
        "names.py",
        "give one such as 8/255",
        "evaluate(net, images, labels, epsilon=-1, attacks='fgsm')",
        "evaluate(net, images, labels, epsilon=«such as (8/255)», attacks='fgsm')",
        within="but an L-inf radius must be in [0, 1], as images are; …",
    ),
    Case(
        "names.py",
        "a radius in grey levels is divided by 255 (…/255)",
        "evaluate(net, images, labels, epsilon=8, attacks='fgsm')",
        r"evaluate(net, images, labels, epsilon=«by 255 \((.*)\)», attacks='fgsm')",
    ),
    Case(
        "names.py",
        "but an L2 radius must be at least 0; give one such as 0.5",
        "evaluate(net, images, labels, epsilon=-1, norm='l2', attacks='pgd')",
        "evaluate(net, images, labels, epsilon=«such as (0.5)», norm='l2', attacks='pgd')",
    ),
    Case(
        "names.py",
        "names no classifier; write package.module:attribute…",
        "memdef('memdef harden shapes_net.py --weights shapes.safetensors --data shapes')",
        r"""
        from memory_defense.systems.own_model import build_user_model
        build_user_model("«such as ([\w.:]+)»", classes=3, channels=3, size=16)
        """,
        given="hardened()",
    ),
    Case(
        "names.py",
        "choose one, such as fashion-mnist/demo",
        "memdef('memdef train cifar10/tiny/magnet --data mine --out run')",
        "memdef('memdef train fashion-mnist/tiny --data mine --out run --train-images 16')",
        given="folder('mine', count=12, size=28)",
    ),
    Case(
        "names.py",
        "write 1 % as 0.01",
        "calibrate(defense, held_out, false_alarms=1)",
        "calibrate(defense, held_out, false_alarms=«as (0.01)»)",
        given="""
        from memory_defense.data.images import ImageSet
        from memory_defense.evaluation.flag import calibrate
        defense = load(run())
        held_out = ImageSet(torch.rand(99, 1, 28, 28), torch.zeros(99, dtype=torch.int64), torch.arange(99))
        """,
    ),
    Case(
        "names.py",
        "but a computation may take up to 3600 s, and some time",
        "check_seconds(0)",
        r"check_seconds(«up to (\d+) s»)",
    ),
)
