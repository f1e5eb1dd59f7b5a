"""A network with every option that nn.Conv3d has, and everything that no conversion can take."""

import pytest
import torch
from torch import nn


class OddNetwork(nn.Module):
    """Strides, paddings of every mode, dilation, groups, even and non-cubic kernels, no bias."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(2, 6, (3, 7, 5), stride=(1, 2, 2), padding=(1, 3, 2))
        self.flat = nn.Conv3d(6, 6, (1, 3, 3), padding=(0, 1, 1))
        self.grouped = nn.Conv3d(6, 12, 3, padding=1, groups=2)
        self.depthwise = nn.Conv3d(12, 36, 3, padding=1, groups=12, bias=False)
        self.blocks = nn.ModuleDict(
            {
                "reflect": nn.Conv3d(36, 5, 3, padding=(1, 2, 0), padding_mode="reflect"),
                "circular": nn.Conv3d(5, 4, 3, padding=(1, 0, 1), padding_mode="circular"),
                "replicate": nn.Conv3d(4, 4, (5, 3, 3), padding=2, padding_mode="replicate"),
                "same": nn.Conv3d(4, 4, (2, 3, 4), padding="same", dilation=(2, 1, 1)),
                "valid": nn.Conv3d(4, 4, 2, padding="valid", stride=(1, 2, 1), bias=False),
            }
        )
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Conv3d(4, 3, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):  # so that no layer's signal fades on the way out
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.grouped(self.flat(torch.relu(self.stem(x))))))
        for block in self.blocks.values():
            x = torch.relu(block(x))
        return self.head(self.norm(x))


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return OddNetwork()


@pytest.fixture
def odd_input():
    return torch.randn(2, 2, 7, 13, 12, generator=torch.Generator().manual_seed(1))
