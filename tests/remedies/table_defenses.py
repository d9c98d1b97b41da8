"""Messages of the defenses."""

from remedies.cases import Case

ROOMS = ("defenses",)

CLASSIFIER = "classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))"
PHOTOS = "photos, answers = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 3])"
BATCH = f"""{PHOTOS}
from memory_defense.contracts import Batch
from memory_defense.randomness import ImageDraws
batch = Batch(photos, answers, torch.arange(4), ImageDraws.of(0, 'training', 4), 0.0)
"""
TWO = f"{PHOTOS}; net, other = (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(2))"
PIXELS = """
from memory_defense.defenses.pixeldefend import PixelDefend, StandIn
from memory_defense.networks.pixelcnn import PixelCnn, PixelCnnPlan
purifier = PixelCnn(PixelCnnPlan(channels=1, size=4, filters=2, blocks=1, resolutions=1, mixtures=1))
"""
MAGNET = f"""{PHOTOS}; {CLASSIFIER}
from memory_defense.defenses.magnet import build_magnet
defense = build_magnet(classifier=classifier, channels=1).eval()
"""
MEMORY = f"""{PHOTOS}; {CLASSIFIER}
from memory_defense.defenses.memory.presets import build_memory_defense
defense = build_memory_defense(selector=classifier, **shape).eval()
"""

