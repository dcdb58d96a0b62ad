import pytest
import torch
from torch import nn
from torch.nn import functional as F

from coursekit.data import VOID, SmallImages
from coursekit.metrics import accuracy, mean_iou
from coursekit.training import (
    Descent,
    Run,
    Task,
    Validation,
    Watch,
    drawn_from,
    fit,
    one_cycle,
    quarter_turns,
    unit_range,
)


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
        model, blobs(), Validation(blobs(40, seed=9), accuracy), epochs=3, batch_size=25, generator=seeded(),
        watch=Watch(record={"gradient": lambda m: m[3].weight.grad.norm()}),
    )  # fmt: skip
    assert len(history.loss) == len(history.recorded["gradient"]) == 12
    assert history.loss[-1] < history.loss[0] / 2
    assert min(history.recorded["gradient"]) > 0
    assert [step for step, _ in history.val_score] == [4, 8, 12]
    assert history.val_score[-1][1] > 0.9
    assert history.seconds > 0


def test_takes_exactly_the_steps_asked_for():
    history = fit(classifier(), blobs(), Validation(blobs(10), accuracy), steps=7, batch_size=50)
    assert len(history.loss) == 7
    assert [step for step, _ in history.val_score] == [2, 4, 6, 7]
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
    descent, task = Descent(optimizer), Task(transform=transform)
    history = fit(model, data, steps=1, batch_size=20, descent=descent, task=task)
    assert history.loss[0] == pytest.approx(loss.item())
    torch.testing.assert_close(model[1].weight, weight - 0.3 * gradient)


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_left_as_found(training):
    model = classifier().train(training)
    model[2].train(not training)
    flags = [module.training for module in model.modules()]
    fit(model, blobs(), Validation(blobs(10), accuracy), steps=2)
    accuracy(model, blobs(10))
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(RuntimeError):
        fit(model, blobs(), steps=1, task=Task(transform=lambda images: images))
    assert [module.training for module in model.modules()] == flags


def test_trains_in_training_mode_and_judges_in_evaluation_mode():
    seen = []
    model = classifier().eval()
    model[2].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    fit(model, blobs(), Validation(blobs(10), accuracy), steps=2, batch_size=120)
    assert seen == [True, False, True, False]


