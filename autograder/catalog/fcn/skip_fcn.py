"""The exercise SkipFCN of lecture 06: the head of FCN-32s, 16s and 8s."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Handle, Odd, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double, parameters_of
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import fcn as reference
from coursekit.upsampling import bilinear_kernel

# What float32 leaves.
SINGLE = (1e-4, 1e-5)


# -- what is drawn ------------------------------------------------------------------------------------------


def _channels(d: Draw) -> tuple[int, int, int]:
    """All different, so that a score is told by its shape."""
    return d.integer(1, 2), d.integer(3, 4), d.integer(5, 6)


def _fresh_case(d: Draw) -> Case:
    return Case((d.integer(2, 3), _channels(d), d.each(["16s", "8s", "32s"])))


def _head_case(variants: tuple[str, ...], sizes: tuple[tuple[int, int], ...]) -> Callable[[Draw], Case]:
    """Drawn scores without an offset; the enlargement is bilinear, so that heads whose layers cannot all be
    reached give the same numbers."""

    def draw(d: Draw) -> Case:
        classes, channels = d.integer(2, 3), _channels(d)
        variant, size = d.each(variants), d.each(sizes)
        head = reference.SkipFCN(classes, channels, variant).double()
        weights = {name: p.detach() for name, p in head.named_parameters()}
        for name, p in weights.items():
            if name.startswith("score_") and p.dim() > 1:
                weights[name] = d.tensor(*p.shape)
        n = d.choice([1, 2])
        features = {
            s: d.tensor(n, c, -(-size[0] // s), -(-size[1] // s))
            for s, c in zip((8, 16, 32), channels, strict=True)
        }
        return Case(
            (classes, channels, variant), {}, {"weights": weights, "features": features, "size": size}
        )

    return draw


_WHOLE = ((32, 64), (64, 32), (32, 32))
_RAGGED = ((37, 50), (70, 41), (9, 100), (51, 3))


# -- layers by what they do ---------------------------------------------------------------------------------


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The parameters that a head must have, by name."""
    classes, channels, variant = case.args
    strides = reference.VARIANTS[variant]
    found: dict[str, tuple[int, ...]] = {}
    for stride in strides:
        kernel = 2 * (stride if stride == strides[-1] else 2)
        found[f"score_{stride}.weight"] = (classes, channels[(8, 16, 32).index(stride)], 1, 1)
        found[f"score_{stride}.bias"] = (classes,)
        found[f"up_{stride}.weight"] = (classes, classes, kernel, kernel)
    return found


def _roles(own: Mapping[str, tuple[int, ...]], case: Case) -> dict[str, str]:
    """Which parameter of a head does what one of that name does in ours: the one of its name and shape, or
    else of its shape, and then of the stride or the layer that it is named after."""
    wanted = _shapes(case)
    roles = {name: name for name, shape in wanted.items() if own.get(name) == shape}
    for name, shape in wanted.items():
        if name in roles:
            continue
        free = [n for n, s in own.items() if s == shape and n not in roles.values()]
        stride = name.partition(".")[0].partition("_")[2]
        layer = roles.get(name.replace("bias", "weight"), "").rpartition(".")[0]
        beside = [n for n in free if name.endswith("bias") and layer and n.startswith(f"{layer}.")]
        numbered = [n for n in free if stride in re.findall(r"\d+", n)]
        if found := beside or numbered or free or [n for n in own if n == name]:
            roles[name] = found[0]
    return roles


def _offsets(own: Mapping[str, tuple[int, ...]], roles: Mapping[str, str]) -> list[str]:
    """Biases of the layers that enlarge, which must have none."""
    layers = [own_name.rpartition(".")[0] for name, own_name in roles.items() if name.startswith("up_")]
    return [f"{layer}.bias" for layer in layers if f"{layer}.bias" in own]


# -- what is looked at --------------------------------------------------------------------------------------


def _start(subject: Subject, case: Case) -> Any:
    """The layers that bear their names, and how the scores start. What else is there is looked at by
    its name alone."""
    head = subject(*case.args)
    parameters = parameters_of(head, {}, (1, 1))
    learns = head.inspect("requires_grad")["requires_grad"]
    wanted = _shapes(case)
    seen: dict[str, Any] = {
        name: {"start": parameters[name], "learns": learns[name]} if name.startswith("score_") else "is there"
        for name in wanted
        if name in parameters
    }
    ours = {f"{kind}_{stride}.weight" for kind in ("score", "up") for stride in (32, 16, 8)}
    seen["layers beyond"] = sorted(n.partition(".")[0] for n in ours - set(wanted) if n in parameters)
    return seen


