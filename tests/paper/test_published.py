"""Published numbers: the definitions counted by hand, and every kind of verdict."""

import pytest

from psc.paper.account import NETWORKS, compare, count_parameters
from psc.paper.published import CALIBRATED, NOT_SAID, RELATIONS, SIZES

LEVELS = (24, 72, 216, 648)


def convolution(k_in, k_out, taps):
    return k_in * k_out * taps + k_out


def authors_count(m, n, encoder, decoder):
    """Parameters of a definition of the authors, from the widths M that it lists."""

    def level(k_in, width, k_out):
        total = 0
        for entering in (k_in, k_out)[: 2 if n == 1 else 1]:
            stream = convolution(entering, width, 9) + (n - 1) * convolution(width, width, 9)
            total += m * (stream + convolution(width, k_out // m, 2 * n + 1 if n > 1 else 3))
        return total

    total = convolution(24, 3, 1)
    for k_in, width, k_out in zip((1, *LEVELS), encoder, LEVELS, strict=False):
        total += level(k_in, width, k_out)
    for coarse, fine, width in zip(LEVELS[:0:-1], LEVELS[-2::-1], decoder, strict=True):
        total += coarse * coarse * 8 + convolution(coarse, fine, 1) + level(2 * fine, width, fine)
    return total


@pytest.mark.parametrize(
    ("block", "m", "n", "encoder", "decoder"),
    [
        ("p1sc1", 1, 1, (8, 72, 216, 512), (216, 72, 24)),
        ("p2sc2", 2, 2, (4, 54, 162, 486), (216, 72, 24)),
        ("p3sc2", 3, 2, (2, 36, 108, 324), (194, 69, 23)),
    ],
)
def test_the_authors_definitions_count_as_published(block, m, n, encoder, decoder):
    assert authors_count(m, n, encoder, decoder) == SIZES["unet", block].parameters


@pytest.mark.parametrize(
    ("network", "published", "verdict"),
    [
        (("unet", "3d"), "25,178,811", "match"),
        (("unet", "p1sc1"), "12,574,139", "match"),
        (("unet", "p2sc2"), "15,698,611", "match"),
        (("unet", "p3sc2"), "14,381,295", "−1.9 %"),
        (("unet", "p2sc3"), None, NOT_SAID),
        (("resnet34", "3d"), "64 M", "match"),
        (("resnet34", "p1sc1"), "39 M", "+2.3 %"),
        (("resnet34", "p2sc2"), "49 M", "+2.1 %"),
        (("resnet34", "p2sc3"), "33 M", "+130.0 %"),
        (("resnet34", "p2sc3_calibrated"), "33 M", f"match: {CALIBRATED}"),
        (("resnet34", "p2sc1"), None, NOT_SAID),
        (("resnet18", "3d"), None, NOT_SAID),
        (("densenet", "3d"), None, NOT_SAID),
        (("densenet", "p2sc2"), "fewer than p1sc1", "agrees: −25.6 %"),
        (("densenet", "p2sc3"), "12 % fewer than densenet_bui 3d", "−6.9 % instead of −12 %"),
        (("densenet_bui", "3d"), "1,551,392", "match"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_our_networks_beside_the_published_ones(network, published, verdict):
    comparison = compare(network, count_parameters(network))
    assert (comparison.published, comparison.verdict) == (published, verdict)
    assert (comparison.source is None) == (published is None)


@pytest.mark.parametrize(
    ("network", "parameters", "verdict"),
    [
        (("resnet34", "3d"), 63_499_999, "−0.8 %"),
        (("resnet34", "3d"), 63_500_000, "match"),
        (("resnet34", "3d"), 64_499_999, "match"),
        (("resnet34", "3d"), 64_500_000, "+0.8 %"),
        (("resnet34", "p2sc3_calibrated"), 34_000_000, f"+3.0 %: {CALIBRATED}"),
        (("unet", "3d"), 25_178_812, "+1"),  # not "+0.0 %"
        (("unet", "3d"), 25_177_811, "-1,000"),
    ],
)
def test_a_match_is_equality_at_the_printed_rounding(network, parameters, verdict):
    assert compare(network, parameters).verdict == verdict


@pytest.mark.parametrize(
    ("parameters", "verdict"),
    [(880, "match"), (884, "match"), (886, "−11.4 % instead of −12 %"), (1010, "+1.0 % instead")],
)
def test_a_relation_in_per_cent(parameters, verdict):
    (relation,) = (r for r in RELATIONS if r.network == ("densenet", "p2sc3"))
    assert relation.verdict(parameters, 1000).startswith(verdict)


@pytest.mark.parametrize(
    ("parameters", "verdict"),
    [(999, "agrees: −0.1 %"), (1000, "agrees"), (1100, "disagrees: +10.0 %")],
)
def test_a_relation_of_more_or_fewer(parameters, verdict):
    (relation,) = (r for r in RELATIONS if r.network == ("densenet", "p2sc2"))
    assert relation.verdict(parameters, 1000).startswith(verdict)


def test_only_the_calibrated_number_is_labelled_so():
    assert [network for network, entry in SIZES.items() if entry.calibrated] == [
        ("resnet34", "p2sc3_calibrated")
    ]


def test_everything_published_is_in_the_table():
    spoken_of = {r.network for r in RELATIONS} | {r.other for r in RELATIONS}
    assert set(SIZES) | spoken_of <= set(NETWORKS)
