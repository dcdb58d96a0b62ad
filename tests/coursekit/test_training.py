import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coursekit.data import SmallImages
from coursekit.training import accuracy, fit, unit_range


def blobs(n=120, seed=0):
    """Two classes of images that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    noise = torch.randint(0, 100, (n, 3, 32, 32), generator=generator)
    return SmallImages(
        "blobs", ("dark", "bright"), (noise + 150 * labels[:, None, None, None]).byte(), labels
    )


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 2), nn.Dropout(0.1))


def seeded():
    return torch.Generator().manual_seed(1)


def test_learns_and_records():
    model = classifier()
    history = fit(
        model, blobs(), blobs(40, seed=9), epochs=3, batch_size=25, generator=seeded(),
        record={"gradient": lambda m: m[3].weight.grad.norm()},
    )  # fmt: skip
    assert len(history.loss) == len(history.recorded["gradient"]) == 12
    assert history.loss[-1] < history.loss[0] / 2
    assert min(history.recorded["gradient"]) > 0
    assert [step for step, _ in history.val_accuracy] == [4, 8, 12]
    assert history.val_accuracy[-1][1] > 0.9
    assert history.seconds > 0


def test_takes_exactly_the_steps_asked_for():
    history = fit(classifier(), blobs(), blobs(10), steps=7, batch_size=50)
    assert len(history.loss) == 7
    assert [step for step, _ in history.val_accuracy] == [2, 4, 6, 7]
    assert fit(classifier(), blobs(), steps=0).loss == []


def test_repeats_under_a_generator_and_uses_no_other_chance():
    def run():
        model = classifier().requires_grad_(True)
        model[4].p = 0.0
        before = torch.get_rng_state()
        history = fit(model, blobs(), epochs=2, generator=seeded())
        assert torch.equal(torch.get_rng_state(), before)
        return history.loss

    assert run() == run()


def test_one_step_is_a_step_of_gradient_descent():
    data = blobs(20)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)).double()
    weight = model[1].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)

    def transform(images):
        return unit_range(images).double()

    loss = F.cross_entropy(model(transform(data.images)), data.labels)
    (gradient,) = torch.autograd.grad(loss, model[1].weight)
    history = fit(model, data, steps=1, batch_size=20, optimizer=optimizer, transform=transform)
    assert history.loss[0] == pytest.approx(loss.item())
    torch.testing.assert_close(model[1].weight, weight - 0.3 * gradient)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_found(training):
    model = classifier().train(training)
    model[2].train(not training)
    flags = [module.training for module in model.modules()]
    fit(model, blobs(), blobs(10), steps=2)
    accuracy(model, blobs(10))
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(RuntimeError):
        fit(model, blobs(), steps=1, transform=lambda images: images)
    assert [module.training for module in model.modules()] == flags


def test_trains_in_training_mode_and_judges_in_evaluation_mode():
    seen = []
    model = classifier().eval()
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    fit(model, blobs(), blobs(10), steps=2, batch_size=120)
    assert seen == [True, False, True, False]


def test_the_ragged_rest_is_left_out_and_a_small_set_is_not():
    sizes = []
    model = classifier()
    model[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    fit(model, blobs(41), epochs=2, batch_size=20)
    fit(model, blobs(12), epochs=2, batch_size=20)
    assert sizes == [20, 20, 20, 20, 12, 12]


def test_accuracy_counts_the_right_ones():
    data = blobs(30)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    assert accuracy(model, data, batch_size=7) == 0.5


@pytest.mark.gpu
def test_trains_where_it_is_told():
    model = classifier()
    fit(model, blobs(), blobs(10), steps=3, device="cuda", generator=seeded())
    assert next(model.parameters()).is_cuda
    assert 0 <= accuracy(model, blobs(10)) <= 1
