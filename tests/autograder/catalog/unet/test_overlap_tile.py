import numpy as np
import torch
from contract import Contract

from autograder.oracle import evaluate


def tiled(put_back, step=lambda tile: tile):
    """A right answer but for how it leaves the network, or how far its tiles lie apart."""

    def overlap_tile(net, image, tile, context, num_classes):
        pixels = image.float() if not image.is_floating_point() else image
        h, w = image.shape[1:]
        margins = [(0, 0), (context, context + tile), (context, context + tile)]
        wide = torch.from_numpy(np.pad(pixels.numpy(), margins, mode="reflect"))
        total, count = pixels.new_zeros(num_classes, h + tile, w + tile), pixels.new_zeros(h + tile, w + tile)
        flags = {m: m.training for m in net.modules()}
        net.eval()
        side = tile + 2 * context
        with torch.no_grad():
            for top in range(0, h, step(tile)):
                for left in range(0, w, step(tile)):
                    scores = net(wide[None, :, top : top + side, left : left + side])[0]
                    total[:, top : top + tile, left : left + tile] += scores
                    count[top : top + tile, left : left + tile] += 1
        put_back(net, flags)
        return (total / count)[:, :h, :w]

    return overlap_tile


def each(net, flags):
    for m, flag in flags.items():
        m.training = flag


class TestOverlapTile(Contract):
    exercise_id = "overlap_tile"

    def test_tiles_that_overlap_cost_the_claim_that_each_pixel_is_predicted_once(self):
        assert evaluate("overlap_tile", tiled(each)).correct
        verdict = evaluate("overlap_tile", tiled(each, lambda tile: max(tile // 2, 1)))
        assert (verdict.points, verdict.diagnosis) == (4.75, "tiles_averaged")
        # Another distance has no name, and costs no more.
        assert evaluate("overlap_tile", tiled(each, lambda tile: max(tile // 4, 1))).points >= 4

    def test_layers_that_were_frozen_stay_so(self):
        verdict = evaluate("overlap_tile", tiled(lambda net, flags: net.train(flags[net])))
        assert (verdict.points, verdict.diagnosis) == (4.5, "one_flag_for_all")
