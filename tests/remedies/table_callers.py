"""Messages about what a Python caller hands in: numbers, images, labels, models, options."""

from textwrap import dedent

from remedies.cases import Case

ROOMS = (
    "checks.py",
    "evaluation/options.py",
    "workflows/arguments.py",
    "workflows/first_answer.py",
    "wrappers/fit.py",
    "wrappers/modes.py",
)

GIVEN = """
def evaluated(model=net, images=images, labels=labels, epsilon=0.1, **options):
    return memory_defense.evaluate(model, images, labels, **{"epsilon": epsilon, "attacks": "fgsm"} | options)
"""


def _case(file: str, says: str, wrong: str, right: str, given: str = "") -> Case:
    """Return a case with a short way to evaluate."""
    return Case(file, says, wrong, right, GIVEN + dedent(given))


_CHECKS = (
    _case(
        "checks.py",
        "add the missing axis",
        "images = images[:, 0]; evaluated(images=images)",
        r"evaluated(images=«axis with (.+?) \(grey\)»)",
    ),
    _case(
        "checks.py",
        "give channels, height and width back",
        "evaluated(images=images.flatten(1))",
        """
        C, H, W = 1, 4, 4
        images = images.flatten(1)
        evaluated(images=«back with (.+)$»)
        """,
    ),
    _case("checks.py", "there are no images", "evaluated(images=images[:0], labels=labels[:0])", "evaluated()"),
    _case("checks.py", "so no pixels", "evaluated(images=images[..., :0])", "evaluated()"),
    _case(
        "checks.py",
        "clip or rescale them",
        "images = images * 1.5; evaluated(images=images)",
        "evaluated(images=«as by (.+)$»)",
    ),
    _case(
        "checks.py",
        "they look like grey levels",
        "images = images * 255; evaluated(images=images)",
        r"evaluated(images=«x / 255 \((.+)\)»)",
    ),
    _case(
        "checks.py",
        "images are uint8",
        "images = (images * 255).byte(); evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "expected torch.float32; use",
        "images = (images * 255).int(); evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "pixels are NaN or infinite",
        "images[2, 0, 1, 1] = torch.nan; evaluated()",
        """
        «with (keep = .+?), the»
        evaluated(images=«others are (.+)$», labels=labels[keep])
        """,
    ),
    _case("checks.py", "images span [", "evaluated(images=images * 255)", "evaluated(images=images * 255 / 255)"),
    _case(
        "checks.py",
        "; use torch.",
        "images = images.numpy(); Fgsm()(net, images, labels, threat.Linf(0.1), draws)",
        """
        Fgsm()(net, «use (.+)$», labels, threat.Linf(0.1), draws)
        """,
        "from memory_defense.randomness import ImageDraws; draws = ImageDraws.of(0, '', 8)",
    ),
    _case("checks.py", "on the meta device", "evaluated(images=images.to('meta'))", "evaluated(images=images)"),
    _case(
        "checks.py",
        "are quantized",
        "images = torch.quantize_per_tensor(images, 1 / 255, 0, torch.quint8); evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "expected dense ones",
        "images = images.to_sparse(); evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        ".real.long()",
        "labels = labels.to(torch.complex64); evaluated(labels=labels)",
        "evaluated(labels=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "labels are …, expected torch.int64; use ….long()",
        "labels = labels.double(); evaluated(labels=labels)",
        "evaluated(labels=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "there are no labels",
        "check_labels(torch.zeros(0, dtype=torch.int64), 0)",
        "check_labels(torch.zeros(1, dtype=torch.int64), 1)",
    ),
    _case(
        "checks.py",
        "expected at least 0",
        "check_labels(torch.tensor([1, 2, 3]), 3, 3)",
        "labels = torch.tensor([1, 2, 3]); check_labels(«use (.+)$», 3, 3)",
    ),
    _case(
        "checks.py",
        "not whole, such as",
        "evaluated(labels=torch.full((8,), 0.5))",
        "evaluated(labels=torch.full((8,), 1))",
    ),
    _case(
        "checks.py",
        "one-hot?",
        "true, labels = labels, nn.functional.one_hot(labels); evaluated(labels=labels)",
        "assert torch.equal(«use (.+)$», true)",
    ),
    _case(
        "checks.py",
        "a row: expected",
        "true, labels = labels, labels[None]; evaluated(labels=labels)",
        "assert torch.equal(«use (.+)$», true)",
    ),
    _case(
        "checks.py",
        "a column: expected",
        "true, labels = labels, labels[:, None]; evaluated(labels=labels)",
        "assert torch.equal(«use (.+)$», true)",
    ),
    _case(
        "checks.py",
        "choose the column of classes",
        "true, labels = labels, torch.stack([labels, labels + 5], 1); evaluated(labels=labels)",
        "assert torch.equal(«classes, as (.+)$», true)",
    ),
    _case(
        "checks.py",
        "….reshape(-1)",
        "true, labels = labels, labels[:, None, None]; evaluated(labels=labels)",
        "assert torch.equal(«use (labels.+)$», true)",
    ),
    _case(
        "checks.py",
        "give as many labels as images",
        "evaluated(labels=labels[:3])",
        "evaluated(images=images[:3], labels=labels[:3])",
    ),
)

