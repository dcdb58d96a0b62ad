import json
import urllib.error

import pytest
import torch
from torch.nn import functional as F

from coursekit import models
from coursekit.convolutionalize import class_heatmaps, convolutionalize
from coursekit.data import photographs
from coursekit.data._files import DataError
from coursekit.data.cifar10 import cifar10
from coursekit.metrics import accuracy
from coursekit.models import Backbone, SmallBackbone, pretrained, small_classifier
from coursekit.training import unit_range
from tests.coursekit.draws import randn

SMALL = (4, 6, 8, 10)


def test_a_classifier_gives_logits_for_images_of_any_size():
    net = small_classifier(5, SMALL, in_channels=2).double().eval()
    for size in [(32, 32), (37, 51), (8, 9)]:
        assert net(randn(0, 3, 2, *size)).shape == (3, 5)
    assert net.conv1.kernel_size == (7, 7)


def test_a_classifier_becomes_an_fcn_with_the_same_numbers():
    net = small_classifier(5, SMALL).double().eval()
    x = randn(0, 2, 3, 32, 32)
    fcn = convolutionalize(net, (3, 32, 32))
    torch.testing.assert_close(fcn(x)[:, :, 0, 0], net(x))
    assert fcn(randn(0, 1, 3, 64, 80)).shape == (1, 5, 5, 7)


@pytest.mark.parametrize("kind", [Backbone, SmallBackbone])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 70), (95, 64)])
def test_features_have_as_many_cells_as_strides_fit(kind, size):
    features = kind((8, 9, 10))(randn(0, 2, 3, *size, dtype=torch.float32))
    for stride, channels in zip((8, 16, 32), (8, 9, 10), strict=True):
        cells = tuple(-(-side // stride) for side in size)
        assert features[stride].shape == (2, channels, *cells)


def test_a_backbone_starts_from_a_classifier():
    classifier = small_classifier(3, (4, 6, 8, 8)).eval()
    backbone = Backbone((8, 9, 10), classifier).eval()
    x = randn(0, 2, 3, 48, 64, dtype=torch.float32)
    expected = classifier[: list(dict(classifier.named_children())).index("average")](x)
    torch.testing.assert_close(backbone(x)[8], expected)
    with torch.no_grad():
        backbone.to_8.conv1.weight.zero_()
    assert classifier.conv1.weight.abs().sum() > 0


def test_saved_and_loaded_it_is_the_same(tmp_path, monkeypatch):
    from coursekit.preprocessing import Standardizer

    torch.manual_seed(0)
    statistics = Standardizer().fit(torch.rand(4, 3, 8, 8))
    net = small_classifier(3, SMALL, standardizer=statistics).eval()
    models.save_pretrained(net, tmp_path / "cifar10.safetensors", classes=list("abc"), widths=SMALL)
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(pretrained("cifar10")(x), net(x), atol=2e-2, rtol=2e-2)
    assert json.loads(json.dumps(models.settings("cifar10")))["widths"] == list(SMALL)


def test_without_a_network_the_message_names_what_works(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(DataError, match=r"alexnet.*no network.*pretrained\("):
        pretrained("alexnet")


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(DataError, match=r"cifar10\.safetensors is missing; python -m benchmarks"):
        pretrained("cifar10")


# -- this course's own network ------------------------------------------------------------------------------


def test_it_is_small_ready_and_says_how_it_was_made():
    file = models.WEIGHTS / "cifar10.safetensors"
    assert file.stat().st_size <= 3_000_000
    made = models.settings("cifar10")
    assert made["classes"][3] == "cat"
    assert {"command", "seed", "test_accuracy"} <= set(made)
    net = pretrained("cifar10")
    assert not net.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert made["command"] in (models.WEIGHTS / "README.md").read_text()


def test_its_accuracy_is_the_one_its_card_says(real_data, monkeypatch):
    if real_data is None:
        pytest.skip("CIFAR-10 is not here")
    monkeypatch.setenv("COURSEKIT_DATA", str(real_data))
    reached = accuracy(pretrained("cifar10"), cifar10("test"))
    assert reached >= 0.88
    assert reached == pytest.approx(models.settings("cifar10")["test_accuracy"], abs=0.002)


def test_its_first_filters_are_smooth():
    """Noise has as much energy in its finest frequencies as in its coarse ones; edges and blobs do not."""
    weight = pretrained("cifar10").conv1.weight.detach()
    spectrum = torch.fft.fft2(weight).abs() ** 2
    frequency = torch.fft.fftfreq(7).abs()
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt()
    coarse = spectrum[..., radius < 0.3].mean()
    assert coarse > 2.5 * spectrum[..., radius > 0.4].mean()


def test_it_finds_the_cat_in_a_photograph():
    image = unit_range(photographs.load("cat"))[None]
    fcn = convolutionalize(pretrained("cifar10"), (3, 32, 32))
    for scale in (0.14, 0.16, 0.2):
        small = F.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True)
        heat = class_heatmaps(fcn, small)[0]
        cat = models.settings("cifar10")["classes"].index("cat")
        assert (heat.argmax(0) == cat).double().mean() > 0.8
        assert heat[cat].max() > 0.7


def test_it_finds_each_image_of_a_mosaic_in_its_place(real_data, monkeypatch):
    if real_data is None:
        pytest.skip("CIFAR-10 is not here")
    monkeypatch.setenv("COURSEKIT_DATA", str(real_data))
    test = cifar10("test")
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:64]
    images, labels = test.images[chosen].reshape(8, 8, 3, 32, 32), test.labels[chosen].reshape(8, 8)
    mosaic = images.permute(2, 0, 3, 1, 4).reshape(3, 256, 256)
    heat = class_heatmaps(convolutionalize(pretrained("cifar10"), (3, 32, 32)), unit_range(mosaic)[None])[0]
    # The network pads, so beside a neighbor an image is not what it is alone.
    found = heat[:, ::4, ::4].argmax(0)
    assert (found == labels).double().mean() > 0.6