CASES = (
    Case(
        "defenses/consistent.py",
        "radius is 0, but nothing can be looked for there; give half of an adversary's",
        "InnerAttack(radius=0)",
        r"Consistent(net, InnerAttack(radius=0.1 / {'half': 2}['«give (half)»'])).suspicious(images)",
    ),
    Case(
        "defenses/consistent.py",
        "but a step has a length above 0; give 0.25, say",
        "InnerAttack(radius=0.1, step=0)",
        r"InnerAttack(radius=0.1, step=«give (\S+), say»)",
    ),
    Case(
        "defenses/rectified.py",
        "so there is nothing for a second head to share; give a network such as networks.classifiers.LeNetSmall or",
        "Rectified(nn.Linear(2, 2))",
        r"Rectified(classifiers.«networks\.classifiers\.(\w+)»(**shape))(torch.rand(2, 1, 28, 28))",
        given="from memory_defense.networks import classifiers\n",
    ),
    Case(
        "defenses/denoised.py",
        "error and stability are both 0: nothing would teach the denoiser; set one above 0",
        "DenoiserObjective(sigma=0.25, error=0.0)",
        "DenoiserObjective(sigma=0.25, error=0.0, stability=1.0)(defense, batch).total.backward()",
        given=f"{CLASSIFIER}\n{BATCH}\ndefense = build_denoised(channels=1, classifier=classifier, preset='tiny')",
    ),
    Case(
        "defenses/denoised.py",
        "this denoiser has no memory whose slots could be chosen; set slots to 0",
        "DenoiserObjective(sigma=0.25, slots=1.0)(defense, batch)",
        "DenoiserObjective(sigma=0.25, slots=«slots to (\\d)»)(defense, batch).total.backward()",
        given=f"{CLASSIFIER}\n{BATCH}\ndefense = build_denoised(channels=1, classifier=classifier, preset='tiny')",
    ),
    Case(
        "defenses/gated.py",
        "proves nothing by itself, so a gate has nothing to go by; give a defense with certificates",
        "Gated(net, 0.1)",
        "Gated(Planes(), 0.1)",
        given="from certificates.proving import Planes\n",
    ),
    Case(
        "defenses/ensemble.py",
        "but an ensemble has at least 2; give another one",
        "Ensemble([net])",
        "Ensemble([net, other])",
        given=TWO,
    ),
    Case(
        "defenses/ensemble.py",
        "their answers are combined class by class; give members that were trained on the same classes",
        "Ensemble([net, nn.Sequential(nn.Flatten(), nn.Linear(784, 3))])(photos)",
        "Ensemble([net, other])(photos)",
        given=TWO,
    ),
    Case(
        "defenses/ensemble.py",
        "use Ensemble, which claims no certificate, or give members that prove more",
        "CertifiedEnsemble([Planes(), net], 'vote')",
        """
        «use (Ensemble),»([Planes(), net], 'vote')
        CertifiedEnsemble([Planes(), Planes(), net], 'vote')
        """,
        given=f"{TWO}\nfrom certificates.proving import Planes\n",
    ),
    Case(
        "defenses/mixture.py",
        "but the robust classifier's share lies in [0, 1]; give 0.5",
        "Settings(weight=60)",
        r"Settings(weight=«give ([\d.]+)»)",
    ),
    Case(
        "defenses/mixture.py",
        "scale is …, but it must be above 0 and finite; give 1",
        "Settings(scale=0)",
        r"Settings(scale=«give (\d)»)",
    ),
    Case(
        "defenses/mixture.py",
        "but it must be at least 1 and finite; give 1 to leave it out",
        "Settings(power=0.5)",
        r"Settings(power=«give (\d)»)",
    ),
    Case(
        "defenses/mixture.py",
        "offset is …, but it must be finite; give 0 to leave it out",
        "Settings(offset=math.inf)",
        r"Settings(offset=«give (\d)»)",
    ),
    Case(
        "defenses/mixture.py",
        "but the share of images to lose lies in [0, 1); give 0.01",
        "choose(held, robust_loss=1)",
        r"choose(held, robust_loss=«give ([\d.]+)»)",
        given="held = HeldOut(torch.rand(4, 3), torch.rand(4, 3), torch.rand(1, 4, 3), torch.tensor([0, 1, 2, 0]))",
    ),
    Case(
        "defenses/mixture.py",
        "a mixture needs at least …, so keep the robust classifier alone",
        "choose(held)",
        "assert held.robust.argmax(1).shape == held.labels.shape",
        given="held = HeldOut(torch.rand(4, 2), torch.rand(4, 2), torch.rand(1, 4, 2), torch.tensor([0, 1, 1, 0]))",
    ),
    Case(
        "defenses/autoencoder.py",
        "use MemAeObjective",
        "AutoencoderObjective()(defense, batch)",
        r"«use (\w+)»()(defense, batch).total.backward()",
        given=f"{BATCH}\ndefense = build_memae_defense(**shape)",
    ),
    Case(
        "defenses/autoencoder.py",
        "this autoencoder has no memory whose read could be sparse; use AutoencoderObjective",
        "MemAeObjective()(defense, batch)",
        r"«use (\w+)»()(defense, batch).total.backward()",
        given=f"{BATCH}\ndefense = build_autoencoder_defense(**shape)",
    ),
    Case(
        "defenses/autoencoder.py",
        "normalize has … channels, the autoencoder …; give both the same",
        "AutoencoderDefense(plan=plan, normalize=Normalize([0.5] * 3, [0.2] * 3), classifier_b=classifier)",
        r"""
        same = «the autoencoder (\d)»
        AutoencoderDefense(plan=plan, normalize=Normalize([0.5] * same, [0.2] * same), classifier_b=classifier)
        """,
        given=f"{CLASSIFIER}; plan = plan_for(channels=1, size=28)",
    ),
    Case(
        "defenses/autoencoder.py",
        "items, but a weighted read needs at least 2",
        "build_memae_defense(**shape, memory_size=1)",
        r"build_memae_defense(**shape, memory_size=«at least (\d)»)",
    ),
    Case(
        "defenses/autoencoder.py",
        "0 turns shrinking off",
        "build_memae_defense(**shape, memory_size=300, shrink_threshold=0.5)",
        r"""
        build_memae_defense(**shape, memory_size=300, shrink_threshold=«between (1/\d+)»)
        build_memae_defense(**shape, memory_size=300, shrink_threshold=«and (3/\d+)»)
        build_memae_defense(**shape, memory_size=300, shrink_threshold=«(0) turns»)
        """,
    ),
    Case(
        "defenses/comdefend.py",
        "but a patch has a side of at least 1 pixel",
        "ComDefend(classifier, purifier, patch=0)",
        r"""
        ComDefend(classifier, purifier, patch=«at least (\d)»)
        ComDefend(classifier, purifier, patch=«(\d+) is published»)
        """,
        given=f"{CLASSIFIER}; purifier = CompressionNetwork(comdefend_plan(1, 'small'))",
    ),
    Case(
        "defenses/comdefend.py",
        "0 draws nothing",
        "ComDefend(classifier, purifier, test_noise_std=-1)",
        r"ComDefend(classifier, purifier, test_noise_std=«(0) draws»)",
        given=f"{CLASSIFIER}; purifier = CompressionNetwork(comdefend_plan(1, 'small'))",
    ),
    Case(
        "defenses/defense_vae.py",
        "call release_classifier() on the defense",
        "DefenseVaeEndToEnd()(defense, batch)",
        r"""
        defense.«call (release_classifier\(\))»
        DefenseVaeEndToEnd()(defense, batch).total.backward()
        """,
        given=f"""{BATCH}
{CLASSIFIER}
defense = build_defense_vae(channels=1, size=28, classifier=classifier, preset="small")
""",
    ),
    Case(
        "defenses/defense_vae.py",
        "0 is the released code's",
        "DefenseVae(classifier, network, kl_weight=-1)",
        r"DefenseVae(classifier, network, kl_weight=«(0) is»)",
        given=f"{CLASSIFIER}; network = DefenseVaeNetwork(defense_vae_plan(1, 28, 'small'))",
    ),
    Case(
        "defenses/flagging.py",
        "but the share of clean images to flag lies in (0, 1)",
        "thresholds_at(torch.rand(40, 2), 5)",
        "thresholds_at(torch.rand(40, 2), 0.05)",
    ),
    Case(
        "defenses/flagging.py",
        "give at least … held-out clean images",
        "thresholds_at(torch.rand(40, 2), 0.01)",
        r"""
        thresholds_at(torch.rand(«at least (\d+)», 2), 0.01)
        thresholds_at(torch.rand(40, 2), drop_rate=«to (1/\d+)»)
        """,
    ),
    Case(
        "defenses/flagging.py",
        "or raise drop_rate to 1/…",
        "thresholds_at(torch.rand(2, 1), 0.2)",
        r"thresholds_at(torch.rand(2, 1), drop_rate=«to (1/\d+)»)",
    ),
    Case(
        "defenses/flagging.py",
        "some scores are NaN or infinite; train the defense again before its thresholds are chosen",
        "defense.fit_thresholds(photos, 0.5)",
        """
        from memory_defense.defenses.magnet import MagNetObjective
        defense = build_magnet(classifier=classifier, channels=1)
        optimizer = torch.optim.Adam([*defense.reformer.parameters(), *defense.detector.parameters()])
        MagNetObjective()(defense, batch).total.backward()
        optimizer.step()
        defense.eval().fit_thresholds(photos, 0.5)
        """,
        given=f"{BATCH}{MAGNET}\ntorch.nn.init.constant_(defense.reformer.convolutions[0].bias, float('nan'))",
    ),
    Case(
        "defenses/flagging.py",
        "no image can be flagged before flag_threshold is set",
        "defense.suspicious(photos)",
        r"""
        from memory_defense import evaluation
        from memory_defense.data.images import ImageSet
        import memory_defense.evaluation.flag
        held_out = ImageSet(torch.rand(120, 1, 28, 28), torch.zeros(120, dtype=torch.int64), torch.arange(120))
        «images: (evaluation.*put_on\(defense\))»
        assert defense.suspicious(photos).shape == (4,)

        run("RUN")
        memdef("«'(memdef .*)'» --images 4 --attacks fgsm")
        assert load("RUN").suspicious(photos).shape == (4,)
        """,
        given=MEMORY,
    ),
    Case(
        "defenses/flagging.py",
        "None unsets it",
        "defense.flag_threshold = float('inf')",
        "defense.flag_threshold = «(None)»; defense.flag_threshold = 0.02",
        given=MEMORY,
    ),
    Case(
        "defenses/flag_adversaries.py",
        "but the weight of the flag must be above 0",
        "SilentBinder(net, lambda images: images.flatten(1).mean(1), weight=0)",
        "SilentBinder(net, lambda images: images.flatten(1).mean(1), weight=1).bind(images)(images)",
    ),
    Case(
        "defenses/magnet.py",
        "give both the same",
        "MagNet(classifier=classifier, reformer=autoencoder_one(1), detector=autoencoder_two(3))",
        r"""
        same = «takes (\d)»
        MagNet(classifier=classifier, reformer=autoencoder_one(same), detector=autoencoder_two(same))
        """,
        given=CLASSIFIER,
    ),
    Case(
        "defenses/magnet.py",
        "but each must be above 0, finite and its own",
        "build_magnet(classifier=classifier, channels=1, temperatures=[10, 10])",
        "build_magnet(classifier=classifier, channels=1, temperatures=[10, 40])",
        given=CLASSIFIER,
    ),
    Case(
        "defenses/magnet.py",
        "no image can be flagged before the detectors have thresholds",
        "defense.suspicious(photos)",
        r"""
        images, drop_rate = torch.rand(20, 1, 28, 28), 0.1
        defense.«call (fit_thresholds.*?\))»
        assert defense.suspicious(photos).shape == (4,)
        """,
        given=MAGNET,
    ),
    Case(
        "defenses/memory/objective.py",
        "nontarget_reduction is …, expected 'sum' or 'mean'",
        "MemoryObjective(nontarget_reduction='max')",
        r"MemoryObjective(nontarget_reduction=«or ('\w+')»)",
    ),
    Case(
        "defenses/memory/objective.py",
        "slot_source is …, expected 'label' or 'selector'",
        "MemoryObjective(slot_source='labels')",
        r"MemoryObjective(slot_source=«expected ('\w+')»)",
    ),
    Case(
        "defenses/memory/slots.py",
        "but a memory with slots needs at least 2",
        "SlotMemory(items=10, code_size=3, classes=1, shrink_threshold=0, keep_one=True)",
        r"SlotMemory(items=10, code_size=3, classes=«at least (\d)», shrink_threshold=0, keep_one=True)",
    ),
    Case(
        "defenses/memory/slots.py",
        "but every class needs the same number; use … or …",
        "SlotMemory(items=25, code_size=3, classes=10, shrink_threshold=0, keep_one=True)",
        r"""
        SlotMemory(items=«use (\d+)», code_size=3, classes=10, shrink_threshold=0, keep_one=True)
        SlotMemory(items=«or (\d+)», code_size=3, classes=10, shrink_threshold=0, keep_one=True)
        """,
    ),
    Case(
        "defenses/memory/slots.py",
        "but attention weights lie in [0, 1); 1/M is …",
        "SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=1, keep_one=True)",
        "SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=«1/M is (.*)», keep_one=True)",
    ),
    Case(
        "defenses/memory/slots.py",
        "use keep_one or a threshold near …",
        "SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=0.5, keep_one=False)",
        r"""
        SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=0.5, «use (\w+)»=True)
        SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=«near (.*)», keep_one=False)
        """,
    ),
    Case(
        "defenses/memory/slotted.py",
        "build the memory with plan.code_size",
        "made(SlotMemory(items=30, code_size=3, classes=10, shrink_threshold=0, keep_one=True))",
        """
        memory = SlotMemory(items=30, code_size=«with (.*)», classes=10, shrink_threshold=0, keep_one=True)
        assert made(memory)(photos).shape == (4, 10)
        """,
        given=f"""{MEMORY}
plan = defense.plan

def made(memory):
    parts = {{"selector": classifier, "normalize": defense.normalize, "classifier_b": defense.classifier_b}}
    return SlottedClassifier(plan=plan, memory=memory, **parts)
""",
    ),
    Case(
        "defenses/memory/slotted.py",
        "normalize has … channels, the autoencoder …; give both the same",
        "made(3)",
        r"assert made(«the autoencoder (\d)»)(photos).shape == (4, 10)",
        given=f"""{MEMORY}

def made(channels):
    parts = {{"selector": classifier, "memory": defense.memory, "classifier_b": defense.classifier_b}}
    return SlottedClassifier(plan=defense.plan, normalize=Normalize.identity(channels), **parts)
""",
    ),
    Case(
        "defenses/memory/surrogates.py",
        "take the rows of a sub-batch with rows(index), or bind again",
        "bound(photos[:2])",
        r"""
        index = torch.arange(2)
        bound.«with (rows\(index\))»(photos[:2])
        SlotFreezer(defense).«or (bind)»(photos[:2])(photos[:2])
        """,
        given=f"{MEMORY}\nbound = SlotFreezer(defense).bind(photos)",
    ),
    Case(
        "defenses/memory/surrogates.py",
        "temperature is …, but it must be above 0",
        "EndToEnd(defense, temperature=0)",
        "EndToEnd(defense, temperature=0.5)(photos)",
        given=MEMORY,
    ),
    Case(
        "defenses/memory/surrogates.py",
        "but the weight of classifier-B is at least 0",
        "Joint(defense, weight=-1)",
        r"Joint(defense, weight=«at least (\d)»)(photos)",
        given=MEMORY,
    ),
    Case(
        "defenses/pixeldefend.py",
        "epsilon is …, but pixels lie in [0, 1]",
        "StandInObjective(epsilon=16)",
        "StandInObjective(epsilon=16 / 255)",
    ),
    Case(
        "defenses/pixeldefend.py",
        "the defense has no stand-in; build it with stand_in=True",
        "StandInObjective()(build_pixeldefend(channels=1, size=4, classifier=classifier), batch)",
        """
        defense = build_pixeldefend(channels=1, size=4, classifier=classifier, «with (stand_in=True)»)
        StandInObjective()(defense, batch).total.backward()
        """,
        given=f"{BATCH}\n{CLASSIFIER}\nbatch = batch._replace(images=torch.rand(4, 1, 4, 4))",
    ),
    Case(
        "defenses/pixeldefend.py",
        "epsilon_defend is …, but pixels lie in [0, 1]; divide levels by 255",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=16)",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=16 / «divide levels by (255)»)",
        given=PIXELS,
    ),
    Case(
        "defenses/pixeldefend.py",
        "but it must be a whole number of 255ths; the nearest is …",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=0.1)",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=«the nearest is (.*)»)",
        given=PIXELS,
    ),
    Case(
        "defenses/pixeldefend.py",
        "None turns it off",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=0, adaptive_threshold=0)",
        "PixelDefend(classifier=net, purifier=purifier, epsilon_defend=0, adaptive_threshold=«(None) turns»)",
        given=PIXELS,
    ),
    Case(
        "defenses/pixeldefend.py",
        "can be stored; take images[:…]",
        "defense.fit_likelihoods(images)",
        r"defense.fit_likelihoods(«take (.*)»); assert defense.p_values(images[:2]).shape == (2,)",
        given=f"""{PIXELS}
defense = PixelDefend(classifier=net, purifier=purifier, epsilon_defend=16 / 255).eval()
images = torch.rand(10_001, 1, 4, 4)
""",
    ),
    Case(
        "defenses/pixeldefend.py",
        "no likelihoods are stored; call fit_likelihoods with held-out clean images first",
        "defense.p_values(images)",
        r"defense.«call (fit_likelihoods)»(torch.rand(20, 1, 4, 4)); assert defense.p_values(images).max() <= 1",
        given=f"{PIXELS}\ndefense = PixelDefend(classifier=net, purifier=purifier, epsilon_defend=16 / 255).eval()",
    ),
    Case(
        "defenses/proving_memory.py",
        "but every class needs the same number; use … or …",
        "build_proving_memory(**shape, memory_size=25)",
        r"""
        build_proving_memory(**shape, memory_size=«use (\d+)»)
        build_proving_memory(**shape, memory_size=«or (\d+)»)
        """,
    ),
    Case(
        "defenses/proving_memory.py",
        "and nothing is proven about numbers as coarse; convert the defense with .float(), or load it again",
        "defense.bfloat16().certificates(photos.bfloat16())",
        r"assert defense«with (.float\(\))».certificates(photos).radii.min() >= 0",
        given=f"{PHOTOS}; defense = build_proving_memory(**shape, preset='tiny').eval()",
    ),
    Case(
        "defenses/proving_memory.py",
        "temperature is …, but it must be above 0",
        "ProvingObjective(temperature=0)",
        r"ProvingObjective(temperature=«above (\d)» + 0.5)",
    ),
)
