"""Messages of networks, losses, threats, wrappers and files of tensors."""

from remedies.cases import Case

ROOMS = ("networks", "randomness.py", "tensorfiles.py", "threat.py")

CASES = (
    Case(
        "networks/comdefend.py",
        "but a layer has at least 1 channel",
        "ComDefendPlan(channels=1, compress=(0, 8), bits=4, reconstruct=(8,))",
        r"ComDefendPlan(channels=1, compress=(«at least (\d)», 8), bits=4, reconstruct=(8,))",
    ),
    Case(
        "networks/denoiser.py",
        "but a level has at least 1 channel; give (32,)",
        "DenoiserPlan(channels=1, widths=(), blocks=1)",
        r"Denoiser(DenoiserPlan(channels=1, widths=«give (\(.*\))», blocks=1))(torch.rand(2, 1, 8, 8))",
    ),
    Case(
        "networks/defense_vae.py",
        "but Defense-VAE takes multiples of 4 from 8",
        "DefenseVaePlan(channels=1, size=30)",
        r"""
        photos = torch.rand(2, 1, 30, 30)
        plan = DefenseVaePlan(channels=1, size=«from (\d+)»)
        VaeEncoder(plan)(nn.functional.interpolate(photos, size=(plan.size, plan.size)))
        plan = DefenseVaePlan(channels=1, size=30 + 30 % «multiples of (\d+)»)
        VaeEncoder(plan)(nn.functional.pad(photos, (1, 1, 1, 1)))
        """,
    ),
    Case(
        "networks/defense_vae.py",
        "widths is",
        "DefenseVaePlan(channels=1, size=28, widths=(0, 8, 8, 8))",
        r"DefenseVaePlan(channels=1, size=28, widths=(«at least (\d)», 8, 8, 8))",
    ),
    Case(
        "networks/layers.py",
        "give one number each per channel",
        "Normalize([0.5, 0.5, 0.5], [0.2, 0.2])",
        r"Normalize([0.5] * «mean has (\d)», [0.2] * «mean has (\d)»)",
    ),
    Case(
        "networks/layers.py",
        "but every channel's must be above 0",
        "Normalize([0.5], [0])",
        r"Normalize([0.5], [«above (\d)» + 0.2])",
    ),
    Case(
        "networks/layers.py",
        "resize them to more pixels",
        "features_of(nn.Conv2d(1, 2, 5), 1, 4)",
        "features_of(nn.Conv2d(1, 2, 5), 1, 4 + 1)",
    ),
    Case(
        "networks/layers.py",
        "channels is …, but an image has at least 1",
        "check_network(0, 28, 10, mean=[])",
        r"check_network(«at least (\d)», 28, 10, mean=[0.5])",
    ),
    Case(
        "networks/layers.py",
        "give one for each",
        "check_network(3, 32, 10, mean=[0.5])",
        r"check_network(3, 32, 10, mean=[0.5] * «for (\d) channels»)",
    ),
    Case(
        "networks/layers.py",
        "but a classifier needs at least 2",
        "check_network(3, 32, 1, mean=[0.5] * 3)",
        r"check_network(3, 32, «at least (\d)», mean=[0.5] * 3)",
    ),
    Case(
        "networks/layers.py",
        "pixels; resize the images",
        "check_side(256, 'the autoencoder', 4)",
        r"check_side(«to (\d+) pixels», 'the autoencoder', 4)",
    ),
    Case(
        "networks/layers.py",
        "add a missing axis with images.unsqueeze(1) (grey) or images.unsqueeze(0) (one image)",
        "Normalize([0.5], [0.2])(images)",
        r"""
        Normalize([0.5], [0.2])(«or (images.unsqueeze\(0\))»)
        images = torch.rand(5, 28, 28)
        Normalize([0.5], [0.2])(«with (images.unsqueeze\(1\))»)
        """,
        given="images = torch.rand(1, 28, 28)",
        within="images have shape …, … takes (B, …); …",
    ),
    Case(
        "networks/layers.py",
        "build it for … channels, or give images of …",
        "Normalize([0.5], [0.2])(torch.rand(2, 3, 28, 28))",
        r"""
        Normalize([0.5] * «for (\d) channels», [0.2] * «for (\d) channels»)(torch.rand(2, 3, 28, 28))
        Normalize([0.5], [0.2])(torch.rand(2, «images of (\d)», 28, 28))
        """,
        within="images have shape …, … takes (B, …); …",
    ),
    Case(
        "networks/layers.py",
        "resize them, or build it for images of … pixels a side",
        "check_input(torch.rand(2, 1, 24, 24), 'the autoencoder', 1, 28)",
        r"""
        photos = torch.rand(2, 1, 24, 24)
        check_input(nn.functional.interpolate(photos, size=(«takes \(B, 1, (28, 28)\)»)), 'the autoencoder', 1, 28)
        check_input(photos, 'the autoencoder', 1, size=«images of (\d+) pixels a side»)
        """,
        within="images have shape …, … takes (B, …); …",
    ),
    Case(
        "networks/lipschitz.py",
        "but one that keeps the size has an odd side",
        "SllConv2d(4, 4, kernel=2)",
        r"assert SllConv2d(4, 4, kernel=«use (\d)»)(torch.rand(2, 4, 5, 5)).shape == (2, 4, 5, 5)",
    ),
    Case(
        "networks/lipschitz.py",
        "give both one for each halving",
        "LipschitzPlan(channels=1, size=28, widths=(8, 32), depths=(2,), dense=())",
        r"LipschitzPlan(channels=1, size=28, widths=(8, 32), depths=(2,) * «widths has (\d)», dense=())",
    ),
    Case(
        "networks/lipschitz.py",
        "but halving the sides makes … channels of …",
        "LipschitzPlan(channels=3, size=32, widths=(8, 48), depths=(1, 1), dense=())",
        r"LipschitzPlan(channels=3, size=32, widths=(«at least (\d+)», 48), depths=(1, 1), dense=())",
    ),
    Case(
        "networks/lipschitz.py",
        "give one for each",
        "LipschitzEncoder(plan, [0.5, 0.5, 0.5])",
        r"LipschitzEncoder(plan, [0.5] * «for (\d) channels»)(torch.rand(2, 1, 8, 8))",
        given="plan = LipschitzPlan(channels=1, size=8, widths=(4,), depths=(1,), dense=())",
    ),
    Case(
        "networks/magnet.py",
        "but an autoencoder needs at least one convolution, each with at least 1 channel",
        "DenoisingAutoencoder(channels=1, structure=('average',))",
        r"DenoisingAutoencoder(channels=1, structure=('average', «at least (\d) channel»))",
    ),
    Case(
        "networks/magnet.py",
        "pixels, but the autoencoder takes",
        "autoencoder_one(1)(torch.rand(2, 1, 3, 3))",
        r"""
        photos = torch.rand(2, 1, 3, 3)
        autoencoder_one(1)(nn.functional.interpolate(photos, size=«takes (\d+)»))
        """,
    ),
    Case(
        "networks/pixelcnn.py",
        "dropout is",
        "PixelCnnPlan(channels=1, size=28, filters=8, blocks=1, dropout=1.0)",
        r"PixelCnnPlan(channels=1, size=28, filters=8, blocks=1, dropout=«in \[(\d), 1\)»)",
    ),
    Case(
        "networks/pixelcnn.py",
        "resolutions need a multiple of",
        "PixelCnnPlan(channels=1, size=30, filters=8, blocks=1)",
        r"""
        PixelCnnPlan(channels=1, size=30, filters=8, blocks=1, «lower (resolutions)»=2)
        PixelCnnPlan(channels=1, size=7 * «multiple of (\d)», filters=8, blocks=1)
        """,
    ),
    Case(
        "networks/resnet.py",
        "layers here; known:",
        "resnet18(layers=34, **shape)",
        r"resnet18(layers=«known: (\d+)», **shape)",
    ),
    Case(
        "losses.py",
        "the DLR loss needs at least 3 classes",
        "difference_of_logits_ratio(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))",
        """
        margin(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))
        difference_of_logits_ratio(torch.zeros(5, «at least (\\d)»), torch.zeros(5, dtype=torch.int64))
        """,
    ),
    Case(
        "tensorfiles.py",
        "has become shorter since it was read; restore it, or make it again",
        "bytes_of(Path('w.safetensors'), start, stop)",
        "write_tensors(Path('w.safetensors'), held)\nbytes_of(Path('w.safetensors'), start, stop)",
        given="""
import os
from memory_defense.tensorfiles import bytes_of, place_in
held = {"a": torch.ones(5)}
write_tensors(Path("w.safetensors"), held)
start, stop = place_in(Path("w.safetensors"), "a")
os.truncate("w.safetensors", stop - 1)
""",
    ),
    Case(
        "files.py",
        "make it readable with chmod u+r",
        "tensorfiles.read_tensors(Path('weights.safetensors'))",
        """
        subprocess.run(["chmod", "«chmod (.*)»", "weights.safetensors"], check=True)
        tensorfiles.read_tensors(Path('weights.safetensors'))
        """,
        given="""
        from memory_defense import tensorfiles
        tensorfiles.write_tensors(Path('weights.safetensors'), net.state_dict())
        Path('weights.safetensors').chmod(0)
        """,
    ),
    Case(
        "files.py",
        "convert it once, its weights alone, with: memdef convert",
        "tensorfiles.read_tensors(Path('weights.pt'))",
        """
        memdef("«with: (memdef convert \\S+ \\S+)»")
        tensorfiles.read_tensors(Path('weights.safetensors'))
        """,
        given="from memory_defense import tensorfiles; torch.save(net.state_dict(), 'weights.pt')",
    ),
    Case(
        "tensorfiles.py",
        "is a web page, not weights; download the file again",
        "read_tensors(Path('weights.safetensors'))",
        """
        write_tensors(Path('weights.safetensors'), net.state_dict())
        read_tensors(Path('weights.safetensors'))
        """,
        given="Path('weights.safetensors').write_text('<!DOCTYPE html><title>Log in</title>')",
    ),
    Case(
        "tensorfiles.py",
        "is not a whole safetensors file",
        "read_tensors(Path('weights.safetensors'))",
        """
        write_tensors(Path('weights.safetensors'), net.state_dict())
        read_tensors(Path('weights.safetensors'))
        """,
        given="""
        write_tensors(Path('weights.safetensors'), net.state_dict())
        Path('weights.safetensors').write_bytes(Path('weights.safetensors').read_bytes()[:-4])
        """,
    ),
    Case(
        "wrappers/gradients.py",
        "they must agree",
        "images.requires_grad_(); Bpda(lambda x: x.round(), lambda x: x.flatten(1))(images)",
        "Bpda(lambda x: x.round(), lambda x: x)(images).sum().backward()",
    ),
    Case(
        "wrappers/randomised.py",
        "but an expectation needs at least 1",
        "Eot(net, samples=0)",
        r"Eot(net, samples=«at least (\d)»)(images)",
    ),
    Case(
        "wrappers/randomised.py",
        "expected 'logits' or 'probabilities'",
        "Eot(net, samples=2, average='softmax')",
        r"Eot(net, samples=2, average=«or ('\w+')»)(images)",
    ),
    Case(
        "wrappers/randomised.py",
        "but an image is submitted at least once",
        "Resubmission(net, labels, attempts=0)",
        "Resubmission(net, labels, attempts=1)(images)",
    ),
    Case(
        "wrappers/randomised.py",
        "restrict the classifier with wrappers.rows_of(model, rows) to the images it is called with",
        "model(images[:3])",
        "rows = torch.arange(3); memory_defense.«with (wrappers.rows_of.model, rows.)»(images[rows])",
        given="import memory_defense.wrappers; model = Resubmission(net, labels, attempts=2)",
    ),
)
