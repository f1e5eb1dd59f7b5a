"""``export nnUNet_extTrainer=$(python -m psc.integrations.nnunet)``."""

import sys
from pathlib import Path

from psc.errors import PSCError


def main() -> None:
    """Print the folder with our trainers, if they can be used at all."""
    try:
        import psc.integrations.nnunet.trainers
    except PSCError as error:  # no nnU-Net, or one that is too old
        sys.exit(f"error: {error}")
    print(Path(psc.integrations.nnunet.trainers.__file__).with_name("found"))


if __name__ == "__main__":
    main()
