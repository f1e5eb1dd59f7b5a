"""Networks for ``torch.hub.load(<this repository>, "unet_p2sc2", in_channels=1)``; psc.create's."""

from psc.networks.named import hub_entries as _hub_entries

dependencies = ["torch", "numpy"]

globals().update(_hub_entries())