def test_the_ragged_rest_is_left_out_and_a_small_set_is_not():
    sizes = []
    model = classifier()
    model[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    fit(model, blobs(41), epochs=2, batch_size=20)
    fit(model, blobs(12), epochs=2, batch_size=20)
    assert sizes == [20, 20, 20, 20, 12, 12]


class Halves(torch.utils.data.Dataset):
    """Images whose bright pixels are class 1, with a void frame, and the weight of every pixel."""

    def __init__(self, count=12, size=14):
        generator = torch.Generator().manual_seed(3)
        self.labels = torch.randint(0, 2, (count, size, size), generator=generator)
        self.images = (200 * self.labels[:, None] + 20).byte()
        self.labels[:, 0] = self.labels[:, :, -1] = VOID

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        labels = self.labels[index]
        return {"image": self.images[index], "labels": labels, "weights": (labels == 1).float() + 0.5}


def pixelwise(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=VOID)


def test_trains_on_maps_and_scores_by_mean_iou():
    model = nn.Conv2d(1, 2, 1)
    history = fit(
        model, Halves(), Validation(Halves(4), mean_iou), epochs=40, batch_size=4, lr=0.5,
        task=Task("labels", pixelwise), generator=seeded(),
    )  # fmt: skip
    assert history.val_score[-1][1] == 1.0
    assert len(history.val_score) == 40


def test_a_map_larger_than_the_logits_counts_in_its_center():
    model = nn.Conv2d(1, 2, 5)
    seen = []

    def weighted(logits, labels, weights):
        seen.append((logits.shape, labels, weights))
        return (weights * F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")).mean()

    data = Halves(4)
    fit(
        model,
        data,
        Validation(data, mean_iou),
        steps=1,
        batch_size=4,
        task=Task(("labels", "weights"), weighted),
    )
    ((shape, labels, weights),) = seen
    assert shape == (4, 2, 10, 10)
    ordered = {tuple(t.flatten().tolist()) for t in data.labels[:, 2:-2, 2:-2]}
    assert {tuple(t.flatten().tolist()) for t in labels} == ordered
    assert torch.equal(weights, (labels == 1).float() + 0.5)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    def noisy(batch, generator):
        noise = torch.randint(0, 9, batch["image"].shape, generator=generator)
        return {**batch, "image": (batch["image"] // 2 + noise).byte()}

    def run(epochs, checkpoint=None):
        model, generator = classifier(), seeded()
        model[4].p = 0.0
        history = fit(
            model, blobs(), Validation(blobs(20, seed=5), accuracy), epochs=epochs, batch_size=30, generator=generator,
            descent=Descent(torch.optim.Adam(model.parameters(), lr=0.01)), task=Task(augment=noisy),
            run=Run(checkpoint=checkpoint),
        )  # fmt: skip
        return model, history

    straight, expected = run(4)
    file = tmp_path / "runs" / "checkpoint.pt"
    run(2, checkpoint=file)
    resumed, history = run(4, checkpoint=file)
    assert history.loss == expected.loss
    assert history.val_score == expected.val_score
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert list(file.parent.iterdir()) == [file]
    again, unchanged = run(4, checkpoint=file)
    assert unchanged.loss == expected.loss
    assert torch.equal(again[3].weight, straight[3].weight)


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    file = tmp_path / "checkpoint.pt"
    run = Run(checkpoint=file)
    fit(classifier(), blobs(), epochs=1, run=run)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    with pytest.raises(ValueError, match=r"checkpoint must be .*checkpoint\.pt"):
        fit(other, blobs(), epochs=1, run=run)
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"checkpoint must be .*checkpoint\.pt"):
        fit(classifier(), blobs(), epochs=1, run=run)


def test_the_score_is_asked_of_what_the_network_is_trained_on():
    asked = []

    def score(*arguments):
        asked.append(arguments)
        return 0.0

    def transform(images):
        return images.float() / 100

    model, val = classifier(), blobs(10)
    fit(model, blobs(), Validation(val, score), steps=2, batch_size=120, task=Task(transform=transform))
    assert asked == [(model, val, transform)] * 2


def test_stops_early_and_brings_the_best_weights_back():
    scores = iter([0.1, 0.6, 0.5, 0.6, 0.4, 0.9])
    kept = []

    def score(model, val, transform):
        kept.append(model[3].weight.detach().clone())
        return next(scores)

    model = classifier()
    history = fit(model, blobs(), Validation(blobs(10), score, patience=3), epochs=6, batch_size=60)
    assert [value for _, value in history.val_score] == [0.1, 0.6, 0.5, 0.6, 0.4]
    assert history.best == (4, 0.6)
    assert torch.equal(model[3].weight, kept[1])


def test_gradients_are_clipped():
    def largest(clip):
        model = classifier()
        norms = []

        class Watched(torch.optim.SGD):
            def step(self, closure=None):
                norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item())
                return super().step(closure)

        fit(model, blobs(), steps=5, descent=Descent(Watched(model.parameters(), lr=0.5), clip=clip))
        return max(norms)

    assert largest(None) > 0.1
    assert largest(0.01) == pytest.approx(0.01, rel=1e-3)


def test_the_learning_rate_follows_its_schedule():
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    model = classifier()
    groups = [{"params": [model[3].weight], "lr": 0.4}, {"params": [model[3].bias]}]
    fit(model, blobs(), steps=10, descent=Descent(Watched(groups, lr=0.1), one_cycle(0.4)))
    expected = [0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]
    assert [a for a, _ in rates] == pytest.approx([0.4 * e for e in expected])
    assert [b for _, b in rates] == pytest.approx([0.1 * e for e in expected])


def test_half_precision_learns_the_same_and_keeps_full_weights():
    model = classifier()
    history = fit(
        model, blobs(), Validation(blobs(40), accuracy), epochs=4, batch_size=20, generator=seeded(),
        run=Run(mixed_precision=True),
    )  # fmt: skip
    assert model[3].weight.dtype == torch.float32
    assert history.val_score[-1][1] > 0.9


def test_changes_no_global_switch():
    before = (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
    fit(classifier(), blobs(), Validation(blobs(10), accuracy), steps=2)
    assert before == (
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()
    )  # fmt: skip


@pytest.mark.gpu
def test_a_gpu_trains_in_half_precision_and_channels_last():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    fit(model, blobs(), steps=1, run=Run(device="cuda"))
    ((images, output),) = seen
    assert output.dtype in (torch.bfloat16, torch.float16)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_trains_where_it_is_told():
    model = classifier()
    val, run = Validation(blobs(10), accuracy), Run(device="cuda")
    fit(model, blobs(), val, steps=3, generator=seeded(), run=run)
    assert next(model.parameters()).is_cuda
    assert 0 <= accuracy(model, blobs(10)) <= 1


def test_new_layers_follow_the_generator_and_leave_the_global_one_alone():
    def drawn(seed):
        with drawn_from(torch.Generator().manual_seed(seed)):
            return nn.Linear(5, 4).weight

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = drawn(1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn(1), first)
    assert not torch.equal(drawn(2), first)
    generator = seeded()
    with drawn_from(generator):
        one = torch.rand(())
    with drawn_from(generator):
        assert torch.rand(()) != one
    torch.manual_seed(0)
    with drawn_from(None):
        assert torch.equal(torch.rand(3), expected)


def test_images_and_maps_are_turned_alike_in_all_eight_ways():
    places = torch.arange(30).reshape(1, 5, 6)
    ways = set()
    for seed in range(80):
        batch = {"image": places[:, None].float(), "labels": places}
        turned = quarter_turns(batch, torch.Generator().manual_seed(seed))
        assert torch.equal(turned["image"][:, 0], turned["labels"].float())
        ways.add(tuple(turned["labels"].flatten().tolist()))
    square = [
        k for turns in range(4) for k in (places.rot90(turns, (1, 2)), places.rot90(turns, (1, 2)).flip(2))
    ]
    assert ways == {tuple(way.flatten().tolist()) for way in square}
