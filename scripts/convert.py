"""Convert a trained 3D network: ``python scripts/convert.py checkpoint=… m=2 output=…``.

Writes a checkpoint of the same network with separable convolutions (``psc.convert``), prints what
became of every layer, and writes that to ``report=…`` as JSON if asked for. With n=2 pairs of
convolutions become one block. ``calibrate=true`` then corrects every channel's gain and offset on
one batch of the checkpoint's training data, and ``match_steps=300`` trains the new blocks to give
the results of the layers that they replace; labels are not used. Other options, with their
defaults: width=eq5 (or exact, or a number) maximum_width=512 include=[…]
exclude=[…] merge=concatenate (or sum) activation=false init=svd (or random) unsupported=refuse (or
skip) runs=[…] match_learning_rate=1e-3 accelerator=auto (or cpu, gpu) overwrite=false.
"""

import sys
from pathlib import Path

from psc.cli import from_arguments, refusals
from psc.conversion.checkpoints import ConvertConfig, convert_checkpoint
from psc.files import write_json


def main(arguments: list[str]) -> None:
    """Read the command line, convert, print."""
    config: ConvertConfig = from_arguments(ConvertConfig, arguments)
    report, losses = convert_checkpoint(config)
    print(report)
    if losses:
        print(f"feature matching: loss {losses[0]:.3g} → {losses[-1]:.3g}")
    if config.report is not None:
        path = Path(config.report)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json({**report.to_dict(), "matching_losses": losses}, path)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    with refusals():
        main(sys.argv[1:])