def _bilinear(subject: Subject, case: Case) -> Any:
    """The layers that enlarge, whatever they are called."""
    head = subject(*case.args)
    parameters = parameters_of(head, {}, (1, 1))
    looked = head.inspect("shapes", "requires_grad", "storages")
    roles = _roles(looked["shapes"], case)
    ups = {name: own for name, own in roles.items() if name.startswith("up_")}
    memory = [looked["storages"][own] for own in ups.values()]
    return {
        **{
            name: {"start": parameters[own], "learns": looked["requires_grad"][own]}
            for name, own in sorted(ups.items())
        },
        "biases": len(_offsets(looked["shapes"], roles)),
        "weights that share their memory": len(memory) - len(set(memory)),
    }


def _head(subject: Subject, case: Case) -> tuple[Handle, dict[str, torch.Tensor], dict[str, str]]:
    """The head with the case's weights, its features in its dtype, and its parameters by what they do."""
    head = subject(*case.args)
    own = {name: tuple(p.shape) for name, p in parameters_of(head, {}, (1, 1)).items()}
    roles, wanted = _roles(own, case), _shapes(case)
    for name, shape in wanted.items():
        if own.get(roles.get(name, ""), shape) != shape:
            raise Odd(
                f"{name} has the shape {own[name]}; for variant {case.args[2]!r} and channels={case.args[1]},"
                f" those of strides 8, 16 and 32, it is {shape}"
            )
    features, size = case.extra["features"], case.extra["size"]
    for name, shape in wanted.items():
        if name.startswith("score_") and name.endswith("weight") and name not in roles:
            if more := [n for n in own if n not in roles.values()]:
                raise Odd(f"there is no {name} of shape {shape}, and {more[0]} has the shape {own[more[0]]}")
            raise Odd(_not_there(head, int(name[6:-7]), features, size))
    if all(name in roles for name in wanted if name.startswith("up_")):
        head.then("double")
    else:
        # Layers that are no parameters would stay as they are.
        features = {s: x.float() for s, x in features.items()}
    state = {own_name: case.extra["weights"][name] for name, own_name in roles.items()}
    state |= {name: torch.zeros(own[name]) for name in _offsets(own, roles)}
    # Not strict: what a head has beyond that is the business of the properties about the start.
    head.then("load_state_dict", state, strict=False)
    return head, features, roles


def _not_there(head: Handle, stride: int, features: dict[int, torch.Tensor], size: tuple[int, int]) -> str:
    """Whether a score that is no parameter is in use all the same."""
    single = {s: x.float() for s, x in features.items()}
    if head.vjp(single, size, wrt=[0])["grads"][f"0.{stride}"] is None:
        return f"the features of stride {stride} go nowhere: there is no 1×1 convolution of them"
    return (
        f"the features of stride {stride} go through a layer that is not among the head's parameters: layers"
        " in a plain list or dict are not"
    )


def _scores_of_image(subject: Subject, case: Case) -> Any:
    head, features, _ = _head(subject, case)
    return as_double(head(features, case.extra["size"]))


def _head_gradients(subject: Subject, case: Case) -> Any:
    """Of a second round: whoever keeps a part of the first one's graph cannot go through it again."""
    head, features, roles = _head(subject, case)
    head.vjp(features, case.extra["size"], wrt=[0, head])
    grads = head.vjp(features, case.extra["size"], wrt=[0, head])["grads"]
    seen = {name: as_double(g) for name, g in grads.items() if name.startswith("0.")}
    seen |= {name: as_double(grads[own]) for name, own in roles.items() if own in grads}
    if "up_32.weight" in seen and "up_16.weight" in seen:
        # Of one shape: under other names nobody can tell which is which.
        two = [seen.pop("up_32.weight"), seen.pop("up_16.weight")]
        seen["up_32.weight and up_16.weight"] = sorted(
            two, key=lambda g: -1.0 if g is None else float(g.abs().sum())
        )
    return seen


