"""What nnU-Net's search finds; it forgets this module afterwards, so the classes live elsewhere."""

from psc.integrations.nnunet.trainers import nnUNetTrainerP1SC1 as nnUNetTrainerP1SC1
from psc.integrations.nnunet.trainers import nnUNetTrainerP2SC1 as nnUNetTrainerP2SC1
from psc.integrations.nnunet.trainers import nnUNetTrainerP2SC2 as nnUNetTrainerP2SC2
from psc.integrations.nnunet.trainers import nnUNetTrainerP2SC3 as nnUNetTrainerP2SC3