_OPTIONS = (
    _case(
        "evaluation/options.py",
        "which torch cannot compute on",
        "Options(device='meta')",
        "evaluated(options=Options(device=«use '(.+?)'»))".replace("«", "'«").replace("»", "»'"),
    ),
    _case(
        "evaluation/options.py",
        "give one for each image, or None",
        "evaluated(options=Options(ids=[1, 2]))",
        "evaluated(options=Options(ids=range(8)))",
    ),
)

_NUMBERS = (
    _case(
        "evaluation/options.py",
        "but an attack needs at least 1 image",
        "Options(batch_size=0)",
        r"evaluated(options=Options(batch_size=«give (\d+)», chunk=«give (\d+)»))",
    ),
    _case(
        "evaluation/options.py",
        "but a seed is at least 0",
        "Options(seed=-1)",
        r"evaluated(options=Options(seed=«give (\d)»))",
    ),
    _case(
        "evaluation/options.py",
        "but a position in a dataset is at least 0",
        "Options(ids=[-1] * 8)",
        "N = 8; evaluated(options=Options(ids=«give (.+), say»))",
    ),
    _case(
        "evaluation/metrics.py",
        "but an image must be submitted at least once",
        "Options(submissions=0)",
        r"evaluated(options=Options(submissions=«give (\d)»))",
    ),
)