CLAIMS = Exercise(
    id="SkipFCN",
    topic="fcn",
    title="Coarse scores, finer scores, one sum",
    reference=reference.SkipFCN,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        start (0.5): score_32, score_16, score_8 and up_32, up_16, up_8, by these names, as many as the
          variant asks for; the scores 1×1, with bias, all zero at the start
        tried: the parameters of a new head, by name
        bilinear (1): what enlarges is bilinear at the start, without bias, and learns, each layer on its own
        tried: the parameters of a new head, by their shape where they have other names
        32s (0.75): FCN-32s: scores of stride 32, enlarged at once
        tried: a head with these weights, put where they fit, called on features and size
        16s (1): FCN-16s: enlarged by 2, scores of stride 16 added, enlarged by 16
        tried: a head with these weights, put where they fit, called on features and size
        8s (1): FCN-8s: the same with one step more
        tried: a head with these weights, put where they fit, called on features and size
        any_size (1): sizes that no stride divides: cropped top-left to the finer map, at last to size
        tried: a head with these weights, put where they fit, called on features and size
        gradients (0.75): gradients reach every feature, score and upsampling weight
        tried: gradients with respect to the features and all parameters
        """,
        start=on(_fresh_case, _start, examples=5),
        bilinear=on(_fresh_case, _bilinear, examples=5),
        **{"32s": on(_head_case(("32s",), _WHOLE), _scores_of_image, examples=4, tolerance=SINGLE)},
        **{"16s": on(_head_case(("16s",), _WHOLE), _scores_of_image, examples=4, tolerance=SINGLE)},
        **{"8s": on(_head_case(("8s",), _WHOLE), _scores_of_image, examples=4, tolerance=SINGLE)},
        any_size=on(
            _head_case(("16s", "8s", "32s"), _RAGGED), _scores_of_image, examples=12, tolerance=SINGLE
        ),
        gradients=on(_head_case(("8s",), _WHOLE), _head_gradients, examples=3, tolerance=SINGLE),
    ),
    hints=hints("""
        I lose track of the strides
        Draw it: score_32 → up_32 (×2) → + score_16 → up_16 (×2) → + score_8 → up_8 (×8). In a variant that
          ends earlier, the last up takes all that is left.

        Two maps differ by a row
        An image of 37 rows has 2 cells at stride 32 and 3 at stride 16; enlarged by 2, the 2 become 4. Cut
          the coarse one at the bottom.

        I don't know how to start
        strides = {'32s': (32,), '16s': (32, 16), '8s': (32, 16, 8)}[variant]. For each: score = nn.Conv2d(c,
          L, 1), zeroed; up = nn.ConvTranspose2d(L, L, 2 · factor, stride=factor, padding=factor // 2,
          bias=False) with bilinear weights, factor 2 or, at the last stride, the stride.
          self.add_module(f'up_{stride}', up).
        """),
    # The kernel is lecture 5's exercise, and one may have skipped that.
    uses=("coursekit.upsampling.bilinear_kernel",),
)

answers = Answers(CLAIMS)


@answers.right
class Looped(nn.Module):
    """a loop over the strides"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        c8, c16, c32 = channels
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        for stride in self.strides:
            score = nn.Conv2d({8: c8, 16: c16, 32: c32}[stride], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            self.add_module(f"score_{stride}", score)
            factor = stride if stride == self.strides[-1] else 2
            padding = factor // 2
            up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
            up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
            self.add_module(f"up_{stride}", up)

    def crop(self, maps, size):
        return maps[..., : size[0], : size[1]]

    def forward(self, features, size):
        up = None
        for stride in self.strides:
            score = getattr(self, f"score_{stride}")(features[stride])
            total = score if up is None else score + self.crop(up, score.shape[-2:])
            up = getattr(self, f"up_{stride}")(total)
        return self.crop(up, size)


answers.edits("""
scores_not_zero: start
- nn.init.zeros_(score.weight)
- nn.init.zeros_(score.bias)
Your score layers start with random weights.
Set weight and bias to zero: a skip that says nothing at first cannot spoil what is there.

scores_without_bias: start gradients
- score = nn.Conv2d({8: c8, 16: c16, 32: c32}[stride], num_classes, 1)
+ score = nn.Conv2d({8: c8, 16: c16, 32: c32}[stride], num_classes, 1, bias=False)
- nn.init.zeros_(score.bias)
Your scores have no bias.
nn.Conv2d(c, L, 1) has one; it starts at zero, as the weights do.

upsampling_not_bilinear: bilinear
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
Your transposed convolutions start with random weights.
Copy bilinear_kernel(num_classes, factor) into their weight.

classes_mixed: bilinear
- bilinear_kernel(num_classes, factor)
+ bilinear_kernel(1, factor).repeat(num_classes, num_classes, 1, 1)
Your bilinear kernel goes from every class to every class: all scores become their sum.
Only the diagonal: each class is interpolated from itself.

bilinear_times_a_hundredth: bilinear
- bilinear_kernel(num_classes, factor)
+ 0.01 * bilinear_kernel(num_classes, factor)
Your kernels are a hundredth of the bilinear ones: so small, they do not interpolate.
Take bilinear_kernel(num_classes, factor) as it is.

peak_off_by_half: bilinear
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
+ ramp = 1 - (torch.arange(2 * factor) - (factor - 1)).abs() / factor
+ kernel = torch.outer(ramp, ramp)
+ up.weight = nn.Parameter(kernel * torch.eye(num_classes)[:, :, None, None])
Your kernels have their peak at pixel factor − 1: all that is enlarged lies half a pixel too far up and left.
The middle of 2 · factor pixels is factor − ½; factor − 1 is that of the 2 · factor − 1 for an odd factor.

one_kernel_for_two: bilinear
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
+ kernels = vars(self).setdefault("kernels", {})
+ kernel = kernels.setdefault(factor, bilinear_kernel(num_classes, factor))
+ up.weight = nn.Parameter(kernel)
Two of your layers share the memory of one kernel: what one learns, the other has learned too.
Make a kernel for each: nn.Parameter(tensor) does not copy.

upsampling_with_bias: bilinear
- bias=False
+ bias=True
Your transposed convolutions have a bias.
nn.ConvTranspose2d(…, bias=False): the scores have one already.

upsampling_fixed: bilinear gradients
- nn.Parameter(bilinear_kernel(num_classes, factor))
+ nn.Parameter(bilinear_kernel(num_classes, factor), requires_grad=False)
Your transposed convolutions do not learn.
Leave requires_grad at True: bilinear is where they start.

interpolated: all
- factor = stride if stride == self.strides[-1] else 2
- padding = factor // 2
- up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
- self.add_module(f"up_{stride}", up)
...
- up = getattr(self, f"up_{stride}")(total)
+ factor = stride if stride == self.strides[-1] else 2
+ up = F.interpolate(total, scale_factor=factor, mode="bilinear")
You enlarged by bilinear interpolation as F.interpolate does it, which has nothing to learn.
nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8.

interpolated_to_the_nearest: all
- factor = stride if stride == self.strides[-1] else 2
- padding = factor // 2
- up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
- self.add_module(f"up_{stride}", up)
...
- up = getattr(self, f"up_{stride}")(total)
+ factor = stride if stride == self.strides[-1] else 2
+ up = F.interpolate(total, scale_factor=factor)
You enlarged by repeating each value, as F.interpolate does unless it is told otherwise: there is nothing to
  learn.
nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8.

interpolated_to_the_size: all
- factor = stride if stride == self.strides[-1] else 2
- padding = factor // 2
- up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
- self.add_module(f"up_{stride}", up)
...
- up = getattr(self, f"up_{stride}")(total)
+ finer = size if stride == self.strides[-1] else features[stride // 2].shape[-2:]
+ up = F.interpolate(total, tuple(finer), mode="bilinear")
You enlarged by bilinear interpolation to the size of the finer map, which has nothing to learn and squeezes
  what must be cropped.
nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8; then crop.

layers_of_all_variants: start
- self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
+ self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
+ for stride in {16, 8} - set(self.strides):
+     up = nn.ConvTranspose2d(num_classes, num_classes, 2 * stride, stride, stride // 2, bias=False)
+     self.add_module(f"score_{stride}", nn.Conv2d({8: c8, 16: c16}[stride], num_classes, 1))
+     self.add_module(f"up_{stride}", up)
Your head has layers that its variant does not use.
32s has score_32 and up_32 alone, 16s those of stride 16 too: what is never used is never trained.

named_after_the_target: start
- self.add_module(f"up_{stride}", up)
+ self.add_module(f"up_{stride // 2 if factor == 2 else 1}", up)
- getattr(self, f"up_{stride}")
+ getattr(self, f"up_{1 if stride == self.strides[-1] else stride // 2}")
What enlarges is named after the stride that it leads to.
A layer bears the stride of the map that it reads: up_32 enlarges the scores of stride 32.

scores_renamed: start
- self.add_module(f"score_{stride}", score)
+ self.add_module(f"score{stride}", score)
- getattr(self, f"score_{stride}")
+ getattr(self, f"score{stride}")
Your scores are layers of the head, under other names than score_32, score_16 and score_8.
Call them so: weights that somebody else has trained are found by these names.

layers_renamed: start
- self.add_module(f"score_{stride}", score)
+ self.add_module(f"score{stride}", score)
- self.add_module(f"up_{stride}", up)
+ self.add_module(f"up{stride}", up)
- getattr(self, f"score_{stride}")
+ getattr(self, f"score{stride}")
- getattr(self, f"up_{stride}")
+ getattr(self, f"up{stride}")
Your layers have other names than score_32, score_16, score_8 and up_32, up_16, up_8.
Call them so: weights that somebody else has trained are found by these names.

upsampling_in_a_dict: start bilinear gradients
- self.add_module(f"up_{stride}", up)
+ vars(self).setdefault("ups", {})[stride] = up
- getattr(self, f"up_{stride}")
+ self.ups[stride]
What enlarges in your head is right at the start and none of its parameters: nothing trains it.
Layers in a plain list or dict are not found: set them as attributes, up_32 and so on.

skips_in_a_dict: start 16s 8s any_size gradients
- self.add_module(f"score_{stride}", score)
+ if stride == 32:
+     self.score_32 = score
+ else:
+     vars(self).setdefault("skips", {})[stride] = score
- getattr(self, f"score_{stride}")
+ (self.score_32 if stride == 32 else self.skips[stride])
Some of your scores are not among the parameters of the head: nothing trains them.
Layers in a plain list or dict are not found: set them as attributes, score_16 and so on.

scores_in_a_dict: all but bilinear
- self.add_module(f"score_{stride}", score)
+ vars(self).setdefault("scores", {})[stride] = score
- getattr(self, f"score_{stride}")
+ self.scores[stride]
Your scores are not among the parameters of the head: nothing trains them.
Layers in a plain list or dict are not found: set them as attributes, score_32 and so on.

layers_in_a_dict: all
- self.add_module(f"score_{stride}", score)
+ vars(self).setdefault("scores", {})[stride] = score
- self.add_module(f"up_{stride}", up)
+ vars(self).setdefault("ups", {})[stride] = up
- getattr(self, f"score_{stride}")
+ self.scores[stride]
- getattr(self, f"up_{stride}")
+ self.ups[stride]
Your layers are not among the parameters of the head: nothing trains them.
Layers in a plain list or dict are not found: set them as attributes, score_32, up_32 and so on.

cropped_at_the_center: any_size
- return maps[..., : size[0], : size[1]]
+ top, left = (maps.shape[-2] - size[0]) // 2, (maps.shape[-1] - size[1]) // 2
+ return maps[..., top : top + size[0], left : left + size[1]]
You cropped at the center.
All maps begin at the same top left corner; what is too much lies at the bottom and right.

not_cropped: any_size
- maps[..., : size[0], : size[1]]
+ maps
Your maps are not cropped.
⌈size / stride⌉ cells enlarged may be more than the finer map has: cut [..., :h, :w].

finer_padded: any_size
- total = score if up is None else score + self.crop(up, score.shape[-2:])
+ coarse = 0 if up is None else up
+ rows, columns = (0, 0) if up is None else (up.shape[i] - score.shape[i] for i in (-2, -1))
+ total = coarse + F.pad(score, (0, columns, 0, rows))
You filled the finer scores up with zeros to the size of the enlarged map: what that holds beyond the image
  leaks into the last rows and columns.
Cut the enlarged map to the size of the finer one before they are added: [..., :h, :w].

squeezed: any_size
- maps[..., : size[0], : size[1]]
+ F.interpolate(maps, tuple(size), mode="bilinear")
You squeezed maps to their size where they had to be cropped.
The grid stays; only the surplus at the bottom and right goes.

coarse_forgotten: 16s 8s any_size gradients
- score if up is None else score + self.crop(up, score.shape[-2:])
+ score
You went on with the finer scores alone: what the coarse ones say is lost.
Add them up: score_16(…) + cropped up_32(…).

skips_forgotten: 16s 8s any_size gradients
- score + self.crop(up, score.shape[-2:])
+ self.crop(up, score.shape[-2:])
You enlarged the coarse scores and never added the finer ones.
Add them up: score_16(…) + cropped up_32(…).

channels_reversed: all but bilinear
- c8, c16, c32 = channels
+ c32, c16, c8 = channels
You read channels from the back.
channels = (c8, c16, c32): score_32 takes the last of them.

enlarged_by_the_stride: all but start 32s
- factor = stride if stride == self.strides[-1] else 2
+ factor = stride
Your up layers all enlarge by their stride.
Only the last one enlarges to the image; those before it enlarge by 2, to the next finer map.

averaged_skips: 16s 8s any_size gradients
- score + self.crop(up, score.shape[-2:])
+ (score + self.crop(up, score.shape[-2:])) / 2
You averaged the two scores.
Skips are summed.

scores_rectified: all but start bilinear
- (features[stride])
+ (features[stride]).relu()
A ReLU follows your scores: none of them can speak against a class.
Scores are logits: leave them as the 1×1 convolution gives them.

probabilities: all but start bilinear
- return self.crop(up, size)
+ return self.crop(up, size).softmax(1)
Your head returns probabilities: the softmax is in it.
Return logits: the loss takes the softmax, and the largest is the same.

padding_forgotten: all but start bilinear
- padding = factor // 2
+ padding = 0
Your maps are shifted down and right by half a cell: the transposed convolutions have no padding.
padding = factor // 2 puts factor × factor pixels around the center of each cell.

always_8s: all but 8s gradients
- {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
+ (32, 16, 8)
Your head scores all three strides whatever the variant.
32s scores stride 32 alone and enlarges at once; 16s adds stride 16.
""")


def interpolating(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(k) - (k - 1) / 2).abs() / factor
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


class Scored(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return torch.einsum("nchw,lc->nlhw", x, self.weight[:, :, 0, 0]) + self.bias[:, None, None]


class Enlarged(nn.Module):
    def __init__(self, classes, factor):
        super().__init__()
        self.weight = nn.Parameter(interpolating(classes, factor))
        self.factor = factor

    def forward(self, x):
        n, _, h, w = x.shape
        copies = torch.einsum("nchw,cokl->noklhw", x, self.weight).reshape(n, -1, h * w)
        f = self.factor
        return F.fold(copies, (f * h, f * w), self.weight.shape[-1], padding=f // 2, stride=f)


@answers.right
class Folded(nn.Module):
    """matrix products and fold"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.last = int(variant[:-1])
        for stride, c in zip((32, 16, 8), channels[::-1], strict=True):
            if stride >= self.last:
                setattr(self, f"score_{stride}", Scored(c, num_classes))
                setattr(self, f"up_{stride}", Enlarged(num_classes, 2 if stride > self.last else stride))

    def forward(self, features, size):
        total, stride = self.score_32(features[32]), 32
        while stride > self.last:
            larger = getattr(self, f"up_{stride}")(total)
            stride //= 2
            finer = getattr(self, f"score_{stride}")(features[stride])
            total = finer + larger[:, :, : finer.shape[2], : finer.shape[3]]
        return getattr(self, f"up_{stride}")(total)[:, :, : size[0], : size[1]]


@answers.right
class WrittenOut(nn.Module):
    """the three variants written out"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        c8, c16, c32 = channels
        self.variant = variant
        self.score_32 = self._zeros(c32, num_classes)
        if variant == "32s":
            self.up_32 = self._up(num_classes, 32)
        elif variant == "16s":
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.up_16 = self._up(num_classes, 16)
        else:
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.score_8, self.up_16 = self._zeros(c8, num_classes), self._up(num_classes, 2)
            self.up_8 = self._up(num_classes, 8)

    def _zeros(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
        return layer

    def _up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, stride=factor, bias=False)
        layer.weight.data = interpolating(classes, factor)
        return layer

    def _enlarged(self, layer, x, size):
        p = layer.stride[0] // 2
        return layer(x)[:, :, p : p + size[0], p : p + size[1]]

    def forward(self, features, size):
        x = self.score_32(features[32])
        if self.variant == "32s":
            return self._enlarged(self.up_32, x, size)
        x = self._enlarged(self.up_32, x, features[16].shape[2:]) + self.score_16(features[16])
        if self.variant == "16s":
            return self._enlarged(self.up_16, x, size)
        x = self._enlarged(self.up_16, x, features[8].shape[2:]) + self.score_8(features[8])
        return self._enlarged(self.up_8, x, size)


EXERCISE = answers.exercise()
