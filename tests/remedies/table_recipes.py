"""Messages of recipes."""

from remedies.cases import Case

ROOMS = ("recipes",)

HARDEN = (
    "memdef harden shapes_net:build --weights shapes.safetensors --out new --epochs 1 --attacks fgsm --images 2"
)

CASES = (
    Case(
        "recipes/registry.py",
        "there is a recipe … already; give this one another name",
        "register(replace(RECIPES['fashion-mnist/tiny'], summary='mine'))",
        """
        assert '«(another name)»'
        register(replace(RECIPES['fashion-mnist/tiny'], name='fashion-mnist/mine-tiny', summary='mine'))
        assert RECIPES.pop('fashion-mnist/mine-tiny').summary == 'mine'
        del names_.RECIPES['fashion-mnist/mine-tiny'], names_.PLANNED['fashion-mnist/mine-tiny']
        """,
        given="from dataclasses import replace; from memory_defense.recipes.registry import register; "
        "import memory_defense.names as names_",
    ),
    Case(
        "recipes/adapt.py",
        "is made for other images already; give the recipe that it was made from",
        "adapt(mine, spec)",
        "adapt(RECIPES['«(.*) on mine is made»'], spec)",
        given="""
        from memory_defense.data.own import load_splits
        folder("mine", count=8, size=16)
        spec = load_splits("mine").spec
        mine = adapt(RECIPES["fashion-mnist/tiny"], spec)
        """,
    ),
    Case(
        "recipes/hardened.py",
        "resize them with --size …, which your classifier then sees, too: it must have been trained at that size",
        "planned(None)",
        r"planned(«with --size (\d+),»)",
        given="""
        from memory_defense.cli.harden import HardenArguments, check
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        from workflows.own_folder import write_folder, write_net
        write_net(Path("."), write_folder(Path("shapes"), train=4, test=1))
        write_folder(Path("small"), train=4, test=1, size=12)

        def planned(size):
            weights = Path("shapes.safetensors")
            check(HardenArguments(classifier="shapes_net:build", weights=weights, data="small", size=size))
            splits = load_splits("small", size=size)
            options = HardenOptions(classifier="shapes_net:build", weights_sha256="", epsilon=0.1)
            harden_recipe(options, "small", image_spec(splits.spec), len(splits.train))
        """,
    ),
    Case(
        "recipes/hardened.py",
        "images to train on, but at least 2 are needed; add some",
        "harden_recipe(options, 'mine', image_spec(splits.spec), len(splits.train.first(1)))",
        r"harden_recipe(options, 'mine', image_spec(splits.spec), len(splits.train.first(«at least (\d)»)))",
        given="""
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        options = HardenOptions(classifier="net:build", weights_sha256="", epsilon=0.1)
        splits = load_splits(folder("mine", count=4, size=16))
        """,
    ),
    Case(
        "recipes/hardened.py",
        "layer normalisation leaves nothing of two logits' distance; leave out --keep-clean-accuracy",
        "planned(keep_clean_accuracy=True)",
        "planned(keep_clean_accuracy=False)",
        given="""
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        splits = load_splits(folder("mine", count=4, size=16))

        def planned(**changes):
            options = HardenOptions(classifier="net:build", weights_sha256="", epsilon=0.1, **changes)
            images = image_spec(splits.spec)
            harden_recipe(options, "mine", replace(images, classes=images.classes[:2]), len(splits.train))
        """,
    ),
    Case(
        "recipes/hardened.py",
        "but fine_tune is off; turn one of both around",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, **both)",
        """
        for name in both:
            HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, **both | {name: not both[name]})
        """,
        given="both = {'keep_clean_accuracy': True, 'fine_tune': False}",
    ),
    Case(
        "recipes/hardened.py",
        "does nothing else; turn keep_clean_accuracy off and fine_tune on",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, fine_tune=False, **plain)",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, **plain)",
        given="plain = {'without_memory': True}",
    ),
    Case(
        "recipes/hardened.py",
        "say what is fine-tuned, but fine_tune is off; turn it on",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, train_last=1, fine_tune=False)",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, train_last=1)",
    ),
    Case(
        "recipes/hardened.py",
        "images' training has …; give at most …",
        "planned(9)",
        r"planned(«at most (\d+)»)",
        given="""
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        splits = load_splits(folder("mine", count=4, size=16))

        def planned(parts):
            options = HardenOptions(classifier="net:build", weights_sha256="", epsilon=0.1, accumulate=parts)
            harden_recipe(options, "mine", image_spec(splits.spec), len(splits.train))
        """,
    ),
    Case(
        "recipes/hardened.py",
        "but the memory autoencoder takes squares; harden without it (--without-memory), or resize them",
        "planned(16)",
        "planned(16, without_memory=True); planned(None)",
        given="""
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        splits = load_splits(folder("mine", count=4, size=16))

        def planned(width, **changes):
            options = HardenOptions(classifier="net:build", weights_sha256="", epsilon=0.1, **changes)
            images = replace(image_spec(splits.spec), size=24 if width else 16, width=width)
            harden_recipe(options, "mine", images, len(splits.train))
        """,
    ),
    Case(
        "recipes/hardened.py",
        "but it must be above 0 and at most 1; write it as 8/255",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=8)",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=«as (8/255)»)",
    ),
    Case(
        "recipes/hardened.py",
        "but it must be at least 1; leave it out to follow the images",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, epochs=0)",
        r"""
        HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, epochs=«at least (\d)»)
        HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1)
        """,
    ),
    Case(
        "recipes/hardened.py",
        "but at least 1 test image must be attacked",
        "HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, images=0)",
        r"HardenOptions(classifier='net:build', weights_sha256='', epsilon=0.1, images=«at least (\d)»)",
    ),
    Case(
        "recipes/hardened.py",
        "is damaged (…); harden again into a new directory",
        "memdef('memdef evaluate run')",
        f"memdef('{HARDEN} --data shapes --no-fine-tune'); load('new')",
        given="""
        hardened()
        manifest = Path("run/manifest.json")
        content = json.loads(manifest.read_text().replace('"images": 2', '"images": "two"'))
        del content["checksum"]
        manifest.write_text(json.dumps(content))
        """,
    ),
    Case(
        "recipes/hardened_certified.py",
        "but it must be at least 1; leave it out to follow the images",
        "CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, epochs=0)",
        r"""
        CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, epochs=«at least (\d)»)
        CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1)
        """,
    ),
    Case(
        "recipes/hardened_certified.py",
        "but at least 1 test image must be certified; give 200, say",
        "CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, images=0)",
        r"CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, images=«give (\d+), say»)",
    ),
    Case(
        "recipes/hardened_certified.py",
        "but an L2 radius is at least 0; give …, say",
        "CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, radii=(-1.0,))",
        r"CertifiedOptions(classifier='net:build', weights_sha256='', sigma=0.1, radii=(«give (\S+), say»,))",
    ),
    Case(
        "recipes/hardened_certified.py",
        "give --samples … or more, or a smaller --radius",
        "asked(samples=100, radii=(0.2,))",
        r"asked(samples=«--samples (\d+)», radii=(0.2,)); asked(samples=100, radii=(0.1,))",
        given="""
        def asked(**values):
            return CertifiedOptions(classifier="net:build", weights_sha256="", sigma=0.1, **values)
        """,
    ),
    Case(
        "recipes/hardened_certified.py",
        "images to train on, but at least 2 are needed; add some",
        "certified_recipe(options, 'mine', image_spec(splits.spec), len(splits.train.first(1)))",
        r"certified_recipe(options, 'mine', image_spec(splits.spec), len(splits.train.first(«at least (\d)»)))",
        given="""
        from memory_defense.data.own import load_splits
        from memory_defense.data.spec import image_spec
        options = CertifiedOptions(classifier="net:build", weights_sha256="", sigma=0.1)
        splits = load_splits(folder("mine", count=4, size=16))
        """,
    ),
    Case(
        "recipes/recipe.py",
        "trains its classifier after other parts; put those stages first",
        "replace(recipe, stages=recipe.stages[::-1])",
        "assert replace(recipe, stages=sorted(recipe.stages[::-1], key=lambda stage: stage.part != 'selector'))",
        given="from dataclasses import replace; recipe = RECIPES['fashion-mnist/tiny']",
    ),
)