_ARGUMENTS = (
    _case("workflows/arguments.py", "; did you mean", "evaluated(norm='L2')", "evaluated(norm=«mean (.+?)\\?»)"),
    _case(
        "workflows/arguments.py",
        "are …, expected a tensor or an array",
        "evaluated(labels=object())",
        "labels = «such as (.+)$»; evaluated(images=images[:3], labels=labels)",
    ),
    _case(
        "workflows/arguments.py",
        "write Options(**options)",
        "options = {'seed': 3}; evaluated(options=options)",
        "assert evaluated(options=«write (.+)$»).provenance.seed == 3",
    ),
    _case(
        "workflows/arguments.py",
        "write Options(seed=0), say",
        "evaluated(options=3)",
        "evaluated(options=«write (.+), say»)",
    ),
    _case(
        "workflows/arguments.py",
        "expected memory_defense.Options",
        "evaluated(options=[])",
        "evaluated(options=Options())",
    ),
    _case(
        "workflows/arguments.py",
        "epsilon has shape",
        "epsilon = torch.tensor([[0.1, 0.2]]); evaluated(epsilon=epsilon)",
        "evaluated(epsilon=«use (.+)$»)",
    ),
    _case(
        "workflows/arguments.py",
        "model is the class",
        "evaluated(Small)",
        "evaluated(«one: (.+)$»)",
        """
        class Small(nn.Module):
            def forward(self, images):
                return net(images)
        """,
    ),
    _case(
        "workflows/arguments.py",
        "read by memory_defense.load",
        "run('mine'); evaluated('mine')",
        "«read by (.+)$»('mine')(torch.rand(1, 1, 28, 28))",
    ),
    _case(
        "workflows/arguments.py",
        "if these are weights",
        "evaluated(net.state_dict())",
        "net.load_state_dict(net.state_dict()); evaluated(net)",
    ),
    _case(
        "workflows/arguments.py",
        "lazy parameters",
        "model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4)); evaluated(model)",
        "«as by (.+)$»; evaluated(model)",
    ),
    _case(
        "workflows/arguments.py",
        "are masked in places",
        "images = np.ma.masked_less(images.numpy(), 0.1); evaluated(images=images)",
        "evaluated(images=«give (.+), say»)",
    ),
    *(
        _case(
            "workflows/arguments.py",
            "… are an array of …, expected …; use …",
            wrong,
            right,
            "import numpy",
        )
        for wrong, right in (
            (
                "images = images.numpy().astype(object); evaluated(images=images)",
                "evaluated(images=«use (.+)$»)",
            ),
            (
                "labels = labels.numpy().astype(object); evaluated(labels=labels)",
                "evaluated(labels=«use (.+)$»)",
            ),
            (
                "images = numpy.array([None, *images.numpy()], dtype=object)[1:]; evaluated(images=images)",
                "evaluated(images=«use (.+)$»)",
            ),
        )
    ),
    _case(
        "checks.py",
        "….to_padded_tensor(0)",
        "images = torch.nested.nested_tensor(list(images)); evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "checks.py",
        "as bicubic resizing leaves them? use ….clamp(0, 1)",
        "images = 1.2 * images - 0.1; evaluated(images=images)",
        "evaluated(images=«use (.+)$»)",
    ),
    _case(
        "workflows/evaluate.py",
        "return at least {'end-to-end': self}, or leave the method out",
        """
        class Named(Plain):
            def surrogates(self):
                return {}

        evaluated(Named())
        """,
        """
        Named.surrogates = lambda self: «at least (.+), or»
        evaluated(Named())
        evaluated(Plain())
        """,
        """
        class Plain(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, images):
                return self.net(images)
        """,
    ),
    _case(
        "evaluation/record.py",
        "is a folder; give the record in it, such as …",
        "evaluated(out='made/r.json'); Record.read('made')",
        "Record.read('«such as (.+)/record.json»/r.json')",
    ),
    _case(
        "evaluation/record.py",
        "does not exist; give the file that an evaluation wrote, such as record.json",
        "Record.read('nothing.json')",
        "evaluated(out='«such as (record.json)$»'); Record.read('record.json')",
    ),
    _case(
        "evaluation/audit/run.py",
        "evaluate a plainer form of the model, and report what failed here",
        """
        from memory_defense.evaluation.audit.run import CHECKS
        kept = CHECKS["zero-margin"]

        def fails(findings):
            if hasattr(findings.defense.network, "odd"):
                raise KeyError
            return kept(findings)

        CHECKS["zero-margin"] = fails
        net.odd = True
        said = [one.remedy for one in evaluated(net).audit if "itself failed" in one.meaning][0]
        """,
        """
        del net.odd
        assert not [one for one in evaluated(net).audit if "itself failed" in one.meaning]
        CHECKS["zero-margin"] = kept
        """,
    ),
    _case(
        "workflows/arguments.py",
        "leave the labels out where it has pairs",
        "images = DataLoader(TensorDataset(images, labels), 3); evaluated(images=images)",
        "assert '«leave the (labels) out»'; memory_defense.evaluate(net, images, epsilon=0.1)",
        "from torch.utils.data import DataLoader, TensorDataset",
    ),
    _case(
        "workflows/arguments.py",
        "read the file first",
        "images = str(folder(classes=4, count=3, size=4)); evaluated(images=images)",
        "«first: (.+?), then»; evaluated(images=«then (.+?) and», labels=«and (.+)$»)",
        "import memory_defense.data.own",
    ),
    _case(
        "workflows/arguments.py",
        "give ….floats() and ….labels",
        "images = ImageSet(images, labels, torch.arange(8)); evaluated(images=images)",
        "evaluated(images=«give (.+?) and», labels=«and (.+)$»)",
        "from memory_defense.data.images import ImageSet",
    ),
    _case(
        "workflows/arguments.py",
        "give ….images.floats() and ….images.labels",
        "images = load_images(folder(classes=4, count=3, size=4)); evaluated(images=images)",
        "evaluated(images=«give (.+?) and», labels=«and (.+)$»)",
        "from memory_defense.data.own import load_images",
    ),
    _case(
        "workflows/arguments.py",
        "give one of its values",
        "images, key = {'pixels': images}, 'pixels'; evaluated(images=images)",
        "evaluated(images=«values: (.+)$»)",
    ),
    _case(
        "workflows/arguments.py",
        "that differ in shape or type, such as …, expected …; bring them to one size first",
        "evaluated(images=[images[0], images[1, :, :3]])",
        "other = nn.functional.interpolate(images[1:2, :, :3], size=4)[0]; "
        "evaluated(images=[images[0], other], labels=labels[:2])",
    ),
    _case(
        "workflows/arguments.py",
        "that make no array (…), expected …; bring them to one size first",
        "evaluated(images=[images[0].numpy(), images[1, :, :3].numpy()])",
        "evaluated(images=[images[0].numpy(), images[1].numpy()], labels=labels[:2])",
    ),
    _case(
        "workflows/arguments.py",
        "give the number of each image's class",
        "evaluated(labels=lambda: 3)",
        "evaluated(images=images[:3], labels=«such as (.+)$»)",
    ),
)

_MODELS = (
    _case(
        "workflows/arguments.py",
        "give them some: model.to_empty",
        "model = net.to('meta'); evaluated(model)",
        "«some: (.+?),»; «then (.+?)\\(\\.»(weights); evaluated(model)",
        """
        import copy
        weights = copy.deepcopy(net.state_dict())
        """,
    ),
    _case(
        "workflows/arguments.py",
        "is scripted and was made in",
        """
        with torch.inference_mode():
            model = torch.jit.trace(net, images)
        evaluated(model)
        """,
        "import copy; evaluated(«take (.+?),»)",
        """
        with torch.inference_mode():
            net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        """,
    ),
    _case(
        "workflows/first_answer.py",
        "give attacks that only ask",
        "evaluated(lambda images: net(torch.from_numpy(images.numpy())))",
        "evaluated(lambda images: net(torch.from_numpy(images.numpy())), attacks='«such as (\\S+)»')",
    ),
    _case(
        "workflows/first_answer.py",
        "see where with",
        "evaluated(nn.Linear(3, 4))",
        "evaluated(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))",
    ),
    _case(
        "workflows/first_answer.py",
        "…: …; …",
        "evaluated(lambda images: net(images[:, :, :3]))",
        "evaluated(lambda images: net(images[:, :, :4]))",
    ),
    _case(
        "wrappers/fit.py",
        "return the tensor from the model's forward",
        "evaluated(lambda images: None)",
        "evaluated(lambda images: net(images))",
    ),
    _case(
        "wrappers/fit.py",
        "give ….flatten(1)",
        "model = lambda images: net(images)[..., None, None]; evaluated(model)",
        "evaluated(«give (.+)$»)",
    ),
    _case(
        "wrappers/fit.py",
        "or wrappers.OwnPrecision",
        "net.double(); square(net)",
        "square(wrappers.OwnPrecision(net, «OwnPrecision.model, (.+?)\\)»)); square(net.float())",
        """
        from memory_defense import wrappers
        from memory_defense.randomness import ImageDraws

        def square(model):
            Square(queries=3)(model, images, labels, threat.Linf(0.1), ImageDraws.of(0, "", 8))
        """,
    ),
    _case(
        "wrappers/fit.py",
        "export it with dynamic_shapes",
        "evaluated(torch.export.export(net, (images[:1].expand(2000, -1, -1, -1),)).module())",
        "evaluated(torch.export.export(net, (images[:3],), «with (.+)$»).module())",
    ),
    _case(
        "wrappers/fit.py",
        "give images of the size that it was exported for, or export it for these",
        "evaluated(exported(images.repeat(1, 1, 2, 2)))",
        "evaluated(exported(images))",
        """
        def exported(shown):
            wide = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), net)
            return torch.export.export(wide, (shown,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        """,
    ),
    _case(
        "wrappers/fit.py",
        "make them outside of it",
        """
        with torch.inference_mode():
            weights = torch.rand(16, 4)
        evaluated(lambda images: images.flatten(1) @ weights)
        """,
        "weights = torch.rand(16, 4); evaluated(lambda images: images.flatten(1) @ weights)",
    ),
    _case(
        "wrappers/fit.py",
        "expected a tensor of float logits (B, K); …",
        "evaluated(lambda images: [])",
        "evaluated(lambda images: net(images))",
    ),
    _case(
        "wrappers/fit.py",
        "give ….real",
        "model = lambda images: net(images).to(torch.complex64); evaluated(model)",
        "evaluated(«give (.+)$»)",
    ),
    _case(
        "wrappers/fit.py",
        "return the scores that",
        "model = lambda images: (net(images) * 100).int(); evaluated(model)",
        "evaluated(«numbers: (.+)$», attacks='square'); evaluated(lambda images: net(images) * 100)",
    ),
    _case(
        "wrappers/fit.py",
        "for a batch of",
        "model = lambda images: net(images).flatten(); evaluated(model)",
        "evaluated(lambda images: net(images))",
    ),
    _case(
        "wrappers/fit.py",
        "give …[…]",
        """
        model = lambda images: (0, net(images)); evaluated(model)
        """,
        """
        evaluated(«give (.+)$»)
        """,
    ),
    _case(
        "wrappers/fit.py",
        "give ….logits",
        "model = lambda images: types.SimpleNamespace(logits=net(images)); evaluated(model)",
        "evaluated(«give (.+)$»)",
        "import types",
    ),
    _case(
        "wrappers/fit.py",
        "load its weights",
        "weights = copy.deepcopy(net.state_dict()); square(net.to('meta'))",
        "net.to_empty(device='cpu').load_state_dict(weights); square(net)",
        """
        import copy
        from memory_defense.randomness import ImageDraws

        def square(model):
            Square(queries=3)(model, images, labels, threat.Linf(0.1), ImageDraws.of(0, "", 8))
        """,
    ),
    _case(
        "wrappers/modes.py",
        "torch.autocast around the call was left",
        """
        with torch.autocast("cpu", torch.bfloat16):
            said = evaluated().notes[-1]
        """,
        """
        def under(images):
            with torch.autocast("cpu", torch.bfloat16):
                return net(images)

        evaluated(under)
        """,
    ),
)

CASES = (*_CHECKS, *_OPTIONS, *_NUMBERS, *_ARGUMENTS, *_MODELS)
